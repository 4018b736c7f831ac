"""One forward pass: its utterances are decoded, and padded into a Batch."""
