"""Finds transcripts that are probably wrong, by what they cost in training."""
