"""Which configs are on the quality/speed frontier, how surely, and the answer in words."""
