"""`python -m eval label-errors`: find label errors by the training loss of transcripts."""
