"""Compute a shard's keys and values (equation 1), to disk or straight into indexes.

Equation 1 of the paper is the datastore D = {(f(c_i), w_i)}: for every training token w_i a key f(c_i), which is the
LM's representation of the context c_i before the token, and the token itself as the value. Row r of keys.npy,
values.npy and ids.npy is one entry; its id is the token's position in the training stream.

A job that is stopped, by its time limit for example, goes on where it was when the same command is run again, and ends
with the same files to the bit: blocks of keys on disk are kept, and unfinished indexes are saved now and then.
"""

import contextlib
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from knnlm.artifacts import description, files, lineage, npy, resume, stopping
from knnlm.artifacts.cli import progress, settings
from knnlm.artifacts.files import UserError
from knnlm.datastores.sinks import IntoIndexes, Sink, ToDisk
from knnlm.models import features, model, windows
from knnlm.models.windows import Windows
from knnlm.settings import DATASTORE_WINDOW, KeyPrecision, WindowSettings

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
    block_tokens: int = 16384
    """tokens whose keys are kept, or given to the indexes, at a time"""
    save_every: float = 60.0
    """least seconds between two saves of unfinished indexes; large ones, which take long, are saved less often"""
    precision: features.Precision = "float32"
    """of the matrix products: float32, bfloat16 or float16"""
    key_precision: KeyPrecision = "float16"
    """of the keys that are kept"""
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


class Shard(NamedTuple):
    """What one job extracts."""

    config: ExtractConfig
    sizes: WindowSettings
    lm: model.LanguageModel
    tokens: np.ndarray
    chosen: Windows

    def blocks(self) -> tuple[list[slice], np.ndarray]:
        """The rows of each block, which is a number of whole batches, and the number of each window's block [W]."""
        batch, windows = features.batch_windows(self.config.batch_tokens, self.sizes.length), len(self.chosen.start)
        step = batch * max(1, -(-self.config.block_tokens // (batch * self.sizes.new)))  # windows in a block
        ends = np.cumsum(self.chosen.end - self.chosen.start)  # [W] rows
        bounds = [0, *ends[step - 1 : -1 : step].tolist(), self.chosen.tokens]
        return [slice(*pair) for pair in itertools.pairwise(bounds)], np.arange(windows) // step


def main(config: ExtractConfig) -> None:
    sizes = settings(WindowSettings, config.windows, "--windows")
    shared = agreed(config)
    tokens = npy.open_array(config.tokens, "integer", ndim=1)
    lm = model.load(config.model, features.device())
    everything = windows.datastore(len(tokens), sizes, config.seed)
    chosen = windows.shard(everything, config.shard, config.shards)
    if config.entries:
        chosen = chosen.take(np.arange(min(len(chosen.start), -(-config.entries // sizes.new))))
    sink: Sink = ToDisk(len(config.keytypes), lm.config.dim, config.key_precision)
    if config.trained:
        sink = IntoIndexes(config.trained, config.index, config.out[0], config.save_every)
    needed = chosen.tokens * (sink.entry_bytes + len(config.out) * VALUE_AND_ID)
    files.check_room(config.out[0], needed - resume.kept(config.out))
    recorded: dict[str, Any] = {"windows": sizes.model_dump(), "shards": config.shards, "seed": config.seed}
    shared["deal"] = json.dumps(recorded)
    recorded |= {"precision": config.precision, "shard": config.shard}
    if config.key_precision != "float16":
        recorded["key_precision"] = config.key_precision
    facts = {"entries": chosen.tokens, "entries_total": everything.tokens}
    facts |= {"dim": lm.config.dim, "vocab_size": lm.config.vocab_size}
    extract(Shard(config, sizes, lm, tokens, chosen), sink, recorded, shared, facts)


def extract(shard: Shard, sink: Sink, recorded: dict, shared: dict[str, str], facts: dict) -> None:
    """Make the directories of all key types, and what else the sink writes; `shared` is their lineage."""
    config, inputs = shard.config, {"model": shard.config.model, "tokens": shard.config.tokens}
    computed = recorded, facts, features.device(), config.batch_tokens, config.block_tokens
    fingerprint = resume.fingerprint(computed, (*inputs.values(), *config.trained))
    with contextlib.ExitStack() as stack:
        works = {}
        for name, out in zip(config.keytypes, config.out, strict=True):
            work = stack.enter_context(resume.directory(out, f"{fingerprint} {name}", *config.index))
            if work is not None:
                works[name] = work
        if not works:
            return
        compute(shard, sink, works, stack.enter_context(stopping.noted_signals()))
        ids = shard.chosen.positions  # [n] int64
        for name, work in works.items():
            npy.save_array(work.folder / "values.npy", shard.tokens[ids].astype(np.uint32))
            npy.save_array(work.folder / "ids.npy", ids)
            roles, written = shared | {"keytype": name}, facts | {"fingerprint": work.fingerprint}
            description.write_meta(work.folder, sink.stage, recorded, inputs, roles, "keys", **written)
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


def compute(shard: Shard, sink: Sink, works: dict[str, resume.Work], signals: list[int]) -> None:
    """Send the keys f(c_i) of the blocks that are not done yet to the sink.

    Raises Unfinished after the block in which a signal came, unless it is the last.
    """
    config, total = shard.config, shard.chosen.tokens
    blocks, block_of_window = shard.blocks()
    remaining = sink.begin(works, blocks)  # numbers of blocks
    batches = features.stream(
        shard.lm,
        shard.tokens,
        shard.chosen.take(np.flatnonzero(np.isin(block_of_window, remaining))),
        shard.sizes.length,
        tuple(works),
        config.batch_tokens,
        precision=config.precision,
        half_keys="choose another key type" if config.key_precision == "float16" else None,
    )
    done = total - sum(blocks[number].stop - blocks[number].start for number in remaining)
    with progress(None, f"keys of shard {config.shard} of {config.shards}", total, "token", done) as bar:
        for number in remaining:
            row, block = blocks[number].start, blocks[number]
            while row < block.stop:
                batch = next(batches)
                sink.add(slice(row, row := row + len(batch.values)), batch.keys)
                bar.update(len(batch.values))
            sink.finish(block)
            if signals and number != remaining[-1]:
                sink.keep(block)
                raise stopping.stopped(f"{block.stop:,} of {total:,} entries")
