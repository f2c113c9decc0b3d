"""What a Driver keeps, by what changes together: the jobs wanted, their results, which configs, what is open."""
