"""The page of an evaluation, and its tables on the console."""
