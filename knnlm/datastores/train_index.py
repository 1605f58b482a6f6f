"""Train the index that all shards of a datastore start from, on a seeded sample of its keys."""

import logging
from dataclasses import dataclass
from pathlib import Path

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
    asked = settings(IndexSettings, config.settings, "index settings")
    shared = lineage.agree(config.keys, "vocab", "model", "text", "keytype", "deal")
    lineage.differ(config.keys, "keys")
    shards = [npy.open_array(shard / "keys.npy", "floating", 2) for shard in config.keys]  # [n, d] each
    entries = sum(map(len, shards))
    # Of a datastore whose keys are not stored, the shards hold a sample; their description knows all entries.
    stored = description.described(config.keys[0]).get("entries_total", entries)
    keys = ann.sample(shards, asked.sample, asked.seed)
    chosen = asked.chosen(stored, keys.shape[1])
    log.info("training %s on %s keys of %s", chosen.factory, f"{len(keys):,}", f"{entries:,}")
    index = ann.train(keys, chosen)
    facts = {"dimension": keys.shape[1], "sampled": len(keys), "entries": entries}
    ann.save(index, config.out)
    shared.pop("deal", None)  # the sample does not depend on how entries were dealt to shards
    inputs = {f"shard{i}": path for i, path in enumerate(config.keys)}
    description.write_meta(config.out, "train_index", chosen, inputs, shared, "index", **facts)
