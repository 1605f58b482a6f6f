"""Medians of perplexities over seeds, and bootstrap intervals over documents."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import bootstrap

FEWEST = 10  # documents; an interval from fewer would be meaningless


def document_sums(logprob: np.ndarray, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum of log probabilities and number of tokens of each document: logprob [N], documents [D] starts -> [D], [D]."""
    ends = np.append(documents, len(logprob)).astype(np.int64)
    running = np.concatenate([[0.0], np.cumsum(logprob, dtype=np.float64)])
    return np.diff(running[ends]), np.diff(ends)


def interval(
    logprob: np.ndarray, documents: np.ndarray, resamples: int = 1000, seed: int = 0, confidence: float = 0.95
) -> list[float] | None:
    """Percentile bootstrap interval of the perplexity of logprob [N] nats, resampling whole documents [D] (starts).

    None for fewer than 10 documents, from which it would be meaningless, and where a target has probability zero.
    """
    if len(documents) < FEWEST or not np.isfinite(logprob).all():
        return None
    sums, counts = document_sums(logprob, documents)
    return list(
        _percentiles(lambda s, c, axis: np.exp(-s.sum(axis) / c.sum(axis)), (sums, counts), resamples, seed, confidence)
    )


def total(values: np.ndarray, resamples: int = 1000, seed: int = 0, confidence: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of the sum of one value for each document [D], resampling documents.

    Of two rows that score the same documents the values are the differences of their log-likelihoods, so that the
    bootstrap is paired.
    """
    return _percentiles(np.sum, (values,), resamples, seed, confidence)


def _percentiles(
    statistic: Callable, of_documents: tuple[np.ndarray, ...], resamples: int, seed: int, confidence: float
) -> tuple[float, float]:
    """Bootstrap interval of a statistic of arrays [D], whose documents are drawn together; the same seed, the same."""
    found = bootstrap(
        of_documents,
        statistic,
        paired=True,
        vectorized=True,
        batch=200,
        n_resamples=resamples,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def median(per_seed: Sequence[float]) -> tuple[float, int]:
    """The median over seeds of a measured number, and the position of the seed whose number is nearest to it."""
    middle = float(np.median(per_seed))
    return middle, int(np.argmin(np.abs(np.asarray(per_seed) - middle)))
