"""Decode files and archive members to 16 kHz waveforms, and augment them."""
