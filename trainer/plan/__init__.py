"""What a run will take: updates, time, memory and disk."""
