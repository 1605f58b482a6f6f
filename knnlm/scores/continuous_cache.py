"""The continuous cache of Grave et al. (2017c): a distribution over the words just read (Section 4.1).

    p(w) ∝ Σ over the previous C positions i of the same document of 1[w_i = w] exp(θ h·h_i)

h is the representation at the position that predicts, h_i those at the positions that predicted w_i.
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

    queries [N, D] in stream order, targets [N], documents [M] start offsets; sizes C ascending, in tokens.
    -inf where the target is not among the previous C tokens of its document. Memory is BLOCK x (BLOCK + C) floats.
    """
    out = np.full((len(sizes), len(thetas), len(targets)), -np.inf, np.float32)
    reach, spans = np.asarray(sizes, np.int64), np.append(documents, len(targets)).astype(np.int64)
    scales = np.asarray(thetas, np.float64)
    for begin, end in pairwise(spans.tolist()):
        for start in range(begin, end, BLOCK):
            stop = min(start + BLOCK, end)
            oldest = max(begin, start - sizes[-1])
            history = np.asarray(queries[oldest:stop], dtype=np.float32)  # [H, D]
            products = history[start - oldest :] @ history.T  # [B, H]
            words = np.asarray(targets[oldest:stop])  # [H]
            _score(products, words, start - oldest, reach, scales, out[:, :, start:stop])
    return out


@numba.njit(parallel=True, cache=True)
def _score(products, words, first, sizes, thetas, out):
    """Score words[first:] by the words before each of them: products [B, H], words [H] -> out [sizes, thetas, B].

    One walk back from each word serves all sizes, ascending: a larger cache goes on where a smaller one ended.
    """
    for b in numba.prange(len(products)):
        here = first + b
        for t in range(len(thetas)):
            every, hits = (-np.inf, 0.0), (-np.inf, 0.0)  # sums over all positions, and over those of the same word
            i = here
            for s in range(len(sizes)):
                while i > max(0, here - sizes[s]):
                    i -= 1
                    logit = thetas[t] * products[b, i]
                    every = _with(every, logit)
                    if words[i] == words[here]:
                        hits = _with(hits, logit)
                if hits[1] > 0.0:
                    out[s, t, b] = hits[0] + math.log(hits[1]) - every[0] - math.log(every[1])


@numba.njit(inline="always")
def _with(sums, logit):
    """A running sum of exponentials with one more: (largest logit, sum of exp(logit - largest))."""
    largest, total = sums
    if logit > largest:
        return logit, total * math.exp(largest - logit) + 1.0
    if logit > largest + NEGLIGIBLE:
        total += math.exp(logit - largest)
    return largest, total
