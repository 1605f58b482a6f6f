"""Find out which tokens of test kNN helps and which it hurts."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from knnlm.artifacts import files
from knnlm.artifacts.files import UserError
from knnlm.beyond import diagnostics, signals
from knnlm.beyond.diagnostics import DIAGNOSTICS, Diagnostic
from knnlm.live import layout
from knnlm.scores import mixture, stats

EDGES = np.linspace(0, 1, 11)  # of the groups by the probability of kNN's likeliest word


@dataclass(frozen=True)
class DiagnoseConfig:
    """Measure what kNN adds to the LM for groups of test tokens; writes helped.json."""

    study: Path
    """folder of a finished study, as results/smoke"""
    out: Path
    """helped.json"""
    infinigram: Path | None = None
    """test's folder that `knnlm score_infinigram` wrote; without it, the groups by longest match are left out"""
    output: str = "table1"
    """the experiment that the row is of"""
    row: str = "knn"
    """a row with a datastore; its first seed and its λ are taken"""
    others: tuple[str, ...] = ()
    """further rows, OUTPUT/ROW, which are described without their neighbors"""


def main(config: DiagnoseConfig) -> None:
    source = layout.find(config.study, config.output, config.row)
    test = signals.load(source, "test", config.infinigram)
    gain = gains(source, test)
    found = diagnosed(test, gain, DIAGNOSTICS)
    found.append(calibration(test))
    rows = [of_row(config.study, *named(name)) for name in config.others]
    files.write_json(config.out, {"diagnostics": found, "overall": overall(gain, test.documents), "rows": rows})


def gains(source: layout.KnnLM, test: signals.Signals) -> np.ndarray:
    """What kNN adds to the log-probability of each target, [N] nats, with the row's λ."""
    return mixture.mix([source.lmbda], [test.knn], test.lm) - test.lm


def diagnosed(test: signals.Signals, gain: np.ndarray, wanted: Mapping[str, Diagnostic]) -> list[dict]:
    found = []
    for name, one in wanted.items():
        bins = [
            {"label": label}
            | diagnostics.measured(gain, inside, test.documents)
            | {"helped": float((gain > 0)[inside].mean())}
            for label, inside in one.groups(test)
            if inside.any()
        ]
        if bins:
            words = {"name": name, "title": one.title, "x": one.x, "y": "gain, nats a token", "bins": bins}
            found.append(words | {"sentence": sentence(bins)})
    return found


def named(text: str) -> tuple[str, str]:
    output, slash, row = text.partition("/")
    if not (output and slash and row):
        raise UserError(f"--others: found {text}, expected OUTPUT/ROW, as table2/knn")
    return output, row


def of_row(study: Path, output: str, row: str) -> dict:
    """Another row, by the diagnostics that need no neighbors."""
    source = layout.find(study, output, row)
    test = signals.load(source, "test", near=False)
    gain = gains(source, test)
    found = diagnosed(test, gain, {name: one for name, one in DIAGNOSTICS.items() if not one.near})
    everything = diagnostics.measured(gain, np.ones(len(gain), bool), test.documents)
    facts = {"output": output, "row": row, "label": source.row["label"], "gain": everything}
    return facts | {"diagnostics": found, "overall": overall(gain, test.documents)}


def overall(gain: np.ndarray, documents: np.ndarray) -> dict:
    """The share of tokens and of documents that are helped, and hurt."""
    sums, _ = stats.document_sums(gain, documents)
    facts = {
        "tokens helped": float((gain > 0).mean()),
        "tokens hurt": float((gain < 0).mean()),
        "documents helped": float((sums > 0).mean()),
        "documents": len(sums),
    }
    text = (
        f"{facts['tokens helped']:.1%} of the tokens and {facts['documents helped']:.1%} of the {len(sums)} documents "
        f"are more probable with kNN, {facts['tokens hurt']:.1%} of the tokens less."
    )
    return facts | {"sentence": text}


def calibration(test: signals.Signals) -> dict:
    """Groups by the probability of kNN's likeliest word: how much more often that word is right than kNN says."""
    probability, hit = diagnostics.top(test)
    group, bins = np.clip(np.digitize(probability, EDGES) - 1, 0, len(EDGES) - 2), []
    for number, (low, high) in enumerate(itertools.pairwise(EDGES)):
        if (inside := group == number).any():
            measured = diagnostics.measured(hit - probability.astype(np.float64), inside, test.documents)
            bins.append({"label": f"{low:.1f}–{high:.1f}"} | measured | {"helped": float(hit[inside].mean())})
    over = [one["label"] for one in bins if one["high"] is not None and one["high"] < 0]
    under = [one["label"] for one in bins if one["low"] is not None and one["low"] > 0]
    parts = [
        f"{what} where its likeliest word has the probability {', '.join(labels)}"
        for what, labels in (("too sure", over), ("not sure enough", under))
        if labels
    ]
    text = f"p_kNN is {' and '.join(parts)}." if parts else "No group shows that p_kNN is too sure or not sure enough."
    facts = {"name": "calibration", "title": "Calibration of p_kNN", "x": "probability of kNN's likeliest word"}
    return facts | {"y": "share of hits − probability", "bins": bins, "sentence": text}


def sentence(bins: list[dict]) -> str:
    """Where kNN helps most and least, as far as the intervals tell."""
    known = [one for one in bins if one["low"] is not None]
    if len(known) < 2:
        return "Too few documents for intervals."
    most, least = max(known, key=lambda one: one["value"]), min(known, key=lambda one: one["value"])
    hurt = [one["label"] for one in known if one["high"] < 0]
    text = f"kNN adds most in the group {most['label']} ({most['value']:+.3f})"
    if most["low"] <= least["high"]:
        return f"{text}, but the intervals of all groups overlap.".replace("-", "−")
    text += f" and least in the group {least['label']} ({least['value']:+.3f})"
    return (f"{text}; it hurts in {', '.join(hurt)}." if hurt else f"{text}.").replace("-", "−")
