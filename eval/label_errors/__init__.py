"""`python -m eval suspects`: find label errors by the training loss of transcripts."""
