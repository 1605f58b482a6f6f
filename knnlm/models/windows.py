"""Windows over a token stream: which tokens a forward pass predicts and which it sees as context (Section 4.2)."""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from knnlm.artifacts.files import UserError
from knnlm.settings import WindowSettings

EOS = 2  # `</s>`, the input at the very first position of a stream


class Windows(NamedTuple):
    """W windows over a token stream: the tokens [start, end) are predicted after the context [begin, start)."""

    begin: np.ndarray  # [W] int64
    start: np.ndarray  # [W] int64
    end: np.ndarray  # [W] int64

    def take(self, rows: np.ndarray) -> "Windows":
        return Windows(self.begin[rows], self.start[rows], self.end[rows])

    @property
    def tokens(self) -> int:
        """How many tokens are predicted."""
        return int((self.end - self.start).sum())

    @property
    def positions(self) -> np.ndarray:
        """The predicted tokens' positions in the stream, int64 [n], window by window."""
        return np.concatenate([np.arange(*bounds) for bounds in zip(self.start, self.end, strict=True)])


def evaluation(tokens: np.ndarray, settings: WindowSettings, eos: int = EOS) -> Windows:
    """Windows that predict each of the stream's N tokens exactly once, in order.

    A window of mode "complete" can be longer than `new` tokens, where a line is; its context is shortened by as many.
    """
    if settings.mode == "fixed":
        start = np.arange(0, len(tokens), settings.new, dtype=np.int64)  # [W]
    else:
        start = _line_blocks(tokens, settings.new, eos)
    return _with_context(start, np.append(start[1:], len(tokens)), settings)


def published(tokens: np.ndarray, settings: WindowSettings, eos: int = EOS) -> tuple[np.ndarray, Windows]:
    """The positions [n] of the tokens that the published code scores, and windows over these tokens alone.

    It drops every block longer than the model's positions, new + context (`ignore_invalid_inputs`): lines so long are
    never scored. The context of what follows such a line runs on from before it.
    """
    start = _line_blocks(tokens, settings.new, eos)
    sizes = np.diff(np.append(start, len(tokens)))
    start, sizes = (array[sizes <= settings.length] for array in (start, sizes))
    if not len(start):
        raise UserError(f"all lines are longer than {settings.length} tokens: nothing would be scored")
    ends = np.cumsum(sizes)
    positions = np.concatenate([np.arange(*bounds) for bounds in zip(start, start + sizes, strict=True)])
    return positions, _with_context(ends - sizes, ends, settings)


def _with_context(start: np.ndarray, end: np.ndarray, settings: WindowSettings) -> Windows:
    context = np.minimum(settings.context, settings.length - (end - start)).clip(0)
    return Windows(np.maximum(start - context, 0), start, end)


def datastore(total: int, settings: WindowSettings, seed: int) -> Windows:
    """Windows of `new` tokens with a full context, in one seeded order, which shards are cut from.

    Tokens with less than `context` tokens before them get no entry (the published code leaves its first window out
    too); the last window may be shorter. Raises UserError for a corpus without a window.
    """
    start = np.arange(0, total, settings.new, dtype=np.int64)
    start = start[start >= settings.context]
    if not len(start):
        raise UserError(
            f"a corpus of {total:,} tokens has no window after {settings.context} tokens of context: "
            "use a larger corpus or less context"
        )
    start = np.random.default_rng(seed).permutation(start)
    return Windows(start - settings.context, start, np.minimum(start + settings.new, total))


def training(total: int, block: int, blocks: int, update: int, seed: int) -> Windows:
    """The blocks of one update: the stream is cut every `block` tokens; every epoch has an order of its own."""
    all_blocks = -(-total // block)
    place = np.arange(update * blocks, (update + 1) * blocks)  # positions in the concatenation of all epochs
    epochs = place // all_blocks
    chosen = [
        _epoch_order(all_blocks, seed, int(epoch))[place[epochs == epoch] % all_blocks] for epoch in np.unique(epochs)
    ]
    start = np.concatenate(chosen) * block
    return Windows(start, start, np.minimum(start + block, total))


@lru_cache(maxsize=2)
def _epoch_order(blocks: int, seed: int, epoch: int) -> np.ndarray:
    """Numbers of an epoch's blocks, int64 [blocks]; kept, because each update of the epoch asks for them."""
    return np.random.default_rng([seed, epoch]).permutation(blocks)


def shard(windows: Windows, index: int, shards: int) -> Windows:
    """Shard `index` of `shards`: a contiguous part, so that all shards together are the same for any number of them."""
    if not 0 <= index < shards <= len(windows.start):
        raise UserError(
            f"shard {index} of {shards}: the datastore has {len(windows.start)} windows: give a shard below the number "
            "of shards, and no more shards than windows"
        )
    cuts = np.arange(shards + 1) * len(windows.start) // shards
    return windows.take(np.arange(cuts[index], cuts[index + 1]))


def check_words(tokens: np.ndarray, vocab_size: int, path: Path, owner: Path) -> None:
    """Raise UserError where the tokens of `path` hold a word that the vocabulary of `owner` does not have."""
    largest = int(tokens.max(initial=0))
    if largest >= vocab_size:
        raise UserError(
            f"{path}: token {largest} is outside {owner}'s {vocab_size} words: binarize the text with that vocabulary"
        )


def batch(
    tokens: np.ndarray, windows: Windows, length: int, eos: int = EOS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Model inputs and targets of B windows, padded on the right to one length T.

    The input at each position is the token before its target. Padding follows the last target, and a causal model does
    not see what follows. Returns inputs int64 [B, T], targets int64 [B, T], and predicted bool [B, T], which is True at
    the tokens [start, end) of each window.
    """
    size = len(windows.start)
    width = max(length, int((windows.end - windows.begin).max()))
    inputs = np.full((size, width), eos, dtype=np.int64)  # [B, T]
    targets = np.full((size, width), eos, dtype=np.int64)  # [B, T]
    predicted = np.zeros((size, width), dtype=bool)  # [B, T]
    for row, (begin, start, end) in enumerate(zip(*windows, strict=True)):
        targets[row, : end - begin] = tokens[begin:end]
        inputs[row, 1 : end - begin] = targets[row, : end - begin - 1]
        if begin:
            inputs[row, 0] = tokens[begin - 1]
        predicted[row, start - begin : end - begin] = True
    return inputs, targets, predicted


def _line_blocks(tokens: np.ndarray, most: int, eos: int) -> np.ndarray:
    """Starts of the blocks [W] that hold as many whole lines as fit `most` tokens; a longer line is a block by itself.

    A line ends with `eos` or with the stream. In the published code this is the `complete` break mode.
    """
    line_ends = np.flatnonzero(np.asarray(tokens) == eos) + 1  # [L]
    if not len(line_ends) or line_ends[-1] != len(tokens):
        line_ends = np.append(line_ends, len(tokens))
    starts, lines_done = [], 0
    while lines_done < len(line_ends):
        start = line_ends[lines_done - 1] if lines_done else 0
        starts.append(start)
        lines_that_fit = int(np.searchsorted(line_ends, start + most, side="right"))
        lines_done = max(lines_done + 1, lines_that_fit)
    return np.array(starts, dtype=np.int64)
