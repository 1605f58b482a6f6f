"""Medians of perplexities over seeds, and bootstrap intervals over documents."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np

FEWEST = 10  # documents; an interval from fewer would be meaningless
BATCH = 200  # resamples drawn together


def document_sums(logprob: np.ndarray, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum of log probabilities and number of tokens of each document: logprob [N], documents [D] starts -> [D], [D]."""
    ends = np.append(documents, len(logprob)).astype(np.int64)
    running = np.concatenate([[0.0], np.cumsum(logprob, dtype=np.float64)])
    if not np.isfinite(running[-1]):  # a target of probability zero, which must not take part in later documents
        sums = np.array([logprob[slice(*pair)].sum(dtype=np.float64) for pair in itertools.pairwise(ends)])
    else:
        sums = np.diff(running[ends])
    return sums, np.diff(ends)


def interval(
    logprob: np.ndarray, documents: np.ndarray, resamples: int = 1000, seed: int = 0, confidence: float = 0.95
) -> list[float] | None:
    """Percentile bootstrap interval of the perplexity of logprob [N] nats, resampling whole documents [D] (starts).

    None for fewer than 10 documents, from which it would be meaningless, and where a target has probability zero.
    """
    if len(documents) < FEWEST or not np.isfinite(logprob).all():
        return None
    sums, counts = document_sums(logprob, documents)

    def perplexity(drawn: np.ndarray) -> np.ndarray:
        return np.exp(-sums[drawn].sum(1) / counts[drawn].sum(1))

    return list(_percentiles(perplexity, len(sums), resamples, seed, confidence))


def total(values: np.ndarray, resamples: int = 1000, seed: int = 0, confidence: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of the sum of one value for each document [D], resampling documents.

    Of two rows that score the same documents the values are the differences of their log-likelihoods, so that the
    bootstrap is paired.
    """
    return _percentiles(lambda drawn: values[drawn].sum(1), len(values), resamples, seed, confidence)


def ratio(values: np.ndarray, counts: np.ndarray, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95% bootstrap interval of Σ values / Σ counts, with one of each for a document [D], resampling documents."""
    return _percentiles(lambda drawn: values[drawn].sum(1) / counts[drawn].sum(1), len(values), resamples, seed, 0.95)


def of_means(
    statistic: Callable[..., np.ndarray], *values: np.ndarray, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95% bootstrap interval of a function of the means of arrays with one value for each document, [D] each.

    The function takes arrays of such means, and documents are resampled for all of them together.
    """
    return _percentiles(
        lambda drawn: statistic(*(one[drawn].mean(1) for one in values)), len(values[0]), resamples, seed, 0.95
    )


def _percentiles(
    statistic: Callable[[np.ndarray], np.ndarray], documents: int, resamples: int, seed: int, confidence: float
) -> tuple[float, float]:
    """Bootstrap interval of a statistic of documents drawn with replacement: [B, D] document numbers -> [B].

    The same seed draws the same. It equals that of scipy.stats.bootstrap to the bit; importing that takes longer than
    the jobs of a small study.
    """
    generator = np.random.default_rng(seed)
    batches = [min(BATCH, resamples - begun) for begun in range(0, resamples, BATCH)]
    found = np.sort(np.concatenate([statistic(generator.integers(0, documents, (n, documents))) for n in batches]))
    tail, ends = (1 - confidence) / 2, []
    for share in (tail, 1 - tail):
        place, part = divmod(share * resamples + (1 - share), 1)  # counted from 1, between two values of those found
        below, above = found[int(place) - 1], found[min(int(place), resamples - 1)]
        ends.append(float((1 - part) * below + part * above))
    return ends[0], ends[1]


def median(per_seed: Sequence[float]) -> tuple[float, int]:
    """The median over seeds of a measured number, and the position of the seed whose number is nearest to it."""
    middle = float(np.median(per_seed))
    return middle, int(np.argmin(np.abs(np.asarray(per_seed) - middle)))
