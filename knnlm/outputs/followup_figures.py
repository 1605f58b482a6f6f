"""The figures of what came after the paper."""

from collections.abc import Mapping

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from knnlm.outputs import figures, whiskers
from knnlm.outputs.followup_tables import BYTES, Trade, diagnosed, indexes
from knnlm.scores import stats

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222", "#999999")  # Okabe and Ito's


def draw_traded(numbers: pd.DataFrame, trade: Trade) -> figures.Drawn:
    """Perplexity against what is saved, a line for each method."""
    figure, axes = plt.subplots(figsize=(1.6 * figures.COLUMN, 2.6))
    axes.set(xlabel=trade.label, ylabel="perplexity, test", xscale=trade.scale)
    if trade is BYTES:
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size / 1e6:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    for (label, points), color in zip(numbers.groupby("label", sort=False), COLORS * 2, strict=False):
        points = points.sort_values(trade.key)
        axes.plot(points[trade.key], points["test"], "o-", color=color, label=label, **figures.WHOLE)
        whiskers.draw(axes, points[trade.key], differences(points, "test"), color)
    figure.legend(loc="outside right upper", fontsize=7, frameon=False)
    explain(figure, numbers, "the whole datastore" if trade is BYTES else "searching for every token")
    return figure, numbers


def draw_frontier(frontier: Mapping) -> figures.Drawn:
    """Perplexity against queries a second, a line for each index over the numbers of lists visited."""
    numbers, tokens = indexes(frontier)[0], f"perplexity, {frontier['queries']:,} tokens of dev"
    figure, axes = plt.subplots(figsize=(1.6 * figures.COLUMN, 2.6))
    axes.set(xlabel="queries a second, exact distances included", ylabel=tokens, xscale="log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:,g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    for (factory, points), color in zip(numbers.groupby("factory", sort=False), COLORS * 2, strict=False):
        label = f"{factory}, {points['bytes'].iloc[0]:.0f} bytes a key"
        axes.plot(points["with_exact"], points["perplexity_exact"], "o-", color=color, label=label, **figures.WHOLE)
        whiskers.draw(axes, points["with_exact"], differences(points, "perplexity_exact"), color)
    figure.legend(loc="outside right upper", fontsize=7, frameon=False)
    explain(figure, numbers, "exact search")
    return figure, numbers


def differences(points: pd.DataFrame, perplexity: str) -> list[whiskers.Ends]:
    """Each point's perplexity at both ends of the interval of its difference, which `gain` columns have."""
    return [
        whiskers.around(one[perplexity], one["gain"] - one["gain_high"], one["gain"] - one["gain_low"])
        for _, one in points.astype({name: float for name in ("gain", "gain_low", "gain_high")}).iterrows()
    ]


def explain(figure: Figure, numbers: pd.DataFrame, first: str) -> None:
    """Write below the figure what its whiskers are, or that there are none."""
    few = numbers["gain"].isna().all()
    text = f"too few documents for intervals (at least {stats.FEWEST})" if few else ""
    text = text or f"whiskers: 95% intervals of the difference from {first}, of the same documents"
    figure.supxlabel(text, **figures.CAPTION)


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
    numbers = diagnosed(diagnostics)[0]
    hollow = "; hollow: too few documents for one" * bool(numbers["low"].isna().any())
    figure.supxlabel(f"lines: 95% intervals over documents{hollow}", **figures.CAPTION)
    return figure, numbers
