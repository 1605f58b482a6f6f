"""Add one shard's keys to a copy of the trained index."""

import logging
from dataclasses import dataclass
from pathlib import Path

from knnlm.artifacts import description, files, lineage, npy
from knnlm.datastores import ann

log = logging.getLogger("knnlm")


@dataclass(frozen=True)
class AddConfig:
    """Add one shard's keys to a copy of the trained index; entry i of the index is row i of the shard."""

    trained: Path
    """trained.faiss, shared by all shards"""
    keys: Path
    """datastore shard directory"""
    out: Path
    """the shard's index, a .faiss file"""


def main(config: AddConfig) -> None:
    shared = lineage.agree((config.trained, config.keys), "vocab", "model", "text", "keytype", "index", "keys", "deal")
    index = ann.load(config.trained)
    keys = npy.open_array(config.keys / "keys.npy", "floating", 2)  # [n, d]
    files.check_room(config.out, len(keys) * ann.entry_bytes(index))
    index = ann.on_gpu(index)
    ann.add(index, keys)
    ann.save(index, config.out)
    inputs = {"trained": config.trained, "keys": config.keys}
    description.write_meta(config.out, "add", {}, inputs, shared, entries=index.ntotal)
    log.info("%s entries, %s bytes", f"{index.ntotal:,}", f"{config.out.stat().st_size:,}")
