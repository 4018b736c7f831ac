"""Train on a streamed dataset, window by window."""
