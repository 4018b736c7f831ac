"""Several processes: Accelerate, collectives, and the engines that share the work."""
