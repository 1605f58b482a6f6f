"""Figures as SVG: each point has its own row of the numbers as a title, at its place."""

import re

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from knnlm.outputs import figures, pages, vectors


@pytest.fixture(autouse=True)
def style():
    figures.prepare()
    yield
    plt.close("all")


def titles(page: str) -> list[str]:
    return re.findall(r"<title>([^<]*)</title>", page)


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_each_point_lies_where_the_axis_has_it_and_has_its_row(scale):
    figure, axes = plt.subplots(figsize=(4, 3))
    axes.set(xscale=scale, xlabel="k")
    numbers = pd.DataFrame({"label": ["a", "b", "c"], "k": [1, 10, 100], "dev": [3.5, 2.5, 1.5], "dev_low": [3, 2, 1]})
    axes.plot(numbers["k"], numbers["dev"], "o-")
    page = vectors.drawn(figure, numbers)
    circles = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="[\d.]+"><title>([^<]*)', page)
    assert [told.split("\n") for _, _, told in circles] == [
        [f"label: {label}", f"k: {k}", f"dev: {dev}", f"dev low: {low}"]
        for label, k, dev, low in numbers.itertuples(index=False)
    ]
    drawn = np.array(re.findall(r'<use xlink:href="#m\w+" x="([\d.]+)" y="([\d.]+)"', page), float)  # [marks, 2]
    for x, y, _ in circles:
        assert np.abs(drawn - (float(x), float(y))).sum(1).min() < 0.2


def test_a_level_line_has_the_row_of_its_height_and_a_point_without_a_row_the_labels_of_the_axes():
    figure, axes = plt.subplots(figsize=(4, 3))
    axes.set(xlabel="λ", ylabel="perplexity")
    axes.axhline(7)
    axes.plot([0.25], [3], "D")
    page = vectors.drawn(figure, pd.DataFrame({"series": ["base", "knn"], "dev": [7, 5]}))
    assert titles(page) == ["series: base\ndev: 7", "λ: 0.25\nperplexity: 3"]
    ((left, first, right, second),) = re.findall(r'<line x1="([\d.]+)" y1="([\d.]+)" x2="([\d.]+)" y2="([\d.]+)"', page)
    inside = axes.get_position()  # shares of the figure, whose width is 288 points
    assert first == second and [float(left), float(right)] == pytest.approx([288 * inside.x0, 288 * inside.x1], abs=0.1)


def test_points_beyond_the_limits_and_drawings_without_axes_have_no_title():
    figure, (axes, drawing) = plt.subplots(1, 2)
    axes.plot([0, 1, 2, np.nan], [1, 2, 900, 1])
    axes.set_ylim(0, 3)
    drawing.plot([0, 1], [0, 1])
    drawing.axis("off")
    assert titles(vectors.drawn(figure, pd.DataFrame({"x": [0, 1, 2], "y": [1, 2, 900]}))) == [
        "x: 0\ny: 1",
        "x: 1\ny: 2",
    ]


def test_words_of_the_corpus_are_escaped():
    figure, axes = plt.subplots()
    axes.plot([1], [2], "o")
    page = vectors.drawn(figure, pd.DataFrame({"label": ["</title><b>&"], "x": [1], "y": [2]}))
    assert titles(page) == ["label: &lt;/title&gt;&lt;b&gt;&amp;\nx: 1\ny: 2"]


def test_in_a_page_ids_have_the_figures_name_and_colors_are_the_pages():
    style = "fill: #ffffff; stroke: #123456"
    page = f'<?xml version="1.0"?>\n<svg id="a"><use xlink:href="#a" clip-path="url(#b)" style="{style}"/></svg>'
    assert pages.embedded(page, "figure4", 'what "it" shows') == (
        '<svg role="img" aria-label="what &quot;it&quot; shows" id="figure4-a"><use xlink:href="#figure4-a" '
        'clip-path="url(#figure4-b)" style="fill: var(--paper); stroke: #123456"/></svg>'
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (3302146.0, "3,302,146"),
        (0.284000001, "0.284"),
        (-1.5, "-1.5"),
        (float("nan"), ""),
        (None, ""),
        ("infinite",) * 2,
    ],
)
def test_values_as_a_person_reads_them(value, shown):
    assert vectors.text(value) == shown
