"""The distribution over the next word that retrieved neighbors give: equation 2 of the paper.

Neighbors come sorted by the index's distance, so that a smaller k is a prefix. A missing neighbor is infinitely far
and so has no part in any sum. Probabilities are in nats.
"""

import math

import numba
import numpy as np

CHUNK = 256  # neighbors weighed together
NEGLIGIBLE = np.float32(-60.0)  # nats below the nearest neighbor: e^-60 is lost in the sum of all
FAINTEST = 1e-20  # share of the sum below which a target's own neighbors are weighed against each other
LOG2_E, LN_2 = np.float32(1 / math.log(2)), np.float32(math.log(2))


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
    """`target_logprob` with the first k neighbors for each of the ascending `ks`, in one pass: [len(ks), N]."""
    out = np.empty((len(ks), len(targets)), np.float32)
    distances = np.ascontiguousarray(distances, np.float32)
    _prefixes(distances, values, targets, np.asarray(ks, np.int64), 1.0 / temperature, out)
    return out


def distribution(distances: np.ndarray, values: np.ndarray, temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """The words among one query's neighbors [K] and their probabilities, most probable first.

    Equal probabilities are ordered by word; both arrays are empty when no neighbor was found.
    """
    found = np.isfinite(distances)
    if not found.any():
        return np.empty(0, values.dtype), np.empty(0)
    logits = -distances[found].astype(np.float64) / temperature
    weights = np.exp(logits - logits.max())
    words, position = np.unique(values[found], return_inverse=True)
    probabilities = np.bincount(position, weights / weights.sum(), len(words))
    order = np.argsort(-probabilities, kind="stable")
    return words[order], probabilities[order]


@numba.njit(parallel=True, cache=True)
def _prefixes(distances, values, targets, ks, scale, out):
    """Whole chunks are kept as they are; the k's within a chunk are sums over its beginning, forgotten at once."""
    for n in numba.prange(len(targets)):
        nearest, total, total_hit = np.float32(np.inf), 0.0, 0.0  # sums of exp(-scale * (distance - nearest))
        done = 0
        for start in range(0, ks[-1], CHUNK):
            end = min(start + CHUNK, ks[-1])
            while done < len(ks) and ks[done] <= end:
                row = distances[n, : ks[done]], values[n, : ks[done]], targets[n]
                _, sum_, hits = _with_chunk(row[0][start:], row[1][start:], row[2], scale, nearest, total, total_hit)
                found = hits > FAINTEST
                out[done, n] = math.log(hits) - math.log(sum_) if found else _faint(*row, scale)
                done += 1
            nearest, total, total_hit = _with_chunk(
                distances[n, start:end], values[n, start:end], targets[n], scale, nearest, total, total_hit
            )


@numba.njit(cache=True, fastmath={"reassoc", "contract", "nsz"})
def _with_chunk(distances, values, target, scale, nearest, total, total_hit):
    """The nearest distance and both sums once a chunk is added to them."""
    before, bits, lowest = nearest, distances.view(np.int32), _turned(np.float32(nearest).view(np.int32))
    for j in range(len(distances)):
        lowest = min(lowest, _turned(bits[j]))
    nearest = _turned(lowest).view(np.float32)
    if nearest == np.inf:
        return nearest, total, total_hit
    shrink = math.exp(-scale * (before - nearest))
    sum_, hits = np.float32(0), np.float32(0)
    for j in range(len(distances)):
        weight = _exp(np.float32(scale) * (nearest - distances[j]))
        sum_ += weight
        hits += weight if values[j] == target else np.float32(0)
    return nearest, shrink * total + sum_, shrink * total_hit + hits


@numba.njit(inline="always")
def _turned(bits):
    """A single-precision number's bits as a whole number that rises with it, and back.

    The least of many whole numbers is found by SIMD, that of floating-point numbers one after another.
    """
    return np.int32(bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))


@numba.njit(inline="always")
def _exp(x):
    """exp of max(x, NEGLIGIBLE) for x ≤ 0, in single precision: without a call, so that loops around it become SIMD."""
    x = max(x, NEGLIGIBLE)
    power = np.floor(x * LOG2_E + np.float32(0.5))
    x = x - power * LN_2
    series = np.float32(1 / 5040)
    for n in (720, 120, 24, 6, 2, 1, 1):
        series = series * x + np.float32(1 / n)
    return series * np.int32(np.int32(power + np.float32(127)) << np.int32(23)).view(np.float32)


@numba.njit(cache=True)
def _faint(distances, values, target, scale):
    """log p of a target whose neighbors, if any, are so far that single precision loses them."""
    found = np.uint32(0)
    for j in range(len(distances)):
        found += np.uint32(values[j] == target)
    highest, total, highest_hit, total_hit = -np.inf, 0.0, -np.inf, 0.0
    for j in range(len(distances) if found else 0):
        highest = max(highest, -scale * distances[j])
        if values[j] == target:
            highest_hit = max(highest_hit, -scale * distances[j])
    if highest_hit == -np.inf:
        return -np.inf
    for j in range(len(distances)):
        total += math.exp(-scale * distances[j] - highest)
        if values[j] == target:
            total_hit += math.exp(-scale * distances[j] - highest_hit)
    return highest_hit + math.log(total_hit) - highest - math.log(total)
