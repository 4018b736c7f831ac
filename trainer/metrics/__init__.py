"""What is measured in training, and where it is written."""
