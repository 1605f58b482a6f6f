"""Compute the exact distances of merged neighbors, in place of the index's quantized ones.

Each shard's keys are read once to check them and once to compare them, from beginning to end, for all queries: 4 d n
bytes in all, for n keys of dimension d. Of WikiText-103 (n 103M, d 1024, 8 shards) that is 0.9 MB for each of the
463,000 queries of dev and test. To compute exact distances while searching, each shard's 1,024 nearest were read
before the merge, at random: 8 × 1,024 × 2 KiB, which is 16.8 MB a query and 7.8 TB in all. Finished shards are kept
when the job is killed.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from shutil import copyfile

import numpy as np

from knnlm.artifacts import description, devices, files, lineage, npy, resume
from knnlm.artifacts.cli import progress
from knnlm.datastores import exact, neighbors

BLOCK = 1024  # queries whose rows are converted at a time
SHARED = ("vocab", "model", "keytype", "text", "queries")


@dataclass(frozen=True)
class RerankConfig:
    """Add the exact distances from stored keys to neighbors; their order stays the index's."""

    neighbors: tuple[Path, ...]
    """neighbors directories, one a split: the merged ones, or those of the only shard"""
    keys: tuple[Path, ...]
    """the datastore shards that were searched, in the same order, with their keys"""
    queries: tuple[Path, ...]
    """directories of queries, one a split"""
    out: tuple[Path, ...]
    """neighbors directories (rows, exact), in the same order"""
    memory: float = 8.0
    """GB of keys held at a time; most efficient if a shard fits"""
    keep_index_distances: bool = False
    """keep the index's own distances too"""


@dataclass(frozen=True)
class Split:
    """One split's neighbors and queries, and the work on its exact distances."""

    found: neighbors.Neighbors
    queries: np.ndarray  # [Q, d]
    lineage: dict[str, str]
    inputs: dict
    work: resume.Work


def main(config: RerankConfig) -> None:
    if not len(config.neighbors) == len(config.queries) == len(config.out):
        raise files.UserError("--neighbors, --queries and --out name different numbers of splits: give one of each")
    if len(set(config.out)) < len(config.out):
        raise files.UserError("--out names a directory twice: give one for each split")
    found = [neighbors.load(path, ("distances",)) for path in config.neighbors]
    queries = [npy.open_array(split / "keys.npy", "floating", 2) for split in config.queries]  # [Q, d] each
    check(config, found, queries)
    kinds = 1 + config.keep_index_distances
    needed = sum(len(one.rows) * neighbors.query_bytes(one.rows.shape[1], entries(one), kinds) for one in found)
    files.check_room(config.out[0], needed - resume.kept(config.out))
    recorded = {"keep_index_distances": config.keep_index_distances}
    shards = {f"shard{i}": path for i, path in enumerate(config.keys)}
    with ExitStack() as stack:
        splits = []
        for one, asked, source, out in zip(found, queries, config.queries, config.out, strict=True):
            inputs = {"neighbors": one.directory, "queries": source} | shards
            work = stack.enter_context(resume.directory(out, resume.fingerprint(recorded, inputs.values())))
            if work is not None:
                splits.append(Split(one, asked, lineage.of(one.directory), inputs, work))
        if splits:
            measure(splits, config)
        for split in splits:
            finish(split, recorded)


def entries(found: neighbors.Neighbors) -> int:
    """The number of entries that were searched."""
    return neighbors.facts(found.directory)["entries"]


def measure(splits: list[Split], config: RerankConfig) -> None:
    """Fill each split's exact distances, shard by shard."""
    inner_product = neighbors.facts(splits[0].found.directory)["metric"] == "ip"
    ends = np.cumsum([0] + [len(split.queries) for split in splits])
    parts = [slice(*part) for part in pairwise(ends)]  # of all splits' queries, one after another
    queries = np.concatenate([np.asarray(split.queries, np.float32) for split in splits])  # [Q, d]
    nearest = [split.work.array("exact", split.found.rows.shape, "float32") for split in splits]
    first, device = 0, devices.for_torch()
    for number, shard in enumerate(progress(config.keys, "rerank", unit="shard")):
        keys = npy.open_array(shard / "keys.npy", "floating", 2, whole=False)  # [n, d]
        rows = np.full((len(queries), nearest[0].shape[1]), -1, np.int64)  # [Q, K] as counted within the shard
        for split, part in zip(splits, parts, strict=True):
            place_rows(split.found.rows, first, len(keys), rows[part])
        first += len(keys)
        step, here = f"shard{number}", rows >= 0
        todo = [
            (split, near, part)
            for split, near, part in zip(splits, nearest, parts, strict=True)
            if not split.work.is_done(step, where(near, here[part]))
        ]
        if todo:
            description.check(shard / "keys.npy")
            held = int(config.memory * 1e9) if device == "cpu" else None  # of a GPU, most of what is free
            measured = exact.rerank([keys], queries, rows, held, device, inner_product)  # [Q, K]
        for split, near, part in todo:
            np.copyto(near, measured[part], where=here[part])
            split.work.done(step, where(near, here[part]))
    for split, near in zip(splits, nearest, strict=True):
        near[split.found.rows == neighbors.missing(split.found.rows)] = np.inf


def where(near: np.ndarray, here: np.ndarray) -> np.ndarray:
    """The distances of a shard's neighbors, without a copy where they are all."""
    return near if here.all() else near[here]


def place_rows(rows: np.ndarray, first: int, count: int, local: np.ndarray) -> None:
    """Write the rows [Q, K] of a shard of `count` entries, which begins at row `first`, as counted within it."""
    for start in range(0, len(rows), BLOCK):
        block = slice(start, start + BLOCK)
        inside = (rows[block] >= first) & (rows[block] < first + count)
        local[block][inside] = rows[block][inside] - first


def finish(split: Split, recorded: dict) -> None:
    """Copy what stays as it was found, and describe the neighbors."""
    source, folder = split.found.directory, split.work.folder
    for name in ["rows", *(["distances"] if recorded["keep_index_distances"] else [])]:
        copyfile(source / f"{name}.npy", folder / f"{name}.npy")
    facts = neighbors.facts(source) | {"fingerprint": split.work.fingerprint}
    inputs = split.inputs | neighbors.sources(source, "index")
    description.write_meta(folder, "rerank", recorded, inputs, split.lineage, **facts)


def check(config: RerankConfig, found: list[neighbors.Neighbors], queries: list[np.ndarray]) -> None:
    """Raise UserError where neighbors, keys and queries do not fit together, or the keys are not those searched."""
    if not config.memory > 0:
        raise files.UserError(f"--memory: found {config.memory:g}, expected GB above 0")
    keys = [npy.open_array(shard / "keys.npy", "floating", 2, whole=False) for shard in config.keys]  # [n, d] each
    for one, asked, source in zip(found, queries, config.queries, strict=True):
        lineage.agree((one.directory, source), *SHARED)
        if (one.rows.shape[0], one.rows.shape[1]) != (len(asked), found[0].rows.shape[1]):
            raise files.UserError(
                f"{one.directory} has neighbors of shape {one.rows.shape}, {source} {len(asked):,} queries, the first "
                f"neighbors {found[0].rows.shape[1]:,} a query: search again with this split's keys"
            )
        shards = neighbors.sources(one.directory, "shard")
        searched = [recorded["digest"] for _, recorded in shards.values()]
        if searched != [description.identity(shard) for shard in config.keys]:
            raise files.UserError(
                f"{one.directory}: found in {', '.join(str(place) for place, _ in shards.values())}, "
                f"--keys names {', '.join(map(str, config.keys))}: give the shards that were searched, in this order"
            )
        if (total := sum(map(len, keys))) != entries(one):
            raise files.UserError(f"{one.directory}: {entries(one):,} entries were searched, --keys has {total:,}")
        for shard, array in zip(config.keys, keys, strict=True):
            if array.shape[1] != asked.shape[1]:
                raise files.UserError(
                    f"{shard}/keys.npy has {array.shape[1]} dimensions, {source} {asked.shape[1]}: "
                    "make one of them again"
                )
