import json
from pathlib import Path

import pandas as pd
import pytest
import synthetic

from knnlm.artifacts import files
from knnlm.artifacts.files import UserError
from knnlm.outputs import claims, plot
from knnlm.settings import LAYER_KEYTYPES

PAPER = Path(__file__).parents[2] / "config/paper_numbers.yaml"


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
