"""The neighbors artifact: arrays [Q, K] of each query's nearest entries, sorted by (index distance, id).

- rows: row numbers in the datastore's first shards laid end to end, uint32 (uint64 from 2³² - 1 entries on)
- distances: the index's own, float32
- exact: those of the stored keys, float32

Distances are squared L2, or negated inner products; each kind is there only where it is asked for. Where a query has
fewer than K neighbors, the missing ones come last, with the largest row number and distance inf. Values and ids of
entries are looked up in the shards, which the description names (`load`).
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from knnlm.artifacts import description, devices, files, lineage, npy

SHORT = 32  # runs of equal distances up to this length are sorted faster by insertion
LIMIT = (1 << 32) - 1  # entries from which on rows need 64 bits: the largest number means a missing neighbor
DISTANCES = ("distances", "exact")
FACTS = ("entries", "entries_total", "metric", "nprobe")
"""What descriptions of neighbors say: entries searched and of the whole datastore, "l2" or "ip", lists visited."""


def row_type(entries: int) -> str:
    """The dtype of row numbers among so many entries."""
    return "uint32" if entries < LIMIT else "uint64"


def missing(rows: np.ndarray) -> int:
    """The row number of a missing neighbor."""
    return int(np.iinfo(rows.dtype).max)


def query_bytes(k: int, entries: int, distances: int = 1) -> int:
    """Bytes on disk that the k neighbors of one query take, with so many kinds of distances."""
    return k * (np.dtype(row_type(entries)).itemsize + 4 * distances)


def sources(directory: Path, name: str) -> dict[str, tuple[Path, dict]]:
    """The shards ("shard") or indexes ("index") of neighbors, in the order of their rows.

    They are inputs of each description of neighbors, which is written with `{name: source}` as returned here.
    """
    named = lineage.sources(directory)
    count = sum(key.startswith(name) and key[len(name) :].isdigit() for key in named)
    try:
        return {f"{name}{i}": named[f"{name}{i}"] for i in range(count or 1)}
    except KeyError:
        raise files.UserError(
            f"{directory}: its description names the inputs {sorted(named)}, expected {name}0: search again"
        ) from None


def places(directory: Path, name: str) -> list[Path]:
    """Where the shards or indexes of neighbors lie now."""
    return [place for place, _ in sources(directory, name).values()]


def facts(directory: Path) -> dict[str, Any]:
    """The `FACTS` of neighbors."""
    described = description.described(directory)
    return {name: described[name] for name in FACTS}


@dataclass(frozen=True)
class Neighbors:
    """Memory-mapped neighbors of Q queries; what their entries hold is looked up on demand."""

    directory: Path
    rows: np.ndarray  # [Q, K]
    distances: dict[str, np.ndarray]  # [Q, K] float32, by kind

    def stored(self, kind: str) -> np.ndarray:
        """Distances [Q, K] of a kind; raises UserError where they are not kept or were not loaded."""
        if kind not in self.distances:
            fix = "rerank them" if kind == "exact" else "rerank again with --keep-index-distances"
            raise files.UserError(f"{self.directory}: found no {kind}.npy, which the row's distance needs: {fix}")
        return self.distances[kind]

    @cached_property
    def values(self) -> "Column":
        """The tokens that the entries hold, uint32; 0 where a neighbor is missing."""
        return self._column("values", "uint32", 0)

    @cached_property
    def ids(self) -> "Column":
        """The entries' positions in the datastore's token stream, int64; -1 where a neighbor is missing."""
        return self._column("ids", "int64", -1)

    def _column(self, name: str, dtype: str, missing: int) -> "Column":
        arrays = [npy.open_array(shard / f"{name}.npy", dtype, 1) for shard in places(self.directory, "shard")]
        searched = facts(self.directory)["entries"]
        if (found := sum(map(len, arrays))) != searched:
            raise files.UserError(
                f"{self.directory}: {searched:,} entries were searched, its shards have {found:,} {name}"
            )
        return Column(self.rows, arrays, missing)


class Column:
    """One value for each neighbor, looked up when it is indexed: an array [Q, K] that is never in memory as a whole.

    A block is looked up in the shards' memory-mapped arrays [n], which are read at random.
    """

    def __init__(self, rows: np.ndarray, arrays: Sequence[np.ndarray], missing: int) -> None:
        self.rows, self.missing = rows, missing
        self._arrays = [np.ascontiguousarray(array) for array in arrays]  # kept, because only their addresses are used
        self._firsts = first_rows(map(len, arrays))
        self._addresses = addresses(self._arrays)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, where: Any) -> np.ndarray:
        rows = np.asarray(self.rows[where])
        found = np.full(rows.shape, self.missing, self._arrays[0].dtype)
        _look_up(rows.ravel(), self._firsts, self._addresses, found.reshape(-1))
        return found[()]


def load(directory: Path, names: Iterable[str] = DISTANCES, k: int | None = None) -> Neighbors:
    """The neighbors in a directory, at most the first `k` of each query.

    Of the distances, only those in `names` are opened, if they are there. Raises UserError for a damaged array and one
    of another shape.
    """
    directory = Path(directory)
    described = description.described(directory)["outputs"]
    kept = [name for name in names if f"{name}.npy" in described]
    with ThreadPoolExecutor(devices.cores()) as pool:  # opening checks again, but a checked file is remembered
        list(pool.map(description.check, [directory / f"{name}.npy" for name in ("rows", *kept)]))
    rows = npy.open_array(directory / "rows.npy", "unsignedinteger", 2)
    distances = {name: npy.open_array(directory / f"{name}.npy", "float32", 2) for name in kept}
    for name, array in distances.items():
        if array.shape != rows.shape:
            raise files.UserError(
                f"{directory}/{name}.npy has shape {array.shape}, rows.npy {rows.shape}: search again"
            )
    return Neighbors(directory, rows[:, :k], {name: array[:, :k] for name, array in distances.items()})


def first_rows(sizes: Iterable[int]) -> np.ndarray:
    """The row number of the first entry of each of S shards laid end to end, and the number of all: [S + 1] int64."""
    return np.cumsum([0, *sizes], dtype=np.int64)


def addresses(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Where contiguous arrays begin in memory, uint64: compiled functions take any number of shards this way."""
    return np.array([array.ctypes.data for array in arrays], np.uint64)


@intrinsic
def _pointer(_typing, _address):
    """The pointer to an address."""

    def code(_context, builder, _signature, arguments):
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return numba.types.voidptr(numba.types.uint64), code


@numba.njit(parallel=True, cache=True)
def _look_up(rows, firsts, addresses, out):
    """Fill out [P] at the rows [P] that some shard has; others are missing and stay as they are."""
    for i in numba.prange(len(rows)):
        row = np.int64(rows[i])  # the largest of 64 bits becomes -1
        if 0 <= row < firsts[-1]:
            low, high = 0, len(firsts) - 1  # the row is in one of the shards from `low` to before `high`
            while high - low > 1:
                middle = (low + high) >> 1
                low, high = (middle, high) if firsts[middle] <= row else (low, middle)
            array = numba.carray(_pointer(addresses[low]), (firsts[low + 1] - firsts[low],), out.dtype)
            out[i] = array[row - firsts[low]]


@numba.njit(parallel=True, cache=True)
def merge(distances, rows, firsts, addresses, merged_distances, merged_rows):
    """The k nearest of S sorted lists by (distance, id), into merged_distances and merged_rows [B, k].

    distances and rows [S, B, K], rows within each shard; firsts [S + 1] int64 as `first_rows`; addresses [S] uint64 of
    the shards' ids, int64, which are read only where distances are equal.
    """
    shards, queries, _ = rows.shape
    for q in numba.prange(queries):
        heads = np.zeros(shards, np.int64)  # [S] the first neighbor of each list that is not taken yet
        for j in range(merged_rows.shape[1]):
            shard = _nearest_head(distances, rows, firsts, addresses, q, heads)
            merged_distances[q, j] = distances[shard, q, heads[shard]]
            row = np.int64(rows[shard, q, heads[shard]])
            if 0 <= row < firsts[shard + 1] - firsts[shard]:  # not missing
                merged_rows[q, j] = firsts[shard] + row
            heads[shard] += 1


@numba.njit(cache=True)
def _nearest_head(distances, rows, firsts, addresses, q, heads):
    """The list whose head is nearest; missing neighbors are infinitely far, so they are taken last."""
    best = -1
    for s in range(len(heads)):
        i = heads[s]
        if i == rows.shape[2]:  # all of this list is taken
            continue
        if best < 0:
            best = s
            continue
        near, nearest = distances[s, q, i], distances[best, q, heads[best]]
        if near < nearest:
            best = s
        elif near == nearest and near < np.inf:
            other = _id(rows[best, q, heads[best]], best, firsts, addresses)
            if _id(rows[s, q, i], s, firsts, addresses) < other:
                best = s
    return best


@numba.njit(cache=True)
def _id(row, shard, firsts, addresses):
    """The id of a row of a shard; -1 where the shard has no such row."""
    row, size = np.int64(row), firsts[shard + 1] - firsts[shard]
    return numba.carray(_pointer(addresses[shard]), (size,), np.int64)[row] if 0 <= row < size else -1


@numba.njit(parallel=True, cache=True)
def order_ties(distances: np.ndarray, rows: np.ndarray, ids: np.ndarray) -> None:
    """Sort each run of equal distances by the entries' ids, in place.

    distances [Q, K], ascending; rows [Q, K] int64, -1 where missing; ids [n] int64, the id of each row.
    """
    for q in numba.prange(len(rows)):
        near, found = distances[q], rows[q]
        order = np.empty(len(found), np.int64)  # [K] ids, all read at once: no read waits for another
        for i in range(len(found)):
            order[i] = ids[found[i]] if found[i] >= 0 else -1
        start = 0
        for end in range(1, len(found) + 1):
            if end < len(found) and found[end] >= 0 and near[end] == near[start]:
                continue
            if end - start > SHORT:
                found[start:end] = found[start:end][np.argsort(order[start:end])]
            else:
                for i in range(start + 1, end):  # by insertion: quantized distances come in runs of a few equal ones
                    row, its_id, place = found[i], order[i], i
                    while place > start and order[place - 1] > its_id:
                        found[place], order[place] = found[place - 1], order[place - 1]
                        place -= 1
                    found[place], order[place] = row, its_id
            start = end
