"""The most probable next words of the LM and of kNN at each token, for the neighbor explorer."""

import numpy as np
import torch

from knnlm.live import distributions
from knnlm.live.layout import KnnLM
from knnlm.outputs import packing
from knnlm.outputs.scored import ScoredText
from knnlm.scores import knn


def candidates(
    source: KnnLM, text: ScoredText, count: int, words: int, batch_tokens: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The LM's `words` most probable words at each of the first `count` tokens, together with kNN's.

    Returns three arrays [count, 2 * words]: the words in ascending order (uint32), and their log-probabilities by the
    LM and by kNN as 16-bit steps (`packing.quantized`). Where both lists have a word, it is stored once, and the row
    ends with unused places: word 0 and `packing.ZERO` twice.
    """
    shape = count, 2 * words
    chosen, lm = np.zeros(shape, np.uint32), np.full(shape, packing.ZERO, np.uint16)
    near = lm.copy()
    found = distributions.blocks(source, text.tokens, count, batch_tokens)
    for position, logprob in (pair for ids, block in found for pair in zip(ids, block, strict=True)):
        retrieved, shares = knn.distribution(text.distances(position), text.values[position], text.temperature)
        probable = torch.topk(logprob, min(words, len(logprob))).indices.numpy()
        union = np.union1d(probable, retrieved[:words]).astype(np.int64)
        _, place, among = np.intersect1d(union, retrieved, assume_unique=True, return_indices=True)
        near_logprob = np.full(len(union), -np.inf)
        with np.errstate(divide="ignore"):  # a share may be too small for a float: log 0 is -inf
            near_logprob[place] = np.log(shares[among])
        row = position, slice(len(union))
        chosen[row] = union
        lm[row] = packing.quantized(logprob[union].numpy())
        near[row] = packing.quantized(near_logprob)
    return chosen, lm, near
