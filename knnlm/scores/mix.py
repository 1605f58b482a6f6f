"""Perplexities of log-probabilities on disk and of their mixture (equation 3), without a study.

The files may come from anywhere: .npy arrays of natural-log probabilities of the same targets in the same order.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from knnlm.artifacts import description, npy
from knnlm.artifacts.files import UserError
from knnlm.scores import mixture, stats


@dataclass(frozen=True)
class MixConfig:
    """Print the perplexity of an LM, and of its mixture with kNN or others, at given or tuned weights."""

    lm: Path
    """log-probabilities of the LM, .npy of floats [N] in nats"""
    knn: tuple[Path, ...]
    """those of kNN of the same targets; further files are further components"""
    lmbda: tuple[float, ...] = ()
    """weights of the components, from 0 to 1; the LM has the rest"""
    tune: tuple[Path, ...] = ()
    """in place of weights: the same files of dev, the LM's first, on which the weights are tuned"""
    documents: Path | None = None
    """where documents begin, .npy of integers: prints 95% bootstrap intervals over them"""


def main(config: MixConfig) -> None:
    lm, components = vectors(config.lm, config.knn)
    weights = chosen(config)
    dropped = left_out(config.lm)
    if dropped and config.documents is not None:
        raise UserError(
            f"--documents: {config.lm} leaves {dropped:,} tokens of the text out, so that its documents begin "
            "elsewhere: leave --documents out, or evaluate with mode complete"
        )
    starts = None if config.documents is None else npy.open_array(config.documents, "integer", 1)
    if starts is not None and not (len(starts) and starts[0] == 0 and (np.diff([*starts, len(lm)]) > 0).all()):
        raise UserError(f"{config.documents}: expected ascending positions from 0 below {len(lm):,}: give this text's")
    further = f"; {dropped:,} more, in lines longer than the model's positions, are not scored" if dropped else ""
    print(f"{len(lm):,} targets{further}")
    print(line("LM", lm, starts))
    if len(components) > 1:
        for path, component in zip(config.knn, components, strict=True):
            print(line(str(path), component, starts))
    shown = ", ".join(f"{weight:.4g}" for weight in weights)
    print(line(f"λ = {shown}", mixture.mix(weights, components, lm), starts))


def chosen(config: MixConfig) -> np.ndarray:
    """The weights [M] of the components; raises UserError where they are not given or do not fit."""
    count = len(config.knn)
    if bool(config.lmbda) == bool(config.tune):
        raise UserError("--lmbda, --tune: give the weights, or the files of dev to tune them on")
    if config.tune:
        if len(config.tune) != count + 1:
            raise UserError(f"--tune: found {len(config.tune)} files, expected {count + 1}: the LM's, then as in --knn")
        lm, components = vectors(config.tune[0], config.tune[1:])
        return mixture.tune(components, lm)
    if len(config.lmbda) != count:
        raise UserError(f"--lmbda: found {len(config.lmbda)} weights, expected {count}: one for each file of --knn")
    weights = np.array(config.lmbda, np.float64)
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() <= 1 + 1e-9):
        given = ", ".join(map(str, config.lmbda))
        raise UserError(f"--lmbda: found {given}, expected numbers from 0 whose sum is at most 1")
    return weights


def left_out(lm: Path) -> int:
    """How many tokens of the text the LM's log-probabilities are not of, as their description says (mode published)."""
    return description.described(lm).get("dropped", 0) if description.is_described(lm) else 0


def vectors(lm: Path, knn: tuple[Path, ...]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Log-probabilities [N] of the LM and of the components; raises UserError where they do not belong together."""
    found = [np.asarray(npy.open_array(path, "floating", 1)) for path in (lm, *knn)]
    for path, logprob in zip((lm, *knn), found, strict=True):
        if len(logprob) != len(found[0]) or not len(logprob):
            raise UserError(
                f"{path}: found {len(logprob):,} targets, {lm} has {len(found[0]):,}: score both again alike"
            )
        if np.isnan(logprob).any() or (highest := float(logprob.max())) > mixture.ROUNDING:
            what = "NaN" if np.isnan(logprob).any() else f"{highest:.3g}"
            raise UserError(f"{path}: found {what}, expected log-probabilities in nats, at most 0: score it again")
    return found[0], found[1:]


def line(name: str, logprob: np.ndarray, documents: np.ndarray | None) -> str:
    """As in "LM: perplexity 18.65 [18.10, 19.22], 2.9258 nats a token"."""
    bounds = None if documents is None else stats.interval(logprob, documents)
    between = f" [{bounds[0]:.6g}, {bounds[1]:.6g}]" if bounds else ""
    nats = -np.mean(logprob, dtype=np.float64)
    return f"{name}: perplexity {mixture.perplexity(logprob):.6g}{between}, {nats:.6g} nats a token"
