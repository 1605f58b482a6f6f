"""Measures of a generated text, as pure functions of its tokens and of the distributions that they were drawn from."""

import numpy as np
import scipy

ORDERS = (1, 2, 3, 4)
QUARTERS = 4


def repetition(tokens: np.ndarray, order: int = 4) -> float:
    """The share of tokens [n] that are in an n-gram of `order` tokens which occurred before in the same text.

    An n-gram occurred before where another one with the same tokens begins earlier; the two may overlap. All tokens of
    the later one count, each once.
    """
    if len(tokens) < order:
        return 0.0
    _, first, number = np.unique(ngrams(tokens, order), axis=0, return_index=True, return_inverse=True)
    again = first[number.reshape(-1)] < np.arange(len(tokens) - order + 1)
    covered = np.zeros(len(tokens), bool)
    for offset in range(order):
        covered[offset : offset + len(again)] |= again
    return float(covered.mean())


def distinct(tokens: np.ndarray, order: int) -> float:
    """The number of different n-grams of `order` tokens over the number of all, within one text of at least `order`."""
    grams = ngrams(tokens, order)
    return len(np.unique(grams, axis=0)) / len(grams)


def ngrams(tokens: np.ndarray, order: int) -> np.ndarray:
    """[n] -> [n - order + 1, order]."""
    return np.lib.stride_tricks.sliding_window_view(np.asarray(tokens), order)


def entropy(probabilities: np.ndarray) -> float:
    """Of a distribution [V], in nats."""
    return float(scipy.special.entr(probabilities).sum())


def measures(tokens: np.ndarray, entropies: np.ndarray) -> dict[str, float]:
    """What is measured of one text: its tokens [n], and the entropy of p_kNN before each of them, [n] nats."""
    found = {"repetition": repetition(tokens)}
    found |= {f"distinct{order}": distinct(tokens, order) for order in ORDERS}
    parts = np.array_split(np.asarray(entropies, np.float64), QUARTERS)
    return found | {f"entropy{number}": float(part.mean()) for number, part in enumerate(parts, 1)}


def chosen(documents: np.ndarray, total: int, count: int, needed: int) -> np.ndarray:
    """Numbers of `count` documents, evenly spread over those with at least `needed` tokens; all of these where fewer.

    documents [D] starts in a stream of `total` tokens.
    """
    long = np.flatnonzero(np.diff([*documents, total]) >= needed)
    count = min(count, len(long))
    return long[np.arange(count) * len(long) // max(1, count)]
