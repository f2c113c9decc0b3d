"""What trials train on: corpora and token shards as memory-mapped tokens, and batches of them."""
