"""Search one shard's index for each query's k nearest entries, by the index's distances.

No keys are read: exact distances are computed of the merged neighbors only (`knnlm rerank`). Blocks of queries that
are finished are kept when the job is killed, and the next one goes on after them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from knnlm.artifacts import description, files, lineage, npy, resume, stopping
from knnlm.artifacts.cli import progress, settings
from knnlm.datastores import ann, neighbors
from knnlm.settings import IndexSettings

BLOCK = 1024  # queries searched at a time


@dataclass(frozen=True)
class SearchConfig:
    """Find each query's k nearest entries of one datastore shard."""

    index: Path
    """the shard's index, a .faiss file"""
    keys: Path
    """datastore shard directory, of which only the ids are read: they order entries at equal distances"""
    queries: tuple[Path, ...]
    """directories of queries, one a split"""
    k: int
    """neighbors per query"""
    out: tuple[Path, ...]
    """neighbors directories (rows of the shard, distances), in the same order"""
    settings: str = "{}"
    """IndexSettings as JSON, of which only nprobe is used"""


def main(config: SearchConfig) -> None:
    chosen = settings(IndexSettings, config.settings, "index settings")
    roles = shared(config)
    index, ids = ann.load(config.index, chosen.nprobe), npy.open_array(config.keys / "ids.npy", "int64", 1)
    queries = [npy.open_array(split / "keys.npy", "floating", 2) for split in config.queries]  # [Q, d] each
    check(config, index, ids, queries)
    needed = sum(map(len, queries)) * neighbors.query_bytes(config.k, len(ids))
    files.check_room(config.out[0], needed - resume.kept(config.out))
    searcher, metric = ann.on_gpus(index, *queries), "ip" if ann.is_inner_product(index) else "l2"
    total = description.described(config.keys).get("entries_total", len(ids))
    facts: dict[str, Any] = dict(zip(neighbors.FACTS, (len(ids), total, metric, chosen.nprobe), strict=True))
    recorded = {"settings": chosen, "k": config.k}
    with stopping.noted_signals() as signals:
        for split, split_queries, out, lineage_of_split in zip(config.queries, queries, config.out, roles, strict=True):
            inputs = {"index0": config.index, "shard0": config.keys, "queries": split}
            with resume.directory(out, resume.fingerprint(recorded, inputs.values())) as work:
                if work is not None:
                    find(work, searcher, split_queries, config.k, ids, signals)
                    written = facts | {"fingerprint": work.fingerprint}
                    description.write_meta(work.folder, "search", recorded, inputs, lineage_of_split, **written)


def find(work: resume.Work, index: ann.Index, queries: np.ndarray, k: int, ids: np.ndarray, signals: list[int]) -> None:
    """Write the neighbors of all queries [Q, d], block by block.

    Raises Unfinished after the block in which a signal came, unless it is the last.
    """
    rows = work.array("rows", (len(queries), k), neighbors.row_type(len(ids)))  # [Q, K]
    distances = work.array("distances", rows.shape, "float32")  # [Q, K]
    for start in progress(range(0, len(queries), BLOCK), f"search {work.folder}", unit="block"):
        block = slice(start, start + BLOCK)
        if work.is_done(str(start), rows[block], distances[block]):
            continue
        distances[block], found = ann.search(index, np.asarray(queries[block], np.float32), k, ids)  # [B, K]
        rows[block] = found  # -1 becomes the largest number, a missing neighbor's
        work.done(str(start), rows[block], distances[block])
        if signals and block.stop < len(queries):
            raise stopping.stopped(f"{block.stop:,} of {len(queries):,} queries")


def shared(config: SearchConfig) -> list[dict[str, str]]:
    """The lineage of each split's neighbors; raises UserError where index, keys and queries do not fit together."""
    common = ("vocab", "model", "keytype")
    store = lineage.agree((config.index, config.keys), *common, "text", "deal", "index", "keys")
    if "text" in store:
        store["datastore"] = store.pop("text")
    for split in config.queries:
        lineage.agree((config.keys, split), *common)
    return [lineage.of(split) | store for split in config.queries]


def check(config: SearchConfig, index: ann.Index, ids: np.ndarray, queries: list[np.ndarray]) -> None:
    """Raise UserError where the sizes of index, shard and queries do not fit together."""
    if index.ntotal != len(ids):
        raise files.UserError(
            f"{config.index} has {index.ntotal:,} entries, {config.keys} {len(ids):,} ids: add the shard's keys again"
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
