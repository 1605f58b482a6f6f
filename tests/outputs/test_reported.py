"""Each output reads the splits that it declares, and no others: `REPORTED` decides what is searched and scored."""

import json
from pathlib import Path

import pytest
import synthetic

from knnlm.outputs import plot, tabulate
from knnlm.settings import OUTPUTS, REPORTED

PAPER = Path(__file__).parents[2] / "config/paper_numbers.yaml"


def without_test(rows: list[dict]) -> list[dict]:
    """The rows as `interpolate` writes them where only dev was scored."""
    dev = [{key: value for key, value in row.items() if key != "test"} for row in rows]
    return [row | {"curve": row["curve"] and {key: row["curve"][key] for key in ("lmbda", "dev")}} for row in dev]


def numbers(folder: Path, output: str, dev_only: set[str]) -> list[str]:
    """The numbers of an output and of the claims, where some outputs' rows were scored on dev alone."""
    folder.mkdir()
    paths = {name: tuple(found) for name, found in synthetic.write(folder / "study").items()}
    for path in paths["experiments"]:
        experiment = json.loads(path.read_text())
        if path.stem in dev_only:
            path.write_text(json.dumps(experiment | {"rows": without_test(experiment["rows"])}))
    if output.startswith("figure"):
        plot.main(plot.PlotConfig(figure=output, paper=PAPER, out=folder / "out", **paths))
    else:
        tabulate.main(tabulate.TabulateConfig(table=output, paper=PAPER, out=folder / "out", **paths))
    tabulate.main(tabulate.TabulateConfig(table="claims", paper=PAPER, out=folder / "out", **paths))
    return [path.read_text() for path in sorted((folder / "out").glob("*.csv"))]


@pytest.mark.parametrize("output", OUTPUTS)
def test_an_output_and_the_claims_are_the_same_without_the_splits_that_it_does_not_report(tmp_path: Path, output: str):
    dev_only = {name for name, splits in REPORTED.items() if "test" not in splits}
    assert numbers(tmp_path / "all", output, set()) == numbers(tmp_path / "declared", output, dev_only)
    assert (output in dev_only) == (
        numbers(tmp_path / "one", output, {output}) == numbers(tmp_path / "again", output, set())
    )
    assert REPORTED[output][0] == "dev" and set(REPORTED[output]) <= {"dev", "test"}
