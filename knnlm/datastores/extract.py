"""Compute a shard's keys and values (equation 1), to disk or straight into indexes.

Equation 1 of the paper is the datastore D = {(f(c_i), w_i)}: for every training token w_i a key f(c_i), which is the
LM's representation of the context c_i before the token, and the token itself as the value. Row r of keys.npy,
values.npy and ids.npy is one entry; its id is the token's position in the training stream.
"""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from knnlm.artifacts import description, files, lineage, npy
from knnlm.artifacts.cli import progress, settings
from knnlm.artifacts.files import UserError
from knnlm.datastores import ann
from knnlm.models import features, model, windows
from knnlm.models.windows import Windows
from knnlm.settings import DATASTORE_WINDOW, WindowSettings

BUFFERED = 1 << 24  # key components handed to an index at a time
VALUE_AND_ID = 4 + 8  # bytes of an entry besides its key


@dataclass(frozen=True)
class ExtractConfig:
    """Run the LM over one shard of the training tokens and keep a key and a value for each.

    With --trained and --index the keys of one key type go straight into those indexes and are not written to disk.
    """

    model: Path
    """model directory"""
    tokens: Path
    """token ids of the split, .npy"""
    keytypes: tuple[str, ...]
    """which representations to keep"""
    out: tuple[Path, ...]
    """one datastore shard directory for each key type, in the same order"""
    windows: str = DATASTORE_WINDOW.model_dump_json()
    """WindowSettings as JSON"""
    shard: int = 0
    shards: int = 1
    seed: int = 1
    """of the order in which windows are dealt to shards"""
    batch_tokens: int = 12288
    """tokens in one forward pass: bounds the memory"""
    precision: features.Precision = "float32"
    """of the matrix products: float32, bfloat16 or float16"""
    entries: int | None = None
    """keep only about this many entries, the first of the seeded order: a sample to train an index on"""
    trained: tuple[Path, ...] = ()
    """trained.faiss of each index that the keys go into"""
    index: tuple[Path, ...] = ()
    """the shard's .faiss of each index, in the same order"""

    def __post_init__(self) -> None:
        if len(self.keytypes) != len(self.out):
            raise UserError(f"--keytypes names {len(self.keytypes)} key types and --out {len(self.out)} directories")
        if len(self.trained) != len(self.index):
            raise UserError(f"--trained names {len(self.trained)} files and --index {len(self.index)}: give pairs")
        if self.trained and len(self.keytypes) != 1:
            raise UserError(
                f"--keytypes names {len(self.keytypes)} key types: with --trained and --index give exactly one, "
                "and run once for each key type"
            )


class Sink(Protocol):
    """Where the keys of a shard go."""

    stage: str  # the stage that the descriptions name
    entry_bytes: int  # what the keys or codes of one entry take on disk

    def begin(self, folders: list[Path], entries: int) -> None:
        """Called once there is room; `folders` will be the shard's directories, one a key type."""

    def add(self, rows: slice, keys: dict[str, np.ndarray]) -> None:
        """The keys of these rows, which come in ascending order: {key type: float16 [n, D]}."""

    def flush(self) -> None:
        """Called after the last `add`."""

    def save(self, shared: dict[str, str]) -> None:
        """Called when the shard's directories are in place; `shared` is their lineage."""


class ToDisk:
    """Writes keys.npy, float16 [n, D], into the directory of each key type."""

    stage = "extract"

    def __init__(self, config: ExtractConfig, dim: int) -> None:
        self.keytypes, self.dim, self.entry_bytes = config.keytypes, dim, len(config.keytypes) * 2 * dim
        self.arrays: list[tuple[str, np.memmap]] = []

    def begin(self, folders: list[Path], entries: int) -> None:
        arrays = [npy.create_array(folder / "keys.npy", (entries, self.dim), "float16") for folder in folders]
        self.arrays = list(zip(self.keytypes, arrays, strict=True))

    def add(self, rows: slice, keys: dict[str, np.ndarray]) -> None:
        for name, array in self.arrays:
            array[rows] = keys[name]

    def flush(self) -> None:
        for _, array in self.arrays:
            array.flush()

    def save(self, shared: dict[str, str]) -> None:
        """Nothing is left to do: the keys lie in the shard's directories."""


class IntoIndexes:
    """Adds the keys of one key type to copies of trained indexes."""

    stage = "stream"

    def __init__(self, config: ExtractConfig) -> None:
        self.config = config
        self.indexes = [ann.load(path) for path in config.trained]
        self.entry_bytes = sum(map(ann.entry_bytes, self.indexes))
        self.waiting: list[np.ndarray] = []  # [n, D] float16 each, as a stored datastore would hold them

    def begin(self, folders: list[Path], entries: int) -> None:
        self.indexes = [ann.on_gpu(index, needed=False) for index in self.indexes]

    def add(self, rows: slice, keys: dict[str, np.ndarray]) -> None:
        self.waiting += keys.values()
        if sum(block.size for block in self.waiting) >= BUFFERED:
            self.flush()

    def flush(self) -> None:
        if self.waiting:
            keys = np.concatenate(self.waiting)  # [n, D]
            for index in self.indexes:
                ann.add(index, keys)
            self.waiting.clear()

    def save(self, shared: dict[str, str]) -> None:
        for index, trained, path in zip(self.indexes, self.config.trained, self.config.index, strict=True):
            ann.save(index, path)
            inputs = {"trained": trained, "keys": self.config.out[0]}
            roles = lineage.agree(inputs.values(), *shared, "index", "keys")
            description.write_meta(path, self.stage, {}, inputs, roles, entries=index.ntotal)


def main(config: ExtractConfig) -> None:
    sizes = settings(WindowSettings, config.windows, "--windows")
    shared = agreed(config)
    tokens = npy.open_array(config.tokens, "integer", ndim=1)
    lm = model.load(config.model, features.device())
    everything = windows.datastore(len(tokens), sizes, config.seed)
    chosen = windows.shard(everything, config.shard, config.shards)
    if config.entries:
        chosen = chosen.take(np.arange(min(len(chosen.start), -(-config.entries // sizes.new))))
    sink: Sink = IntoIndexes(config) if config.trained else ToDisk(config, lm.config.dim)
    files.check_room(config.out[0], chosen.tokens * (sink.entry_bytes + len(config.out) * VALUE_AND_ID))
    recorded: dict[str, Any] = {"windows": sizes.model_dump(), "shards": config.shards, "seed": config.seed}
    shared["deal"] = json.dumps(recorded)
    recorded["precision"] = config.precision
    inputs = {"model": config.model, "tokens": config.tokens}
    facts: dict[str, Any] = {"entries": chosen.tokens, "entries_total": everything.tokens}
    facts |= {"dim": lm.config.dim, "vocab_size": lm.config.vocab_size}
    with contextlib.ExitStack() as stack:
        folders = [stack.enter_context(files.atomic(out, directory=True)) for out in config.out]
        sink.begin(folders, chosen.tokens)
        values, ids = compute(config, lm, tokens, chosen, sizes.length, sink)
        sink.flush()
        for folder, name in zip(folders, config.keytypes, strict=True):
            npy.save_array(folder / "values.npy", values)
            npy.save_array(folder / "ids.npy", ids)
            roles = shared | {"keytype": name}
            description.write_meta(
                folder, sink.stage, recorded | {"shard": config.shard}, inputs, roles, "keys", **facts
            )
    sink.save(shared)


def agreed(config: ExtractConfig) -> dict[str, str]:
    """The lineage that model, tokens and trained indexes share; raises UserError where they do not fit together."""
    paths = (config.model, config.tokens, *config.trained)
    shared = lineage.agree(paths, "vocab", "model", "text", "keytype")
    if config.trained and shared.setdefault("keytype", config.keytypes[0]) != config.keytypes[0]:
        raise UserError(
            f"--keytypes {config.keytypes[0]}: {config.trained[0]} was trained on {shared['keytype']}: give that"
        )
    return shared


def compute(
    config: ExtractConfig, lm: model.LanguageModel, tokens: np.ndarray, chosen: Windows, length: int, sink: Sink
) -> tuple[np.ndarray, np.ndarray]:
    """Send the keys f(c_i) to the sink; returns the values w_i, uint32 [n], and the ids i, int64 [n]."""
    values, ids = np.empty(chosen.tokens, np.uint32), np.empty(chosen.tokens, np.int64)
    row = 0
    with progress(None, f"keys of shard {config.shard} of {config.shards}", chosen.tokens, "tok") as bar:
        blocks = features.stream(
            lm,
            tokens,
            chosen,
            length,
            config.keytypes,
            config.batch_tokens,
            precision=config.precision,
            half_keys="choose another key type",
        )
        for block in blocks:
            rows = slice(row, row := row + len(block.values))
            values[rows], ids[rows] = block.values, block.ids
            sink.add(rows, block.keys)
            bar.update(len(block.values))
    return values, ids
