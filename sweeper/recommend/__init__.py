"""What to train, for each use, under limits."""
