"""The forward pass over windows: context representations f(c), which become keys and queries, and log-probabilities.

The datastore of equation 1 and the queries of equation 2 use the same representations.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from knnlm.artifacts import devices
from knnlm.artifacts.files import UserError
from knnlm.models import windows
from knnlm.models.model import AFTER_FFN, LanguageModel
from knnlm.models.windows import Windows

Precision = Literal["float32", "bfloat16", "float16"]
HEAD_INPUT = "head_input"  # beside the key types: what the model returns, from which it computes log-probabilities
LARGEST_HALF = float(np.finfo(np.float16).max)


class Block(NamedTuple):
    """The n predicted tokens of one batch of windows, in the order of the token stream within each window."""

    keys: dict[str, np.ndarray]  # {key type: [n, D] float32 or float16}, the representation before each token
    values: np.ndarray  # [n] uint32, the tokens
    ids: np.ndarray  # [n] int64, their positions in the token stream
    logprob: np.ndarray | None  # [n] float32, nats


def device() -> str:
    return devices.for_torch()


def autocast(where: torch.device, precision: str) -> torch.autocast:
    """A context in which matrix products have this precision; layer norms and sums stay in float32."""
    return torch.autocast(where.type, dtype=getattr(torch, precision), enabled=precision != "float32")


@torch.inference_mode()
def stream(
    model: LanguageModel,
    tokens: np.ndarray,
    chosen: Windows,
    length: int,
    keytypes: tuple[str, ...],
    batch_tokens: int,
    logprob: bool = False,
    precision: Precision = "float32",
    half_keys: str | None = None,
) -> Iterator[Block]:
    """Run the model over the chosen windows, batch by batch; `length` is the tokens of a whole window.

    Every batch has the same shape [batch_tokens // length, length], so that a key does not depend on the batch that
    its window is in. `precision` is that of the matrix products within the model; log-probabilities are computed in
    float32 from its float32 features. Keys come as float32; with `half_keys` as float16, and a component that does not
    fit is an error that ends with this text. On a GPU the next batch is computed while a block is copied and used.

    Raises UserError where a key or log-probability is not finite.
    """
    size = batch_windows(batch_tokens, length)
    wanted = _Wanted(keytypes, logprob, precision, half_keys)
    ahead = _batches_ahead(next(model.parameters()).device)
    started: deque[_Batch] = deque()
    for first in range(0, len(chosen.start), size):
        rows = chosen.take(np.arange(first, min(first + size, len(chosen.start))))
        started.append(_start(model, tokens, rows, (size, length), wanted))
        if len(started) > ahead:
            yield started.popleft().finish()
    while started:
        yield started.popleft().finish()


def batch_windows(batch_tokens: int, length: int) -> int:
    """How many windows of `length` tokens are in a batch of `batch_tokens`."""
    return max(1, batch_tokens // length)


def _batches_ahead(where: torch.device) -> int:
    """How many further batches are started before one is waited for."""
    return 1 if where.type == "cuda" else 0


class _Wanted(NamedTuple):
    """What `stream` is asked for."""

    keytypes: tuple[str, ...]
    logprob: bool
    precision: str
    half_keys: str | None


@dataclass
class _Batch:
    """A batch whose results are being computed and copied to this machine's memory."""

    wanted: _Wanted
    keys: Tensor  # [key types, n, D]
    numbers: Tensor  # float32: the largest magnitude of each key type, then n log-probabilities or none
    values: np.ndarray
    ids: np.ndarray
    first: int  # token at which the first window predicts
    copied: torch.cuda.Event | None  # None where nothing had to be copied

    def finish(self) -> Block:
        """Wait for the copies and check what came."""
        if self.copied:
            self.copied.synchronize()
        keytypes, half_keys = self.wanted.keytypes, self.wanted.half_keys
        largest, scored = np.split(self.numbers.numpy(), [len(keytypes)])
        for name, most in zip(keytypes, largest, strict=True):
            if not np.isfinite(most):
                raise UserError(f"{name}: a key is not finite in the window at token {self.first}: the model diverged")
        if not np.isfinite(scored).all():
            raise UserError(f"a log-probability is not finite in the window at token {self.first}: the model diverged")
        if half_keys is not None:
            for name, most in zip(keytypes, largest, strict=True):
                _check_half(float(most), name, half_keys)
        keys = dict(zip(keytypes, self.keys.numpy(), strict=True))
        return Block(keys, self.values, self.ids, scored if self.wanted.logprob else None)


def _start(model: LanguageModel, tokens: np.ndarray, rows: Windows, shape: tuple[int, int], wanted: _Wanted) -> _Batch:
    """Run the model over one batch of windows, padded to `shape`; on a GPU this returns before the results are there.

    The checks need one number of each key type, its largest magnitude, which is NaN where a component is.
    """
    where = next(model.parameters()).device
    inputs, targets, predicted = windows.batch(tokens, rows, shape[1], model.eos)  # [B, T] each
    taps: dict[str, Tensor] = {}
    filled = np.pad(inputs, ((0, shape[0] - len(inputs)), (0, 0)))
    short = {"last_ffn": False} if isinstance(model, LanguageModel) and not _needs_last_ffn(wanted) else {}
    with autocast(where, wanted.precision):
        features = model(torch.from_numpy(filled), taps, **short).float()  # [B, T, D]
    taps[HEAD_INPUT] = features
    place = on_device(np.flatnonzero(predicted), where)  # [n], in the flattened batch
    dtype = torch.float32 if wanted.half_keys is None else torch.float16
    keys = torch.empty(len(wanted.keytypes), len(place), features.shape[2], dtype=dtype, device=where)
    numbers = []
    for row, name in enumerate(wanted.keytypes):
        if name not in taps:
            raise UserError(
                f"found the key type {name}, this model has {', '.join(sorted(taps))}: ask for one of these"
            )
        block = taps[name].flatten(0, 1)[place].float()  # [n, D]
        low, high = torch.aminmax(block)
        numbers.append(torch.maximum(-low, high)[None])
        keys[row] = block
    if wanted.logprob:
        words = torch.from_numpy(targets[predicted])
        numbers.append(model.target_logprob(features.flatten(0, 1)[place], words))
    sent, copied = _to_host([keys, torch.cat(numbers) if numbers else keys.new_empty(0)])
    ids = rows.begin[:, None] + np.arange(inputs.shape[1])  # [B, T]
    values = targets[predicted].astype(np.uint32)
    return _Batch(wanted, sent[0], sent[1], values, ids[predicted], int(rows.start[0]), copied)


def _needs_last_ffn(wanted: _Wanted) -> bool:
    """Whether log-probabilities or keys are asked for that follow the last layer's feed-forward network."""
    return wanted.logprob or any(name in (*AFTER_FFN, HEAD_INPUT) for name in wanted.keytypes)


def on_device(array: np.ndarray, where: torch.device) -> Tensor:
    """The array as a tensor; a GPU receives it while the program goes on."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(where, non_blocking=True) if where.type == "cuda" else tensor


def _to_host(tensors: list[Tensor]) -> tuple[list[Tensor], torch.cuda.Event | None]:
    """Copies of the tensors in this machine's memory, each by one transfer, complete once the event has happened.

    The transfers have a stream of their own: the GPU computes the next batch meanwhile.
    """
    if not tensors[0].is_cuda:
        return tensors, None
    copies, copier = [], torch.cuda.Stream()
    copier.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(copier):
        for tensor in tensors:
            copies.append(torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True))
            copies[-1].copy_(tensor, non_blocking=True)
            tensor.record_stream(copier)  # its memory is not given to others before the copy is done
        copied = torch.cuda.Event()
        copied.record(copier)
    return copies, copied


def half(keys: np.ndarray, name: str, fix: str) -> np.ndarray:
    """Keys [n, D] as float16 [n, D]; raises UserError, which ends with `fix`, for a component that does not fit."""
    _check_half(float(np.abs(keys).max(initial=0)), name, fix)
    return keys.astype(np.float16)


def _check_half(largest: float, name: str, fix: str) -> None:
    if not largest <= LARGEST_HALF:
        raise UserError(f"{name}: a key component of {largest:.3g} does not fit float16 (65504 at most): {fix}")
