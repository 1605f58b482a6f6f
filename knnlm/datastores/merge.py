"""Merge the neighbors of several shards into exactly those of one index over all of them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from knnlm.artifacts import description, files, lineage, npy
from knnlm.artifacts.cli import progress
from knnlm.datastores import neighbors

CELLS = 1 << 21  # neighbors of all shards held at a time


@dataclass(frozen=True)
class MergeConfig:
    """Keep each query's k nearest neighbors of all shards, by (index distance, id)."""

    shards: tuple[Path, ...]
    """neighbors directories: all shards of the first split, then all shards of the next"""
    out: tuple[Path, ...]
    """neighbors directories, one a split: rows of the shards laid end to end in the order given, and distances"""


def main(config: MergeConfig) -> None:
    if not config.out or len(config.shards) % len(config.out):
        raise files.UserError(
            f"--shards names {len(config.shards)} directories for {len(config.out)} splits: "
            "give the same number for each split"
        )
    size = len(config.shards) // len(config.out)
    parts = [config.shards[start : start + size] for start in range(0, len(config.shards), size)]
    needed = 0
    for paths in parts:
        queries, k = neighbors.load(paths[0]).rows.shape
        needed += queries * neighbors.query_bytes(k, sum(neighbors.facts(path)["entries"] for path in paths))
    files.check_room(config.out[0], needed)
    for paths, out in zip(parts, config.out, strict=True):
        merge(paths, out)


def merge(paths: tuple[Path, ...], out: Path) -> None:
    """Merge one split's neighbors, block by block."""
    shared = lineage.agree(paths, "vocab", "model", "text", "keytype", "deal", "index", "datastore", "queries")
    lineage.differ(paths, "keys")
    shards = [neighbors.load(path, ("distances",)) for path in paths]
    facts = [neighbors.facts(path) for path in paths]
    check(paths, shards, facts)
    firsts = neighbors.first_rows(one["entries"] for one in facts)  # [S + 1]
    # Few ids are read, so their files are not checked as a whole; the search has done that.
    ids = [npy.open_array(path / "ids.npy", "int64", 1, whole=False) for path in stores(paths)]
    check_sizes(paths, ids, facts)
    shape = queries, k = shards[0].rows.shape
    with files.atomic(out, directory=True) as tmp:
        rows = npy.create_array(tmp / "rows.npy", shape, neighbors.row_type(int(firsts[-1])))
        distances = npy.create_array(tmp / "distances.npy", shape, "float32")
        step = max(1, CELLS // (len(shards) * k))
        for start in progress(range(0, queries, step), f"merge {out}", unit="block"):
            block = slice(start, start + step)
            near = np.stack([shard.distances["distances"][block] for shard in shards])  # [S, B, K]
            nearest = np.stack([shard.rows[block] for shard in shards])  # [S, B, K]
            merged = np.full(rows[block].shape, neighbors.missing(rows), rows.dtype)  # [B, K]
            neighbors.merge(near, nearest, firsts, neighbors.addresses(ids), distances[block], merged)
            rows[block] = merged
        inputs: dict = {f"neighbors{i}": path for i, path in enumerate(paths)}
        inputs |= {name: source for name, source in lineage.sources(paths[0]).items() if name == "queries"}
        for name in ("shard", "index"):
            found = (neighbors.sources(path, name)[f"{name}0"] for path in paths)
            inputs |= {f"{name}{i}": source for i, source in enumerate(found)}
        written = facts[0] | {"entries": int(firsts[-1])}
        description.write_meta(tmp, "merge", {"shards": len(paths)}, inputs, shared, **written)


def stores(paths: tuple[Path, ...]) -> list[Path]:
    """The shard that each of these neighbors were found in; raises UserError where they are of several already."""
    found = [neighbors.places(path, "shard") for path in paths]
    for path, several in zip(paths, found, strict=True):
        if len(several) > 1:
            raise files.UserError(f"{path} has neighbors of {len(several)} shards: give those of each shard")
    return [one for (one,) in found]


def check(paths: tuple[Path, ...], shards: list[neighbors.Neighbors], facts: list[dict]) -> None:
    """Raise UserError unless all shards were searched alike."""
    for path, shard, fact in zip(paths, shards, facts, strict=True):
        for what, found, expected in (
            ("neighbors of shape", shard.rows.shape, shards[0].rows.shape),
            ("distances", [*shard.distances], ["distances"]),
            ("metric", fact["metric"], facts[0]["metric"]),
        ):
            if found != expected:
                raise files.UserError(f"{path} has {what} {found}, {paths[0]} {expected}: search all shards alike")


def check_sizes(paths: tuple[Path, ...], ids: list[np.ndarray], facts: list[dict]) -> None:
    """Raise UserError where a shard has another number of entries than were searched."""
    for path, shard, fact in zip(paths, ids, facts, strict=True):
        if len(shard) != fact["entries"]:
            raise files.UserError(f"{path}: {fact['entries']:,} entries were searched, its shard has {len(shard):,}")
