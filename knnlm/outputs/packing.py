"""Arrays within a self-contained page: log-probabilities in 16 bits, arrays as compressed text, contexts kept once."""

import base64
import gzip

import numpy as np

STEPS = 2000  # a nat in 16-bit log-probabilities: an error of 0.00025 nats
ZERO = 65535  # stands for -inf, and for whatever is below e^-32.7
ARRAYS = {"uint8": "Uint8Array", "uint16": "Uint16Array", "uint32": "Uint32Array", "float32": "Float32Array"}


def quantized(logprob: np.ndarray) -> np.ndarray:
    """Log-probabilities in nats -> uint16 of the same shape; their order is kept."""
    steps = np.minimum(-np.asarray(logprob, np.float64) * STEPS, ZERO)
    return np.clip(np.round(steps), 0, ZERO).astype(np.uint16)


def restored(steps: np.ndarray) -> np.ndarray:
    """The inverse of `quantized`, as the page computes it: float64 nats."""
    return np.where(steps == ZERO, -np.inf, -steps.astype(np.float64) / STEPS)


def rounded(values: np.ndarray) -> np.ndarray:
    """float32 with three significant digits, which compresses to half."""
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) & np.uint32(0xFFFFF000)).view(np.float32)


def packed(array: np.ndarray) -> dict[str, object]:
    """The name of JavaScript's array type and gzipped little-endian bytes in base64, the same at every run."""
    raw = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    return {"type": ARRAYS[array.dtype.name], "data": base64.b64encode(gzip.compress(raw, 9, mtime=0)).decode("ascii")}


def smallest(array: np.ndarray) -> np.ndarray:
    """Whole numbers from 0 in 16 bits where these hold them, else in 32."""
    return array.astype(np.uint16 if array.max(initial=0) < 1 << 16 else np.uint32)


def windows(entries: np.ndarray, documents: np.ndarray, total: int, before: int, after: int) -> np.ndarray:
    """Which of `total` tokens lie within `before` and `after` tokens of an entry in its own document: bool [total].

    Kept alone and joined, each entry still has its whole left context before it, up to its document's beginning.
    """
    ends = np.append(documents[1:], total)
    document = np.searchsorted(documents, entries, side="right") - 1
    start = np.maximum(entries - before, documents[document])
    stop = np.minimum(entries + after + 1, ends[document])
    edges = np.zeros(total + 1, np.int64)
    np.add.at(edges, start, 1)
    np.add.at(edges, stop, -1)
    return np.cumsum(edges[:-1]) > 0


def compact(ids: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The distinct ids of all arrays, most frequent first, and the arrays as places among them."""
    used, place, counts = np.unique(np.concatenate([a.ravel() for a in ids]), return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    flat, cuts = rank[place], np.cumsum([a.size for a in ids])[:-1]
    return used[order], [smallest(part.reshape(a.shape)) for part, a in zip(np.split(flat, cuts), ids, strict=True)]
