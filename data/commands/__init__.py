"""What `python -m data` does: inspect, split, leakage and the demo corpus."""
