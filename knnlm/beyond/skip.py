"""Measure perplexity where searches are left out: at random, by a network's λ, and by RetoMaton's pointers."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from knnlm.artifacts import files, npy
from knnlm.artifacts.files import UserError
from knnlm.beyond import mixers, signals, skipping
from knnlm.beyond.signals import Signals
from knnlm.live import layout
from knnlm.scores import mixture, stats

NETWORK = "network"  # the gate that a threshold is put on


@dataclass(frozen=True)
class SkipConfig:
    """Measure test perplexity against the share of searches left out; writes skipping.json."""

    study: Path
    """folder of a finished study, as results/smoke"""
    out: Path
    """skipping.json"""
    gates: Path | None = None
    """folder of the λ of each token that `knnlm adapt` wrote"""
    output: str = "table1"
    """the experiment that the row is of"""
    row: str = "knn"
    """a row with a datastore; its first seed is taken"""
    seed: int = 1
    """of random choices"""


def main(config: SkipConfig) -> None:
    source = layout.find(config.study, config.output, config.row)
    dev, test = (signals.load(source, split) for split in ("dev", "test"))
    methods = [random(dev, test, config.seed)]
    if config.gates:
        methods.append(threshold(dev, test, config.gates))
    methods.append(retomaton(dev, test))
    for one in (one for method in methods[1:] for one in method["points"]):
        one["random"] = random_point(dev, test, one["skipped"], config.seed)["nats"]
    tokens = stats.document_sums(test.lm, test.documents)[1]
    files.write_json(config.out, {"methods": methods, "tokens": tokens.tolist()})


def random(dev: Signals, test: Signals, seed: int) -> dict:
    points = [random_point(dev, test, share, seed) for share in skipping.SHARES]
    return {"name": "random", "label": "at random", "paper": None, "points": points}


def random_point(dev: Signals, test: Signals, share: float, seed: int) -> dict:
    searched = [skipping.at_random(len(split.lm), share, seed) for split in (dev, test)]
    logprob, lmbda = skipping.masked(dev, test, searched)
    return point(test, searched[1], logprob, {"lmbda": lmbda})


def threshold(dev: Signals, test: Signals, folder: Path) -> dict:
    """Tokens whose λ by the network is low are not searched for; the others keep that λ (He et al. 2021)."""
    gates = []
    for split, name in ((dev, "dev"), (test, "test")):
        gates.append(npy.open_array(folder / f"{NETWORK}-{name}.npy", "float32", 1).astype(np.float64))
        if len(gates[-1]) != len(split.lm):
            raise UserError(
                f"{folder}/{NETWORK}-{name}.npy: found {len(gates[-1]):,} tokens, expected {len(split.lm):,}"
            )
    points, mixed = [], mixers.by_token(test.lm, test.knn, gates[1])
    for share in skipping.SHARES:
        lowest = np.quantile(gates[0], share) if share < 1 else np.inf
        searched = gates[1] >= lowest if share else np.ones(len(mixed), bool)
        points.append(point(test, searched, np.where(searched, mixed, test.lm), {"threshold": float(min(lowest, 1))}))
    return {"name": NETWORK, "label": "λ network below a threshold", "paper": "he2021-skipping", "points": points}


def retomaton(dev: Signals, test: Signals) -> dict:
    """Pointers to the successors of matching neighbors in place of a search (Alon et al. 2022)."""
    store, width = skipping.datastore(dev), dev.stored.shape[1]
    points = []
    for fewest in (width + 1, *(n for n in (512, 128, 32, 8, 1) if n < width)):
        (near, _), (found, searched) = (skipping.retomaton(split, store, fewest) for split in (dev, test))
        (lmbda,) = mixture.tune([near], dev.lm)
        logprob = mixture.mix([lmbda], [found], test.lm)
        points.append(point(test, searched, logprob, {"tau": fewest, "lmbda": float(lmbda)}))
    return {"name": "retomaton", "label": "RetoMaton, without clusters", "paper": "alon2022", "points": points}


def point(test: Signals, searched: np.ndarray, logprob: np.ndarray, facts: dict) -> dict:
    nats, _ = stats.document_sums(logprob, test.documents)
    found = {"skipped": float(1 - searched.mean()), "perplexity": mixture.perplexity(logprob)}
    return found | {"nats": nats.tolist(), "facts": facts}
