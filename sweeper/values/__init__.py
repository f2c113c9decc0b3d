"""What all rooms speak of: records and ids, errors, machines, folders, words for numbers. Stdlib only."""
