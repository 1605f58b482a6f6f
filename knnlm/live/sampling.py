"""Drawing a word from a distribution: temperature and nucleus (top-p), on probabilities."""

import numpy as np


def tempered(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """p^(1/T), normalised, [V]; T = 0 leaves the most probable word alone, the first of equals."""
    if temperature == 0:
        return np.eye(1, len(probabilities), int(np.argmax(probabilities)))[0]
    with np.errstate(divide="ignore"):
        logits = np.log(probabilities) / temperature
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def nucleus(probabilities: np.ndarray, top_p: float) -> np.ndarray:
    """The fewest most probable words that hold `top_p` of the mass, normalised; all others 0. [V]"""
    order = np.argsort(-probabilities, kind="stable")
    before = np.cumsum(probabilities[order]) - probabilities[order]
    kept = np.zeros_like(probabilities)
    inside = order[before < top_p]
    kept[inside] = probabilities[inside]
    return kept / kept.sum()
