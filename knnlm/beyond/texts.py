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


def measures(tokens: np.ndarray, near: np.ndarray, lm: np.ndarray) -> dict[str, float]:
    """What is measured of one text: its tokens [n], and the entropies of p_kNN and p_LM before each, [n] nats."""
    found = {"repetition": repetition(tokens)}
    found |= {f"distinct{order}": distinct(tokens, order) for order in ORDERS}
    entropies = [quarters(near), quarters(lm)]
    found |= {f"entropy{number}": mean for number, mean in enumerate(entropies[0], 1)}
    rises = [means[-1] - means[0] for means in entropies]
    return found | {"rise": rises[0] - rises[1]}


def quarters(values: np.ndarray) -> list[float]:
    """The mean of each quarter of `values` [n], in order; the first are longer where n is not divisible by 4."""
    return [float(part.mean()) for part in np.array_split(np.asarray(values, np.float64), QUARTERS)]


def nearer(aim: np.ndarray, base: np.ndarray, values: np.ndarray) -> np.ndarray:
    """How much nearer `values` are to `aim` than `base` is; below zero where they are further away."""
    return np.abs(base - aim) - np.abs(values - aim)


def chosen(documents: np.ndarray, total: int, count: int, needed: int) -> np.ndarray:
    """Numbers of `count` documents, evenly spread over those with at least `needed` tokens; all of these where fewer.

    documents [D] starts in a stream of `total` tokens.
    """
    long = np.flatnonzero(np.diff([*documents, total]) >= needed)
    count = min(count, len(long))
    return long[np.arange(count) * len(long) // max(1, count)]
