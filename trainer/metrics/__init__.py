"""Metrics of training: loss, speed, memory and profile; written to files, trackers and console."""
