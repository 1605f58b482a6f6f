"""The tables of what came after the paper: numbers for a CSV file, and what a reader sees of them."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from knnlm.artifacts.files import UserError
from knnlm.outputs.markdown import paragraph
from knnlm.outputs.tables import number
from knnlm.outputs.verdicts import FAILED, HELD, NOISE, OPEN
from knnlm.scores import stats
from knnlm.scores.experiments import Difference

LM, CONSTANT = "lm", "constant"  # the methods that every other one is compared with
FOUND = "**What the papers found, and whether the method beats"
QUALITY = {
    "nats": "Perplexity by another model",
    "repetition": "Tokens in 4-grams that occurred before",
    **{f"distinct{order}": f"Different {order}-grams, of all" for order in (1, 2, 3, 4)},
}
MEASURES = QUALITY | {f"entropy{part}": f"Entropy of p_kNN, quarter {part}" for part in (1, 2, 3, 4)}
MEASURES |= {"rise": "Its rise to the last quarter, less that of p_LM"}


class Trade(NamedTuple):
    """What is saved, and how a table and a figure name it."""

    key: str  # of a point, in the verb's file
    title: str  # of the column
    form: Callable[[float], str]
    label: str  # of the figure's axis
    scale: str


SKIPPED = Trade("skipped", "Searches left out", "{:.1%}".format, "share of searches left out", "linear")
BYTES = Trade("bytes", "MB", lambda size: f"{size / 1e6:,.1f}", "datastore, MB", "log")


def without_interval(numbers: pd.DataFrame) -> bool:
    """Whether a number of the table lacks the interval that others of its column may have."""
    pairs = [(name.removesuffix("_low"), name) for name in numbers if name.endswith("_low")]
    pairs += [("value", "low")] if "low" in numbers else []
    return any((numbers[value].notna() & numbers[low].isna()).any() for value, low in pairs)


def compared(methods: list[dict], published: Mapping) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One line for each method: perplexities, the difference from a constant λ, and what its paper found."""
    named = {method["name"]: method for method in methods}
    for name in (LM, CONSTANT):
        if name not in named:
            raise UserError(f"mixing.json: found methods {', '.join(named)}, expected {name} too: run adapt again")
    records, shown = [], []
    for method in methods:
        test, paper = method["test"], published.get(method.get("paper") or "", {})
        nats, tokens = np.array(test["nats"]), np.array(test["tokens"])
        low, high = bounds(nats, tokens)
        gain = difference(nats, np.array(named[CONSTANT]["test"]["nats"]), tokens)
        is_base = method["name"] in (LM, CONSTANT)
        record = {"name": method["name"], "label": method["label"], "paper": paper.get("citation")}
        record |= {"dev": method["dev"], "test": test["perplexity"], "test_low": low, "test_high": high}
        record |= with_bounds("gain", gain)
        record |= {"verdict": "" if is_base or not paper else verdict(gain)}
        records.append(record)
        shown.append(
            {
                "Model": method["label"],
                "Paper": paper.get("citation", "–"),
                "Dev": number(method["dev"], "{:.2f}"),
                "Test": bracketed(test["perplexity"], low, high, "{:.2f}"),
                "Difference": "–" if is_base else "–" if gain is None else bracketed(*gain, "{:+.4f}"),
                "Better here": record["verdict"] or "–",
            }
        )
    return pd.DataFrame(records), pd.DataFrame(shown)


def findings(numbers: pd.DataFrame, methods: list[dict], published: Mapping) -> str:
    """What each paper found and whether its method is better here, as a list below the table."""
    lines = [
        f"- **{verdict}** – {paragraph(method['label'])} ({cited(published[method['paper']])})."
        for verdict, method in zip(numbers["verdict"], methods, strict=True)
        if verdict
    ]
    return f"\n{FOUND} one λ here:**\n\n" + "\n".join(lines) + "\n"


def cited(paper: Mapping) -> str:
    """As in "Khandelwal et al. 2020: 18.65 → 16.12 with one λ; arXiv 1911.00172"."""
    return f"{paper['citation']}: {paragraph(paper['finding'])}; {paper['source']}"


def bounds(nats: np.ndarray, tokens: np.ndarray) -> tuple[float | None, float | None]:
    """The interval of a perplexity, from log-probabilities [D] and tokens [D] of documents; None for too few."""
    if len(nats) < stats.FEWEST:
        return None, None
    low, high = stats.ratio(nats, tokens)
    return float(np.exp(-high)), float(np.exp(-low))


def difference(nats: np.ndarray, base: np.ndarray, tokens: np.ndarray) -> Difference | None:
    """By how much log-probabilities [D] of documents are above others, nats a token; None for too few documents."""
    if len(nats) < stats.FEWEST:
        return None
    low, high = stats.total(nats - base)
    return Difference(*(float(value) / float(tokens.sum()) for value in ((nats - base).sum(), low, high)))


def with_bounds(name: str, gain: Difference | None) -> dict[str, float | None]:
    """A difference and its interval as three columns."""
    return dict(zip((name, f"{name}_low", f"{name}_high"), gain or (None, None, None), strict=True))


def verdict(gain: Difference | None) -> str:
    if gain is None:
        return OPEN
    return HELD if gain.low > 0 else FAILED if gain.high < 0 else NOISE


def bracketed(value: float, low: float | None, high: float | None, form: str) -> str:
    between = "" if low is None or high is None else f" [{form.format(low)}, {form.format(high)}]"
    return (number(value, form) + between).replace("-", "−")


def traded(found: dict, trade: Trade) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One line for each method and point of it: perplexity, and differences from the first point and from chance."""
    tokens, base = np.array(found["tokens"]), np.array(found["methods"][0]["points"][0]["nats"])
    numbers, shown = [], []
    for method, point in [(one, point) for one in found["methods"] for point in one["points"]]:
        nats = np.array(point["nats"])
        low, high = bounds(nats, tokens)
        record = {"name": method["name"], "label": method["label"], "paper": method["paper"]}
        record |= {trade.key: point[trade.key], "test": point["perplexity"], "test_low": low, "test_high": high}
        gains = {"gain": difference(nats, base, tokens)}
        if "random" in point:
            gains["over_random"] = difference(nats, np.array(point["random"]), tokens)
        for name, gain in gains.items():
            record |= with_bounds(name, gain)
        record["verdict"] = verdict(gains["over_random"]) if "over_random" in gains else ""
        numbers.append(record)
        cells = {"Model": method["label"], trade.title: trade.form(point[trade.key])}
        cells["Test"] = bracketed(point["perplexity"], low, high, "{:.2f}")
        for title, gain in zip(("Difference", "From random"), (*gains.values(), None), strict=False):
            cells[title] = "–" if gain is None else bracketed(*gain, "{:+.4f}")
        shown.append(cells | {"Better than random": record["verdict"] or "–"})
    return pd.DataFrame(numbers), pd.DataFrame(shown)


def halfway(numbers: pd.DataFrame, trade: Trade, published: Mapping) -> str:
    """What the papers found, with the verdict of the point that saves about half, as a list below the table."""
    lines, half = [], 0.5 if trade is SKIPPED else numbers[trade.key].max() / 2
    for (_, paper), points in numbers[numbers["verdict"] != ""].groupby(["name", "paper"], sort=False):
        row = points.loc[(points[trade.key] - half).abs().idxmin()]
        cost = "" if pd.isna(row["gain"]) else f", {row['gain']:+.4f} nats from all of it".replace("-", "−")
        where = f"{trade.title.lower() if trade is SKIPPED else 'size'} {trade.form(row[trade.key])}"
        lines.append(
            f"- **{row['verdict']}** – {paragraph(row['label'])} ({cited(published[paper])}). "
            f"Here: {where}{' MB' * (trade is BYTES)}{cost}."
        )
    return f"\n{FOUND} random choice here, at about half of the cost:**\n\n" + "\n".join(lines) + "\n" if lines else ""


def indexes(frontier: Mapping) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One line for each index and number of lists visited; the first is exact search."""
    cases, tokens = frontier["cases"], np.array(frontier["tokens"])
    base, numbers, shown = np.array(cases[0]["nats"]), [], []
    for one, is_best in zip(cases, pareto(cases), strict=True):
        gain = difference(np.array(one["nats"]), base, tokens)
        record = {key: value for key, value in one.items() if key != "nats"}
        record |= with_bounds("gain", gain)
        numbers.append(record | {"best": is_best})
        shown.append(
            {
                "Model": one["factory"],
                "Lists visited": str(one["nprobe"] or "–"),
                "Bytes a key": f"{one['bytes']:.0f}",
                "Built, s": f"{one['build']:.0f}",
                "Recall": f"{one['recall']:.3f}",
                "Queries/s": f"{one['search']:,.0f}",
                "with exact distances": f"{one['with_exact']:,.0f}",
                "Dev": number(one["perplexity_exact"], "{:.2f}"),
                "Difference": "–" if gain is None else bracketed(*gain, "{:+.4f}"),
                "Dev, index's distances": number(one["perplexity_index"], "{:.2f}"),
                "Best": "yes" if is_best else "–",
            }
        )
    return pd.DataFrame(numbers), pd.DataFrame(shown)


def pareto(cases: list[dict]) -> list[bool]:
    """Whether no other case is both faster and no worse in perplexity, with exact distances."""
    points = [(one["with_exact"], one["perplexity_exact"]) for one in cases]
    return [not any(fast > mine[0] and loss <= mine[1] for fast, loss in points) for mine in points]


def diagnosed(diagnostics: list[dict]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One line for each bin of each diagnostic; the sentence of a diagnostic stands in its first line."""
    rows = [(diagnostic, one, place) for diagnostic in diagnostics for place, one in enumerate(diagnostic["bins"])]
    numbers = pd.DataFrame({"name": diagnostic["name"], **one} for diagnostic, one, _ in rows)
    shown = pd.DataFrame(
        {
            "Model": diagnostic["title"] if not place else "",
            "Bin": one["label"],
            "Tokens": f"{one['tokens']:,}",
            "Gain": bracketed(one["value"], one["low"], one["high"], "{:+.3f}"),
            "Helped": number(one["helped"], "{:.1%}"),
            "What it shows": diagnostic["sentence"] if not place else "",
        }
        for diagnostic, one, place in rows
    )
    return numbers, shown


def by_row(helped: Mapping) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One line for each row of kNN alone that shows test: its gain, whom it helps, and what the diagnostics say."""
    numbers, shown = [], []
    for one in helped.get("rows", ()):
        facts, gain = one["overall"], one["gain"]
        record = {"output": one["output"], "row": one["row"], "gain": gain["value"]}
        record |= {"gain_low": gain["low"], "gain_high": gain["high"], "tokens_helped": facts["tokens helped"]}
        numbers.append(record | {"documents_helped": facts["documents helped"], "documents": facts["documents"]})
        cells = {"Model": f"{one['output']}: {one['label']}"}
        cells["Gain"] = bracketed(gain["value"], gain["low"], gain["high"], "{:+.3f}")
        cells["Tokens helped"] = number(facts["tokens helped"], "{:.1%}")
        cells["Documents helped"] = f"{facts['documents helped']:.1%} of {facts['documents']}"
        shown.append(cells | {found["title"]: found["sentence"] for found in one["diagnostics"]})
    if not shown:
        return pd.DataFrame({"row": []}), pd.DataFrame([{"Model": "this study has no other row of kNN alone on test"}])
    return pd.DataFrame(numbers), pd.DataFrame(shown).fillna("–")


def written(texts: dict) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One line for each measure of generated texts: held-out text, LM and kNN-LM, their difference, which is better."""
    means = {
        key: {method["name"]: float(np.mean(method["measures"][key])) for method in texts["methods"]}
        for key in texts["differences"]
    }
    numbers, shown = [], []
    for key, label in MEASURES.items():
        named = [texts[name].get(key, dict.fromkeys(("value", "low", "high"))) for name in ("differences", "nearer")]
        record = {"measure": key} | means.get(key, dict.fromkeys(method["name"] for method in texts["methods"]))
        for name, found in zip(("difference", "nearer"), named, strict=True):
            record |= {name: found["value"], f"{name}_low": found["low"], f"{name}_high": found["high"]}
        known = None if named[1]["low"] is None else Difference(**named[1])
        record["verdict"] = verdict(known) if key in QUALITY and key in means else ""
        numbers.append(record)
        cells = {"Measure": label}
        for method in texts["methods"]:
            value = record[method["name"]]
            cells[method["label"]] = (
                number(np.exp(value), "{:.1f}")
                if value and key == "nats"
                else number(value, "{:.3f}").replace("-", "−")
            )
        gap = named[0]
        cells["Difference"] = (
            "–" if gap["value"] is None else bracketed(gap["value"], gap["low"], gap["high"], "{:+.3f}")
        )
        shown.append(cells | {"Better here": record["verdict"] or "–"})
    return pd.DataFrame(numbers), pd.DataFrame(shown)


def judged(numbers: pd.DataFrame, texts: dict, published: Mapping) -> str:
    """What Wang et al. found of generated text and whether it holds here, as a list below the table.

    Their first finding, no gain, holds where a measure of the kNN-LM's text is further from held-out text than the
    LM's, and does not where one is nearer and none further.
    """
    labels = {
        found: [MEASURES[key].lower() for key in numbers.loc[numbers["verdict"] == found, "measure"]]
        for found in (HELD, FAILED, OPEN)
    }
    no_gain = HELD if labels[FAILED] else FAILED if labels[HELD] else OPEN if labels[OPEN] else NOISE
    parts = [
        f"{where} held-out text than the LM's: {', '.join(labels[found])}"
        for where, found in (("nearer to", HELD), ("further from", FAILED))
        if labels[found]
    ]
    rises = np.array(next(one for one in texts["methods"] if one["name"] == "knn-lm")["measures"]["rise"])
    rise = difference(rises, np.zeros(len(rises)), np.ones(len(rises)))
    said = "too few prompts" if rise is None else f"{bracketed(*rise, '{:+.3f}')} nats in the kNN-LM's texts"
    found = {
        "wang2023": (no_gain, "; ".join(parts) or "no measure has a clear difference"),
        "wang2023-entropy": (verdict(rise), said),
    }
    lines = [
        f"- **{ours}** – {cited(published[paper])}. Here: {here}."
        for paper, (ours, here) in found.items()
        if paper in published
    ]
    return "\n**What was found of generated text, and whether it holds here:**\n\n" + "\n".join(lines) + "\n"
