"""The reference tables and figures, each looked at, are what today's code makes of the numbers kept beside them.

    python tests/outputs/test_reference.py    # writes them anew from these numbers, when they are to look otherwise

The cost tables are left out: they count the bytes of whole studies.
"""

import html
import re
from pathlib import Path

import pytest
import yaml
from matplotlib.testing.compare import compare_images

from knnlm.outputs import followups, markdown, plot, prose, tabulate

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "results/reference"
PAPER = ROOT / "config/paper_numbers.yaml"
STUDIES = ("mini", "pretrained", "finetuned")
FOLLOWED = ("mini", "pretrained")  # by what came after the paper
VERBS = ("mixing", "skipping", "smaller", "frontier", "helped", "texts")


def study(name: str) -> dict:
    return yaml.safe_load((ROOT / f"config/{name}.yaml").read_text())


def write(name: str, out: Path) -> None:
    """Write tables/ and figures/ of a study's kept numbers, with the settings of the workflow's rules."""
    kept, facts = REFERENCE / name, study(name)
    sheet = yaml.safe_load((ROOT / facts.get("experiments", "config/experiments/paper.yaml")).read_text())
    experiments = {output: kept / f"experiments/{output}.json" for output in sheet}
    curves = tuple(kept.glob("models/wikitext/seed1/*.jsonl")) + tuple(kept.glob("models/memorizing/seed1/*.jsonl"))
    for table in [*(one for one in experiments if not one.startswith("figure")), "claims"]:
        tabulate.main(
            tabulate.TabulateConfig(
                table=table,
                out=out / "tables",
                paper=PAPER,
                experiments=tuple(experiments.values()) if table == "claims" else (experiments[table],),
                curves=curves if table in ("claims", "memorizing") else (),
                title=facts.get("titles", {}).get(table, ""),
                note=facts["note"],
            )
        )
    for figure in [*(one for one in experiments if one.startswith("figure")), "figure1", "figure3", "figure8"]:
        if figure != "figure8" or curves:
            plot.main(
                plot.PlotConfig(
                    figure=figure,
                    out=out / "figures",
                    paper=PAPER,
                    experiments=(experiments[figure],) if figure in experiments else (),
                    curves=curves if figure == "figure8" else (),
                    query=kept / "figures/figure1.json" if figure == "figure1" else None,
                )
            )


def write_followups(name: str, out: Path) -> None:
    """Write tables/ and figures/ of what came after the paper, likewise."""
    measured = {verb: REFERENCE / f"beyond/{name}/measured/{verb}.json" for verb in VERBS}
    followups.main(
        followups.FollowupsConfig(
            **measured,
            published=ROOT / "config/published/beyond.yaml",
            tables=out / "tables",
            figures=out / "figures",
            note=study(name)["note"],
        )
    )


def compare(made: Path, reference: Path) -> None:
    """Every table and every figure's numbers are the same to the byte, every picture to the eye."""
    names = {path.relative_to(made) for path in made.rglob("*.*")}
    kept = {path.relative_to(reference) for kind in ("tables", "figures") for path in (reference / kind).iterdir()}
    assert {name for name in kept if name.stem != "cost" and name.name != "figure1.json"} == {
        name for name in names if name.suffix != ".svg"
    }
    for name in sorted(names):
        if name.suffix in (".csv", ".md", ".tex"):
            assert (made / name).read_text() == (reference / name).read_text(), name
        elif name.suffix == ".png":
            assert compare_images(str(reference / name), str(made / name), tol=0.1) is None


@pytest.mark.parametrize("name", STUDIES)
def test_reference_tables_and_figures_are_made_of_the_numbers_beside_them(tmp_path: Path, name: str):
    write(name, tmp_path)
    compare(tmp_path, REFERENCE / name)


@pytest.mark.parametrize("name", FOLLOWED)
def test_the_report_has_the_sentences_that_are_made_of_its_tables(name: str):
    kept = REFERENCE / name
    page = words(html.unescape(re.sub("<[^>]+>", "", (kept / "report.html").read_text())))
    ledger = [claim | {"ours": markdown.scientific(claim["ours"])} for claim in prose.rows(kept / "tables/claims.csv")]
    said = [prose.of_claims(ledger), prose.of_examples((kept / "examples.md").read_text())]
    if name == "mini":  # the other's page is of a second run, with other costs
        said.append(prose.of_cost(prose.rows(kept / "tables/cost.csv")))
    for kind in ("tables", "figures"):
        for path in sorted(kept.glob(f"{kind}/*.csv")):
            if path.stem not in ("claims", "cost"):
                claims = [claim for claim in ledger if claim["output"] == path.stem.rstrip("ab")]
                said.append(prose.of_output(path.stem, claims, prose.rows(path), figure=kind == "figures"))
    assert [text for text in said if words(text) not in page] == []
    assert len(" ".join(said)) > 3000


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("name", FOLLOWED)
def test_what_came_after_the_paper_is_made_of_the_numbers_beside_it(tmp_path: Path, name: str):
    write_followups(name, tmp_path)
    compare(tmp_path, REFERENCE / "beyond" / name)


if __name__ == "__main__":
    for one in STUDIES:
        write(one, REFERENCE / one)
    for one in FOLLOWED:
        write_followups(one, REFERENCE / "beyond" / one)
    for drawing in REFERENCE.rglob("*.svg"):
        drawing.unlink()
