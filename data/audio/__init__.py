"""Audio: files and archives to 16 kHz waveforms, and what augments them."""
