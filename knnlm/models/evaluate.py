"""Stage: the queries of held-out splits and the LM's own log-probabilities, in one forward pass."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from knnlm.artifacts import files, lineage
from knnlm.artifacts.cli import progress, settings
from knnlm.models import features, model, windows
from knnlm.models.model import LanguageModel
from knnlm.settings import EVALUATION_WINDOW, WindowSettings


@dataclass(frozen=True)
class EvaluateConfig:
    """Score every token of held-out splits with the LM and keep its context vectors as queries."""

    model: Path
    """model directory"""
    tokens: tuple[Path, ...]
    """token ids, one .npy a split"""
    logprob: tuple[Path, ...] = ()
    """directories that receive logprob.npy, float32 [N], nats: one a split, or none"""
    keytypes: tuple[str, ...] = ()
    """which representations to keep"""
    out: tuple[Path, ...] = ()
    """a directory (keys.npy float32 [N, D], values.npy, ids.npy) for each key type of the first split, then the next"""
    windows: str = EVALUATION_WINDOW.model_dump_json()
    """WindowSettings as JSON"""
    batch_tokens: int = 12288
    """tokens in one forward pass: bounds the memory"""

    def __post_init__(self) -> None:
        wanted = len(self.tokens) * len(self.keytypes)
        if len(self.out) != wanted or len(self.logprob) not in (0, len(self.tokens)):
            raise files.UserError(
                f"{len(self.tokens)} splits and {len(self.keytypes)} key types need {wanted} --out "
                f"(found {len(self.out)}) and a --logprob for each split or none (found {len(self.logprob)})"
            )


def main(config: EvaluateConfig) -> None:
    lm = model.load(config.model, features.device())
    rows = sum(len(files.open_array(tokens, "integer", ndim=1)) for tokens in config.tokens)
    for out in (*config.out[:1], *config.logprob[:1]):
        files.check_room(out, rows * (len(config.keytypes) * (4 * lm.config.dim + 12) + 4))
    for number, tokens in enumerate(config.tokens):
        here = slice(number * len(config.keytypes), (number + 1) * len(config.keytypes))
        evaluate(config, lm, tokens, config.logprob[number] if config.logprob else None, config.out[here])


def evaluate(
    config: EvaluateConfig, lm: LanguageModel, path: Path, logprob_dir: Path | None, out: tuple[Path, ...]
) -> None:
    """One split: all of its windows, in stream order."""
    sizes = settings(WindowSettings, config.windows, "--windows")
    shared = lineage.agree((config.model, path), "vocab", "model", "text")
    tokens = files.open_array(path, "integer", ndim=1)
    if len(tokens) and int(tokens.max()) >= lm.config.vocab_size:
        raise files.UserError(f"{path}: token {tokens.max()} is outside {config.model}'s {lm.config.vocab_size} words")
    facts, inputs = {"windows": sizes.model_dump()}, {"model": config.model, "tokens": path}
    with contextlib.ExitStack() as stack:
        scores = stack.enter_context(files.atomic(logprob_dir, directory=True)) if logprob_dir else None
        folders = [stack.enter_context(files.atomic(directory, directory=True)) for directory in out]
        shape = (len(tokens), lm.config.dim)
        keys = [files.create_array(folder / "keys.npy", shape, "float32") for folder in folders]
        logprob = np.empty(len(tokens) if scores else 0, dtype=np.float32)
        row = 0
        chosen = windows.evaluation(tokens, sizes)
        blocks = features.stream(lm, tokens, chosen, sizes.length, config.keytypes, config.batch_tokens, bool(scores))
        with progress(None, f"LM on {path}", len(tokens), "tok") as bar:
            for block in blocks:
                here = slice(row, row := row + len(block.values))
                for array, name in zip(keys, config.keytypes, strict=True):
                    array[here] = block.keys[name]
                if block.logprob is not None:
                    logprob[here] = block.logprob
                bar.update(len(block.values))
        for folder, array, name in zip(folders, keys, config.keytypes, strict=True):
            array.flush()
            files.save_array(folder / "values.npy", np.asarray(tokens, dtype=np.uint32))
            files.save_array(folder / "ids.npy", np.arange(len(tokens), dtype=np.int64))
            roles = shared | {"keytype": name}
            lineage.write_meta(folder, "evaluate", facts, inputs, roles, "queries", entries=len(tokens), dim=shape[1])
        if scores:
            files.save_array(scores / "logprob.npy", logprob)
            lineage.write_meta(scores, "evaluate", facts, inputs, shared, tokens=len(tokens))
