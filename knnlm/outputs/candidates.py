"""The most probable next words of the LM and of kNN at each token, for the neighbor explorer."""

from typing import NamedTuple

import numpy as np
import torch

from knnlm.live import distributions
from knnlm.live.layout import KnnLM
from knnlm.outputs import packing
from knnlm.outputs.scored import ScoredText

CELLS = 1 << 20  # neighbors weighed together


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
    step = max(1, CELLS // max(text.stored.shape[1] for text in texts))
    for ids, logprob in distributions.blocks(source, texts[0].tokens, count, batch_tokens):
        for start in range(0, len(ids), step):
            block = slice(start, start + step)
            probable = torch.topk(logprob[block], min(words, logprob.shape[1])).indices.numpy()  # [B, words]
            for text, row in zip(texts, found, strict=True):
                _fill(row, ids[block], logprob[block].numpy(), probable, text)
    return found


def _fill(row: Candidates, ids: np.ndarray, logprob: np.ndarray, probable: np.ndarray, text: ScoredText) -> None:
    """Fill in the candidates at the tokens `ids` [B]: `probable` [B, words] and as many of kNN's; logprob [B, V] nats.

    A word at a token is one number, the token's place in the block times V, plus the word.
    """
    size = logprob.shape[1]
    places = np.arange(len(ids))
    near = np.exp(text.log_shares(ids))  # [B, k]
    kept = near > 0
    keys, which = np.unique((places[:, None] * size + text.values[ids])[kept], return_inverse=True)
    chances = np.bincount(which, near[kept], len(keys))
    likeliest = keys[np.lexsort((keys, -chances, keys // size))]
    likeliest = likeliest[_column(likeliest // size, places) < row.words.shape[1] // 2]
    union = np.union1d((places[:, None] * size + probable).ravel(), likeliest)
    place, word = union // size, union % size
    filled = ids[place], _column(place, places)
    row.words[filled] = word
    row.lm[filled] = packing.quantized(logprob[place, word])
    logs = np.full(len(union), -np.inf)
    _, among, found = np.intersect1d(union, keys, assume_unique=True, return_indices=True)
    logs[among] = np.log(chances[found])
    row.knn[filled] = packing.quantized(logs)


def _column(place: np.ndarray, places: np.ndarray) -> np.ndarray:
    """How many of the ascending `place` [P] before each one are equal to it: [P]."""
    return np.arange(len(place)) - np.searchsorted(place, places)[place]


def _nothing(count: int, width: int) -> Candidates:
    zero = np.full((count, width), packing.ZERO, np.uint16)
    return Candidates(np.zeros((count, width), np.uint32), zero, zero.copy())
