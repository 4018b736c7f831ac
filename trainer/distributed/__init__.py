"""Training on several processes: what differs between DDP and FSDP2."""
