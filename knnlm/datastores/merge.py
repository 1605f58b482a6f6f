"""Merge the neighbors of several shards into exactly those of one index over all of them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from knnlm.artifacts import description, files, lineage
from knnlm.artifacts.cli import progress
from knnlm.datastores import neighbors

CELLS = 1 << 21  # neighbors of all shards held at a time


@dataclass(frozen=True)
class MergeConfig:
    """Keep each query's k nearest neighbors of all shards, by (index distance, id)."""

    shards: tuple[Path, ...]
    """neighbors directories: all shards of the first split, then all shards of the next"""
    out: tuple[Path, ...]
    """neighbors directories, one a split"""


def main(config: MergeConfig) -> None:
    if len(config.shards) % len(config.out):
        raise files.UserError(
            f"--shards names {len(config.shards)} directories for {len(config.out)} splits: "
            "give the same number for each split"
        )
    size = len(config.shards) // len(config.out)
    splits = [neighbors.load(path) for path in config.shards[::size]]
    needed = sum(len(one["ids"]) * neighbors.query_bytes(one["ids"].shape[1], "exact" in one) for one in splits)
    files.check_room(config.out[0], needed)
    for number, out in enumerate(config.out):
        merge(config.shards[number * size : (number + 1) * size], out)


def merge(paths: tuple[Path, ...], out: Path) -> None:
    """Merge one split's neighbors, block by block."""
    shared = lineage.agree(paths, "vocab", "model", "text", "keytype", "deal", "index", "datastore", "queries")
    lineage.differ(paths, "keys")
    shards = [neighbors.load(path) for path in paths]
    metas = [description.described(path) for path in paths]
    check(paths, shards, metas)
    queries, k = shards[0]["ids"].shape
    with files.atomic(out, directory=True) as tmp:
        merged = neighbors.create(tmp, (queries, k), exact="exact" in shards[0])
        step = max(1, CELLS // (len(shards) * k))
        for start in progress(range(0, queries, step), f"merge {out}", unit="block"):
            block = slice(start, start + step)
            parts = {name: np.stack([shard[name][block] for shard in shards]) for name in merged}  # [S, B, K]
            order = neighbors.merge_order(parts["distances"], parts["ids"], k)  # [B, K]
            for name, part in parts.items():
                side_by_side = part.transpose(1, 0, 2).reshape(part.shape[1], -1)  # [B, S*K]
                merged[name][block] = np.take_along_axis(side_by_side, order, axis=1)
        facts = {
            "entries": sum(meta["entries"] for meta in metas),
            "entries_total": metas[0]["entries_total"],
            "metric": metas[0]["metric"],
        }
        inputs = {f"shard{i}": path for i, path in enumerate(paths)}
        description.write_meta(tmp, "merge", {"shards": len(paths)}, inputs, shared, **facts)


def check(paths: tuple[Path, ...], shards: list[dict], metas: list[dict]) -> None:
    """Raise UserError unless all shards were searched alike."""
    for path, shard, meta in zip(paths, shards, metas, strict=True):
        for what, found, expected in (
            ("neighbors of shape", shard["ids"].shape, shards[0]["ids"].shape),
            ("arrays", sorted(shard), sorted(shards[0])),
            ("metric", meta["metric"], metas[0]["metric"]),
        ):
            if found != expected:
                raise files.UserError(f"{path} has {what} {found}, {paths[0]} {expected}: search all shards alike")
