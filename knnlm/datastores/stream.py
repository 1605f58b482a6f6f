"""Stage: one shard of a datastore from the forward pass straight into its indexes; keys are never written to disk."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from knnlm.artifacts import files, lineage
from knnlm.artifacts.cli import progress, settings
from knnlm.datastores import ann
from knnlm.models import features, model, windows
from knnlm.settings import DATASTORE_WINDOW, WindowSettings

BUFFERED = 1 << 24  # key components handed to an index at a time


@dataclass(frozen=True)
class StreamConfig:
    """Run the LM over one shard of the training tokens, add each key to the trained indexes and keep its value."""

    model: Path
    """model directory"""
    tokens: Path
    """token ids of the split, .npy"""
    trained: tuple[Path, ...]
    """trained.faiss of each index"""
    index: tuple[Path, ...]
    """the shard's .faiss of each index, in the same order"""
    out: Path
    """datastore shard directory: values.npy and ids.npy"""
    keytype: str = "ffn_input_ln"
    windows: str = DATASTORE_WINDOW.model_dump_json()
    """WindowSettings as JSON"""
    shard: int = 0
    shards: int = 1
    seed: int = 1
    """of the order that windows are dealt to shards in"""
    batch_tokens: int = 12288
    """tokens in one forward pass: bounds the memory"""

    def __post_init__(self) -> None:
        if len(self.trained) != len(self.index):
            raise files.UserError(
                f"--trained names {len(self.trained)} files and --index {len(self.index)}: give pairs"
            )


def main(config: StreamConfig) -> None:
    sizes = settings(WindowSettings, config.windows, "--windows")
    shared = lineage.agree((config.model, config.tokens, *config.trained), "vocab", "model", "text", "keytype")
    if shared.setdefault("keytype", config.keytype) != config.keytype:
        raise files.UserError(
            f"--keytype {config.keytype}: {config.trained[0]} was trained on {shared['keytype']}: give that"
        )
    tokens = files.open_array(config.tokens, "integer", ndim=1)
    lm = model.load(config.model, features.device())
    everything = windows.datastore(len(tokens), sizes, config.seed)
    chosen = windows.shard(everything, config.shard, config.shards)
    indexes = [ann.load(path) for path in config.trained]
    files.check_room(config.out, chosen.tokens * (12 + sum(map(ann.entry_bytes, indexes))))
    indexes = [ann.on_gpu(index) for index in indexes]
    values, ids = np.empty(chosen.tokens, np.uint32), np.empty(chosen.tokens, np.int64)
    waiting: list[np.ndarray] = []  # [n, D] float16 each
    row = 0
    with progress(None, f"shard {config.shard} of {config.shards} into its index", chosen.tokens, "tok") as bar:
        for block in features.stream(lm, tokens, chosen, sizes.length, (config.keytype,), config.batch_tokens):
            here = slice(row, row := row + len(block.values))
            values[here], ids[here] = block.values, block.ids
            waiting.append(features.half(block.keys[config.keytype], config.keytype))
            if sum(keys.size for keys in waiting) >= BUFFERED:
                add(indexes, waiting)
            bar.update(len(block.values))
    add(indexes, waiting)
    with files.atomic(config.out, directory=True) as tmp:
        files.save_array(tmp / "values.npy", values)
        files.save_array(tmp / "ids.npy", ids)
        told = {"windows": sizes.model_dump(), "shards": config.shards, "seed": config.seed}
        shared["deal"] = json.dumps(told)
        inputs = {"model": config.model, "tokens": config.tokens}
        facts = {"entries": len(ids), "entries_total": everything.tokens, "dim": lm.config.dim}
        facts["vocab_size"] = lm.config.vocab_size
        lineage.write_meta(tmp, "stream", told | {"shard": config.shard}, inputs, shared, "keys", **facts)
    for index, trained, path in zip(indexes, config.trained, config.index, strict=True):
        ann.save(index, path)
        inputs = {"trained": trained, "keys": config.out}
        roles = lineage.agree((trained, config.out), *shared, "index", "keys")
        lineage.write_meta(path, "stream", {}, inputs, roles, entries=index.ntotal)


def add(indexes: list, waiting: list[np.ndarray]) -> None:
    """Add the waiting keys to every index and forget them."""
    if waiting:
        keys = np.concatenate(waiting)  # [n, D] float16, as a stored datastore would hold them
        for index in indexes:
            ann.add(index, keys)
        waiting.clear()
