"""Search one shard's index: each query's k nearest entries with both distances and their values."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from knnlm.artifacts import files, lineage
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
    """datastore shard directory (values and ids; keys for exact distances where they are stored)"""
    queries: tuple[Path, ...]
    """directories of keys to search for, one a split"""
    k: int
    """neighbors per query"""
    out: tuple[Path, ...]
    """directories of ids, distances, exact and values, in the same order"""
    settings: str = "{}"
    """IndexSettings as JSON; searching reads only nprobe"""


def main(config: SearchConfig) -> None:
    chosen = settings(IndexSettings, config.settings, "index settings")
    roles = shared(config)
    index = ann.load(config.index, chosen.nprobe)
    ids = files.open_array(config.keys / "ids.npy", "int64", 1)  # [n]
    values = files.open_array(config.keys / "values.npy", "integer", 1)  # [n]
    described = files.described(config.keys)
    stored = "keys.npy" in described["outputs"]
    keys = files.open_array(config.keys / "keys.npy", "float16", 2) if stored else None  # [n, d]
    queries = [files.open_array(split / "keys.npy", "floating", 2) for split in config.queries]  # [Q, d] each
    check(config, index, ids, values, queries)
    files.check_room(config.out[0], sum(map(len, queries)) * neighbors.query_bytes(config.k, keys is not None))
    inner_product, searcher = ann.is_inner_product(index), ann.on_gpus(index)
    rerank = partial(exact.distances_on, "cuda") if ann.has_gpus() else exact.distances
    facts = {"entries": len(ids), "metric": "ip" if inner_product else "l2"}
    facts["entries_total"] = described.get("entries_total", len(ids))
    for split, split_queries, out, roles_here in zip(config.queries, queries, config.out, roles, strict=True):
        with files.atomic(out, directory=True) as tmp:
            found = neighbors.create(tmp, (len(split_queries), config.k), exact=keys is not None)
            for start in progress(range(0, len(split_queries), BLOCK), f"search {out}", unit="block"):
                block = np.asarray(split_queries[start : start + BLOCK], dtype=np.float32)  # [B, d]
                distances, rows = ann.search(searcher, block, config.k, ids)  # [B, K]
                part = {"ids": np.where(rows < 0, -1, ids[rows]), "values": np.where(rows < 0, 0, values[rows])}
                part["distances"] = distances
                if keys is not None:
                    part["exact"] = rerank(keys, block, rows, inner_product)
                for name, array in part.items():
                    found[name][start : start + BLOCK] = array
            inputs = {"index": config.index, "keys": config.keys, "queries": split}
            told = {"settings": chosen, "k": config.k}
            lineage.write_meta(tmp, "search", told, inputs, roles_here, **facts)


def shared(config: SearchConfig) -> list[dict[str, str]]:
    """What each split's neighbors belong to; raises UserError where index, keys and queries do not belong together."""
    common = ("vocab", "model", "keytype")
    store = lineage.agree((config.index, config.keys), *common, "text", "deal", "index", "keys")
    if "text" in store:
        store["datastore"] = store.pop("text")
    for split in config.queries:
        lineage.agree((config.keys, split), *common)
    return [lineage.of(split) | store for split in config.queries]


def check(config: SearchConfig, index: object, ids: np.ndarray, values: np.ndarray, queries: list) -> None:
    """Raise UserError where index, shard and queries do not belong together."""
    if not index.ntotal == len(ids) == len(values):
        raise files.UserError(
            f"{config.index} has {index.ntotal:,} entries, {config.keys} {len(ids):,} ids and {len(values):,} values: "
            "add the shard's keys again"
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
