"""Small arrays for a self-contained page: 16-bit log-probabilities, compressed bytes as text, contexts stored once."""

import base64
import gzip

import numpy as np

STEPS = 2000  # in a nat: 16-bit log-probabilities are off by at most 0.00025 nats
ZERO = 65535  # the largest step: log 0, and every log-probability below -32.7 nats
ARRAYS = {"uint8": "Uint8Array", "uint16": "Uint16Array", "uint32": "Uint32Array", "float32": "Float32Array"}


def quantized(logprob: np.ndarray) -> np.ndarray:
    """Log-probabilities in nats (0 or less) as whole steps below 0: uint16 of the same shape."""
    steps = np.minimum(-np.asarray(logprob, np.float64) * STEPS, ZERO)
    return np.clip(np.round(steps), 0, ZERO).astype(np.uint16)


def restored(steps: np.ndarray) -> np.ndarray:
    """Log-probabilities in nats, float64, from the steps that `quantized` made; the page computes the same."""
    return np.where(steps == ZERO, -np.inf, -steps.astype(np.float64) / STEPS)


def rounded(values: np.ndarray) -> np.ndarray:
    """float32 with the last 12 bits cleared: three significant digits stay, and it compresses to half the size."""
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) & np.uint32(0xFFFFF000)).view(np.float32)


def packed(array: np.ndarray) -> dict[str, object]:
    """JavaScript's name of the array type, and the little-endian bytes as gzip in base64; the same at every run."""
    raw = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    return {"type": ARRAYS[array.dtype.name], "data": base64.b64encode(gzip.compress(raw, 9, mtime=0)).decode("ascii")}


class Pool:
    """The arrays of a page, each packed once however many rows share it."""

    def __init__(self) -> None:
        self.arrays: list[dict[str, object]] = []

    def add(self, array: np.ndarray) -> int:
        """The place of this array in `arrays`."""
        made = packed(array)
        if made not in self.arrays:
            self.arrays.append(made)
        return self.arrays.index(made)


def smallest(array: np.ndarray) -> np.ndarray:
    """Whole numbers from 0 on as uint16 if all fit, else as uint32."""
    return array.astype(np.uint16 if array.max(initial=0) < 1 << 16 else np.uint32)


def windows(entries: np.ndarray, documents: np.ndarray, total: int, before: int, after: int) -> np.ndarray:
    """Which tokens of a stream of `total` lie around an entry, within its document: bool [total].

    Around an entry at position e are the tokens from e - `before` to e + `after`. `documents` [D] are the positions
    where documents begin. When only these tokens are stored, an entry's context is still contiguous.
    """
    ends = np.append(documents[1:], total)
    document = np.searchsorted(documents, entries, side="right") - 1
    start = np.maximum(entries - before, documents[document])
    stop = np.minimum(entries + after + 1, ends[document])
    opened = np.bincount(start, minlength=total + 1) - np.bincount(stop, minlength=total + 1)
    return np.cumsum(opened[:-1]) > 0


def compact(ids: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The distinct ids of all arrays, most frequent first, and the arrays with each id replaced by its place there."""
    every = np.concatenate([array.ravel() for array in ids])
    distinct, place, counts = np.unique(every, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    ranks = np.argsort(order)[place]  # the inverse permutation: each id's place among the most frequent
    parts = np.split(ranks, np.cumsum([array.size for array in ids])[:-1])
    return distinct[order], [smallest(part.reshape(array.shape)) for part, array in zip(parts, ids, strict=True)]
