"""The forward pass over windows: context representations f(c), which become keys and queries, and log-probabilities.

The datastore of equation 1 and the queries of equation 2 use the same representations.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from knnlm.artifacts.files import UserError
from knnlm.models import windows
from knnlm.models.model import LanguageModel
from knnlm.models.windows import Windows

HEAD_INPUT = "head_input"  # beside the key types: what the model returns, from which it computes log-probabilities


class Block(NamedTuple):
    """The n predicted tokens of one batch of windows, in the order of the token stream within each window."""

    keys: dict[str, np.ndarray]  # {key type: [n, D] float32}, the representation before each token
    values: np.ndarray  # [n] uint32, the tokens
    ids: np.ndarray  # [n] int64, their positions in the token stream
    logprob: np.ndarray | None  # [n] float32, nats


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


@torch.inference_mode()
def stream(
    model: LanguageModel,
    tokens: np.ndarray,
    chosen: Windows,
    length: int,
    keytypes: tuple[str, ...],
    batch_tokens: int,
    logprob: bool = False,
) -> Iterator[Block]:
    """Run the model over the chosen windows, batch by batch; `length` is the tokens of a whole window.

    Every batch has the same shape [batch_tokens // length, length], so that a key does not depend on the batch that
    its window is in. Raises UserError where a key or log-probability is not finite.
    """
    where = next(model.parameters()).device
    size = max(1, batch_tokens // length)
    for first in range(0, len(chosen.start), size):
        rows = chosen.take(np.arange(first, min(first + size, len(chosen.start))))
        inputs, targets, predicted = windows.batch(tokens, rows, length, model.eos)  # [B, T] each
        filler = ((0, size - len(inputs)), (0, 0))
        taps: dict[str, torch.Tensor] = {}
        features = model(torch.from_numpy(np.pad(inputs, filler)).to(where), taps)  # [B, T, D]
        taps[HEAD_INPUT] = features
        mask = torch.from_numpy(np.pad(predicted, filler)).to(where)
        keys = {name: taps[name][mask].float().cpu().numpy() for name in keytypes}
        for name, block in keys.items():
            if not np.isfinite(block).all():
                raise UserError(
                    f"{name}: a key is not finite in the window at token {int(rows.start[0])}: the model diverged"
                )
        scored = None
        if logprob:
            scored = model.target_logprob(features[mask], torch.from_numpy(targets[predicted]).to(where)).cpu().numpy()
            if not np.isfinite(scored).all():
                raise UserError(
                    f"a log-probability is not finite in the window at token {int(rows.start[0])}: the model diverged"
                )
        ids = rows.begin[:, None] + np.arange(inputs.shape[1])  # [B, T]
        yield Block(keys, targets[predicted].astype(np.uint32), ids[predicted], scored)


def half(keys: np.ndarray, name: str, fix: str) -> np.ndarray:
    """Keys [n, D] as float16 [n, D]; raises UserError, which ends with `fix`, for a component that does not fit."""
    largest = float(np.abs(keys).max(initial=0))
    if not largest <= float(np.finfo(np.float16).max):
        raise UserError(f"{name}: a key component of {largest:.3g} does not fit float16 (65504 at most): {fix}")
    return keys.astype(np.float16)
