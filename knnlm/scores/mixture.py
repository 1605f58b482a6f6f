"""Mixtures of per-token log-probabilities (equation 3 of the paper) and their weights, tuned on dev.

    p(y | x) = λ p_kNN(y | x) + (1 - λ) p_LM(y | x)

With several components each has a weight of its own and the LM has the rest. The loss is convex in the weights. A
coarse grid locates the minimum; a search with halving steps then refines it.
"""

import itertools
from collections.abc import Sequence

import numba
import numpy as np

Floats = Sequence[float] | np.ndarray
SMALL = 1e-12  # likelihoods of at least this are multiplied before a logarithm is taken of the product
FLUSH = 1e-200  # the product is replaced by its logarithm below this, long before float64 underflows
ROUNDING = 1e-4  # nats above 0 that sums of probabilities in float32 can reach
FINEST = 1e-4  # the last step of the search for the best weights


def mix(weights: Floats, components: Sequence[np.ndarray], lm: np.ndarray) -> np.ndarray:
    """log(Σ w_m p_m + (1 - Σ w_m) p_lm), equation 3: components [M][N], lm [N] nats -> [N] float64 nats.

    A component of weight 0 is left out exactly, and one of weight 1 is returned exactly. -inf is probability zero.
    """
    rest = rest_of(weights)
    terms = [
        (weight, logprob) for weight, logprob in [*zip(weights, components, strict=True), (rest, lm)] if weight > 0
    ]
    total = np.full(len(lm), -np.inf)  # [N]
    for weight, logprob in terms:
        total = np.logaddexp(total, np.log(weight) + logprob)
    return total


def rest_of(weights: Floats) -> float:
    """The LM's weight: 1 minus the others, and exactly 0 where rounding errors would leave a trace of it."""
    rest = 1.0 - float(np.sum(weights))
    return rest if rest > 1e-9 else 0.0


def perplexity(logprob: np.ndarray) -> float:
    """exp(-mean) of log-probabilities [N] in nats; inf when a target has probability zero."""
    with np.errstate(over="ignore"):
        return float(np.exp(-np.mean(logprob, dtype=np.float64)))


def curve(grid: Floats, component: np.ndarray, lm: np.ndarray) -> np.ndarray:
    """Perplexity [G] of the two-way mixture at every λ of `grid`."""
    with np.errstate(over="ignore"):
        return np.exp(losses(np.asarray(grid, np.float64)[:, None], [component], lm))


def document_curves(grid: Floats, component: np.ndarray, lm: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """Log-likelihood [D, G], nats, of each document (by its start [D]) by the two-way mixture at every λ of `grid`."""
    return np.stack([np.add.reduceat(mix([lmbda], [component], lm), documents) for lmbda in grid], axis=1)


def tune_resampled(
    grid: Floats, component: np.ndarray, lm: np.ndarray, documents: np.ndarray, resamples: int, seed: int
) -> np.ndarray:
    """The best λ of `grid` on each bootstrap resample of the documents [D] (starts): float64 [resamples]."""
    curves = np.maximum(document_curves(grid, component, lm, documents), -1e300)  # a probability of zero is never best
    drawn = np.random.default_rng(seed).multinomial(
        len(documents), np.full(len(documents), 1 / len(documents)), size=resamples
    )
    return np.asarray(grid)[(drawn @ curves).argmax(axis=1)]


def tune(components: Sequence[np.ndarray], lm: np.ndarray, grid: Floats | None = None) -> np.ndarray:
    """Weights [M] of `components` [M][N] beside `lm` [N] with the least perplexity, within FINEST.

    `grid` holds the values first tried for each weight, by default 0, 0.05, ..., 1 (for three components or more, 7
    values). The same input gives the same weights.
    """
    ratios, largest = likelihoods(components, lm)
    start = np.asarray(grid if grid is not None else np.linspace(0, 1, 21 if len(components) < 3 else 7))
    points = np.array(list(itertools.product(start, repeat=len(components))))  # [P, M]
    best, lowest = _lowest(points, ratios, largest)
    step = float(np.diff(np.sort(start)).max(initial=FINEST))
    directions = _directions(len(components))
    while step >= FINEST:
        candidate, loss = _lowest(best + step * directions, ratios, largest)
        if loss < lowest:
            best, lowest = candidate, loss
        else:
            step /= 2
    return np.clip(best, 0, 1)


def _lowest(points: np.ndarray, ratios: np.ndarray, largest: float) -> tuple[np.ndarray, float]:
    """The point [M] of `points` [P, M] with the least loss, and this loss, among those that are valid weights."""
    valid = points[(points >= 0).all(1) & (points.sum(1) <= 1 + 1e-9)]
    if not len(valid):
        return points[0], np.inf
    scores = _losses(valid, ratios, largest)
    position = int(np.argmin(scores))
    return valid[position], float(scores[position])


def losses(weights: np.ndarray, components: Sequence[np.ndarray], lm: np.ndarray) -> np.ndarray:
    """The loss [P], -mean log-likelihood in nats per token, of each row of `weights` [P, M]."""
    return _losses(weights, *likelihoods(components, lm))


def likelihoods(components: Sequence[np.ndarray], lm: np.ndarray) -> tuple[np.ndarray, float]:
    """Likelihoods [N, M+1] relative to each token's largest, the LM last, and the sum of the logs of these largest."""
    logprobs = np.stack([*components, lm], axis=1).astype(np.float64)  # [N, M+1]
    largest = logprobs.max(axis=1, keepdims=True)
    if np.isneginf(largest).any():
        return np.zeros_like(logprobs), 0.0  # zero in all parts of one target: every mixture has loss inf
    return np.exp(logprobs - largest), float(largest.sum())


def _losses(weights: np.ndarray, ratios: np.ndarray, largest: float) -> np.ndarray:
    full = np.array([[*row, rest_of(row)] for row in weights])  # [P, M+1]
    return -(_log_sums(full, ratios) + largest) / len(ratios)


def _directions(count: int) -> np.ndarray:
    """Directions [P, M] of the search: one weight up or down, to the LM's cost or gain, or one up and another down."""
    unit = np.eye(count)
    exchanges = [unit[i] - unit[j] for i, j in itertools.permutations(range(count), 2)]
    return np.array([*unit, *-unit, *exchanges])


@numba.njit(parallel=True, cache=True)
def _log_sums(weights: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    """Σ_n log Σ_m weights[p, m] ratios[n, m] for each p; one logarithm serves many tokens."""
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
            product *= likelihood
            if product < FLUSH:
                total += np.log(product)
                product = 1.0
        out[p] = total + np.log(product)
    return out
