"""Forward and backward passes in half precision, with weights that are cast once an update."""
