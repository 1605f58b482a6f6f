"""Datastores that take fewer bytes: fewer entries, entries merged into others, and shorter keys."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np

from knnlm.artifacts import description, lineage, npy
from knnlm.artifacts.cli import progress
from knnlm.artifacts.files import UserError
from knnlm.beyond import mixers
from knnlm.beyond.signals import Signals
from knnlm.datastores import ann, exact
from knnlm.scores import knn
from knnlm.settings import IndexSettings, near_root

SEARCHED = 1024  # queries, or entries, whose neighbors are searched together
PAIRS = 1 << 28  # pairs of query and neighbor that are in memory at a time, of 24 bytes each
MEMORY = 1 << 32  # bytes of keys held at a time
POINTS = 39  # keys for each centroid of a product quantiser and of OPQ's, as FAISS asks for
VALUE, WEIGHT = 4, 4  # bytes


@dataclass(frozen=True)
class Datastore:
    """The n entries of a row's datastore, its shards laid end to end."""

    shards: list[np.ndarray]  # keys [m, d] of each, float16 or float32
    values: np.ndarray  # [n] uint32
    ids: np.ndarray  # [n] int64, positions in the training stream
    trained: Path  # the index without entries
    settings: IndexSettings
    nprobe: int

    @property
    def dimension(self) -> int:
        return self.shards[0].shape[1]


class Keys:
    """Keys of some rows of the shards laid end to end, as an array [n, d] that is read slice by slice."""

    ndim = 2

    def __init__(self, shards: list[np.ndarray], rows: np.ndarray) -> None:
        self.shards, self.rows = shards, rows  # rows [n] int64, ascending
        self.starts = np.cumsum([0, *map(len, shards)])
        self.shape = len(rows), shards[0].shape[1]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, wanted: slice) -> np.ndarray:
        rows = self.rows[wanted]
        ends = np.searchsorted(rows, self.starts)
        parts = [
            shard[rows[first:last] - start]
            for shard, start, first, last in zip(self.shards, self.starts, ends, ends[1:], strict=False)
        ]
        return np.concatenate(parts)


def datastore(split: Signals) -> Datastore:
    """The datastore that a split's neighbors are of; raises UserError where its keys or its index are not kept."""
    if split.source is None:
        raise UserError("a smaller datastore needs the datastore of a study")
    source = split.source
    named = lineage.sources(source.indexes[0])
    if "trained" not in named:
        raise UserError(f"{source.indexes[0]}: its description names no trained index: add the keys again")
    trained = named["trained"][0]
    columns = {"keys": ("floating", 2), "values": ("uint32", 1), "ids": ("int64", 1)}
    keys, values, ids = (
        [npy.open_array(shard / f"{name}.npy", *kind) for shard in source.keys] for name, kind in columns.items()
    )
    trained_as = description.described(trained)["config"] | {"nprobe": 1}  # the row's own is beside it
    settings = IndexSettings(**trained_as)
    return Datastore(keys, np.concatenate(values), np.concatenate(ids), trained, settings, source.nprobe)


def lists_for(store: Datastore, entries: int) -> int:
    """Inverted lists of the row's index or, where it has none, a power of two near the root of so many entries."""
    return min(store.settings.parsed.lists or near_root(entries), entries)


def build(store: Datastore, rows: np.ndarray) -> ann.Index:
    """The row's own index with the entries `rows` [n] alone, as the study trained it."""
    index = ann.load(store.trained, store.nprobe)
    ann.add(index, Keys(store.shards, rows))  # type: ignore[arg-type]
    return index


def coded(store: Datastore, factory: str, rows: np.ndarray) -> ann.Index:
    """An index of another factory string with the entries `rows` [n], trained as the row's own is."""
    settings = IndexSettings(**(store.settings.model_dump() | {"factory": factory, "nprobe": 1}))
    index = ann.train(ann.sample(store.shards, settings.sample, settings.seed), settings, POINTS << 8)
    ann.add(index, Keys(store.shards, rows))  # type: ignore[arg-type]
    return ann.visiting(index, store.nprobe)


def factories(store: Datastore) -> dict[str, dict[int, str]]:
    """For each way of shortening keys, factory strings by how many times fewer dimensions, or bytes, they have.

    The lists are those of the row's index. Without lists every code is looked at for each query, and only codes of 4
    bits are fast enough for that; so they are where entries are too few to train codes of 8.
    """
    dimension, lists = store.dimension, store.settings.parsed.lists
    ivf = f"IVF{lists}," if lists else ""
    bits = "x4fs" if not lists else "x8" if len(store.ids) >= POINTS << 8 else "x4"
    pca, opq = ([part for part in parts if dimension % part == 0] for parts in ((2, 4, 8), (4, 8)))
    return {
        "pca": {part: f"PCA{dimension // part},{ivf}SQfp16" for part in pca},
        "opq": {part: f"OPQ{dimension // part},{ivf}PQ{dimension // part}{bits}" for part in opq},
    }


def entry_bytes(store: Datastore, settings: IndexSettings, with_keys: bool, with_weights: bool = False) -> float:
    """Bytes of an entry: its code and row number in the index, its key if exact distances need it, value and weight.

    A flat index holds the keys themselves.
    """
    held = store.shards[0].itemsize * store.dimension if with_keys and settings.factory != "Flat" else 0
    return settings.parsed.entry_bytes(store.dimension) + held + VALUE + WEIGHT * with_weights


def merge(store: Datastore, index: ann.Index, sizes: list[int]) -> list[np.ndarray]:
    """Weights [n] int32 of the entries after greedy merging (He et al. 2021), for each of the ascending `sizes`.

    Entries are visited in the order of the datastore (the published code: in a random one). One that still stands takes
    in those of its `size` nearest entries, by an index that holds all, that have its value and stand for themselves
    alone. 0: merged into another.
    """
    weights = [np.ones(len(store.ids), np.int32) for _ in sizes]
    keys = Keys(store.shards, np.arange(len(store.ids)))
    width = min(max(sizes) + 1, len(store.ids))  # an entry is among its own neighbors
    for start in progress(range(0, len(keys), SEARCHED), "merge", unit="block"):
        asked = np.asarray(keys[start : start + SEARCHED], np.float32)
        _, near = ann.search(index, asked, width, store.ids)
        for size, found in zip(sizes, weights, strict=True):
            _merge(start, near, store.values, size, found)
    return weights


@numba.njit(cache=True)
def _merge(first, near, values, size, weights):
    """Merge neighbors `near` [B, K] of the entries from `first` on into them, in place."""
    for i in range(len(near)):
        entry, left = first + i, size
        if weights[entry] == 0:
            continue
        for other in near[i]:
            if other == entry:
                continue
            if other < 0 or left == 0:
                break
            left -= 1
            if weights[other] == 1 and values[other] == values[entry]:
                weights[entry] += 1
                weights[other] = 0


def scored(
    split: Signals,
    store: Datastore,
    index: ann.Index,
    rows: np.ndarray,
    weights: np.ndarray | None,
    with_keys: bool,
    temperatures: Sequence[float],
) -> np.ndarray:
    """log p_kNN of the targets at several temperatures [T, N] float32 nats, from an index of the entries `rows` [n].

    weights [n]: how many entries each stands for. `with_keys`: by exact distances, otherwise by the index's.
    """
    queries, out = mixers.context_vectors(split), np.empty((len(temperatures), len(split.tokens)), np.float32)
    width, ids, product = min(split.stored.shape[1], len(rows)), store.ids[rows], ann.is_inner_product(index)
    step = max(SEARCHED, PAIRS // width)
    for start in range(0, len(split.tokens), step):
        block = slice(start, start + step)
        near, found = _searched(index, queries[block], width, ids)
        entries = np.where(found >= 0, rows[found], -1)
        if with_keys:
            near = exact.rerank(store.shards, queries[block], entries, MEMORY, "cpu", product)
        near, values = knn.weighed(near, split.distance), store.values[entries]
        targets = np.asarray(split.tokens[block])
        for place, temperature in enumerate(temperatures):
            shifted = near  # e^(−d/T) times the weight is e^(−(d − T log weight)/T)
            if weights is not None:
                shifted = near - np.float32(temperature) * np.log(weights[found], dtype=np.float32)
            out[place, block] = knn.target_logprob(shifted, values, targets, temperature)
    return out


def _searched(index: ann.Index, queries: np.ndarray, k: int, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances and rows [Q, k] of the nearest entries of many queries [Q, d]."""
    near, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    for start in range(0, len(queries), SEARCHED):
        block = slice(start, start + SEARCHED)
        near[block], rows[block] = ann.search(index, np.asarray(queries[block], np.float32), k, ids)
    return near, rows
