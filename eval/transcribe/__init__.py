"""`python -m eval transcribe` and `try`: text and subtitles for any audio."""
