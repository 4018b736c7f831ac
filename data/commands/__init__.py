"""The commands of `python -m data`: inspect, split, leakage and demo."""
