"""Log-probabilities of targets (equation 2), their mixtures (equation 3) and their statistics."""
