"""Intervals in figures: whiskers at points and bands along level lines, each 95% from documents drawn with replacement.

Where a figure shows a gain, its intervals are those of the difference from the base LM, of the same documents. The
interval of a perplexity alone says how documents differ, and would hide that kNN helps in nearly all of them.
"""

import math
from collections.abc import Iterable

import numpy as np
from matplotlib.axes import Axes

from knnlm.scores.experiments import Missing, Study
from knnlm.scores.stats import FEWEST

Ends = tuple[float, float]
NONE: Ends = (math.nan, math.nan)


def paired(study: Study, output: str, name: str, base: str) -> Ends:
    """The perplexity of row `name` on dev at both ends of the interval of its difference from row `base`.

    Not numbers where there is no interval: too few documents, or an experiment without log-likelihoods of documents.
    """
    measured = study.row(output, name)["dev"]
    try:
        gain = study.difference(output, {name: 1, base: -1})
    except Missing:
        return NONE
    # Perplexities of a study whose tokenizers differ are per word: differences are of so many nats a word.
    share = float(np.mean(np.log(measured["per_seed"]))) * measured["tokens"] / sum(measured["nats"])
    return around(measured["perplexity"], (gain.value - gain.high) * share, (gain.value - gain.low) * share)


def around(perplexity: float, low: float, high: float) -> Ends:
    """A perplexity that many nats lower and higher."""
    return perplexity * math.exp(low), perplexity * math.exp(high)


def of_weight(row: dict) -> Ends:
    """The interval of a tuned λ: it was tuned again on each resample of the documents of dev."""
    if row["dev"]["documents"] < FEWEST or not row.get("lmbda_resampled"):
        return NONE
    low, high = np.quantile(row["lmbda_resampled"], [0.025, 0.975])
    return float(low), float(high)


def draw(axes: Axes, places: Iterable[float], ends: Iterable[Ends], color: str) -> None:
    """A whisker at each place along x that has an interval; it is drawn whole at the edge of the axes too."""
    known = [(x, *both) for x, both in zip(places, ends, strict=True) if math.isfinite(both[0])]
    if known:
        axes.vlines(*zip(*known, strict=True), color=color, linewidth=1, alpha=0.6, clip_on=False, zorder=2.5)


def band(axes: Axes, ends: Ends, color: str, upright: bool = False) -> None:
    """The interval of a level line, or of a place along x (`upright`), as a pale band behind it."""
    if math.isfinite(ends[0]):
        span = axes.axvspan if upright else axes.axhspan
        span(*ends, color=color, alpha=0.12, linewidth=0)
