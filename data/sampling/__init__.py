"""From the manifest to forward passes: the plan of an epoch, buckets and weights of corpora."""
