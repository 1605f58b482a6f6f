"""The numbers that a study measured, looked up by experiment and row; learning curves; and the paper's numbers."""

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from knnlm.artifacts import description, files, lineage
from knnlm.artifacts.files import UserError
from knnlm.scores import stats
from knnlm.settings import HELD_OUT


class Missing(Exception):
    """A number that this study did not measure."""


class NoInterval(Missing):
    """Too few documents for an interval."""


class Difference(NamedTuple):
    """A difference of log-likelihoods, nats a token, with its 95% interval from a paired bootstrap over documents."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Study:
    """Every experiment of a study by its name, and learning curves by model."""

    experiments: Mapping[str, dict]
    curves: Mapping[str, list[dict]]

    def rows(self, output: str) -> dict[str, dict]:
        """The rows of an experiment by name; raises Missing where it was not run.

        Rows with different vocabularies have perplexities per word in place of those per token: only these compare.
        """
        if output not in self.experiments:
            raise Missing(f"{output} was not run")
        rows = self.experiments[output]["rows"]
        if len({row.get("vocab") for row in rows}) > 1:
            rows = [_in_words(row) for row in rows]
        return {row["name"]: row for row in rows}

    def row(self, output: str, name: str) -> dict:
        """One row of an experiment; raises Missing where there is none."""
        rows = self.rows(output)
        if name not in rows:
            raise Missing(f"{output} has no row {name}")
        return rows[name]

    def paths(self, output: str, name: str) -> dict:
        """Where the row's artifacts lie: {"model": [seed], "lm": {split: [seed]}, ...} as `interpolate` recorded.

        Raises UserError where the experiment is of an older version and has no record.
        """
        self.row(output, name)
        if name not in self.experiments[output].get("paths", {}):
            raise UserError(f"experiments/{output}.json: names no paths of row {name}; interpolate again")
        return self.experiments[output]["paths"][name]

    def perplexity(self, output: str, name: str, split: str = "dev") -> float:
        """A row's perplexity; raises Missing where it was not measured or is infinite."""
        value = (self.row(output, name).get(split) or {}).get("perplexity")
        if value is None or not math.isfinite(value):
            raise Missing(f"{output}, {name} has no {split} perplexity")
        return value

    def gain(self, output: str, name: str, base: str = "base", split: str = "dev") -> float:
        """By how much a row's perplexity is lower than that of the row `base`."""
        return self.perplexity(output, base, split) - self.perplexity(output, name, split)

    def difference(self, output: str, weights: Mapping[str, float], split: str = "dev") -> Difference:
        """The sum over rows of a weight times the row's log-likelihood: {"knn": 1, "base": -1} for kNN over the base.

        Several seeds count by their mean. Raises Missing where a row was not measured, NoInterval for too few
        documents.
        """
        rows = {name: self.row(output, name).get(split) or {} for name in weights}
        for name, measured in rows.items():
            if not measured.get("nats"):
                raise Missing(f"{output}, {name} has no {split} log-likelihoods of documents")
        nats = {name: np.array(measured["nats"]) for name, measured in rows.items()}  # [D] each, −log p summed
        documents = {len(values) for values in nats.values()}
        if len(documents) > 1:
            raise Missing(f"{output}: {', '.join(weights)} score different documents")
        if min(documents) < stats.FEWEST:
            few = "1 document is" if min(documents) == 1 else f"{min(documents)} documents are"
            raise NoInterval(f"{few} too few for an interval")
        sums = -np.sum([weight * nats[name] for name, weight in weights.items()], axis=0)
        tokens = next(iter(rows.values()))["tokens"]
        low, high = stats.total(sums)
        return Difference(float(sums.sum()) / tokens, low / tokens, high / tokens)


def load(experiments: Iterable[Path], curves: Iterable[Path] = ()) -> Study:
    """A study from experiment files and from curves at models/MODEL/seedS/curve.jsonl."""
    loaded = {}
    for path in experiments:
        lineage.agree((path,))
        experiment = files.read_json(description.check(path))
        if not {"experiment", "rows"} <= set(experiment):
            raise UserError(f"{path}: found keys {sorted(experiment)}, expected experiment and rows; interpolate again")
        loaded[experiment["experiment"]] = experiment | {"paths": _resolved(experiment.get("paths", {}), path.parent)}
    return Study(loaded, {path.parent.parent.name: _lines(path) for path in curves})


def paper_numbers(path: Path) -> dict:
    """The paper's numbers by table and figure; raises UserError where the file is missing or no YAML."""
    return read_yaml(path, "the repository has it as config/paper_numbers.yaml")


def read_yaml(path: Path, fix: str) -> dict:
    """The mapping in a YAML file; raises UserError where there is none, and for a missing file says how to `fix` it."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise UserError(f"{path}: found {type(content).__name__}, expected keys with values")
        return content
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {fix}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None


def sizes(study: Study) -> list[tuple[int, dict]]:
    """Figure 2's rows with a datastore as (entries, row), the smallest datastore first."""
    rows = [row for row in study.rows("figure2").values() if row.get("datastore")]
    if not rows:
        raise Missing("figure2 has no datastore")
    return sorted(((row["datastore"]["entries"], row) for row in rows), key=lambda pair: pair[0])


def neighbors(study: Study) -> list[tuple[int, float]]:
    """Figure 4's points (k, dev perplexity), the smallest k first."""
    names = [name for name in study.rows("figure4") if name[0] == "k" and name[1:].isdigit()]
    return sorted((int(name[1:]), study.perplexity("figure4", name)) for name in names)


def of_what(rows: Iterable[Mapping]) -> str:
    """Of which seeds and which index the numbers of rows are, as in "medians over seeds 1, 2 and 3; index fast".

    A number of one seed may differ from the median of several, and of one index from that of another. A pretrained LM
    has no seed. Where rows have different indexes, their labels or a column say so, and none is named here.
    """
    rows = list(rows)
    labels: dict[str, list[str]] = {}
    for row in filter(is_trained, rows):
        labels.setdefault(seeds(row["seeds"]), []).append(row["label"])
    ordered = sorted(labels, key=lambda text: -len(labels[text]))
    parts = ordered[:1] + [f"{text}: {', '.join(labels[text])}" for text in ordered[1:]]
    indexes = {store["index"] for row in rows if (store := row.get("datastore")) and store.get("index")}
    return "; ".join([*parts, *(f"index {index}" for index in indexes if len(indexes) == 1)])


def is_trained(row: Mapping) -> bool:
    """Whether the study trained the row's LM, so that its seed matters; a pretrained one has a description."""
    return bool(row.get("training_tokens") or not row.get("description"))


def seeds(numbers: Iterable[int]) -> str:
    """As in "seed 1" or "medians over seeds 1, 2 and 3"."""
    *most, last = map(str, numbers)
    return f"medians over seeds {', '.join(most)} and {last}" if most else f"seed {last}"


def per_word(measured: Mapping) -> dict:
    """What a row measured on a split with perplexities per word, exp(nats / words), in place of those per token.

    The nats are those of all targets, the ends of documents included; words are those of the text between white space.
    The bounds of intervals are converted by the split's own ratio of tokens to words.
    """
    return _converted(measured, lambda nats: np.exp(nats / measured["words"]))


def bits_per_byte(measured: Mapping) -> dict:
    """The same with bits per byte, nats / (ln 2 · bytes), in place of perplexities; bytes are those of the text."""
    return _converted(measured, lambda nats: nats / (math.log(2) * measured["bytes"]))


def _converted(measured: Mapping, unit: Callable[[np.ndarray], np.ndarray]) -> dict:
    """`measured` with `unit` of a split's nats for each of its perplexities per token."""

    def values(perplexities: list[float] | None) -> list[float] | None:
        if perplexities is None:
            return None
        with np.errstate(over="ignore"):
            return unit(np.log(np.array(perplexities)) * measured["tokens"]).tolist()

    per_seed = values(measured["per_seed"]) or []
    changed = {"perplexity": float(np.median(per_seed)), "per_seed": per_seed, "interval": values(measured["interval"])}
    return {**measured, **changed}


def _in_words(row: dict) -> dict:
    """A row with its perplexities per word, those of its curve included."""
    splits, curve = [split for split in HELD_OUT if row.get(split)], row.get("curve")
    if curve:
        curve = dict(curve)
        for split in splits:
            tokens_per_word = row[split]["tokens"] / row[split]["words"]
            curve[split] = [value and value**tokens_per_word for value in curve[split]]
    return row | {split: per_word(row[split]) for split in splits} | {"curve": curve}


def _resolved(paths: object, folder: Path) -> object:
    """Recorded paths of any nesting, as seen from where the study lies now."""
    if isinstance(paths, dict):
        return {name: _resolved(inside, folder) for name, inside in paths.items()}
    if isinstance(paths, list):
        return [_resolved(inside, folder) for inside in paths]
    return Path(os.path.normpath(folder / str(paths))) if paths else None


def _lines(path: Path) -> list[dict]:
    try:
        return [json.loads(line) for line in description.check(path).read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise UserError(f"{path}: not JSON lines ({error}); train again") from None
