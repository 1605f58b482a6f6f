"""Mixtures of per-token log probabilities (equation 3 of the paper) and their weights, tuned on dev.

The loss is convex in the weights: a grid finds the neighborhood of the best, ever smaller steps the best itself.
"""

import itertools
from collections.abc import Sequence

import numba
import numpy as np

SMALL, FLUSH = 1e-12, 1e-200  # likelihoods are multiplied up to where float64 could underflow
FINEST = 1e-4  # weights are tuned to this


def mix(weights: Sequence[float], components: Sequence[np.ndarray], lm: np.ndarray) -> np.ndarray:
    """log(Σ w_m p_m + (1 - Σ w_m) p_lm): components [M][N], lm [N] nats -> [N] float64 nats.

    A weight of 0 leaves its component out and a weight of 1 everything else, exactly; -inf stands for zero.
    """
    rest = rest_of(weights)
    terms = [
        (weight, logprob) for weight, logprob in [*zip(weights, components, strict=True), (rest, lm)] if weight > 0
    ]
    total = np.full(len(lm), -np.inf)  # [N]
    for weight, logprob in terms:
        total = np.logaddexp(total, np.log(weight) + logprob)
    return total


def rest_of(weights: Sequence[float]) -> float:
    """What the weights leave to the LM; rounding errors of a grid do not leave a trace of it."""
    rest = 1.0 - float(np.sum(weights))
    return rest if rest > 1e-9 else 0.0


def perplexity(logprob: np.ndarray) -> float:
    """exp(-mean) of log probabilities [N] in nats; inf when a target has probability zero."""
    with np.errstate(over="ignore"):
        return float(np.exp(-np.mean(logprob, dtype=np.float64)))


def curve(grid: Sequence[float], component: np.ndarray, lm: np.ndarray) -> np.ndarray:
    """Perplexity [G] of the two-way mixture at every λ of `grid`."""
    with np.errstate(over="ignore"):
        return np.exp(losses(np.asarray(grid, np.float64)[:, None], [component], lm))


def tune(components: Sequence[np.ndarray], lm: np.ndarray, grid: Sequence[float] | None = None) -> np.ndarray:
    """Weights [M] of `components` [M][N] beside `lm` [N] with the least perplexity, within FINEST.

    `grid` is the first look at each weight (by default 0, 0.05, ..., 1); the same input gives the same weights.
    """
    ratios, largest = likelihoods(components, lm)
    start = np.asarray(grid if grid is not None else np.linspace(0, 1, 21 if len(components) < 3 else 7))
    points = [point for point in itertools.product(start, repeat=len(components)) if sum(point) <= 1 + 1e-9]
    scores = _losses(np.array(points), ratios, largest)
    best, lowest = np.array(points[int(np.argmin(scores))]), float(scores.min())
    step = float(np.diff(np.sort(start)).max(initial=FINEST))
    directions = _directions(len(components))
    while step >= FINEST:
        around = best + step * directions
        around = around[(around >= 0).all(1) & (around.sum(1) <= 1 + 1e-9)]
        scores = _losses(around, ratios, largest)
        if len(scores) and scores.min() < lowest:
            best, lowest = around[int(np.argmin(scores))], float(scores.min())
        else:
            step /= 2
    return np.clip(best, 0, 1)


def losses(weights: np.ndarray, components: Sequence[np.ndarray], lm: np.ndarray) -> np.ndarray:
    """-mean log likelihood [P], nats per token, of each row of `weights` [P, M]."""
    return _losses(weights, *likelihoods(components, lm))


def likelihoods(components: Sequence[np.ndarray], lm: np.ndarray) -> tuple[np.ndarray, float]:
    """Likelihoods [N, M+1] (the LM last) relative to each token's largest, and the sum of the logs of the largest."""
    logprobs = np.stack([*components, lm], axis=1).astype(np.float64)  # [N, M+1]
    largest = logprobs.max(axis=1, keepdims=True)
    if np.isneginf(largest).any():
        return np.zeros_like(logprobs), 0.0  # a target nobody believes in: every mixture has probability zero
    return np.exp(logprobs - largest), float(largest.sum())


def _losses(weights: np.ndarray, ratios: np.ndarray, largest: float) -> np.ndarray:
    full = np.array([[*row, rest_of(row)] for row in weights])  # [P, M+1]
    return -(_log_sums(full, ratios) + largest) / len(ratios)


def _directions(count: int) -> np.ndarray:
    """More or less of one component at the LM's cost, and exchanges between two components."""
    unit = np.eye(count)
    exchanges = [unit[i] - unit[j] for i, j in itertools.permutations(range(count), 2)]
    return np.array([*unit, *-unit, *exchanges])


@numba.njit(parallel=True, cache=True)
def _log_sums(weights: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    """Σ_n log Σ_m weights[p, m] ratios[n, m] for each p."""
    out = np.empty(len(weights))
    for p in numba.prange(len(weights)):
        total, product = 0.0, 1.0
        for n in range(len(ratios)):
            likelihood = 0.0
            for m in range(ratios.shape[1]):
                likelihood += weights[p, m] * ratios[n, m]
            if likelihood < SMALL:
                total += np.log(likelihood)
                continue
            product *= likelihood  # one logarithm for many tokens
            if product < FLUSH:
                total += np.log(product)
                product = 1.0
        out[p] = total + np.log(product)
    return out
