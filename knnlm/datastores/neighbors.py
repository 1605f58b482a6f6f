"""The neighbors artifact: memory-mapped arrays [Q, K] of ids, values and distances, sorted by (distance, id)."""

from collections.abc import Container
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import numpy as np

from knnlm.artifacts import files

SHORT = 32  # equal distances that are sorted faster by insertion
KINDS = {"ids": "int64", "distances": "float32", "values": "uint32", "exact": "float32"}


def create(directory: Path, shape: tuple[int, int], exact: bool) -> dict[str, np.ndarray]:
    """New arrays of one shape [Q, K], by name; `exact` only where keys are stored."""
    names = [name for name in KINDS if exact or name != "exact"]
    return {name: files.create_array(directory / f"{name}.npy", shape, KINDS[name]) for name in names}


def query_bytes(k: int, exact: bool) -> int:
    """What the neighbors of one query take."""
    return k * sum(np.dtype(kind).itemsize for name, kind in KINDS.items() if exact or name != "exact")


def load(directory: Path, names: Container[str] = KINDS) -> dict[str, np.ndarray]:
    """The arrays of a neighbors directory, read-only; raises UserError where one is missing or of another shape.

    Only `names` are read, and checked, as a whole.
    """
    described = files.described(directory)["outputs"]
    found = {}
    with ThreadPoolExecutor() as pool:  # side by side; each is then found checked when it is opened
        list(pool.map(files.check, [directory / name for name in described if Path(name).stem in names]))
    for name, kind in KINDS.items():
        if name != "exact" or "exact.npy" in described:
            found[name] = files.open_array(directory / f"{name}.npy", kind, 2, whole=name in names)  # [Q, K]
    for name, array in found.items():
        if array.shape != found["ids"].shape:
            raise files.UserError(
                f"{directory}/{name}.npy has shape {array.shape}, ids.npy {found['ids'].shape}: search again"
            )
    return found


@numba.njit(parallel=True, cache=True)
def merge_order(distances: np.ndarray, ids: np.ndarray, k: int) -> np.ndarray:
    """Positions of the k nearest by (distance, id) among S sorted lists: [S, B, K] both -> [B, k] int64 into S*K."""
    shards, queries, width = ids.shape
    order = np.empty((queries, k), np.int64)
    for q in numba.prange(queries):
        next_ = np.zeros(shards, np.int64)
        for j in range(k):
            best = -1
            for s in range(shards):
                i = next_[s]
                if i == width:
                    continue
                # a missing neighbor has distance inf and id -1: it comes after every found one
                if best < 0:
                    best = s
                    continue
                near, nearest = distances[s, q, i], distances[best, q, next_[best]]
                if near < nearest or (near == nearest and ids[s, q, i] < ids[best, q, next_[best]]):
                    best = s
            order[q, j] = best * width + next_[best]
            next_[best] += 1
    return order


@numba.njit(parallel=True, cache=True)
def order_ties(distances: np.ndarray, rows: np.ndarray, ids: np.ndarray) -> None:
    """Sort each run of equal distances [Q, K] by the entries' ids, in place; distances already ascend."""
    for q in numba.prange(len(rows)):
        start = 0
        for j in range(1, rows.shape[1] + 1):
            if j < rows.shape[1] and rows[q, j] >= 0 and distances[q, j] == distances[q, start]:
                continue
            if j - start <= SHORT:
                _sort_by_id(rows[q, start:j], ids)
            else:
                run = rows[q, start:j]
                rows[q, start:j] = run[np.argsort(ids[run])]
            start = j


@numba.njit(cache=True)
def _sort_by_id(rows, ids):
    """By insertion: quantized distances come in runs of a few equal ones."""
    for i in range(1, len(rows)):
        row = rows[i]
        while i > 0 and ids[rows[i - 1]] > ids[row]:
            rows[i] = rows[i - 1]
            i -= 1
        rows[i] = row
