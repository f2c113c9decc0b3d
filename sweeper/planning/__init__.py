"""From a study to its feasible configs: the lattice, the budget solver, memory and cost estimates."""
