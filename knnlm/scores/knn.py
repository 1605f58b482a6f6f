"""The distribution over the next word that retrieved neighbors give (equation 2 of the paper).

    p_kNN(y | x) ∝ Σ over the neighbors (k_i, v_i) of 1[v_i = y] exp(-d(k_i, f(x)) / T)

The paper has no temperature T, which is to say T = 1. Neighbors come sorted by the index's distance, so that a smaller
k is a prefix. A missing neighbor has an infinite distance, and so no weight. Log-probabilities are in nats.
"""

import math

import numba
import numpy as np
import scipy

DISTANCES = {"exact": "exact", "quantized": "distances", "quantized_sqrt": "distances"}
"""The distances d that a row of an experiment can ask for, and the array of a neighbors directory they come from."""

CHUNK = 256  # neighbors weighed together
LANES = 16  # partial sums of a chunk's weights
NEGLIGIBLE = np.float32(-60.0)  # nats below the nearest neighbor: e^-60 is lost in the sum of all
FAINTEST = 1e-20  # share of the sum below which a target's own neighbors are weighed against each other
LOG2_E, LN_2 = np.float32(1 / math.log(2)), np.float32(math.log(2))


def weighed(stored: np.ndarray, distance: str) -> np.ndarray:
    """Distances d of equation 2 as a row asks for them, from what its neighbors store: float32, any shape.

    `stored` holds the array `DISTANCES[distance]` of neighbors. "exact" (recomputed from the stored keys) and
    "quantized" (the index's own) are squared L2 distances or negated inner products and are used as they are.
    "quantized_sqrt" takes the root of the index's squared L2 distances, as the paper words its quantized runs; it has
    no meaning for inner products. The temperature applies later, to all three alike.
    """
    return np.sqrt(np.maximum(stored, 0)) if distance == "quantized_sqrt" else stored


def shares(distances: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """The part of p_kNN that each neighbor contributes, softmax(-d / T): [..., K] -> [..., K] float64.

    A missing neighbor (distance inf) has share 0; at least one must be present.
    """
    return scipy.special.softmax(-distances.astype(np.float64) / temperature, axis=-1)


def target_logprob(
    distances: np.ndarray, values: np.ndarray, targets: np.ndarray, temperature: float = 1.0
) -> np.ndarray:
    """log p_kNN of each target: [N] float32 nats, -inf where no neighbor has the target's value.

    distances [N, K] (squared L2 or negated inner product; inf where missing), values [N, K], targets [N].
    """
    return target_logprobs_for_ks(distances, values, targets, [distances.shape[1]], temperature)[0]


def target_logprobs_for_ks(
    distances: np.ndarray, values: np.ndarray, targets: np.ndarray, ks: list[int], temperature: float = 1.0
) -> np.ndarray:
    """`target_logprob` with the first k neighbors for each of the ascending `ks`, in one pass: [len(ks), N] float32.

    The result for a k does not depend on the other `ks`, nor on the number of threads.
    """
    out = np.empty((len(ks), len(targets)), np.float32)
    distances = np.ascontiguousarray(distances, np.float32)
    _score(distances, values, targets, np.asarray(ks, np.int64), 1.0 / temperature, out)
    return out


def distribution(distances: np.ndarray, values: np.ndarray, temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """The words among one query's neighbors [K] and their probabilities, most probable first.

    Equal probabilities are ordered by word; both arrays are empty when no neighbor was found.
    """
    found = np.isfinite(distances)
    if not found.any():
        return np.empty(0, values.dtype), np.empty(0)
    words, position = np.unique(values[found], return_inverse=True)
    probabilities = np.bincount(position, shares(distances[found], temperature), len(words))
    order = np.argsort(-probabilities, kind="stable")
    return words[order], probabilities[order]


# None of the functions below may use fastmath: it lets a compiler reorder sums, and numba compiles a function anew in
# the process that first calls it but loads it from its cache in all others, so that two runs could differ in a bit.


@numba.njit(parallel=True, cache=True)
def _score(distances, values, targets, ks, scale, out):
    """Fill out [len(ks), N] with log p of the targets.

    Running sums advance by whole chunks. A k that ends inside a chunk gets a temporary sum over that chunk's first
    entries.
    """
    for n in numba.prange(len(targets)):
        near, words, target = distances[n], values[n], targets[n]
        nearest, total, hits = np.float32(np.inf), 0.0, 0.0
        whole = 0  # neighbors in the running sums
        weights = np.empty(CHUNK, np.float32)
        for i in range(len(ks)):
            k = ks[i]
            while whole + CHUNK <= k:
                chunk = slice(whole, whole + CHUNK)
                nearest, total, hits = _add(near[chunk], words[chunk], target, scale, nearest, total, hits, weights)
                whole += CHUNK
            part = slice(whole, k)
            _, total_k, hits_k = _add(near[part], words[part], target, scale, nearest, total, hits, weights)
            if hits_k > FAINTEST:
                out[i, n] = math.log(hits_k) - math.log(total_k)
            else:
                out[i, n] = _faint(near[:k], words[:k], target, scale)


@numba.njit(cache=True)
def _add(distances, values, target, scale, nearest, total, hits, weights):
    """Add up to CHUNK neighbors to the sums of exp(-scale * (distance - nearest)) over all and over the target's.

    Returns the nearest distance so far and both sums; `weights` [CHUNK] is working memory.
    """
    before, nearest = nearest, min(nearest, _least(distances))
    if len(distances) == 0 or nearest == np.inf:
        return nearest, total, hits
    shrink = math.exp(-scale * (before - nearest))
    total, hits = shrink * total, shrink * hits
    for j in range(len(distances)):
        weights[j] = _exp(np.float32(scale) * (nearest - distances[j]))
    weights[len(distances) :] = 0
    for j in range(len(distances)):
        if values[j] == target:
            hits += weights[j]
    return nearest, total + _sum(weights), hits


@numba.njit(inline="always")
def _sum(weights):
    """The sum of CHUNK weights, which are overwritten: lane by lane for SIMD, always in the same order."""
    for start in range(LANES, CHUNK, LANES):
        for j in range(LANES):
            weights[j] += weights[start + j]
    total = 0.0
    for j in range(LANES):
        total += weights[j]
    return total


@numba.njit(inline="always")
def _least(distances):
    """The smallest of single-precision numbers, inf of none; by whole numbers, whose least SIMD can find."""
    bits, lowest = distances.view(np.int32), _turned(np.float32(np.inf).view(np.int32))
    for j in range(len(bits)):
        lowest = min(lowest, _turned(bits[j]))
    return _turned(lowest).view(np.float32)


@numba.njit(inline="always")
def _turned(bits):
    """A single-precision number's bits as a whole number in the same order, and the same way back."""
    return np.int32(bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))


@numba.njit(inline="always")
def _exp(x):
    """exp of max(x, NEGLIGIBLE) for x ≤ 0 in single precision, by its Taylor series.

    Loops around it become SIMD, which they do not around numba's own exp, a call: the benchmark `targets-exp`.
    """
    x = max(x, NEGLIGIBLE)
    power = np.floor(x * LOG2_E + np.float32(0.5))
    x = x - power * LN_2
    series = np.float32(1 / 5040)
    for n in (720, 120, 24, 6, 2, 1, 1):
        series = series * x + np.float32(1 / n)
    return series * np.int32(np.int32(power + np.float32(127)) << np.int32(23)).view(np.float32)


@numba.njit(cache=True)
def _faint(distances, values, target, scale):
    """log p of a target whose neighbors, if any, are so far away that single precision loses their weights."""
    if not _occurs(values, target):
        return -np.inf
    highest, total, highest_hit, total_hit = -np.inf, 0.0, -np.inf, 0.0
    for j in range(len(distances)):
        highest = max(highest, -scale * distances[j])
        if values[j] == target:
            highest_hit = max(highest_hit, -scale * distances[j])
    if highest_hit == -np.inf:  # only missing neighbors hold the target
        return -np.inf
    for j in range(len(distances)):
        total += math.exp(-scale * distances[j] - highest)
        if values[j] == target:
            total_hit += math.exp(-scale * distances[j] - highest_hit)
    return highest_hit + math.log(total_hit) - highest - math.log(total)


@numba.njit(inline="always")
def _occurs(values, target):
    """Whether a neighbor has the target's value; counts without leaving the loop early, which SIMD can do."""
    count = np.uint32(0)
    for j in range(len(values)):
        count += np.uint32(values[j] == target)
    return count > 0
