"""Measure utterances, and decide which are left out, with a reason for each."""
