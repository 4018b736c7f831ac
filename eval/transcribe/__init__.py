"""Text and subtitles for any audio."""
