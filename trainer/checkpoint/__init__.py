"""Checkpoints: complete or absent, verified by checksums, and rotated."""
