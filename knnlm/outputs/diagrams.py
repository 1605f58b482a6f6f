"""Figures 1 and 3: how the kNN-LM predicts one word of the study, and where in a layer the key types are taken."""

import re
from collections.abc import Callable

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from knnlm.outputs.claims import KEYTYPES
from knnlm.outputs.figures import BLUE, COLUMN, INK, MUTED, VERMILION, Drawn
from knnlm.outputs.markdown import powers

PAGE = 7.0  # inches: both columns of a page
WORDS = 4  # of each distribution in Figure 1
CONTEXT = 44  # characters of a context shown
LEFT, TARGETS = 0.335, 0.35  # right edge of the contexts in Figure 1, left edge of their targets
HEADINGS = {  # of Figure 1: x, y and alignment
    "training contexts": (LEFT, 0.96, "right"),
    "targets": (TARGETS, 0.96, "left"),
    "distance": (0.485, 0.96, "right"),
    "softmax(−d)": (0.505, 0.96, "left"),
    "p kNN": (0.62, 0.96, "left"),
    "p LM": (0.62, 0.45, "left"),
    "mixture": (0.855, 0.96, "left"),
}
DISTRIBUTIONS = {"knn": (0.62, 0.87), "lm": (0.62, 0.36), "mixture": (0.855, 0.62)}  # x, y of the first word
BOXES = (("layer norm", 0.19), ("self-attention", 0.30), ("layer norm", 0.55), ("feed-forward", 0.66))  # of Figure 3
TAPS = dict(zip(KEYTYPES, (0.06, 0.245, 0.43, 0.605, 0.81, 0.95), strict=True))  # of Figure 3: height


def figure1(query: dict) -> dict[str, Drawn]:
    """Figure 1 for a query that `illustrate` worked out: neighbors, distances, softmax, p_kNN and the mixture."""
    figure, axes = canvas(PAGE, 2.75)
    for heading, (x, y, align) in HEADINGS.items():
        axes.text(x, y, heading, ha=align, color=MUTED, fontsize=7)
    heights = [0.87 - 0.09 * i for i in range(len(query["neighbors"]))]
    for y, neighbor in zip(heights, query["neighbors"], strict=True):
        draw_neighbor(axes, y, neighbor, readable(neighbor["target"]) == readable(query["target"]))
    draw_test_context(axes, query)
    for name, (x, top) in DISTRIBUTIONS.items():
        draw_distribution(axes, x, top, query, name)
    draw_flow(axes, query, heights[-1])
    parts = {"neighbor": query["neighbors"], "word": query["words"]}
    rows = [{"part": part, **facts} for part, records in parts.items() for facts in records]
    return {"figure1": (figure, pd.DataFrame(rows))}


def draw_neighbor(axes: Axes, y: float, neighbor: dict, hit: bool) -> None:
    """One line: a training context, its target, its distance and its weight; in blue if the target is right."""
    axes.text(LEFT, y, ending(neighbor["context"]), ha="right", fontsize=7)
    axes.text(TARGETS, y, short(readable(neighbor["target"])), color=BLUE if hit else INK, weight="bold", fontsize=7)
    axes.text(0.485, y, significant(neighbor["distance"], 3), ha="right", fontsize=7)
    bar(axes, 0.505, y, neighbor["weight"], BLUE if hit else MUTED)


def draw_test_context(axes: Axes, query: dict) -> None:
    """The context whose next word is asked for, and below it the word that came."""
    axes.text(LEFT, 0.12, ending(query["context"]), ha="right", fontsize=7)
    axes.text(LEFT, 0.21, "test context", ha="right", color=MUTED, fontsize=7)
    axes.text(TARGETS, 0.12, "?", weight="bold", fontsize=8)
    axes.text(TARGETS, 0.035, f"was: {short(readable(query['target']))}", color=BLUE, fontsize=6.5)


def draw_distribution(axes: Axes, x: float, top: float, query: dict, name: str) -> None:
    """The likeliest next words by `name` (knn, lm or mixture) with their probabilities, from `top` downwards."""
    for i, word in enumerate(likeliest(query, name)):
        y, color = top - 0.085 * i, BLUE if word["word"] == query["target"] else MUTED
        axes.text(x, y, short(readable(word["word"]), 9), fontsize=7, color=INK)
        bar(axes, x + 0.085, y, word[name], color, 0.035)


def likeliest(query: dict, name: str) -> list[dict]:
    """The words that `name` gives the largest probabilities; the target is the last of them if it is less likely."""
    ordered = sorted(query["words"], key=lambda word: -word[name])
    shown = [word for word in ordered[:WORDS] if word[name] > 0 or word["word"] == query["target"]]
    if all(word["word"] != query["target"] for word in shown):
        shown[WORDS - 1 :] = [word for word in ordered if word["word"] == query["target"]]
    return shown


def draw_flow(axes: Axes, query: dict, lowest: float) -> None:
    """Arrows from the test context to its neighbors (the lowest at that height) and on to the mixture; k and λ."""
    arrow(axes, (0.575, 0.74), (0.61, 0.74))
    arrow(axes, (0.775, 0.74), (0.845, 0.58))
    arrow(axes, (0.775, 0.24), (0.845, 0.38))
    arrow(axes, (0.38, 0.14), (0.61, 0.24))
    arrow(axes, (0.30, 0.27), (0.30, lowest - 0.04))
    axes.text(0.29, 0.34, f"k = {query['k']} nearest by squared L2", ha="right", color=MUTED, fontsize=6.5)
    axes.text(0.80, 0.72, f"λ = {significant(query['lmbda'], 2)}", color=INK, fontsize=6.5)
    axes.text(0.815, 0.245, "1 − λ", color=INK, fontsize=6.5)


def figure3(_: dict) -> dict[str, Drawn]:
    """Figure 3: one pre-norm layer, its input at the bottom, with each key type by its name in the code."""
    figure, axes = canvas(COLUMN, 3.7)
    draw_layer(axes, 0.36)
    for name, y in TAPS.items():
        best = name == "ffn_input_ln"
        color = VERMILION if best else BLUE
        axes.plot(0.36, y, "o", color=color, markersize=4.5)
        axes.plot((0.36, 0.61), (y, y), color=color, linewidth=0.8, linestyle=":")
        axes.text(0.63, y, name, va="center", color=color, fontsize=7.5, weight="bold" if best else "normal")
    axes.text(0.63, TAPS["ffn_input_ln"] - 0.045, "the paper's key", color=MUTED, fontsize=6.5)
    axes.text(0.39, 0.0, "from the layer below", color=MUTED, fontsize=6.5)
    return {"figure3": (figure, pd.DataFrame({"keytype": list(TAPS), "height": list(TAPS.values())}))}


def draw_layer(axes: Axes, middle: float) -> None:
    """The blocks of the layer, one above the other at x = `middle`, and its two residual connections."""
    axes.plot((middle, middle), (0.02, 0.98), color=INK, linewidth=1, zorder=0)
    for text, y in BOXES:
        axes.add_patch(box(middle, y, 0.36, 0.065))
        axes.text(middle, y, text, ha="center", va="center", fontsize=7)
    for low, high in ((0.115, 0.385), (0.475, 0.745)):
        axes.plot((middle, 0.10, 0.10, middle - 0.02), (low, low, high, high), color=INK, linewidth=1)
        axes.plot(middle, high, "o", markersize=9, markerfacecolor="white", markeredgecolor=INK, markeredgewidth=0.8)
        axes.text(middle, high - 0.003, "+", ha="center", va="center", fontsize=8)
    axes.add_patch(box(middle, 0.88, 0.36, 0.065, "--"))
    axes.text(middle, 0.88, "layer norm, no scale", ha="center", va="center", fontsize=6.5, color=MUTED)


def canvas(width: float, height: float) -> tuple[plt.Figure, Axes]:
    """A figure of that size in inches and empty axes from 0 to 1 in both directions."""
    figure, axes = plt.subplots(figsize=(width, height))
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.axis("off")
    return figure, axes


def bar(axes: Axes, x: float, y: float, value: float, color: str, width: float = 0.05) -> None:
    """A horizontal bar that shows a probability, with its number; `width` is the length of probability 1."""
    axes.barh(y + 0.018, width * value, 0.05, left=x, color=color)
    axes.text(x + width * value + 0.006, y, significant(value, 2), fontsize=6.5)


def box(x: float, y: float, width: float, height: float, line: str = "-") -> FancyBboxPatch:
    """A rounded box around the point (x, y)."""
    corner = (x - width / 2, y - height / 2)
    style = {"facecolor": "white", "edgecolor": INK, "linewidth": 0.8, "linestyle": line}
    return FancyBboxPatch(corner, width, height, boxstyle="round,pad=0,rounding_size=0.012", **style)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """An arrow between two points."""
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=7, color=MUTED, linewidth=0.8))


def ending(text: str) -> str:
    """The last words of a context that fit, after an ellipsis if there were more."""
    words, kept = text.split(), ""
    while words and len(words[-1]) + len(kept) < CONTEXT:
        kept = f"{words.pop()} {kept}"
    return ("… " if words else "") + kept.strip()


def readable(token: str) -> str:
    """A token without the sign of a space before it, and WikiText's @-@ as the hyphen that it stands for."""
    return re.sub(r"^@(.)@$", r"\1", token.lstrip("▁")) or token


def significant(value: float, digits: int) -> str:
    """A number with so many significant digits, in scientific notation below a thousandth."""
    if value == 0 or value >= 10 ** (digits - 1):
        return f"{value:.0f}"
    return powers(value, digits - 1) if value < 0.001 else f"{value:#.{digits}g}".rstrip(".")


def short(text: str, length: int = 13) -> str:
    """At most `length` characters, the last an ellipsis if `text` is longer."""
    return text if len(text) <= length else text[: length - 1] + "…"


DIAGRAMS: dict[str, Callable[[dict], dict[str, Drawn]]] = {"figure1": figure1, "figure3": figure3}
