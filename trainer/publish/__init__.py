"""Export a model, write its model card, and upload both to the Hub."""
