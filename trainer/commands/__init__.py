"""What `python -m trainer` does beside training."""
