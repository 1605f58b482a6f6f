"""Merge the neighbors found in several shards into those of one index over all of them, exactly."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from knnlm import files, neighbors
from knnlm.cli import progress, run

BLOCK = 4096  # queries merged at a time


@dataclass(frozen=True)
class MergeConfig:
    """Merge the neighbors of several shards by (index distance, id)."""

    shards: tuple[Path, ...]
    """neighbors directories of the shards"""
    out: Path
    """neighbors directory"""


def main(config: MergeConfig) -> None:
    shards = [neighbors.load(shard) for shard in config.shards]
    metas = [files.read_json(shard / "meta.json") for shard in config.shards]
    check(config, shards, metas)
    queries, k = shards[0]["ids"].shape
    with files.atomic(config.out, directory=True) as tmp:
        merged = neighbors.create(tmp, (queries, k), exact="exact" in shards[0])
        for start in progress(range(0, queries, BLOCK), "merge", unit="block"):
            block = slice(start, start + BLOCK)
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
        inputs = {f"shard{i}": shard for i, shard in enumerate(config.shards)}
        files.write_meta(tmp, "merge", config, inputs, **facts)


def check(config: MergeConfig, shards: list[dict], metas: list[dict]) -> None:
    """Raise UserError unless all shards were searched alike."""
    for path, shard, meta in zip(config.shards, shards, metas, strict=True):
        for what, found, expected in (
            ("neighbors of shape", shard["ids"].shape, shards[0]["ids"].shape),
            ("arrays", sorted(shard), sorted(shards[0])),
            ("metric", meta["metric"], metas[0]["metric"]),
        ):
            if found != expected:
                raise files.UserError(
                    f"{path} has {what} {found}, {config.shards[0]} {expected}: search all shards alike"
                )


if __name__ == "__main__":
    run(main, MergeConfig)
