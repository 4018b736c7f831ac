"""Probes beside the error rate: hallucination, forgetting, and output on silence and noise."""
