"""What a job's device and process are, and what they have room for."""
