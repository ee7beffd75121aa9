"""Training a model's suffix: recipe, schedule, loop, checkpoints."""
