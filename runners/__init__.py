"""How a job is run: data, optimizer, training loop, measuring, and the runners that place jobs."""
