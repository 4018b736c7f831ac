"""Decode the clips of a forward pass in the workers, and collate them into a Batch."""
