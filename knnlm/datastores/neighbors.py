"""The neighbors artifact: arrays [Q, K] of ids, values and distances, sorted by (distance, id), and their merging.

`distances` are the index's own and `exact` those of the stored keys; both are squared L2, or negated inner products.
Where a query has fewer than K neighbors, the missing ones come last, with id -1, value 0 and distance inf.
"""

from collections.abc import Container
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import numpy as np

from knnlm.artifacts import description, files, npy

SHORT = 32  # runs of equal distances up to this length are sorted faster by insertion
KINDS = {"ids": "int64", "distances": "float32", "values": "uint32", "exact": "float32"}


def create(directory: Path, shape: tuple[int, int], exact: bool) -> dict[str, np.ndarray]:
    """New memory-mapped arrays of one shape [Q, K], by name; with `exact` where keys are stored."""
    names = [name for name in KINDS if exact or name != "exact"]
    return {name: npy.create_array(directory / f"{name}.npy", shape, KINDS[name]) for name in names}


def query_bytes(k: int, exact: bool) -> int:
    """Bytes on disk that the k neighbors of one query take."""
    return k * sum(np.dtype(kind).itemsize for name, kind in KINDS.items() if exact or name != "exact")


def load(directory: Path, names: Container[str] = KINDS) -> dict[str, np.ndarray]:
    """The memory-mapped arrays [Q, K] of a neighbors directory, by name.

    Only the content of those in `names` is checked, which reads them whole. Raises UserError where an array is missing
    or has another shape than the others.
    """
    described = description.described(directory)["outputs"]
    arrays = {}
    with ThreadPoolExecutor() as pool:  # opening checks again, one by one, but a checked file is remembered
        list(pool.map(description.check, [directory / name for name in described if Path(name).stem in names]))
    for name, kind in KINDS.items():
        if name != "exact" or "exact.npy" in described:
            arrays[name] = npy.open_array(directory / f"{name}.npy", kind, 2, whole=name in names)
    for name, array in arrays.items():
        if array.shape != arrays["ids"].shape:
            raise files.UserError(
                f"{directory}/{name}.npy has shape {array.shape}, ids.npy {arrays['ids'].shape}: search again"
            )
    return arrays


@numba.njit(parallel=True, cache=True)
def merge_order(distances: np.ndarray, ids: np.ndarray, k: int) -> np.ndarray:
    """The k nearest of S sorted lists by (distance, id): [S, B, K] both -> [B, k] int64, positions in S*K."""
    shards, queries, width = ids.shape
    order = np.empty((queries, k), np.int64)
    for q in numba.prange(queries):
        heads = np.zeros(shards, np.int64)  # [S] the first neighbor of each list that is not taken yet
        for j in range(k):
            shard = _nearest_head(distances, ids, q, heads)
            order[q, j] = shard * width + heads[shard]
            heads[shard] += 1
    return order


@numba.njit(cache=True)
def _nearest_head(distances, ids, q, heads):
    """The list whose head is nearest; missing neighbors are infinitely far, so they are taken last."""
    best = -1
    for s in range(len(heads)):
        i = heads[s]
        if i == ids.shape[2]:  # all of this list is taken
            continue
        if best < 0:
            best = s
            continue
        near, nearest = distances[s, q, i], distances[best, q, heads[best]]
        if near < nearest or (near == nearest and ids[s, q, i] < ids[best, q, heads[best]]):
            best = s
    return best


@numba.njit(parallel=True, cache=True)
def order_ties(distances: np.ndarray, rows: np.ndarray, ids: np.ndarray) -> None:
    """Sort each run of equal distances by the entries' ids, in place.

    distances [Q, K], ascending; rows [Q, K] int64, -1 where missing; ids [n] int64, the id of each row.
    """
    for q in numba.prange(len(rows)):
        start = 0
        for end in range(1, rows.shape[1] + 1):
            if end < rows.shape[1] and rows[q, end] >= 0 and distances[q, end] == distances[q, start]:
                continue
            _sort_by_id(rows[q, start:end], ids)
            start = end


@numba.njit(cache=True)
def _sort_by_id(rows, ids):
    """In place; by insertion if short: quantized distances come in runs of a few equal ones."""
    if len(rows) > SHORT:
        rows[:] = rows[np.argsort(ids[rows])]
        return
    for i in range(1, len(rows)):
        row = rows[i]
        while i > 0 and ids[rows[i - 1]] > ids[row]:
            rows[i] = rows[i - 1]
            i -= 1
        rows[i] = row
