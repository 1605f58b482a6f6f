"""The most probable next words of the LM and of kNN at each token, for the neighbor explorer."""

from collections.abc import Iterator

import numpy as np
import torch

from knnlm.artifacts.cli import progress
from knnlm.live.layout import KnnLM
from knnlm.models import features, model, windows
from knnlm.outputs import packing
from knnlm.outputs.scored import ScoredText
from knnlm.scores import knn

LOGITS = 1 << 24  # of the LM's distributions that are in memory at a time


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
    for position, logprob in lm_distributions(source, text.tokens, count, batch_tokens):
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


@torch.inference_mode()
def lm_distributions(
    source: KnnLM, tokens: np.ndarray, count: int, batch_tokens: int
) -> Iterator[tuple[int, torch.Tensor]]:
    """Position and the LM's log-probabilities [V], nats, of the first `count` tokens, in the study's own windows."""
    lm, sizes = model.load(source.model, features.device()), source.windows
    chosen = windows.evaluation(tokens, sizes, lm.eos)
    chosen = chosen.take(np.flatnonzero(chosen.start < count))
    step = max(1, LOGITS // lm.config.vocab_size)
    with progress(None, "LM", count, "tok") as bar:
        for block in features.stream(lm, tokens, chosen, sizes.length, (features.HEAD_INPUT,), batch_tokens):
            for start in range(0, len(block.ids), step):
                ids = block.ids[start : start + step]
                output = torch.from_numpy(block.keys[features.HEAD_INPUT][start : start + step]).to(features.device())
                yield from ((i, row) for i, row in zip(ids, lm.logprob(output).cpu(), strict=True) if i < count)
                bar.update(len(ids))
