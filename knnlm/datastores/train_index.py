"""Train the index that all shards of a datastore start from, on a seeded sample of its keys."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from knnlm.artifacts import description, lineage, npy
from knnlm.artifacts.cli import settings
from knnlm.datastores import ann
from knnlm.settings import IndexSettings

log = logging.getLogger("knnlm")


@dataclass(frozen=True)
class TrainIndexConfig:
    """Train an index on a sample of keys that is drawn from all shards together."""

    keys: tuple[Path, ...]
    """datastore shard directories, in order; the sample does not depend on the number of shards"""
    out: Path
    """trained.faiss; its description is written beside it"""
    settings: str = "{}"
    """IndexSettings as JSON"""


def main(config: TrainIndexConfig) -> None:
    chosen = settings(IndexSettings, config.settings, "index settings")
    shared = lineage.agree(config.keys, "vocab", "model", "text", "keytype", "deal")
    lineage.differ(config.keys, "keys")
    shards = [npy.open_array(shard / "keys.npy", "floating", 2) for shard in config.keys]  # [n, d] each
    keys = sample(shards, chosen.sample, chosen.seed)
    log.info("training %s on %s keys of %s", chosen.factory, f"{len(keys):,}", f"{sum(map(len, shards)):,}")
    index = ann.train(keys, chosen)
    facts = {"dimension": keys.shape[1], "sampled": len(keys), "entries": sum(map(len, shards))}
    ann.save(index, config.out)
    shared.pop("deal", None)  # the sample does not depend on how entries were dealt to shards
    inputs = {f"shard{i}": path for i, path in enumerate(config.keys)}
    description.write_meta(config.out, "train_index", chosen, inputs, shared, "index", **facts)


def sample(shards: list[np.ndarray], size: int, seed: int) -> np.ndarray:
    """`size` rows drawn without replacement from the shards' concatenation, in ascending order: float32 [size, d]."""
    starts = np.cumsum([0, *map(len, shards)])
    total = int(starts[-1])
    if size < total:
        chosen = np.sort(np.random.default_rng(seed).choice(total, size, replace=False, shuffle=False))
    else:
        chosen = np.arange(total)
    keys = np.empty((len(chosen), shards[0].shape[1]), np.float32)  # [size, d]
    for shard, start, end in zip(shards, starts, starts[1:], strict=False):
        here = slice(*np.searchsorted(chosen, [start, end]))
        keys[here] = shard[chosen[here] - start]
    return keys
