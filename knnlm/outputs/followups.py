"""Write the tables and figures of what came after the paper (beyond/): each method's finding, published and here."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from knnlm.artifacts import files
from knnlm.artifacts.files import UserError
from knnlm.outputs import figures
from knnlm.outputs.markdown import paragraph
from knnlm.outputs.tables import latex, markdown, number
from knnlm.outputs.verdicts import FAILED, HELD, NOISE, OPEN
from knnlm.scores import stats
from knnlm.scores.experiments import Difference, read_yaml

LM, CONSTANT = "lm", "constant"  # the methods that every other one is compared with
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222")  # Okabe and Ito's
LEGEND = (
    "Perplexities on test, in brackets 95% bootstrap intervals over documents; everything is tuned on dev. Differences "
    "are from the kNN-LM with one λ, in nats a token; above zero is better."
)
HELPED = (
    "Gain of the kNN-LM over the LM on test, nats a token, with 95% bootstrap intervals over documents, and the share "
    "of tokens that it makes more probable."
)


@dataclass(frozen=True)
class FollowupsConfig:
    """Write the tables and figures of what came after the paper, from the files of its verbs."""

    mixing: Path
    """mixing.json, which `knnlm adapt` writes"""
    skipping: Path
    """skipping.json, which `knnlm skip` writes"""
    helped: Path
    """helped.json, which `knnlm diagnose` writes"""
    published: Path
    """config/published/beyond.yaml: the papers and what they found"""
    tables: Path
    """folder of the tables"""
    figures: Path
    """folder of the figures"""
    note: str = ""
    """the line above the tables: the study and its scale"""


def main(config: FollowupsConfig) -> None:
    mixing, skipping, helped = (files.read_json(path) for path in (config.mixing, config.skipping, config.helped))
    published = read_yaml(config.published, "the repository has it as config/published/beyond.yaml")
    mixed, found = compared(mixing["methods"], published), diagnosed(helped["diagnostics"])
    tables = {
        "beyond": ("What came after the paper", LEGEND, *mixed),
        "beyond-skipping": ("Searches left out", LEGEND, *skipped(skipping)),
        "beyond-helped": ("Who is helped", f"{HELPED} {overall(helped['overall'])}", *found),
    }
    for name, (title, legend, numbers, shown) in tables.items():
        note = f"{config.note} {legend}".strip()
        below = findings(numbers, published) if name == "beyond" else ""
        texts = {
            "csv": numbers.to_csv(index=False, float_format="%.6g", lineterminator="\n"),
            "md": markdown(title, note, shown, {}, []) + below,
            "tex": latex(title, note, shown, {}, []),
        }
        for suffix, content in texts.items():
            files.write_text(config.tables / f"{name}.{suffix}", content)
    logging.getLogger("fontTools").setLevel(logging.WARNING)
    matplotlib.use("Agg")
    plt.style.use(figures.STYLE)
    drawn = {"beyond-skipping": draw_skipping(skipping), "beyond-helped": draw_helped(helped["diagnostics"])}
    for name, (figure, numbers) in drawn.items():
        figures.save(figure, numbers, config.figures / name)


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
        record |= {"gain": gain and gain.value, "gain_low": gain and gain.low, "gain_high": gain and gain.high}
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


def findings(numbers: pd.DataFrame, published: Mapping) -> str:
    """What each paper found and whether its method is better here, as a list below the table."""
    known = {paper["citation"]: paper["finding"] for paper in published.values()}
    lines = [
        f"- **{row.verdict}** – {paragraph(row.label)} ({row.paper}): {paragraph(known[row.paper])}."
        for row in numbers.itertuples()
        if row.verdict
    ]
    return "\n**What the papers found, and whether the method beats one λ here:**\n\n" + "\n".join(lines) + "\n"


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


def verdict(gain: Difference | None) -> str:
    if gain is None:
        return OPEN
    return HELD if gain.low > 0 else FAILED if gain.high < 0 else NOISE


def bracketed(value: float, low: float | None, high: float | None, form: str) -> str:
    between = "" if low is None or high is None else f" [{form.format(low)}, {form.format(high)}]"
    return (number(value, form) + between).replace("-", "−")


def skipped(skipping: dict) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One line for each method and share of searches that it leaves out."""
    tokens = np.array(skipping["tokens"])
    numbers, shown = [], []
    for method in skipping["methods"]:
        for point in method["points"]:
            low, high = bounds(np.array(point["nats"]), tokens)
            record = {"name": method["name"], "label": method["label"], "skipped": point["skipped"]}
            numbers.append(record | {"test": point["perplexity"], "test_low": low, "test_high": high})
            test = bracketed(point["perplexity"], low, high, "{:.2f}")
            shown.append({"Model": method["label"], "Searches left out": f"{point['skipped']:.1%}", "Test": test})
    return pd.DataFrame(numbers), pd.DataFrame(shown)


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


def overall(facts: Mapping) -> str:
    return str(facts.get("sentence", ""))


def draw_skipping(skipping: dict) -> figures.Drawn:
    """Perplexity against the share of searches left out, a line for each method."""
    figure, axes = plt.subplots(figsize=(1.6 * figures.COLUMN, 2.6))
    axes.set(xlabel="share of searches left out", ylabel="perplexity, test")
    for method, color in zip(skipping["methods"], COLORS * 2, strict=False):
        points = sorted((point["skipped"], point["perplexity"]) for point in method["points"])
        axes.plot(*zip(*points, strict=True), "o-", color=color, label=method["label"], clip_on=False)
    figure.legend(loc="outside right upper", fontsize=7, frameon=False)
    return figure, skipped(skipping)[0]


def draw_helped(diagnostics: list[dict]) -> figures.Drawn:
    """A panel for each diagnostic: the mean of each bin with its interval, or hollow where documents are too few."""
    columns = 2
    lines = -(-len(diagnostics) // columns)
    figure, panels = plt.subplots(lines, columns, figsize=(2.1 * figures.COLUMN, 1.9 * lines), squeeze=False)
    for axes, diagnostic in zip(panels.flat, diagnostics, strict=False):
        bins = diagnostic["bins"]
        axes.axhline(0, color=figures.INK, linewidth=0.6)
        for place, one in enumerate(bins):
            known = one["low"] is not None
            axes.plot(place, one["value"], "o", color=figures.BLUE, markerfacecolor=figures.BLUE if known else "none")
            if known:
                axes.plot([place, place], [one["low"], one["high"]], color=figures.BLUE, linewidth=1)
        axes.set_xticks(range(len(bins)), [one["label"] for one in bins], rotation=30, ha="right", fontsize=6)
        axes.set_title(diagnostic["title"], loc="left", fontsize=8)
        axes.set(xlabel=diagnostic["x"], ylabel=diagnostic["y"])
    for axes in list(panels.flat)[len(diagnostics) :]:
        axes.set_visible(False)
    return figure, diagnosed(diagnostics)[0]
