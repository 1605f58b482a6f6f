import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic
from matplotlib.axes import Axes

from knnlm.artifacts import files
from knnlm.artifacts.files import UserError
from knnlm.outputs import claims, diagrams, figures, plot, whiskers
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
    assert {Path(name).suffix for name in names} == {".csv", ".pdf", ".png", ".svg"}
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


def test_figure2_writes_its_numbers(tmp_path: Path):
    out = drawn(tmp_path, "figure2")
    tuned = pd.read_csv(out / "figure2b.csv")
    assert tuned["lmbda"].tolist() == [0.3, 0.4, 0.45, 0.55]
    ours = ["base-small", "base-large"] + ["knn"] * 4
    assert pd.read_csv(out / "figure2a.csv")["series"].tolist() == [
        *ours,
        *(f"paper-{name}" for name in ("base-small", "base-large", "knn")),
    ]


def test_figure2_of_one_lm_has_no_line_of_a_larger_one(tmp_path: Path):
    rows = [row for row in synthetic.experiments()["figure2"] if row["name"] != "base-large"]
    out = drawn(tmp_path, "figure2", rows)
    found = pd.read_csv(out / "figure2a.csv")["series"]
    assert found[~found.str.startswith("paper-")].tolist() == ["base-small"] + ["knn"] * 4


def test_figure5_leaves_out_infinite_perplexities(tmp_path: Path):
    assert pd.read_csv(drawn(tmp_path, "figure5") / "figure5.csv")["lmbda"].max() == 0.95


def test_figure5_of_one_corpus_has_one_panel(tmp_path: Path):
    rows = [row for row in synthetic.experiments()["figure5"] if row["name"] == "in-domain"]
    series = set(pd.read_csv(drawn(tmp_path, "figure5", rows) / "figure5.csv")["series"])
    assert series == {"in-domain", "in-domain-tuned", "paper-in-domain"}


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
    expected += [("paper-base", None, 17.96), ("paper-knn", None, 16.06)]
    shown = numbers[["series", "order", "dev"]].astype(object)
    assert shown.where(shown.notna(), None).values.tolist() == [list(line) for line in expected]
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
        assert lowest[0] == best and axes.get_title(loc="left").endswith(f", λ {best:g}")
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
    assert found["figure2b"][1][["entries", "lmbda"]].values.tolist() == [
        *map(list, zip(entries, [0.3, 0.4, 0.45, 0.55], strict=True))
    ]
    expected = [["base-small", 0, 200], ["base-large", 0, 120]]
    expected += [["knn", *pair] for pair in zip(entries, [175, 150, 128, 110], strict=True)]
    numbers = found["figure2a"][1]
    assert numbers.loc[numbers["factor"] == 1, ["series", "entries", "dev"]].values.tolist() == expected
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
    assert numbers.loc[numbers["factor"] == 1, ["k", "dev"]].values.tolist() == expected
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
    assert numbers.values.tolist()[:-1] == expected
    assert numbers.astype(object).values.tolist()[-1][::3] == ["paper", 0]
    ends = {name: height for name, height in labels(drawn.axes[0]).items() if name != "paper, train"}
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


MARKS = {"figure2": "◇ - -", "figure4": "◇", "figure5": "", "figure7": "- -"}


def below(drawn: figures.Figure) -> list[str]:
    return drawn.get_supxlabel().splitlines()


@pytest.mark.parametrize(("name", "marks"), MARKS.items())
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_line_below_a_figure_explains_the_marks_that_it_has_with_their_factor(name: str, marks: str, scale: float):
    rows = synthetic.experiments()[name]
    for row in rows:
        row["dev"] = synthetic.split(scale * row["dev"]["perplexity"])
        if row["curve"]:
            row["curve"]["dev"] = [scale * value for value in row["curve"]["dev"]]
    drawn, *others = (found for found, _ in figure(name, rows).values())
    factor = {"figure2": 200 / 20.99}.get(name, 100 / 17.96) * scale
    said = f"{marks}  the paper × {factor:.3g}, so that its base LM coincides with ours"
    assert [line for line in below(drawn) if "paper" in line] == ([said] if marks else [])
    assert not any("paper" in line for other in others for line in below(other))
    if name == "figure5":
        titles = [axes.get_title(loc="right") for axes in drawn.axes]
        factors = (scale * 100 / 17.96, scale * 300 / 37.13)
        assert titles == [f"◇ paper × {x:.3g}, λ {y:g}" for x, y in zip(factors, (0.25, 0.65), strict=True)]


def test_without_a_larger_lm_figure2_explains_no_level_line():
    rows = [row for row in synthetic.experiments()["figure2"] if row["name"] != "base-large"]
    drawn = figure("figure2", rows)["figure2a"][0]
    assert below(drawn)[0].startswith("◇  the paper ×") and not any("bands" in line for line in below(drawn))


@pytest.mark.parametrize("name", ["figure2", "figure4", "figure5", "figure7"])
def test_the_papers_points_are_drawn_at_its_numbers_times_the_factor_and_no_label_shows_a_number(name: str):
    drawn, numbers = next(iter(figure(name, synthetic.experiments()[name]).values()))
    of_paper = numbers[numbers["series"].str.startswith("paper-")]
    printed = {value for row in experiments.paper_numbers(PAPER)[name]["rows"].values() for value in row.values()}
    assert set(of_paper["dev"]) <= printed
    heights = sorted(
        line.get_ydata()[0] for axes in drawn.axes for line in axes.lines if line.get_color() == figures.MUTED
    )
    ours = {round(value, 6) for value in numbers.loc[~numbers.index.isin(of_paper.index), "dev"]}
    scaled = sorted((of_paper["dev"] * of_paper["factor"]).round(6))
    assert heights == pytest.approx([value for value in scaled if value not in ours])
    assert not any(character.isdigit() for axes in drawn.axes for text in axes.texts for character in text.get_text())


def noisy(name: str) -> list[dict]:
    """Rows of different perplexities whose documents differ, each row's more than the one's before; not the base's."""
    rows = synthetic.experiments()[name]
    for number, row in enumerate(rows):
        row["dev"] = synthetic.split(row["dev"]["perplexity"] + 0.001 * number, 0.01 * number)
    return rows


def by_hand(row: dict, base: dict) -> list[float]:
    """How many nats the ends of the paired interval of a row's perplexity are away from it."""
    gains = np.array(base["dev"]["nats"]) - np.array(row["dev"]["nats"])
    drawn = np.random.default_rng(5).integers(0, len(gains), (4000, len(gains)))
    low, high = np.quantile(gains[drawn].sum(1) - gains.sum(), [0.025, 0.975]) / row["dev"]["tokens"]
    return [-high, -low]


@pytest.mark.parametrize(("name", "base"), [("figure2", "base-small"), ("figure4", "base"), ("figure7", "base")])
def test_whiskers_and_bands_are_paired_differences_from_the_base_lm(name: str, base: str):
    rows = {row["name"]: row for row in noisy(name)}
    drawn, numbers = next(iter(figure(name, list(rows.values())).values()))
    (axes,) = drawn.axes
    ours = numbers[numbers["factor"] == 1]
    expected = {round(row["dev"]["perplexity"], 6): by_hand(row, rows[base]) for row in rows.values()}
    for _, line in ours.iterrows():
        if line["series"].startswith("base") and line["series"] != "base-large":
            assert np.isnan(line["dev_low"]) and np.isnan(line["dev_high"])
        else:
            away = np.log([line["dev_low"] / line["dev"], line["dev_high"] / line["dev"]])
            assert away == pytest.approx(expected[round(line["dev"], 6)], rel=0.15)
    segments = [part for lines in axes.collections for part in lines.get_segments()]
    bands = [patch.get_extents().transformed(axes.transData.inverted()) for patch in axes.patches]
    heights = [part[:, 1].tolist() for part in segments] + [[one.y0, one.y1] for one in bands]
    known = ours[ours["dev_low"].notna()]
    shown = sorted(known[["dev_low", "dev_high"]].values.tolist())
    assert np.array(sorted(heights)) == pytest.approx(np.array(shown))
    assert not any(lines.get_clip_on() for lines in axes.collections)
    said = "whiskers, bands" if bands else "whiskers"
    assert any(line.startswith(f"{said}: 95% intervals of the difference from the ") for line in below(drawn))


def test_intervals_per_word_are_as_wide_as_the_words_allow():
    rows = [synthetic.row("base", 100, vocab="a"), synthetic.knn("k1", 90, vocab="b")]
    for number, row in enumerate(rows):
        row["dev"] = synthetic.split(row["dev"]["perplexity"], 0.01 * number) | {"words": 10000, "bytes": 50000}
        row["test"] |= {"words": 10000, "bytes": 50000}
        row["curve"] = None
    study = experiments.Study({"figure4": {"rows": rows}}, {})
    away = np.log(np.array(whiskers.paired(study, "figure4", "k1", "base")) / 90**2)
    assert away == pytest.approx(2 * np.array(by_hand(rows[1], rows[0])), rel=0.15)


def test_an_interval_is_wider_on_the_side_where_a_few_documents_gain_most():
    rows = [synthetic.row("base", 100), synthetic.knn("k1", 90)]
    nats = np.array(rows[0]["dev"]["nats"])
    nats -= nats.sum() * 0.7 ** np.arange(len(nats)) / 20
    perplexity = float(np.exp(nats.sum() / 20000))
    rows[1]["dev"] |= {"nats": nats.tolist(), "perplexity": perplexity, "per_seed": [perplexity]}
    low, high = expected = by_hand(rows[1], rows[0])
    assert abs(low) > 1.2 * high > 0
    ends = whiskers.paired(experiments.Study({"figure4": {"rows": rows}}, {}), "figure4", "k1", "base")
    assert np.log(np.array(ends) / perplexity) == pytest.approx(np.array(expected), rel=0.05)


def test_the_interval_of_a_tuned_weight_has_the_middle_95_percent_of_the_resamples():
    row = {"dev": {"documents": 10}, "lmbda_resampled": [one / 1000 for one in range(1001)]}
    assert whiskers.of_weight(row) == pytest.approx((0.025, 0.975))


@pytest.mark.parametrize(("documents", "drawn_there"), [(9, False), (10, True)])
def test_where_documents_are_too_few_no_interval_is_drawn_and_the_figure_says_so(documents: int, drawn_there: bool):
    for name in ("figure2", "figure4", "figure5", "figure7"):
        rows = noisy(name)
        for row in rows:
            nats = row["dev"]["nats"][:documents]
            row["dev"] |= {"nats": nats, "documents": documents}
        for found, _ in figure(name, rows).values():
            there = any(len(axes.collections) + len(axes.patches) for axes in found.axes)
            assert there == drawn_there == any("95% intervals" in line for line in below(found))
            assert ("no interval where dev has fewer than 10 documents" in below(found)) != drawn_there


def test_figure2b_and_figure5_have_the_interval_of_the_tuned_weight():
    numbers = figure("figure2", synthetic.experiments()["figure2"])["figure2b"][1]
    for _, line in numbers.iterrows():
        assert [line["lmbda_low"], line["lmbda_high"]] == pytest.approx([line["lmbda"] - 0.01, line["lmbda"] + 0.01])
    rows = synthetic.experiments()["figure5"]
    drawn, numbers = figure("figure5", rows)["figure5"]
    for axes, row in zip(drawn.axes, rows, strict=True):
        (patch,) = axes.patches
        band = patch.get_extents().transformed(axes.transData.inverted())
        (line,) = numbers[numbers["series"] == f"{row['name']}-tuned"].to_dict("records")
        (weight,) = row["lmbda"]["knn"]
        assert [line["lmbda"], line["dev"]] == [weight, row["dev"]["perplexity"]]
        assert [band.x0, band.x1] == pytest.approx([weight - 0.01, weight + 0.01])
        assert [line["lmbda_low"], line["lmbda_high"]] == pytest.approx([band.x0, band.x1])


def test_figure5_has_no_interval_of_another_seed_than_its_curves():
    rows = synthetic.experiments()["figure5"]
    for row in rows:
        row |= {"seeds": [1, 2], "best_seed": 2, "lmbda": {"knn": [0.25, 0.3]}}
        row["dev"]["per_seed"] = [90.0, 91.0]
    drawn, numbers = figure("figure5", rows)["figure5"]
    tuned = numbers[numbers["series"].str.endswith("-tuned")]
    assert tuned["lmbda"].tolist() == [0.25, 0.25] and tuned["dev"].tolist() == [90, 90]
    assert tuned["lmbda_low"].isna().all() and not any(len(axes.patches) for axes in drawn.axes)


OF_WHAT = {
    "one seed": ([[1], [1]], "seed 1"),
    "another": ([[7], [7]], "seed 7"),
    "several": ([[1, 4, 9], [1, 4, 9]], "medians over seeds 1, 4 and 9"),
    "both": ([[1, 2], [1]], "medians over seeds 1 and 2; seed 1: + kNN"),
}


@pytest.mark.parametrize(("seeds", "expected"), OF_WHAT.values(), ids=OF_WHAT)
def test_a_figure_says_of_which_seeds_and_index_it_is(seeds: list[list[int]], expected: str):
    rows = [synthetic.row("base", 100), synthetic.knn("k1", 90, label="+ kNN")]
    for row, numbers in zip(rows, seeds, strict=True):
        row["seeds"] = numbers
    ((drawn, _),) = figure("figure4", rows).values()
    assert below(drawn)[-1] == f"{expected}; index ivfpq"
    for row in rows:
        row |= {"description": "of others", "training_tokens": None}
    ((drawn, _),) = figure("figure4", rows).values()
    assert below(drawn)[-1] == "index ivfpq"
    rows.append(synthetic.knn("k2", 90, datastore=synthetic.store(index="flat", k=2)))
    rows[-1] |= {"description": "of others", "training_tokens": None}
    ((drawn, _),) = figure("figure4", rows).values()
    assert not any("index" in line for line in below(drawn))


NUMBERS = {
    (0.0, 2): "0",
    (0.5436, 2): "0.54",
    (0.1, 2): "0.10",
    (0.01859, 2): "0.019",
    (0.00099, 2): "9.9×10⁻⁴",
    (3.14e-12, 2): "3.1×10⁻¹²",
    (1.0, 2): "1.0",
    (2.004, 3): "2.00",
    (99.96, 3): "100",
    (123.4, 3): "123",
    (1234.5, 3): "1234",
}


@pytest.mark.parametrize(("given", "expected"), NUMBERS.items())
def test_figure1_has_significant_digits(given: tuple[float, int], expected: str):
    assert diagrams.significant(*given) == expected


def test_figure1_has_the_likeliest_words_of_each_distribution_and_the_target():
    names = ("a", "b", "c", "d", "e", "f", "▁Rome")
    knn, lm, mixture = (
        (0.5, 0.2, 0.1, 0, 0, 0, 0.15),
        (0, 0, 0.01, 0.3, 0.25, 0.2, 1e-5),
        (0.4, 0.3, 0.2, 0.1, 0, 0, 0.05),
    )
    words = [
        dict(zip(("word", "knn", "lm", "mixture"), one, strict=True))
        for one in zip(names, knn, lm, mixture, strict=True)
    ]
    query = QUERY | {"words": words, "target": "▁Rome"}
    query["neighbors"] = [{"context": "in", "target": "Rome", "distance": 123.4, "weight": 0.00042}]
    expected = {"knn": ["a", "b", "▁Rome", "c"], "lm": ["d", "e", "f", "▁Rome"], "mixture": ["a", "b", "c", "▁Rome"]}
    for name, shown in expected.items():
        assert [word["word"] for word in diagrams.likeliest(query, name)] == shown
    drawn, numbers = diagrams.figure1(query)["figure1"]
    (axes,) = drawn.axes
    texts = [text.get_text() for text in axes.texts]
    assert {"4.2×10⁻⁴", "1.0×10⁻⁵", "123", "was: Rome"} <= set(texts) and "▁Rome" not in texts
    target = next(text for text in axes.texts if text.get_text() == "Rome" and text.get_weight() == "bold")
    assert target.get_color() == figures.BLUE
    assert set(numbers["word"].dropna()) == set(names)


def test_figures_1_and_the_papers_say_what_they_lack(tmp_path: Path):
    with pytest.raises(UserError, match=r"--figure figure1: found no --query; give figure1.json"):
        plot.main(plot.PlotConfig(figure="figure1", out=tmp_path))
    with pytest.raises(UserError, match=r"--figure figure4: found no --paper; give config/paper_numbers.yaml"):
        plot.main(plot.PlotConfig(figure="figure4", out=tmp_path))
    assert not list(tmp_path.iterdir())
