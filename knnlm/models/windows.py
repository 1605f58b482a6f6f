"""Which tokens a forward pass sees as context and which it predicts: pure index arithmetic."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from knnlm.artifacts.files import UserError
from knnlm.settings import WindowSettings

EOS = 2  # `</s>`, the input at the very first position of a stream


class Windows(NamedTuple):
    """W windows over a stream: tokens [start, end) are predicted after the context [begin, start)."""

    begin: np.ndarray  # [W] int64
    start: np.ndarray  # [W] int64
    end: np.ndarray  # [W] int64

    def take(self, rows: np.ndarray) -> "Windows":
        return Windows(self.begin[rows], self.start[rows], self.end[rows])

    @property
    def tokens(self) -> int:
        """How many tokens are predicted."""
        return int((self.end - self.start).sum())


def evaluation(tokens: np.ndarray, settings: WindowSettings) -> Windows:
    """Windows that predict every one of the stream's N tokens exactly once, in order."""
    if settings.mode == "fixed":
        start = np.arange(0, len(tokens), settings.new, dtype=np.int64)  # [W]
    else:
        start = _packed_lines(tokens, settings.new)
    end = np.append(start[1:], len(tokens))
    context = np.minimum(settings.context, settings.length - (end - start)).clip(0)
    return Windows(np.maximum(start - context, 0), start, end)


def datastore(total: int, settings: WindowSettings, seed: int) -> Windows:
    """Fixed-stride windows with a full context, in the one seeded order that shards are cut from.

    Entries with less than `context` tokens before them are left out (the published code loses its
    first window too); the last, partial window is kept.
    """
    start = np.arange(0, total, settings.new, dtype=np.int64)
    start = start[start >= settings.context]
    if not len(start):
        raise UserError(f"a corpus of {total:,} tokens has no window after {settings.context} tokens of context")
    start = np.random.default_rng(seed).permutation(start)
    return Windows(start - settings.context, start, np.minimum(start + settings.new, total))


def training(total: int, block: int, blocks: int, update: int, seed: int) -> Windows:
    """The blocks of one update: the stream is cut every `block` tokens, in a new order every epoch."""
    starts = np.arange(0, total, block, dtype=np.int64)
    place = np.arange(update * blocks, (update + 1) * blocks)  # in the concatenation of all epochs
    epochs = place // len(starts)
    start = np.concatenate(
        [
            starts[_epoch_order(len(starts), seed, int(epoch))[place[epochs == epoch] % len(starts)]]
            for epoch in np.unique(epochs)
        ]
    )
    return Windows(start, start, np.minimum(start + block, total))


@lru_cache(maxsize=2)
def _epoch_order(blocks: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(blocks)


def shard(windows: Windows, index: int, shards: int) -> Windows:
    """Contiguous cut `index` of `shards`; the concatenation of all cuts is the same for every `shards`."""
    if not 0 <= index < shards <= len(windows.start):
        raise UserError(f"shard {index} of {shards}: the datastore has {len(windows.start)} windows")
    cuts = np.arange(shards + 1) * len(windows.start) // shards
    return windows.take(np.arange(cuts[index], cuts[index + 1]))


def batch(tokens: np.ndarray, windows: Windows, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Model inputs and targets of B windows, padded on the right to one length T.

    The input at each position is the token before its target; padding after the last target cannot
    reach an earlier position of a causal model. Returns inputs int64 [B, T], targets int64 [B, T],
    predicted bool [B, T].
    """
    size = len(windows.start)
    width = max(length, int((windows.end - windows.begin).max()))
    inputs = np.full((size, width), EOS, dtype=np.int64)  # [B, T]
    targets = np.full((size, width), EOS, dtype=np.int64)  # [B, T]
    predicted = np.zeros((size, width), dtype=bool)  # [B, T]
    for row, (begin, start, end) in enumerate(zip(*windows, strict=True)):
        targets[row, : end - begin] = tokens[begin:end]
        inputs[row, 1 : end - begin] = targets[row, : end - begin - 1]
        if begin:
            inputs[row, 0] = tokens[begin - 1]
        predicted[row, start - begin : end - begin] = True
    return inputs, targets, predicted


def _packed_lines(tokens: np.ndarray, most: int) -> np.ndarray:
    """Starts of blocks of whole lines with at most `most` tokens; a longer line is a block of its own."""
    ends = np.flatnonzero(np.asarray(tokens) == EOS) + 1  # [lines]
    if not len(ends) or ends[-1] != len(tokens):
        ends = np.append(ends, len(tokens))
    starts, line = [], 0
    while line < len(ends):
        start = ends[line - 1] if line else 0
        starts.append(start)
        line = max(line + 1, int(np.searchsorted(ends, start + most, side="right")))
    return np.array(starts, dtype=np.int64)
