"""Figures 2, 4, 5, 7 and 8 from a study's experiments, each with a table of the numbers that it shows.

The paper's values are hollow grey diamonds and dashed grey lines. Its perplexities are of another scale than ours, so
they are multiplied by the factor that makes the paper's base LM coincide with ours. Heights then show relative gains.
"""

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from knnlm.artifacts import files
from knnlm.outputs import tables
from knnlm.scores import experiments
from knnlm.scores.experiments import Study

BLUE, VERMILION, INK, MUTED = (
    "#0072B2",
    "#D55E00",
    "#222222",
    "#767676",
)  # of Okabe and Ito's palette: different also in grey and to the color-blind
COLUMN = 3.3  # inches: one column of a two-column page
STYLE: dict[str, Any] = {
    "figure.dpi": 100,
    "savefig.dpi": 300,
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "text.parse_math": False,  # a dollar sign in the corpus is no formula
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "pdf.fonttype": 42,
    "svg.hashsalt": "knnlm",
    "figure.constrained_layout.use": True,
}
SCALED = "the paper, scaled so that its base LM and ours coincide"
WHOLE: dict[str, Any] = {"clip_on": False, "zorder": 3}  # a marker on an axis is not cut in half
HOLLOW: dict[str, Any] = {"color": MUTED, "markerfacecolor": "none", "markersize": 5, **WHOLE}
Drawn = tuple[Figure, pd.DataFrame]
End = tuple[float, str, str]  # height of a line's right end, label, color


def figure2(study: Study, paper: Mapping) -> dict[str, Drawn]:
    """Figure 2: perplexity (a) and tuned λ (b) against the number of entries in the datastore.

    A study of one LM has no level line of a larger one.
    """
    entries, rows = zip(*experiments.sizes(study), strict=True)
    small, large = study.perplexity("figure2", "base-small"), None
    if "base-large" in study.rows("figure2"):
        large = study.perplexity("figure2", "base-large")
    measured, weights = [row["dev"]["perplexity"] for row in rows], [median(row["lmbda"]["knn"]) for row in rows]
    printed = {name: row["dev"] for name, row in paper["rows"].items()}
    scale = small / printed["base-small"]
    figure, axes = panel("entries in the datastore", "perplexity, dev", entries)
    axes.plot((0, *entries), (small, *measured), "o-", color=BLUE, **WHOLE)
    ends = [
        (measured[-1], "LM + kNN" if large is None else "small LM + kNN", BLUE),
        muted(axes, "kNN", printed["knn"], scale, entries[-1]),
    ]
    if large is not None:
        axes.axhline(large, color=VERMILION)
        ends += [(large, "large LM", VERMILION), muted(axes, "large LM", printed["base-large"], scale)]
    margin(figure, ends)
    second, right = panel("entries in the datastore", "λ tuned on dev", entries)
    right.plot(entries, weights, "o-", color=BLUE, **WHOLE)
    right.set_ylim(0, max(1.15 * max(weights), 0.1))
    numbers = [
        ("base-small", 0, small),
        *([] if large is None else [("base-large", 0, large)]),
        *(("knn", *at) for at in zip(entries, measured, strict=True)),
    ]
    return {
        "figure2a": (figure, pd.DataFrame(numbers, columns=["series", "entries", "dev"])),
        "figure2b": (second, pd.DataFrame({"entries": entries, "lmbda": weights})),
    }


def figure4(study: Study, paper: Mapping) -> dict[str, Drawn]:
    """Figure 4: perplexity against the number of neighbors, on a logarithmic axis."""
    ks, measured = zip(*experiments.neighbors(study), strict=True)
    base, printed = study.perplexity("figure4", "base"), paper["rows"]
    figure, axes = panel("k, neighbors for each query", "perplexity, dev")
    axes.set_xscale("log", base=2)
    axes.plot(ks, measured, "o-", color=BLUE, **WHOLE)
    axes.axhline(base, color=INK)
    paper_end = muted(axes, "", printed["k1024"]["dev"], base / printed["base"]["dev"], 1024)
    margin(figure, [(measured[-1], "kNN-LM", BLUE), (base, "base LM", INK), paper_end])
    axes.set_xticks(sorted({*ks, 1024}))
    axes.tick_params(axis="x", rotation=45)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda k, _: f"{k:.0f}"))
    return {"figure4": (figure, pd.DataFrame({"k": (0, *ks), "dev": (base, *measured)}))}


def figure5(study: Study, paper: Mapping) -> dict[str, Drawn]:
    """Figure 5: perplexity against λ, in domain above and out of domain below, each on its own axis.

    A study of one corpus has the first panel only.
    """
    shown = [name for name in ("in-domain", "out-of-domain") if name in ("in-domain", *study.rows("figure5"))]
    figure, axes_of = plt.subplots(len(shown), 1, figsize=(COLUMN, 1.8 * len(shown)), sharex=True, squeeze=False)
    panels = axes_of[:, 0]
    numbers = []
    for axes, name, color in zip(panels, shown, (BLUE, VERMILION), strict=False):
        curve, printed = study.row("figure5", name)["curve"], paper["rows"][name]
        points = [
            (x, y) for x, y in zip(curve["lmbda"], curve["dev"], strict=True) if y is not None and math.isfinite(y)
        ]
        (_, base), best = points[0], min(points, key=lambda point: point[1])
        axes.plot(*zip(*points, strict=True), color=color)
        axes.plot(*best, "o", color=color, **WHOLE)
        scaled, _, _ = muted(axes, "", printed["dev"], base / printed["base"], printed["lmbda"])
        gain = max(base - min(best[1], scaled), 0.01 * base)
        axes.set_ylim(base - 1.5 * gain, base + 0.7 * gain)
        axes.set_title(f"{name.replace('-', ' ')}, best λ {best[0]:g}", loc="left", fontsize=8, color=color)
        axes.set_title(f"◇ paper {printed['lmbda']:g}", loc="right", fontsize=7, color=MUTED)
        axes.set_ylabel("perplexity, dev")
        numbers += [(name, *point) for point in points]
    panels[-1].set(xlabel="λ, weight of kNN", xlim=(-0.02, 1.02))
    return {"figure5": (figure, pd.DataFrame(numbers, columns=["series", "lmbda", "dev"]))}


def figure7(study: Study, paper: Mapping) -> dict[str, Drawn]:
    """Figure 7: perplexity of the LM mixed with n-gram LMs, against their order."""
    ngrams = [(row["ngram"], row["dev"]["perplexity"]) for row in study.rows("figure7").values() if row["ngram"]]
    orders = sorted(point for point in ngrams if point[0] != "infinite")
    infinite = [point for point in ngrams if point[0] == "infinite"]
    if not orders:
        raise experiments.Missing("figure7 has no n-gram order")
    base, knn = (study.perplexity("figure7", name) for name in ("base", "knn"))
    printed = {name: row["dev"] for name, row in paper["rows"].items()}
    figure, axes = panel("n, order of the n-gram LM", "perplexity, dev")
    axes.plot(*zip(*orders, strict=True), "o-", color=VERMILION, **WHOLE)
    axes.axhline(base, color=INK)
    axes.axhline(knn, color=BLUE)
    ends = [(orders[-1][1], "LM + n-gram", VERMILION), (base, "base LM", INK), (knn, "kNN-LM", BLUE)]
    for _, dev in infinite:
        axes.axhline(dev, color=VERMILION, linestyle=":")
        ends.append((dev, "LM + ∞-gram", VERMILION))
    margin(figure, [*ends, muted(axes, "kNN-LM", printed["knn"], base / printed["base"])])
    axes.set_xticks([n for n, _ in orders])
    numbers = [("base", None, base), ("knn", None, knn), *(("n-gram", n, dev) for n, dev in [*orders, *infinite])]
    return {"figure7": (figure, pd.DataFrame(numbers, columns=["series", "order", "dev"]))}


def figure8(study: Study, paper: Mapping) -> dict[str, Drawn]:
    """Figure 8: training loss against epochs of the base LM and of one that memorizes; dev loss is dotted."""
    if len(study.curves) != 2:
        raise experiments.Missing(f"found {len(study.curves)} learning curves, expected 2")
    figure, axes = panel("epoch", "loss, nats a token")
    numbers: list[tuple] = []
    ends: list[End] = [(0, "paper → 0", MUTED)]
    for name, curve, color in zip(("base LM", "memorizing LM"), study.curves.values(), (BLUE, VERMILION), strict=True):
        for split, line in (("train", "-"), ("dev", ":")):
            points = [(point["epoch"], point[f"{split}_loss"]) for point in curve if point[f"{split}_loss"] is not None]
            if points:
                axes.plot(*zip(*points, strict=True), line, color=color)
                ends.append((points[-1][1], f"{name}, {split}", color))
            numbers += [(name, split, *point) for point in points]
    sizes = [round(curve[-1]["tokens"] / curve[-1]["epoch"]) for curve in study.curves.values()]
    if sizes[1] < sizes[0]:
        figure.supxlabel(f"memorizing LM: trained on the first {sizes[1]:,} tokens only", fontsize=6, color=MUTED)
    longest = [curve[-1]["epoch"] for curve in study.curves.values()]
    if max(longest) > 5 * min(longest):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.axhline(paper["rows"]["without-dropout"]["train_loss"], color=MUTED, linewidth=0.8, linestyle="--")
    margin(figure, ends)
    return {"figure8": (figure, pd.DataFrame(numbers, columns=["series", "split", "epoch", "loss"]))}


def panel(x: str, y: str, entries: tuple[int, ...] = ()) -> tuple[Figure, Axes]:
    """A figure of one column with one pair of axes.

    With `entries`, x is an axis of counts, in thousands, millions or billions.
    """
    figure, axes = plt.subplots(figsize=(COLUMN, 2.3))
    axes.set(xlabel=x, ylabel=y)
    if entries:
        power = 3 * int(math.log10(max(entries)) // 3)
        axes.set_xlabel(x + {0: "", 3: ", thousands", 6: ", millions", 9: ", billions"}[min(power, 9)])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n / 10 ** min(power, 9):g}"))
        axes.set_xlim(0, 1.04 * max(entries))
    return figure, axes


def muted(axes: Axes, name: str, value: float, scale: float, x: float | None = None) -> End:
    """Draw the paper's value, scaled: a diamond at `x` or else a level line. Returns its label for `margin`.

    Below the figure stands what its diamonds and level lines are, those that it has.
    """
    if x is None:
        axes.axhline(value * scale, color=MUTED, linewidth=0.8, linestyle="--")
    else:
        axes.plot(x, value * scale, "D", **HOLLOW)
    figure = axes.get_figure(root=True)
    lines = [line for one in figure.axes for line in one.lines if line.get_color() == MUTED]
    marks = ["◇"] * any(line.get_marker() == "D" for line in lines)
    marks += ["- -"] * any(line.get_linestyle() == "--" for line in lines)
    figure.supxlabel(f"{' '.join(marks)}  {SCALED}", fontsize=6, color=MUTED)
    return value * scale, f"paper{', ' + name if name else ''} {value:.2f}", MUTED


def margin(figure: Figure, ends: list[End]) -> None:
    """Label each line in the right margin at its height; labels that would overlap are moved apart."""
    (axes,) = figure.axes
    figure.draw_without_rendering()
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    gap = 9 / 72 * (high - low) / (axes.get_window_extent().height / figure.dpi)
    ordered = sorted(ends, key=lambda end: end[0])
    heights = [height for height, _, _ in ordered]
    for _ in range(100):
        for i in range(len(heights) - 1):
            if (short := gap - (heights[i + 1] - heights[i])) > 0:
                heights[i], heights[i + 1] = heights[i] - short / 2, heights[i + 1] + short / 2
    for (_, text, color), height in zip(ordered, heights, strict=True):
        axes.text(1.02, height, text, color=color, fontsize=7, va="center", transform=axes.get_yaxis_transform())


def prepare() -> None:
    """To be called once, before anything is drawn: no window, our style, no messages about fonts."""
    logging.getLogger("fontTools").setLevel(logging.WARNING)
    matplotlib.use("Agg")
    plt.style.use(STYLE)


def save(figure: Figure, numbers: pd.DataFrame, out: Path) -> None:
    """Write OUT.pdf, OUT.png and OUT.csv. Dates and versions are left out: each run gives the same bytes."""
    for suffix, metadata in (
        ("pdf", {"CreationDate": None, "Creator": None, "Producer": None}),
        ("png", {"Software": None}),
    ):
        with files.atomic(out.with_suffix(f".{suffix}")) as tmp:
            figure.savefig(tmp, format=suffix, metadata=metadata)
    plt.close(figure)
    files.write_text(out.with_suffix(".csv"), tables.csv(numbers))


FIGURES: dict[str, Callable[[Study, Mapping], dict[str, Drawn]]] = {
    "figure2": figure2,
    "figure4": figure4,
    "figure5": figure5,
    "figure7": figure7,
    "figure8": figure8,
}
