"""Arrays in, numbers out: the additive fit and its intervals, Gaussian processes, Pareto sets."""
