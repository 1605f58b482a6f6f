"""The most probable next words of the LM and of kNN at each token, for the neighbor explorer."""

from typing import NamedTuple

import numpy as np
import torch

from knnlm.live import distributions
from knnlm.live.layout import KnnLM
from knnlm.outputs import packing
from knnlm.outputs.scored import ScoredText
from knnlm.scores import knn


class Candidates(NamedTuple):
    """The likeliest next words of N tokens: W = twice the number that was asked for."""

    words: np.ndarray  # [N, W] uint32, ascending; unused places at the end are word 0
    lm: np.ndarray  # [N, W] uint16, the LM's log-probabilities as `packing.quantized`; unused places `packing.ZERO`
    knn: np.ndarray  # [N, W] uint16, likewise of kNN


def candidates(source: KnnLM, texts: list[ScoredText], count: int, words: int, batch_tokens: int) -> list[Candidates]:
    """The LM's `words` most probable words at each of the first `count` tokens, together with kNN's of each row.

    `texts` are rows of one LM on one text, which the LM reads once. Where both lists of a row have a word, it is
    stored once.
    """
    found = [_nothing(count, 2 * words) for _ in texts]
    blocks = distributions.blocks(source, texts[0].tokens, count, batch_tokens)
    for position, logprob in (pair for ids, block in blocks for pair in zip(ids, block, strict=True)):
        probable = torch.topk(logprob, min(words, len(logprob))).indices.numpy()
        for text, row in zip(texts, found, strict=True):
            retrieved, shares = knn.distribution(text.distances(position), text.values[position], text.temperature)
            union = np.union1d(probable, retrieved[:words]).astype(np.int64)
            _, place, among = np.intersect1d(union, retrieved, assume_unique=True, return_indices=True)
            near = np.full(len(union), -np.inf)
            with np.errstate(divide="ignore"):  # a share may be too small for a float: log 0 is -inf
                near[place] = np.log(shares[among])
            filled = position, slice(len(union))
            row.words[filled] = union
            row.lm[filled] = packing.quantized(logprob[union].numpy())
            row.knn[filled] = packing.quantized(near)
    return found


def _nothing(count: int, width: int) -> Candidates:
    zero = np.full((count, width), packing.ZERO, np.uint16)
    return Candidates(np.zeros((count, width), np.uint32), zero, zero.copy())
