"""Compute the LM's log-probabilities of held-out splits and their queries, in one pass."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from knnlm.artifacts import description, files, lineage, npy
from knnlm.artifacts.cli import progress, settings
from knnlm.models import features, model, windows
from knnlm.models.model import LanguageModel
from knnlm.settings import EVALUATION_WINDOW, WindowSettings

log = logging.getLogger("knnlm")


@dataclass(frozen=True)
class EvaluateConfig:
    """Score each token of held-out splits with the LM, and keep the representation of its context as a query."""

    model: Path
    """model directory"""
    tokens: tuple[Path, ...]
    """token ids, one .npy a split"""
    logprob: tuple[Path, ...] = ()
    """one directory a split, or none, for logprob.npy: float32 [N], nats"""
    keytypes: tuple[str, ...] = ()
    """which representations to keep"""
    out: tuple[Path, ...] = ()
    """one for each key type of the first split, then of the next: keys.npy float32 [N, D], values.npy, ids.npy"""
    windows: str = EVALUATION_WINDOW.model_dump_json()
    """WindowSettings as JSON"""
    batch_tokens: int = 12288
    """tokens in one forward pass: bounds the memory"""
    precision: features.Precision = "float32"
    """of the matrix products: float32, bfloat16 or float16"""

    def __post_init__(self) -> None:
        wanted = len(self.tokens) * len(self.keytypes)
        if len(self.out) != wanted or len(self.logprob) not in (0, len(self.tokens)):
            raise files.UserError(
                f"{len(self.tokens)} splits and {len(self.keytypes)} key types need {wanted} --out "
                f"(found {len(self.out)}) and a --logprob for each split or none (found {len(self.logprob)})"
            )


def main(config: EvaluateConfig) -> None:
    lm = model.load(config.model, features.device())
    rows = sum(len(npy.open_array(tokens, "integer", ndim=1)) for tokens in config.tokens)
    for out in (*config.out[:1], *config.logprob[:1]):
        files.check_room(out, rows * (len(config.keytypes) * (4 * lm.config.dim + 12) + 4))
    for number, tokens in enumerate(config.tokens):
        here = slice(number * len(config.keytypes), (number + 1) * len(config.keytypes))
        evaluate(config, lm, tokens, config.logprob[number] if config.logprob else None, config.out[here])


def evaluate(
    config: EvaluateConfig, lm: LanguageModel, path: Path, logprob_dir: Path | None, out: tuple[Path, ...]
) -> None:
    """One split: all of its windows, in order: row i of each array belongs to the i-th token that is scored."""
    sizes = settings(WindowSettings, config.windows, "--windows")
    shared = lineage.agree((config.model, path), "vocab", "model", "text")
    tokens = npy.open_array(path, "integer", ndim=1)  # [N]
    windows.check_words(tokens, lm.config.vocab_size, path, config.model)
    ids, chosen, left_out = np.arange(len(tokens), dtype=np.int64), None, {}
    if sizes.mode == "published":
        ids, chosen = windows.published(tokens, sizes, lm.eos)
        left_out = {"dropped": len(tokens) - len(ids)}
        dropped = f"{left_out['dropped']:,} of {len(tokens):,}"
        log.info("%s: %s tokens are in lines that the published code drops", path, dropped)
        tokens = np.asarray(tokens)[ids]
    shape = len(tokens), lm.config.dim
    facts, inputs = (
        {"windows": sizes.model_dump(), "precision": config.precision},
        {"model": config.model, "tokens": path},
    )
    with contextlib.ExitStack() as stack:
        scores = stack.enter_context(files.atomic(logprob_dir, directory=True)) if logprob_dir else None
        folders = [stack.enter_context(files.atomic(directory, directory=True)) for directory in out]
        arrays = [npy.create_array(folder / "keys.npy", shape, "float32") for folder in folders]
        keys = list(zip(config.keytypes, arrays, strict=True))
        logprob = np.empty(len(tokens) if scores else 0, dtype=np.float32)
        chosen = chosen or windows.evaluation(tokens, sizes, lm.eos)
        blocks = features.stream(
            lm, tokens, chosen, sizes.length, config.keytypes, config.batch_tokens, bool(scores), config.precision
        )
        with progress(None, f"LM on {path}", len(tokens), "token") as bar:
            fill(keys, logprob, blocks, bar)
        for folder, name in zip(folders, config.keytypes, strict=True):
            npy.save_array(folder / "values.npy", np.asarray(tokens, dtype=np.uint32))
            npy.save_array(folder / "ids.npy", ids)
            roles = shared | {"keytype": name}
            sizes_of = {"entries": len(tokens), "dim": shape[1]} | left_out
            description.write_meta(folder, "evaluate", facts, inputs, roles, "queries", **sizes_of)
        if scores:
            npy.save_array(scores / "logprob.npy", logprob)
            description.write_meta(scores, "evaluate", facts, inputs, shared, tokens=len(tokens), **left_out)


def fill(keys: list[tuple[str, np.memmap]], logprob: np.ndarray, blocks: Iterator[features.Block], bar: tqdm) -> None:
    """Write the blocks, one after another, into the arrays: keys [N, D] of each key type, and logprob [N]."""
    row = 0
    for block in blocks:
        rows = slice(row, row := row + len(block.values))
        for name, array in keys:
            array[rows] = block.keys[name]
        if block.logprob is not None:
            logprob[rows] = block.logprob
        bar.update(len(block.values))
    for _, array in keys:
        array.flush()
