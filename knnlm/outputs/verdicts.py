"""What decides a claim: differences of log-likelihoods or of weights, with intervals from resampled documents."""

from collections.abc import Mapping
from statistics import median
from typing import NamedTuple

import numpy as np

from knnlm.scores.experiments import Difference, Missing, NoInterval, Study

HELD, FAILED = "held", "did not hold"
NOISE = "within noise"  # the interval has both signs
OPEN = "cannot be judged at this scale"
NAMES = {"knn": "kNN", "cache": "cache", "ngram": "n-gram LM", "infinigram": "∞-gram LM", "memorizing": "memorizing LM"}


class Comparison(NamedTuple):
    """A difference that the claim says is above zero, and what it compares; or why it has no interval."""

    text: str
    difference: Difference | None
    lacking: str = ""

    @property
    def above(self) -> bool:
        return self.difference is not None and self.difference.low > 0

    @property
    def below(self) -> bool:
        return self.difference is not None and self.difference.high < 0


class Judgement(NamedTuple):
    """What a study says about one claim: its numbers as text, what they rest on, the verdict and a reason for it."""

    ours: str
    verdict: str
    reason: str = ""
    comparisons: tuple[Comparison, ...] = ()


def says(ours: str, *comparisons: Comparison) -> Judgement:
    """Held where each difference's interval is above zero, not held where one's is below; else within noise."""
    for one in comparisons:
        if one.lacking:
            return Judgement(ours, OPEN, one.lacking)
    below, above = any(one.below for one in comparisons), all(one.above for one in comparisons)
    return Judgement(ours, FAILED if below else HELD if above else NOISE, comparisons=comparisons)


def better(study: Study, output: str, name: str, base: str, split: str = "dev") -> Comparison:
    """By how much the log-likelihood of row `name` is above that of row `base`."""
    return compared(study, f"{name} over {base}", output, {name: 1, base: -1}, split)


def compared(study: Study, text: str, output: str, weights: Mapping[str, float], split: str) -> Comparison:
    """The weighted sum of the rows' log-likelihoods, or why it has no interval (see `Study.difference`)."""
    try:
        return Comparison(text, study.difference(output, weights, split))
    except NoInterval as reason:
        return Comparison(text, None, str(reason))


def larger_lmbda(row: dict, base: dict, paired: bool) -> Comparison:
    """By how much the row's λ is above the base's, both tuned again on each resample of the documents of dev.

    Rows that score the same documents were resampled alike, so that differences are taken within each resample.
    """
    drawn = [np.array(one.get("lmbda_resampled") or [], float) for one in (row, base)]
    if not all(map(len, drawn)):
        raise Missing(f"{row['name']}: λ was not tuned on resampled documents")
    differences = drawn[0] - drawn[1] if paired else np.subtract.outer(*drawn)
    low, high = np.quantile(differences, [0.025, 0.975])
    value = median(row["lmbda"]["knn"]) - median(base["lmbda"]["knn"])
    return Comparison(f"λ of {row['name']} over {base['name']}", Difference(value, float(low), float(high)))


def additions(study: Study, output: str, split: str) -> dict[str, list[Comparison]]:
    """What each component adds to the others: {label of a row: comparisons}, of the rows that mix the most components.

    Each is compared with the row that lacks only this component, where the experiment has one.
    """
    rows = [row for row in study.rows(output).values() if (row.get(split) or {}).get("nats")]
    most, found = max([2, *(len(_mixed(row)) for row in rows)]), {}
    for row in rows:
        parts = _mixed(row)
        for name in parts if len(parts) == most else ():
            others = {other: part for other, part in parts.items() if other != name}
            text = f"{NAMES[name]} to {' and '.join(NAMES[other] for other in others)}"
            for rest in rows:
                if _scored(rest) == _scored(row) and _mixed(rest) == others:
                    weights = {row["name"]: 1, rest["name"]: -1}
                    found.setdefault(row["label"], []).append(compared(study, text, output, weights, split))
    return found


def _scored(row: Mapping) -> tuple:
    """What a row's components are mixed into, and on which text."""
    return tuple(row.get(key) for key in ("model", "seeds", "corpus", "vocab"))


def _mixed(row: Mapping) -> dict[str, object]:
    """The components of a row with their settings, but for those that dev chose."""
    store = dict(row.get("datastore") or {})
    if "temperatures" in store:
        del store["temperature"]
    parts = {
        "knn": store,
        "cache": bool(row.get("cache")),
        "infinigram" if row.get("ngram") == "infinite" else "ngram": row.get("ngram"),
        "memorizing": row.get("memorizing"),
    }
    return {name: part for name, part in parts.items() if part}


def with_interval(one: Comparison) -> str:
    """As in "knn over base +0.049 [+0.036, +0.064]"."""
    if one.difference is None:
        return ""
    value, low, high = (f"{number:+.3f}".replace("-", "−") for number in one.difference)
    return f"{one.text} {value} [{low}, {high}]"
