"""Drawing a word from a distribution: temperature and nucleus (top-p), on probabilities."""

import numpy as np
import scipy


def tempered(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities [V] in proportion to p^(1/T); T = 0 leaves only the most probable word, the first of equals."""
    if temperature == 0:
        return np.eye(1, len(probabilities), int(np.argmax(probabilities)))[0]
    with np.errstate(divide="ignore"):
        return scipy.special.softmax(np.log(probabilities) / temperature)


def nucleus(probabilities: np.ndarray, top_p: float) -> np.ndarray:
    """Probabilities [V] of the fewest most probable words that together hold `top_p`, normalized; all others are 0."""
    order = np.argsort(-probabilities, kind="stable")
    before = np.cumsum(probabilities[order]) - probabilities[order]
    kept = np.zeros_like(probabilities)
    inside = order[before < top_p]
    kept[inside] = probabilities[inside]
    return kept / kept.sum()
