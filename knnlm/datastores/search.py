"""Search one shard's index for each query's k nearest entries, with values and distances."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from knnlm.artifacts import description, devices, files, lineage, npy
from knnlm.artifacts.cli import progress, settings
from knnlm.datastores import ann, exact, neighbors
from knnlm.settings import IndexSettings

BLOCK = 1024  # queries searched at a time


@dataclass(frozen=True)
class SearchConfig:
    """Find each query's k nearest entries of one datastore shard."""

    index: Path
    """the shard's index, a .faiss file"""
    keys: Path
    """datastore shard directory: values, ids and, where they are stored, keys for exact distances"""
    queries: tuple[Path, ...]
    """directories of queries, one a split"""
    k: int
    """neighbors per query"""
    out: tuple[Path, ...]
    """neighbors directories (ids, values, distances, exact), in the same order"""
    settings: str = "{}"
    """IndexSettings as JSON, of which only nprobe is used"""


class Shard(NamedTuple):
    """The arrays of a datastore shard."""

    ids: np.ndarray  # [n] int64
    values: np.ndarray  # [n] uint32
    keys: np.ndarray | None  # [n, d] float16; None where they were not stored


def main(config: SearchConfig) -> None:
    chosen = settings(IndexSettings, config.settings, "index settings")
    roles = shared(config)
    index = ann.load(config.index, chosen.nprobe)
    shard, described = open_shard(config.keys), description.described(config.keys)
    queries = [npy.open_array(split / "keys.npy", "floating", 2) for split in config.queries]  # [Q, d] each
    check(config, index, shard, queries)
    stored = shard.keys is not None
    files.check_room(config.out[0], sum(map(len, queries)) * neighbors.query_bytes(config.k, stored))
    inner_product, searcher = ann.is_inner_product(index), ann.on_gpus(index, *queries)
    measure = None if shard.keys is None else exact_distances(shard.keys)
    facts: dict[str, Any] = {"entries": len(shard.ids), "metric": "ip" if inner_product else "l2"}
    facts["entries_total"] = described.get("entries_total", len(shard.ids))
    for split, split_queries, out, lineage_of_split in zip(config.queries, queries, config.out, roles, strict=True):
        with files.atomic(out, directory=True) as tmp:
            arrays = neighbors.create(tmp, (len(split_queries), config.k), stored)
            for start in progress(range(0, len(split_queries), BLOCK), f"search {out}", unit="block"):
                block = np.asarray(split_queries[start : start + BLOCK], dtype=np.float32)  # [B, d]
                for name, part in nearest(searcher, block, config.k, shard, measure, inner_product).items():
                    arrays[name][start : start + BLOCK] = part
            inputs = {"index": config.index, "keys": config.keys, "queries": split}
            recorded = {"settings": chosen, "k": config.k}
            description.write_meta(tmp, "search", recorded, inputs, lineage_of_split, **facts)


def open_shard(directory: Path) -> Shard:
    keys = directory / "keys.npy"
    stored = keys.name in description.described(directory)["outputs"]
    return Shard(
        npy.open_array(directory / "ids.npy", "int64", 1),
        npy.open_array(directory / "values.npy", "integer", 1),
        npy.open_array(keys, "float16", 2) if stored else None,
    )


def exact_distances(keys: np.ndarray) -> Callable[[np.ndarray, np.ndarray, bool], np.ndarray]:
    """`exact.distances` between queries and these keys [n, d], on a GPU if PyTorch has one to use."""
    device = devices.for_torch()
    if device == "cpu":
        return partial(exact.distances, keys)
    return partial(exact.distances_on, device, exact.held(keys, device))


def nearest(
    index: ann.Index, queries: np.ndarray, k: int, shard: Shard, measure: Callable | None, inner_product: bool
) -> dict[str, np.ndarray]:
    """The arrays [B, K] of the neighbors artifact for one block of queries [B, d]; `exact` only with `measure`."""
    distances, rows = ann.search(index, queries, k, shard.ids)  # [B, K]
    missing = rows < 0
    found = {"ids": np.where(missing, -1, shard.ids[rows]), "values": np.where(missing, 0, shard.values[rows])}
    found["distances"] = distances
    if measure is not None:
        found["exact"] = measure(queries, rows, inner_product)
    return found


def shared(config: SearchConfig) -> list[dict[str, str]]:
    """The lineage of each split's neighbors; raises UserError where index, keys and queries do not fit together."""
    common = ("vocab", "model", "keytype")
    store = lineage.agree((config.index, config.keys), *common, "text", "deal", "index", "keys")
    if "text" in store:
        store["datastore"] = store.pop("text")
    for split in config.queries:
        lineage.agree((config.keys, split), *common)
    return [lineage.of(split) | store for split in config.queries]


def check(config: SearchConfig, index: ann.Index, shard: Shard, queries: list[np.ndarray]) -> None:
    """Raise UserError where the sizes of index, shard and queries do not fit together."""
    if not index.ntotal == len(shard.ids) == len(shard.values):
        raise files.UserError(
            f"{config.index} has {index.ntotal:,} entries, {config.keys} {len(shard.ids):,} ids and "
            f"{len(shard.values):,} values: add the shard's keys again"
        )
    if not 1 <= config.k <= index.ntotal:
        raise files.UserError(
            f"k is {config.k:,}, {config.index} holds {index.ntotal:,} entries: ask for a k between 1 and that, "
            "or use a larger datastore or fewer shards"
        )
    if len(config.queries) != len(config.out):
        raise files.UserError(
            f"--queries names {len(config.queries)} splits and --out {len(config.out)}: give one of each"
        )
    for split, keys in zip(config.queries, queries, strict=True):
        ann.check_dimension(index, keys, f"{split}/keys.npy")
