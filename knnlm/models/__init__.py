"""The language model: architecture, training, evaluation, and imported checkpoints."""
