"""The continuous cache of Grave et al. (2017c): a distribution over the words just read.

p(w) ∝ Σ over the previous C positions i of the same document of 1[w_i = w] exp(θ h·h_i), with h the
representation at the predicting position.
"""

import math
from itertools import pairwise

import numba
import numpy as np

BLOCK = 256  # positions scored at a time
NEGLIGIBLE = -60.0  # nats below the largest: e^-60 is lost in a float64 sum


def target_logprobs(
    queries: np.ndarray, targets: np.ndarray, documents: np.ndarray, sizes: list[int], thetas: list[float]
) -> np.ndarray:
    """log p_cache of each target for every size and θ: [len(sizes), len(thetas), N] float32 nats.

    queries [N, D] in stream order, targets [N], documents [M] start offsets; sizes ascending, in tokens.
    -inf where the target is not among the previous tokens of its document. Memory is BLOCK x (BLOCK + C) floats.
    """
    out = np.full((len(sizes), len(thetas), len(targets)), -np.inf, np.float32)
    reach, spans = np.asarray(sizes, np.int64), np.append(documents, len(targets)).astype(np.int64)
    scales = np.asarray(thetas, np.float64)
    for begin, end in pairwise(spans):
        for start in range(begin, end, BLOCK):
            stop = min(start + BLOCK, end)
            oldest = max(begin, start - sizes[-1])
            history = np.asarray(queries[oldest:stop], dtype=np.float32)  # [H, D]
            products = history[start - oldest :] @ history.T  # [B, H]
            _grid(products, np.asarray(targets[oldest:stop]), start - oldest, reach, scales, out[:, :, start:stop])
    return out


@numba.njit(parallel=True, cache=True)
def _grid(products, words, first, sizes, thetas, out):
    """Score words[first:] against what precedes each of them: products [B, H] -> out [sizes, thetas, B]."""
    for b in numba.prange(len(products)):
        here = first + b
        oldest = max(0, here - sizes[-1])
        for t in range(len(thetas)):
            highest, total, highest_hit, total_hit = -np.inf, 0.0, -np.inf, 0.0
            done = 0
            for i in range(here - 1, oldest - 1, -1):
                logit = thetas[t] * products[b, i]
                if logit > highest:
                    total = total * math.exp(highest - logit) + 1.0
                    highest = logit
                elif logit > highest + NEGLIGIBLE:
                    total += math.exp(logit - highest)
                if words[i] == words[here]:
                    if logit > highest_hit:
                        total_hit = total_hit * math.exp(highest_hit - logit) + 1.0
                        highest_hit = logit
                    else:
                        total_hit += math.exp(logit - highest_hit)
                if here - i == sizes[done] or i == oldest:
                    logprob = -np.inf
                    if total_hit > 0.0:
                        logprob = highest_hit + math.log(total_hit) - highest - math.log(total)
                    stop = len(sizes) if i == oldest else done + 1  # a longer cache than the history is the history
                    for s in range(done, stop):
                        out[s, t, b] = logprob
                    done = stop
