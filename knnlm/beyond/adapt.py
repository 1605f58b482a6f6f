"""Mix kNN and the LM in the ways that config/experiments/beyond.yaml lists, each tuned on dev."""

import inspect
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from knnlm.artifacts import files, npy
from knnlm.artifacts.files import UserError
from knnlm.beyond import mixers, networks, signals, unbounded
from knnlm.beyond.signals import Signals
from knnlm.live import layout
from knnlm.scores import experiments, mixture, stats

log = logging.getLogger("knnlm")
PARTS = (mixers, networks, unbounded)  # the modules that register mixers
KEYS = ("name", "label", "mixer", "paper")


@dataclass(frozen=True)
class AdaptConfig:
    """Mix kNN and the LM in several ways; writes mixing.json, and λ of each token where it varies, in gates/."""

    study: Path
    """folder of a finished study, as results/smoke"""
    sheet: Path
    """config/experiments/beyond.yaml, of which the list `mixing` is read"""
    out: Path
    """mixing.json"""
    infinigram: tuple[Path, ...] = ()
    """folders of dev and test that `knnlm score_infinigram` wrote"""
    output: str = "table1"
    """the experiment that the row is of"""
    row: str = "knn"
    """a row with a datastore; its first seed is taken"""


def main(config: AdaptConfig) -> None:
    rows = read(config.sheet)
    source = layout.find(config.study, config.output, config.row)
    given = config.infinigram or (None, None)
    if len(given) != 2:
        raise UserError(f"--infinigram: found {len(given)} folders, expected those of dev and of test")
    dev, test = (signals.load(source, split, folder) for split, folder in zip(("dev", "test"), given, strict=True))
    methods = []
    for row in rows:
        methods.append(measured(row, dev, test, config.out.parent / "gates"))
    files.write_json(config.out, {"methods": methods})


def read(sheet: Path) -> list[dict]:
    """The rows of the list `mixing`; raises UserError for an unknown mixer or key."""
    rows = experiments.read_yaml(sheet, "the repository has one, config/experiments/beyond.yaml").get("mixing")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{sheet}: found no list of rows under `mixing`: list one row at least")
    for row in rows:
        where = f"{sheet}: mixing, {row.get('name', 'a row without a name')}"
        if missing := [key for key in ("name", "label", "mixer") if key not in row]:
            raise UserError(f"{where}: found no {missing[0]}: give one")
        try:
            function = mixers.find(row["mixer"])
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        defaults = {name: one.default for name, one in list(inspect.signature(function).parameters.items())[2:]}
        known = [*KEYS, *defaults]
        if unknown := sorted(set(row) - set(known)):
            raise UserError(f"{where}: found {unknown[0]}, expected keys among {', '.join(known)}")
        for key in set(row) - set(KEYS):
            if not isinstance(row[key], int | float | list):
                raise UserError(
                    f"{where}, {key}: found {row[key]!r}, expected a number, true, false or a list of numbers"
                )
            if isinstance(row[key], list) != isinstance(defaults[key], list | tuple) or row[key] == []:
                expected = "a list of numbers" if isinstance(defaults[key], list | tuple) else "a single value"
                raise UserError(f"{where}, {key}: found {row[key]!r}, expected {expected}")
    return rows


def measured(row: dict, dev: Signals, test: Signals, gates: Path) -> dict:
    """One method on dev and test, as mixing.json has it."""
    arguments = {key: value for key, value in row.items() if key not in KEYS}
    mixed = mixers.find(row["mixer"])(dev, test, **arguments)
    if mixed.gates:
        gates.mkdir(parents=True, exist_ok=True)
        for split, gate in zip(("dev", "test"), mixed.gates, strict=True):
            npy.save_array(gates / f"{row['name']}-{split}.npy", gate.astype(np.float32))
    nats, tokens = stats.document_sums(mixed.test, test.documents)
    found = {"perplexity": mixture.perplexity(mixed.test), "nats": nats.tolist(), "tokens": tokens.tolist()}
    named = {key: row.get(key) for key in ("name", "label", "paper")}
    log.info("%s: test %.2f; %s", row["name"], found["perplexity"], mixed.facts)
    return named | {"dev": mixture.perplexity(mixed.dev), "test": found, "facts": mixed.facts}
