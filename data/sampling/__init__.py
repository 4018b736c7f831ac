"""Plan an epoch's updates from the manifest, and cut them into forward passes."""
