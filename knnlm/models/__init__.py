"""The language model: its architecture, windows over tokens, training, evaluation, and published checkpoints."""
