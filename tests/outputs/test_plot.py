import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import synthetic
from matplotlib.axes import Axes

from knnlm.artifacts import files
from knnlm.artifacts.files import UserError
from knnlm.outputs import claims, figures, plot
from knnlm.scores import experiments
from knnlm.settings import LAYER_KEYTYPES

PAPER = Path(__file__).parents[2] / "config/paper_numbers.yaml"


@pytest.fixture(autouse=True)
def no_figure_stays_open() -> Iterator[None]:
    yield
    figures.plt.close("all")


def drawn(folder: Path, figure: str, rows: list[dict] | None = None) -> Path:
    paths = synthetic.write(folder / "study")
    experiments = [path for path in paths["experiments"] if path.stem == figure]
    if rows is not None:
        experiments[0].write_text(json.dumps({"experiment": figure, "rows": rows}))
    curves = tuple(sorted(paths["curves"], reverse=True)) if figure == "figure8" else ()
    files.write_json(folder / "query.json", QUERY)
    given = {"experiments": tuple(experiments), "curves": curves, "query": folder / "query.json"}
    plot.main(plot.PlotConfig(figure=figure, paper=PAPER, out=folder / "out", **given))
    return folder / "out"


QUERY = {
    "context": "the capital of the state is",
    "target": "Rome",
    "neighbors": [
        {"context": f"context {i} is", "target": t, "distance": 2.0 + i, "weight": 0.3} for i, t in enumerate("abc")
    ],
    "words": [{"word": word, "knn": 0.5, "lm": 0.25, "mixture": 0.3} for word in ("Rome", "Oslo")],
    "k": 1024,
    "lmbda": 0.25,
}


@pytest.mark.parametrize("figure", ["figure1", "figure2", "figure3", "figure4", "figure5", "figure7", "figure8"])
def test_a_figure_has_the_same_bytes_twice(tmp_path: Path, figure: str):
    first, second = (drawn(tmp_path / name, figure) for name in ("first", "second"))
    names = sorted(path.name for path in first.iterdir())
    assert {Path(name).suffix for name in names} == {".csv", ".pdf", ".png"}
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


def test_figure2_writes_its_numbers(tmp_path: Path):
    out = drawn(tmp_path, "figure2")
    tuned = pd.read_csv(out / "figure2b.csv")
    assert tuned["lmbda"].tolist() == [0.3, 0.4, 0.45, 0.55]
    assert pd.read_csv(out / "figure2a.csv")["series"].tolist() == ["base-small", "base-large"] + ["knn"] * 4


def test_figure2_of_one_lm_has_no_line_of_a_larger_one(tmp_path: Path):
    rows = [row for row in synthetic.experiments()["figure2"] if row["name"] != "base-large"]
    out = drawn(tmp_path, "figure2", rows)
    assert pd.read_csv(out / "figure2a.csv")["series"].tolist() == ["base-small"] + ["knn"] * 4


def test_figure5_leaves_out_infinite_perplexities(tmp_path: Path):
    assert pd.read_csv(drawn(tmp_path, "figure5") / "figure5.csv")["lmbda"].max() == 0.95


def test_figure5_of_one_corpus_has_one_panel(tmp_path: Path):
    rows = [row for row in synthetic.experiments()["figure5"] if row["name"] == "in-domain"]
    assert set(pd.read_csv(drawn(tmp_path, "figure5", rows) / "figure5.csv")["series"]) == {"in-domain"}


def test_figure7_has_the_infinite_order_beside_the_others(tmp_path: Path):
    rows = synthetic.experiments()["figure7"]
    rows.insert(2, synthetic.row("infinigram", 94.5, ngram="infinite", lmbda={"infinigram": [0.2]}))
    numbers = pd.read_csv(drawn(tmp_path, "figure7", rows) / "figure7.csv")
    infinite = numbers[numbers["order"] == "infinite"]
    assert infinite["dev"].tolist() == [94.5] and infinite["series"].tolist() == ["n-gram"]
    without = pd.read_csv(drawn(tmp_path / "without", "figure7") / "figure7.csv")
    assert len(numbers) == len(without) + 1


def test_one_point_is_enough(tmp_path: Path):
    drawn(tmp_path, "figure4", [synthetic.row("base", 100), synthetic.knn("k1", 100)])


def test_a_missing_row_is_one_clear_line(tmp_path: Path):
    with pytest.raises(UserError, match="figure4 has no row base"):
        drawn(tmp_path, "figure4", [synthetic.knn("k1", 100)])


def test_figure3_has_the_names_of_the_code(tmp_path: Path):
    drawn_names = pd.read_csv(drawn(tmp_path, "figure3") / "figure3.csv")["keytype"].tolist()
    assert drawn_names == list(LAYER_KEYTYPES) == list(claims.KEYTYPES)


def figure(name: str, rows: list[dict], curves: dict[str, list[dict]] | None = None) -> dict[str, figures.Drawn]:
    """The figures and numbers of a study with these rows."""
    study = experiments.Study({name: {"experiment": name, "rows": rows}}, curves or {})
    return figures.FIGURES[name](study, experiments.paper_numbers(PAPER)[name])


def labels(axes: Axes) -> dict[str, float]:
    """Height of each label in the right margin."""
    return {text.get_text(): text.get_position()[1] for text in axes.texts}


def test_figure7_has_each_number_in_its_column_and_each_label_at_its_line():
    rows = synthetic.experiments()["figure7"][::-1]
    rows.insert(2, synthetic.row("infinigram", 92, ngram="infinite", lmbda={"infinigram": [0.2]}))
    for row in rows:
        row["test"] = synthetic.split(500)
    ((drawn, numbers),) = figure("figure7", rows).values()
    orders = [(2, 99.4), (3, 98.9), (4, 98.7), (5, 98.8), (6, 98.9), (7, 99.0)]
    expected = [("base", None, 100), ("knn", None, 90), *(("n-gram", *pair) for pair in orders)]
    expected.append(("n-gram", "infinite", 92))
    assert numbers.astype(object).where(numbers.notna(), None).values.tolist() == [list(line) for line in expected]
    (axes,) = drawn.axes
    assert axes.lines[0].get_xydata().tolist() == [list(pair) for pair in orders]
    assert {line.get_color(): line.get_ydata()[0] for line in axes.lines[1:3]} == {figures.INK: 100, figures.BLUE: 90}
    assert axes.lines[3].get_ydata()[0] == 92
    heights = {"kNN-LM": 90, "LM + ∞-gram": 92, "LM + n-gram": 99, "base LM": 100}
    for name, height in heights.items():
        assert labels(axes)[name] == pytest.approx(height, abs=0.5)


def test_figure5_marks_the_best_weight_of_dev():
    rows = synthetic.experiments()["figure5"]
    for row in rows:
        row["curve"]["test"] = row["curve"]["test"][::-1]
    ((drawn, numbers),) = figure("figure5", rows).values()
    for axes, row, best in zip(drawn.axes, rows, (0.25, 0.65), strict=True):
        points = [pair for pair in zip(row["curve"]["lmbda"], row["curve"]["dev"], strict=True) if pair[0] < 1]
        assert numbers[numbers["series"] == row["name"]][["lmbda", "dev"]].values.tolist() == [*map(list, points)]
        lowest = min(points, key=lambda point: point[1])
        assert lowest[0] == best and axes.get_title(loc="left").endswith(f"best λ {best:g}")
        assert axes.lines[1].get_xydata().tolist() == [list(lowest)]
        low, high = axes.get_ylim()
        assert low < lowest[1] < points[0][1] < high


def test_figure2_shows_the_median_weight_of_several_seeds_and_dev():
    rows = synthetic.experiments()["figure2"][::-1]
    for row in rows:
        row["test"] = synthetic.split(500)
        if row["lmbda"]:
            row |= {"seeds": [1, 2, 3], "lmbda": {"knn": [0.01, 0.99, row["lmbda"]["knn"][0]]}}
    found = figure("figure2", rows)
    entries = [10**6, 2 * 10**6, 4 * 10**6, 8 * 10**6]
    assert found["figure2b"][1].values.tolist() == [*map(list, zip(entries, [0.3, 0.4, 0.45, 0.55], strict=True))]
    expected = [["base-small", 0, 200], ["base-large", 0, 120]]
    expected += [["knn", *pair] for pair in zip(entries, [175, 150, 128, 110], strict=True)]
    assert found["figure2a"][1].values.tolist() == expected
    (axes,) = found["figure2a"][0].axes
    assert axes.lines[0].get_xydata().tolist() == [[0, 200], *(line[1:] for line in expected[2:])]
    assert [line.get_ydata()[0] for line in axes.lines if line.get_color() == figures.VERMILION] == [120]
    printed = experiments.paper_numbers(PAPER)["figure2"]["rows"]
    scaled = {name: row["dev"] * 200 / printed["base-small"]["dev"] for name, row in printed.items()}
    muted = [line.get_ydata()[0] for line in axes.lines if line.get_color() == figures.MUTED]
    assert muted == pytest.approx([scaled["knn"], scaled["base-large"]])


def test_figure4_begins_with_the_base_lm_and_scales_the_papers_number():
    rows = synthetic.experiments()["figure4"][::-1]
    ((drawn, numbers),) = figure("figure4", rows).values()
    nearest = [98, 97, 96, 94.5, 93.4, 92.5, 91.8, 91.2, 90.8, 90.4, 90]
    expected = [[0, 100], *([2**power, value] for power, value in enumerate(nearest))]
    assert numbers.values.tolist() == expected
    (axes,) = drawn.axes
    assert axes.lines[0].get_xydata().tolist() == expected[1:]
    printed = experiments.paper_numbers(PAPER)["figure4"]["rows"]
    (diamond,) = (line.get_xydata()[0] for line in axes.lines if line.get_color() == figures.MUTED)
    assert diamond.tolist() == pytest.approx([1024, printed["k1024"]["dev"] * 100 / printed["base"]["dev"]])


def test_figure8_has_the_losses_of_each_model_and_split():
    curves = {"wikitext": synthetic.curve(3, 10, 4.4, False), "memorizing": synthetic.curve(60, 10, 0.01, True)}
    ((drawn, numbers),) = figure("figure8", [], curves).values()
    expected = [
        [name, split, point["epoch"], point[f"{split}_loss"]]
        for name, curve in zip(("base LM", "memorizing LM"), curves.values(), strict=True)
        for split in ("train", "dev")
        for point in curve
        if point[f"{split}_loss"] is not None
    ]
    assert numbers.values.tolist() == expected
    ends = {name: height for name, height in labels(drawn.axes[0]).items() if name != "paper → 0"}
    assert (
        max(ends, key=ends.__getitem__) == "base LM, dev" and min(ends, key=ends.__getitem__) == "memorizing LM, train"
    )


@pytest.mark.parametrize("ks", [[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024], [3, 10, 700]])
def test_figure4_has_a_tick_and_its_number_at_every_k_and_at_the_papers(ks: list[int]):
    rows = [synthetic.row("base", 100)] + [synthetic.knn(f"k{k}", 90, datastore=synthetic.store(k=k)) for k in ks]
    ((drawn, _),) = figure("figure4", rows).values()
    drawn.draw_without_rendering()
    (axes,) = drawn.axes
    expected = sorted({*ks, 1024})
    assert axes.get_xticks().tolist() == expected
    assert [label.get_text() for label in axes.get_xticklabels()] == [str(k) for k in expected]
    boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert all(left.x0 < right.x0 for left, right in itertools.pairwise(boxes))


@pytest.mark.parametrize("name", ["figure2", "figure4", "figure5", "figure7"])
def test_no_marker_is_cut_at_the_edge_of_its_axes(name: str):
    for drawn, _ in figure(name, synthetic.experiments()[name]).values():
        marked = [line for axes in drawn.axes for line in axes.lines if line.get_marker() in ("o", "D")]
        assert marked and not any(line.get_clip_on() for line in marked)


MARKS = {"figure2": "◇ - -", "figure4": "◇", "figure5": "◇", "figure7": "- -"}


@pytest.mark.parametrize(("name", "marks"), MARKS.items())
def test_the_line_below_a_figure_explains_the_marks_that_it_has(name: str, marks: str):
    drawn, *others = (found for found, _ in figure(name, synthetic.experiments()[name]).values())
    assert drawn.get_supxlabel() == f"{marks}  {figures.SCALED}"
    assert all(other.get_supxlabel() == "" for other in others)


def test_without_a_larger_lm_figure2_explains_no_level_line():
    rows = [row for row in synthetic.experiments()["figure2"] if row["name"] != "base-large"]
    assert figure("figure2", rows)["figure2a"][0].get_supxlabel() == f"◇  {figures.SCALED}"
