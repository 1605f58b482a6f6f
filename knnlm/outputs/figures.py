"""Figures 2, 4, 5, 7 and 8 from a study's experiments, each with a table of the numbers that it shows.

The paper's values are hollow grey diamonds and dashed grey lines. Its perplexities are of another scale than ours, so
they are multiplied by the factor that makes the paper's base LM coincide with ours. Heights then show relative gains.
The factor stands below the figure, and the paper's own numbers beside it in the CSV file.
"""

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from knnlm.artifacts import files
from knnlm.outputs import tables, vectors, whiskers
from knnlm.outputs.whiskers import NONE, Ends
from knnlm.scores import experiments
from knnlm.scores.experiments import Study
from knnlm.scores.stats import FEWEST

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
CAPTION: dict[str, Any] = {"x": 0.02, "ha": "left", "fontsize": 6, "color": MUTED}
PAIRED, TUNED = "of the difference from the base LM", "of the λ that is best on dev"
WHOLE: dict[str, Any] = {"clip_on": False, "zorder": 3}  # a marker on an axis is not cut in half
HOLLOW: dict[str, Any] = {"color": MUTED, "markerfacecolor": "none", "markersize": 5, **WHOLE}
Drawn = tuple[Figure, pd.DataFrame]
End = tuple[float, str, str]  # height of a line's right end, label, color


class Point(NamedTuple):
    """A line of a figure's CSV file: a point of ours, or the paper's own number, drawn `factor` times as high."""

    series: str
    x: Any
    dev: float
    ends: Ends = NONE
    factor: float = 1.0


def figure2(study: Study, paper: Mapping) -> dict[str, Drawn]:
    """Figure 2: perplexity (a) and tuned λ (b) against the number of entries in the datastore.

    A study of one LM has no level line of a larger one.
    """
    return {"figure2a": figure2a(study, paper), "figure2b": figure2b(study)}


def figure2a(study: Study, paper: Mapping) -> Drawn:
    """Perplexity against entries, from the LM alone on; the paper's whole datastore is drawn where ours is whole."""
    entries, rows = zip(*experiments.sizes(study), strict=True)
    small, large = study.perplexity("figure2", "base-small"), None
    if "base-large" in study.rows("figure2"):
        large = study.perplexity("figure2", "base-large")
    printed = {name: row["dev"] for name, row in paper["rows"].items()}
    measured, factor = [row["dev"]["perplexity"] for row in rows], small / printed["base-small"]
    between = [whiskers.paired(study, "figure2", row["name"], "base-small") for row in rows]
    figure, axes = panel("entries in the datastore", "perplexity, dev", entries)
    axes.plot((0, *entries), (small, *measured), "o-", color=BLUE, **WHOLE)
    whiskers.draw(axes, entries, between, BLUE)
    ends = [(measured[-1], "LM + kNN" if large is None else "small LM + kNN", BLUE)]
    ends.append(muted(axes, "kNN", printed["knn"] * factor, entries[-1]))
    points = [Point("base-small", 0, small)]
    if large is not None:
        level = whiskers.paired(study, "figure2", "base-large", "base-small")
        axes.axhline(large, color=VERMILION)
        whiskers.band(axes, level, VERMILION)
        ends += [(large, "large LM", VERMILION), muted(axes, "large LM", printed["base-large"] * factor)]
        points.append(Point("base-large", 0, large, level))
    margin(figure, ends)
    caption(figure, study.rows("figure2").values(), factor, "of the difference from the small LM" if large else PAIRED)
    points += [Point("knn", *point) for point in zip(entries, measured, between, strict=True)]
    at = {"knn": paper["entries"]}
    points += [Point(f"paper-{name}", at.get(name, 0), dev, NONE, factor) for name, dev in printed.items()]
    return figure, table("entries", points)


def figure2b(study: Study) -> Drawn:
    """The tuned λ against entries."""
    entries, rows = zip(*experiments.sizes(study), strict=True)
    weights, ends = [median(row["lmbda"]["knn"]) for row in rows], [whiskers.of_weight(row) for row in rows]
    figure, axes = panel("entries in the datastore", "λ tuned on dev", entries)
    axes.plot(entries, weights, "o-", color=BLUE, **WHOLE)
    whiskers.draw(axes, entries, ends, BLUE)
    axes.set_ylim(0, max(1.1 * max(*weights, *np.nan_to_num(ends).flat), 0.1))
    caption(figure, rows, None, TUNED)
    low, high = zip(*ends, strict=True)
    return figure, pd.DataFrame({"entries": entries, "lmbda": weights, "lmbda_low": low, "lmbda_high": high})


def figure4(study: Study, paper: Mapping) -> dict[str, Drawn]:
    """Figure 4: perplexity against the number of neighbors, on a logarithmic axis."""
    ks, measured = zip(*experiments.neighbors(study), strict=True)
    base, printed = study.perplexity("figure4", "base"), paper["rows"]
    factor, between = base / printed["base"]["dev"], [whiskers.paired(study, "figure4", f"k{k}", "base") for k in ks]
    figure, axes = panel("k, neighbors for each query", "perplexity, dev")
    axes.set_xscale("log", base=2)
    axes.plot(ks, measured, "o-", color=BLUE, **WHOLE)
    whiskers.draw(axes, ks, between, BLUE)
    axes.axhline(base, color=INK)
    paper_end = muted(axes, "kNN-LM", printed["k1024"]["dev"] * factor, 1024)
    margin(figure, [(measured[-1], "kNN-LM", BLUE), (base, "base LM", INK), paper_end])
    axes.set_xticks(sorted({*ks, 1024}))
    axes.tick_params(axis="x", rotation=45)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda k, _: f"{k:.0f}"))
    caption(figure, study.rows("figure4").values(), factor)
    points = [Point("base", 0, base), *(Point("knn", *point) for point in zip(ks, measured, between, strict=True))]
    for k, name in ((0, "base"), (1024, "k1024")):
        points.append(Point(f"paper-{'knn' if k else name}", k, printed[name]["dev"], NONE, factor))
    return {"figure4": (figure, table("k", points))}


def figure5(study: Study, paper: Mapping) -> dict[str, Drawn]:
    """Figure 5: perplexity against λ, in domain above and out of domain below, each on its own axis.

    The curve is that of the row's first seed, with the λ tuned for it. A study of one corpus has the first panel only.
    """
    shown = [name for name in ("in-domain", "out-of-domain") if name in ("in-domain", *study.rows("figure5"))]
    figure, axes_of = plt.subplots(len(shown), 1, figsize=(COLUMN, 1.8 * len(shown)), sharex=True, squeeze=False)
    panels, points = axes_of[:, 0], list[Point]()
    for axes, name, color in zip(panels, shown, (BLUE, VERMILION), strict=False):
        row, printed = study.row("figure5", name), paper["rows"][name]
        curve = [
            (x, y)
            for x, y in zip(row["curve"]["lmbda"], row["curve"]["dev"], strict=True)
            if y is not None and math.isfinite(y)
        ]
        (_, base), tuned = curve[0], (row["lmbda"]["knn"][0], row["dev"]["per_seed"][0])
        # λ was resampled for the seed in the middle, whose curve this need not be
        ends = whiskers.of_weight(row) if row["best_seed"] == row["seeds"][0] else NONE
        factor = base / printed["base"]
        axes.plot(*zip(*curve, strict=True), color=color)
        axes.plot(*tuned, "o", color=color, **WHOLE)
        whiskers.band(axes, ends, color, upright=True)
        scaled, _, _ = muted(axes, "", printed["dev"] * factor, printed["lmbda"])
        gain = max(base - min(tuned[1], scaled), 0.01 * base)
        axes.set_ylim(base - 1.5 * gain, base + 0.7 * gain)
        axes.set_title(f"{name.replace('-', ' ')}, λ {tuned[0]:.2g}", loc="left", fontsize=8, color=color)
        axes.set_title(f"◇ paper × {factor:.3g}, λ {printed['lmbda']:g}", loc="right", fontsize=7, color=MUTED)
        axes.set_ylabel("perplexity, dev")
        points += [Point(name, *point) for point in curve] + [Point(f"{name}-tuned", *tuned, ends)]
        of_paper = ((0, printed["base"]), (printed["lmbda"], printed["dev"]))
        points += [Point(f"paper-{name}", *point, NONE, factor) for point in of_paper]
    panels[-1].set(xlabel="λ, weight of kNN", xlim=(-0.02, 1.02))
    caption(figure, [study.row("figure5", name) for name in shown], None, TUNED)
    return {"figure5": (figure, table("lmbda", points, "lmbda"))}


def figure7(study: Study, paper: Mapping) -> dict[str, Drawn]:
    """Figure 7: perplexity of the LM mixed with n-gram LMs, against their order."""
    between = {name: whiskers.paired(study, "figure7", name, "base") for name in study.rows("figure7")}
    ngrams = [
        Point("n-gram", row["ngram"], row["dev"]["perplexity"], between[name])
        for name, row in study.rows("figure7").items()
        if row["ngram"]
    ]
    orders = sorted(point for point in ngrams if point.x != "infinite")
    infinite = [point for point in ngrams if point.x == "infinite"]
    if not orders:
        raise experiments.Missing("figure7 has no n-gram order")
    base, knn = (study.perplexity("figure7", name) for name in ("base", "knn"))
    printed = {name: row["dev"] for name, row in paper["rows"].items()}
    factor = base / printed["base"]
    figure, axes = panel("n, order of the n-gram LM", "perplexity, dev")
    places = [point.x for point in orders]
    axes.plot(places, [point.dev for point in orders], "o-", color=VERMILION, **WHOLE)
    whiskers.draw(axes, places, [point.ends for point in orders], VERMILION)
    axes.axhline(base, color=INK)
    axes.axhline(knn, color=BLUE)
    whiskers.band(axes, between["knn"], BLUE)
    ends = [(orders[-1].dev, "LM + n-gram", VERMILION), (base, "base LM", INK), (knn, "kNN-LM", BLUE)]
    for point in infinite:
        axes.axhline(point.dev, color=VERMILION, linestyle=":")
        whiskers.band(axes, point.ends, VERMILION)
        ends.append((point.dev, "LM + ∞-gram", VERMILION))
    margin(figure, [*ends, muted(axes, "kNN-LM", printed["knn"] * factor)])
    axes.set_xticks(places)
    caption(figure, study.rows("figure7").values(), factor)
    points = [Point("base", None, base), Point("knn", None, knn, between["knn"]), *orders, *infinite]
    points += [Point(f"paper-{name}", None, printed[name], NONE, factor) for name in ("base", "knn")]
    return {"figure7": (figure, table("order", points))}


def figure8(study: Study, paper: Mapping) -> dict[str, Drawn]:
    """Figure 8: training loss against epochs of the base LM and of one that memorizes; dev loss is dotted."""
    if len(study.curves) != 2:
        raise experiments.Missing(f"found {len(study.curves)} learning curves, expected 2")
    figure, axes = panel("epoch", "loss, nats a token")
    printed = paper["rows"]["without-dropout"]["train_loss"]
    numbers: list[tuple] = []
    ends: list[End] = [(printed, "paper, train", MUTED)]
    for name, curve, color in zip(("base LM", "memorizing LM"), study.curves.values(), (BLUE, VERMILION), strict=True):
        for split, line in (("train", "-"), ("dev", ":")):
            points = [(point["epoch"], point[f"{split}_loss"]) for point in curve if point[f"{split}_loss"] is not None]
            if points:
                axes.plot(*zip(*points, strict=True), line, color=color)
                ends.append((points[-1][1], f"{name}, {split}", color))
            numbers += [(name, split, *point) for point in points]
    sizes = [round(curve[-1]["tokens"] / curve[-1]["epoch"]) for curve in study.curves.values()]
    if sizes[1] < sizes[0]:
        figure.supxlabel(f"memorizing LM: trained on the first {sizes[1]:,} tokens only", **CAPTION)
    longest = [curve[-1]["epoch"] for curve in study.curves.values()]
    if max(longest) > 5 * min(longest):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.axhline(printed, color=MUTED, linewidth=0.8, linestyle="--")
    margin(figure, ends)
    numbers.append(("paper", "train", None, printed))
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


def muted(axes: Axes, name: str, height: float, x: float | None = None) -> End:
    """Draw the paper's value, scaled to `height`: a diamond at `x` or else a level line. Returns its label."""
    if x is None:
        axes.axhline(height, color=MUTED, linewidth=0.8, linestyle="--")
    else:
        axes.plot(x, height, "D", **HOLLOW)
    return height, f"paper, {name}", MUTED


def caption(figure: Figure, rows: Iterable[dict], factor: float | None, intervals: str = PAIRED) -> None:
    """Write below the figure what is drawn of the paper and as intervals, and what the numbers of `rows` are of.

    Without a `factor` nothing is said of the paper: each panel says it.
    """
    rows, lines = list(rows), list[str]()
    drawn = [line for axes in figure.axes for line in axes.lines if line.get_color() == MUTED]
    marks = ["◇"] * any(line.get_marker() == "D" for line in drawn)
    marks += ["- -"] * any(line.get_linestyle() == "--" for line in drawn)
    if factor and marks:
        lines.append(f"{' '.join(marks)}  the paper × {factor:.3g}, so that its base LM coincides with ours")
    found = ["whiskers"] * any(len(axes.collections) for axes in figure.axes)
    found += ["bands"] * any(len(axes.patches) for axes in figure.axes)
    if found:
        lines.append(f"{', '.join(found)}: 95% intervals {intervals}")
    if any(row["dev"].get("documents", FEWEST) < FEWEST for row in rows):
        lines.append(f"no interval where dev has fewer than {FEWEST} documents")
    if of := experiments.of_what(rows):
        lines.append(of)
    figure.supxlabel("\n".join(lines), **CAPTION)


def table(x: str, points: list[Point], bounded: str = "dev") -> pd.DataFrame:
    """The numbers of a figure: series, x, perplexity on dev, the interval of `bounded`, and the factor drawn."""
    columns = ["series", x, "dev", f"{bounded}_low", f"{bounded}_high", "factor"]
    return pd.DataFrame([(*point[:3], *point.ends, point.factor) for point in points], columns=columns)


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
    """Write OUT.pdf, .png, .svg and .csv. Dates and versions are left out: each run gives the same bytes."""
    for suffix, metadata in (
        ("pdf", {"CreationDate": None, "Creator": None, "Producer": None}),
        ("png", {"Software": None}),
    ):
        with files.atomic(out.with_suffix(f".{suffix}")) as tmp:
            figure.savefig(tmp, format=suffix, metadata=metadata)
    files.write_text(out.with_suffix(".svg"), vectors.drawn(figure, numbers))
    plt.close(figure)
    files.write_text(out.with_suffix(".csv"), tables.csv(numbers))


FIGURES: dict[str, Callable[[Study, Mapping], dict[str, Drawn]]] = {
    "figure2": figure2,
    "figure4": figure4,
    "figure5": figure5,
    "figure7": figure7,
    "figure8": figure8,
}
