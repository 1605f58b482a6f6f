"""Figures as SVG: each point carries its values as a title, which browsers show when the pointer is on it."""

import io
import math
from html import escape

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

NOTHING = {"Date": None, "Creator": None, "Format": None, "Type": None}  # so that each run gives the same bytes
REACH = 4.5  # points around a value within which the pointer is on it
NAMES = {"lmbda": "λ"}  # of columns
UNNAMED = {"name", "paper", "verdict", "best"}  # columns of words that say nothing new beside a label


def drawn(figure: Figure, numbers: pd.DataFrame) -> str:
    """The figure as SVG, the values of its points as titles: those of the row of `numbers` that has a point's x and y.

    Points that no row has show their place on both axes.
    """
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata=NOTHING)
    page = file.getvalue()
    targets = "\n".join(target for axes in figure.axes if axes.axison for target in hover(axes, numbers))
    return page.replace("</svg>", f'<g fill="none" pointer-events="all">\n{targets}\n</g>\n</svg>')


def hover(axes: Axes, numbers: pd.DataFrame) -> list[str]:
    """Invisible shapes with titles over the axes' level lines, and above them over the points of its other lines.

    Points beyond the axes' limits have none.
    """
    width, height = 72 * axes.get_figure(root=True).get_size_inches()  # points, the unit of the SVG
    values = numbers.select_dtypes(exclude="bool").apply(pd.to_numeric, errors="coerce")  # [rows, columns]
    levels, points = [], []
    for line in axes.lines if axes.get_visible() else []:
        data = np.asarray(line.get_xydata(), float)  # [points, 2]
        pixels = line.get_transform().transform(data)
        places = pixels / axes.get_figure(root=True).bbox.size * (width, -height) + (0, height)
        if line.get_transform() != axes.transData:  # of axhline: it goes through the whole width
            (x1, y1), (x2, y2) = places[0], places[-1]
            ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
            named = title(axes, numbers, values, math.nan, data[0, 1])
            levels.append(f'<line {ends} stroke="#fff" stroke-opacity="0" stroke-width="6">{named}</line>')
            continue
        inside = axes.transAxes.inverted().transform(pixels)
        for i in np.flatnonzero(((inside > -0.001) & (inside < 1.001)).all(1)):  # not where a coordinate is NaN
            x, y = places[i]
            named = title(axes, numbers, values, *data[i])
            points.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{REACH}">{named}</circle>')
    return levels + points


def title(axes: Axes, numbers: pd.DataFrame, values: pd.DataFrame, x: float, y: float) -> str:
    """A title from the one row of `numbers` that has x and y, or y alone: its words, these numbers and an interval.

    Where no row or several have them, it has the labels of the axes.
    """
    has_x, has_y = (np.isclose(values, value, rtol=1e-9, atol=0) for value in (x, y))  # [rows, columns]
    both, alone = has_x.any(1) & has_y.any(1), has_y.any(1)
    found = np.flatnonzero(both if both.any() else alone)
    if len(found) == 1:
        row, matched = numbers.iloc[found[0]], set(values.columns[(has_x | has_y)[found[0]]])
        matched |= {"low", "high", *(f"{name}_{end}" for name in matched for end in ("low", "high"))}
        words = {name for name in numbers if name not in values or values[name].isna().all()} - UNNAMED
        facts = {name: row[name] for name in numbers if name in words | matched}
    else:
        facts = {axes.get_xlabel() or "x": x, axes.get_ylabel() or "y": y}
    lines = [
        f"{NAMES.get(name, name.replace('_', ' '))}: {text(value)}" for name, value in facts.items() if text(value)
    ]
    return f"<title>{escape(chr(10).join(lines))}</title>"


def text(value: object) -> str:
    """A value as a person reads it: whole numbers whole, others with five digits; "" for none."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number):
        return str(value)
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.5g}"
