"""Training on a dataset that is read while it arrives."""
