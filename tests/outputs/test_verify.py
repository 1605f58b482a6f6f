from pathlib import Path

import pytest

from knnlm.artifacts.files import UserError
from knnlm.outputs import verify

REFERENCE = 'name,label,lmbda,dev,dev_low,dev_high\nbase,LM,,100,97,103\nboth,"both","knn 0.25, cache 0.05",90,88,92\n'


def studies(folder: Path, text: str, name: str = "tables/table1.csv") -> verify.VerifyConfig:
    for study, content in (("reference", REFERENCE), ("run", text)):
        path = folder / study / name
        path.parent.mkdir(parents=True)
        path.write_text(content)
    return verify.VerifyConfig(run=folder / "run", reference=folder / "reference")


def found(config: verify.VerifyConfig) -> list[tuple[str, str]]:
    return [(difference.row, difference.column) for difference in verify.compare("tables/table1.csv", config)]


@pytest.mark.parametrize(
    ("before", "after", "cells"),
    [
        ("90,88,92", "90,88,92", []),
        ("90,88,92", "92.6,88,92", []),
        ("90,88,92", "92.8,88,92", [("both", "dev")]),
        ("90,88,92", "90,96,92", []),
        ("90,88,92", "90,97,92", [("both", "dev_low")]),
        ("90,88,92", ",88,92", [("both", "dev")]),
        ("knn 0.25", "knn 0.35", []),
        ("knn 0.25", "knn 0.36", [("both", "lmbda")]),
        ('"knn 0.25, cache 0.05"', "0.25", [("both", "lmbda")]),
        ("base,LM", "base,Base", [("base", "label")]),
    ],
)
def test_cells_are_compared_within_their_tolerance(tmp_path: Path, before: str, after: str, cells: list):
    assert found(studies(tmp_path, REFERENCE.replace(before, after))) == cells


def test_a_run_like_its_reference_passes(tmp_path: Path, capsys: pytest.CaptureFixture):
    verify.main(studies(tmp_path, REFERENCE))
    assert "1 tables and figures agree" in capsys.readouterr().out


def test_a_difference_is_printed_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture):
    with pytest.raises(UserError, match="1 values out of tolerance"):
        verify.main(studies(tmp_path, REFERENCE.replace("base,LM,,100", "base,LM,,110")))
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.endswith("row column reference found verdict tables/table1.csv base dev 100 110 0.1 > 0.03")


@pytest.mark.parametrize("name", ["tables/cost.csv", "figures/figure1.csv"])
def test_cost_and_an_example_need_only_be_there(tmp_path: Path, name: str):
    config = studies(tmp_path, "stage\n", name)
    verify.main(config)
    (config.run / name).unlink()
    with pytest.raises(UserError, match="out of tolerance"):
        verify.main(config)


def test_a_reference_without_tables_is_one_clear_line(tmp_path: Path):
    with pytest.raises(UserError, match="no tables"):
        verify.main(verify.VerifyConfig(run=tmp_path, reference=tmp_path))


@pytest.mark.parametrize(("column", "differ"), [("lmbda", False), ("lmbda_low", False), ("dev_low", True)])
def test_the_interval_of_a_weight_is_compared_as_the_weight_is(tmp_path: Path, column: str, differ: bool):
    config = verify.VerifyConfig(run=tmp_path, reference=tmp_path)
    assert bool(verify.disagreement("figures/figure2b.csv", column, "0.02", "0.05", config)) == differ
