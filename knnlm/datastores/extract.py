"""Stage: one shard of a datastore: the keys and values of its training tokens (paper, Section 2)."""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from knnlm.artifacts import files, lineage
from knnlm.artifacts.cli import progress, settings
from knnlm.artifacts.files import UserError
from knnlm.models import features, model, windows
from knnlm.settings import DATASTORE_WINDOW, WindowSettings


@dataclass(frozen=True)
class ExtractConfig:
    """Run the LM over one shard of the training tokens and keep a key and a value for each."""

    model: Path
    """model directory"""
    tokens: Path
    """token ids of the split, .npy"""
    keytypes: tuple[str, ...]
    """which representations to keep"""
    out: tuple[Path, ...]
    """one directory for each key type, in the same order"""
    windows: str = DATASTORE_WINDOW.model_dump_json()
    """WindowSettings as JSON"""
    shard: int = 0
    shards: int = 1
    seed: int = 1
    """of the order that windows are dealt to shards in"""
    batch_tokens: int = 12288
    """tokens in one forward pass: bounds the memory"""
    entries: int | None = None
    """about so many entries only, the first of the seeded order: a sample to train an index on"""

    def __post_init__(self) -> None:
        if len(self.keytypes) != len(self.out):
            raise UserError(f"--keytypes names {len(self.keytypes)} key types and --out {len(self.out)} directories")


def main(config: ExtractConfig) -> None:
    sizes = settings(WindowSettings, config.windows, "--windows")
    shared = lineage.agree((config.model, config.tokens), "vocab", "model", "text")
    tokens = files.open_array(config.tokens, "integer", ndim=1)
    lm = model.load(config.model, features.device())
    everything = windows.datastore(len(tokens), sizes, config.seed)
    chosen = windows.shard(everything, config.shard, config.shards)
    if config.entries:
        chosen = chosen.take(np.arange(min(len(chosen.start), -(-config.entries // sizes.new))))
    entries, dim = chosen.tokens, lm.config.dim
    files.check_room(config.out[0], len(config.out) * entries * (2 * dim + 12))
    with contextlib.ExitStack() as stack:
        folders = [stack.enter_context(files.atomic(out, directory=True)) for out in config.out]
        keys = [files.create_array(folder / "keys.npy", (entries, dim), "float16") for folder in folders]
        values = np.empty(entries, dtype=np.uint32)
        ids = np.empty(entries, dtype=np.int64)
        row = 0
        with progress(None, f"keys of shard {config.shard} of {config.shards}", entries, "tok") as bar:
            for block in features.stream(lm, tokens, chosen, sizes.length, config.keytypes, config.batch_tokens):
                here = slice(row, row := row + len(block.values))
                for array, name in zip(keys, config.keytypes, strict=True):
                    array[here] = features.half(block.keys[name], name)
                values[here], ids[here] = block.values, block.ids
                bar.update(len(block.values))
        for array in keys:
            array.flush()
        told = {"windows": sizes.model_dump(), "shards": config.shards, "seed": config.seed}
        shared["deal"] = json.dumps(told)
        for folder, name in zip(folders, config.keytypes, strict=True):
            files.save_array(folder / "values.npy", values)
            files.save_array(folder / "ids.npy", ids)
            lineage.write_meta(
                folder,
                "extract",
                told | {"shard": config.shard},
                {"model": config.model, "tokens": config.tokens},
                shared | {"keytype": name},
                "keys",
                entries=entries,
                entries_total=everything.tokens,
                dim=dim,
                vocab_size=lm.config.vocab_size,
            )
