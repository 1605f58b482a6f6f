"""Medians over seeds and bootstrap intervals over documents."""

from collections.abc import Sequence

import numpy as np

FEWEST = 10  # documents below which an interval would say nothing
BATCH = 200  # resamples at a time


def document_sums(logprob: np.ndarray, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum of log probabilities and number of tokens of each document: logprob [N], documents [D] starts -> [D], [D]."""
    ends = np.append(documents, len(logprob)).astype(np.int64)
    running = np.concatenate([[0.0], np.cumsum(logprob, dtype=np.float64)])
    return np.diff(running[ends]), np.diff(ends)


def interval(
    logprob: np.ndarray, documents: np.ndarray, resamples: int = 1000, seed: int = 0, confidence: float = 0.95
) -> list[float] | None:
    """Percentile bootstrap interval of the perplexity of logprob [N] nats, resampling whole documents [D] (starts).

    None below 10 documents, where it would say nothing, and where a target has probability zero.
    """
    if len(documents) < FEWEST or not np.isfinite(logprob).all():
        return None
    sums, counts = document_sums(logprob, documents)
    rng, drawn = np.random.default_rng(seed), []
    for start in range(0, resamples, BATCH):
        chosen = rng.integers(0, len(sums), (min(BATCH, resamples - start), len(sums)))  # [R, D]
        drawn.append(np.exp(-sums[chosen].sum(1) / counts[chosen].sum(1)))
    outside = (1 - confidence) / 2
    return np.quantile(np.concatenate(drawn), [outside, 1 - outside]).tolist()


def median(per_seed: Sequence[float]) -> tuple[float, int]:
    """The median of a figure over seeds, and the position of the seed nearest to it."""
    middle = float(np.median(per_seed))
    return middle, int(np.argmin(np.abs(np.asarray(per_seed) - middle)))
