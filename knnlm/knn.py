"""The distribution over the next word that retrieved neighbors give: equation 2 of the paper.

Neighbors come sorted by the index's distance, so that a smaller k is a prefix. A missing neighbor is infinitely far
and so has no part in any sum. Probabilities are in nats.
"""

import math

import numba
import numpy as np

NEGLIGIBLE = -60.0  # nats below the nearest neighbor: e^-60 is lost in a float64 sum


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
    for n in numba.prange(len(targets)):
        highest, total = -np.inf, 0.0  # of all neighbors so far: sum of exp(logit - highest)
        highest_hit, total_hit = -np.inf, 0.0  # of those whose value is the target
        done = 0
        for j in range(ks[-1]):
            logit = -scale * distances[n, j]
            if logit > highest:
                total = total * math.exp(highest - logit) + 1.0
                highest = logit
            elif logit > highest + NEGLIGIBLE:
                total += math.exp(logit - highest)
            if values[n, j] == targets[n] and logit > -np.inf:
                if logit > highest_hit:
                    total_hit = total_hit * math.exp(highest_hit - logit) + 1.0
                    highest_hit = logit
                else:
                    total_hit += math.exp(logit - highest_hit)
            while done < len(ks) and ks[done] == j + 1:
                hit = total_hit > 0.0
                out[done, n] = (highest_hit + math.log(total_hit) - highest - math.log(total)) if hit else -np.inf
                done += 1
