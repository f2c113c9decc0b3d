"""One job from start to outcome: model, optimizer, steps, checkpoints."""
