"""Sub-commands of `python -m trainer` other than training."""
