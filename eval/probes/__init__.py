"""What is measured beside errors: hallucination, forgetting, and output on noise."""
