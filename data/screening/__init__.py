"""Which utterances are trained on, which are left out, and why."""
