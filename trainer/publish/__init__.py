"""Exports the model, writes its card, and uploads both to the Hub."""
