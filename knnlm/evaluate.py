"""Stage: the queries of a held-out split and the LM's own log-probabilities, in one forward pass."""

import contextlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from knnlm import features, files, model, windows
from knnlm.cli import progress, run, settings
from knnlm.windows import WindowSettings


@dataclass(frozen=True)
class EvaluateConfig:
    """Score every token of a split with the LM and keep its context vectors as queries."""

    model: Path
    """model directory"""
    tokens: Path
    """token ids of the split, .npy"""
    logprob: Path | None = None
    """directory that receives logprob.npy, float32 [N], nats"""
    keytypes: tuple[str, ...] = ()
    """which representations to keep"""
    out: tuple[Path, ...] = ()
    """one directory for each key type, in the same order: keys.npy float32 [N, D], values.npy, ids.npy"""
    windows: str = "{}"
    """WindowSettings as JSON"""
    batch_tokens: int = 12288
    """tokens in one forward pass: bounds the memory"""


def main(config: EvaluateConfig) -> None:
    sizes = settings(WindowSettings, config.windows, "--windows")
    tokens = files.open_array(config.tokens, "integer", ndim=1)
    lm = model.load(config.model, features.device())
    if len(tokens) and int(tokens.max()) >= lm.config.vocab_size:
        raise files.UserError(f"{config.tokens}: token {tokens.max()} is outside {config.model}'s {lm.config.vocab_size} words")
    chosen = windows.evaluation(tokens, sizes)
    facts = {"windows": asdict(sizes)}
    inputs = {"model": config.model, "tokens": config.tokens}
    with contextlib.ExitStack() as stack:
        scores = stack.enter_context(files.atomic(config.logprob, directory=True)) if config.logprob else None
        folders = [stack.enter_context(files.atomic(out, directory=True)) for out in config.out]
        shape = (len(tokens), lm.config.dim)
        keys = [files.create_array(folder / "keys.npy", shape, "float32") for folder in folders]
        logprob = np.full(len(tokens), np.nan, dtype=np.float32)
        row = 0
        with progress(None, f"LM on {config.tokens.stem}", len(tokens), "tok") as bar:
            for block in features.stream(
                lm, tokens, chosen, sizes.length, config.keytypes, config.batch_tokens, scores is not None
            ):
                here = slice(row, row := row + len(block.values))
                for array, name in zip(keys, config.keytypes, strict=True):
                    array[here] = block.keys[name]
                if scores:
                    logprob[here] = block.logprob
                bar.update(len(block.values))
        for folder, array in zip(folders, keys, strict=True):
            array.flush()
            files.save_array(folder / "values.npy", np.asarray(tokens, dtype=np.uint32))
            files.save_array(folder / "ids.npy", np.arange(len(tokens), dtype=np.int64))
            files.write_meta(folder, "evaluate", facts, inputs, entries=len(tokens), dim=shape[1])
        if scores:
            files.save_array(scores / "logprob.npy", logprob)
            files.write_meta(scores, "evaluate", facts, inputs, tokens=len(tokens))


if __name__ == "__main__":
    run(main, EvaluateConfig)
