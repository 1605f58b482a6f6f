import json
from pathlib import Path

import pandas as pd
import pytest
import synthetic

from knnlm import plot
from knnlm.files import UserError

PAPER = Path(__file__).parent.parent / "config/paper_numbers.yaml"


def drawn(folder: Path, figure: str, rows: list[dict] | None = None) -> Path:
    paths = synthetic.write(folder / "study")
    experiments = [path for path in paths["experiments"] if path.stem == figure]
    if rows is not None:
        experiments[0].write_text(json.dumps({"experiment": figure, "rows": rows}))
    curves = tuple(sorted(paths["curves"], reverse=True)) if figure == "figure8" else ()
    plot.main(
        plot.PlotConfig(figure=figure, paper=PAPER, out=folder / "out", experiments=tuple(experiments), curves=curves)
    )
    return folder / "out"


@pytest.mark.parametrize("figure", ["figure2", "figure4", "figure5", "figure7", "figure8"])
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


def test_figure5_leaves_out_infinite_perplexities(tmp_path: Path):
    assert pd.read_csv(drawn(tmp_path, "figure5") / "figure5.csv")["lmbda"].max() == 0.95


def test_one_point_is_enough(tmp_path: Path):
    drawn(tmp_path, "figure4", [synthetic.row("base", 100), synthetic.knn("k1", 100)])


def test_a_missing_row_is_one_clear_line(tmp_path: Path):
    with pytest.raises(UserError, match="figure4 has no row base"):
        drawn(tmp_path, "figure4", [synthetic.knn("k1", 100)])
