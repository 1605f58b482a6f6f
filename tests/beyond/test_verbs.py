"""The verbs on a tiny study, from its files to tables and figures, and what they refuse."""

import json
import shutil
from pathlib import Path

import pytest
import tinystudy
import yaml
from conftest import ROOT

from knnlm.artifacts.files import UserError
from knnlm.beyond import adapt, compare_texts, diagnose, frontier, score_infinigram, shrink, skip
from knnlm.outputs import followups

SHEET, PUBLISHED = ROOT / "config/experiments/beyond.yaml", ROOT / "config/published/beyond.yaml"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tinystudy.write(tmp_path_factory.mktemp("results") / "tiny")


def scored(study: Path, out: Path) -> tuple[Path, Path]:
    tokens, splits = study / "tokens/words/fox", ("dev", "test")
    paths = [tuple(tokens / f"{split}{end}" for split in splits) for end in (".npy", ".documents.npy")]
    folders, train = tuple(out / split for split in splits), (tokens / "train.npy", tokens / "train.documents.npy")
    score_infinigram.main(score_infinigram.ScoreInfinigramConfig(*train, *paths, study / "vocabs/words", folders))
    return folders


def test_everything_from_a_study_to_tables_and_figures_twice_the_same(study: Path, tmp_path: Path) -> None:
    made = []
    for name in ("first", "second"):
        out = tmp_path / name
        folders = scored(study, out / "infinigram")
        adapt.main(adapt.AdaptConfig(study, SHEET, out / "mixing.json", folders))
        skip.main(skip.SkipConfig(study, out / "skipping.json", out / "gates"))
        shrink.main(shrink.ShrinkConfig(study, out / "smaller.json"))
        frontier.main(frontier.FrontierConfig(study, out / "frontier.json", nprobes=(2,)))
        diagnose.main(diagnose.DiagnoseConfig(study, out / "helped.json", folders[1], others=("table1/knn",)))
        compare_texts.main(compare_texts.CompareTextsConfig(study, out / "texts.json", 6, 8, 12))
        names = ("mixing", "skipping", "smaller", "frontier", "helped", "texts")
        files = (*(out / f"{name}.json" for name in names), PUBLISHED)
        followups.main(followups.FollowupsConfig(*files, out / "tables", out / "figures"))
        made.append(
            {f"{path.parent.name}/{path.name}": path.read_bytes() for path in sorted(out.glob("[tf]*s/beyond*.*"))}
        )
    timed = {name for name in made[0] if "frontier" in name}  # which has rates
    assert all(made[0][name] == made[1][name] for name in made[0].keys() - timed)
    assert len(made[0]) == 37 and len(timed) == 7
    methods = json.loads((tmp_path / "first/mixing.json").read_text())["methods"]
    assert {row["name"] for row in yaml.safe_load(SHEET.read_text())["mixing"]} == {m["name"] for m in methods}
    row = json.loads((study / "experiments/table1.json").read_text())["rows"]
    known = {one["name"]: one["test"]["perplexity"] for one in row}
    assert methods[1]["test"]["perplexity"] == pytest.approx(known["knn"], rel=1e-4)


def test_every_paper_of_the_sheet_is_known() -> None:
    known = yaml.safe_load(PUBLISHED.read_text())
    assert all(set(paper) == {"citation", "source", "finding"} for paper in known.values())
    assert {row["paper"] for row in yaml.safe_load(SHEET.read_text())["mixing"] if "paper" in row} <= known.keys()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"name": "a", "label": "A", "mixer": "magic"}, r"mixing, a: mixer magic: expected one of lm, constant, bins"),
        ({"name": "a", "label": "A", "mixer": "bins", "bin": 3}, r"mixing, a: found bin, expected keys among .*count"),
        ({"name": "a", "mixer": "bins"}, "mixing, a: found no label"),
        ({"name": "a", "label": "A", "mixer": "bins", "count": "many"}, "a, count: found 'many', expected a number"),
        (None, "found no list of rows under `mixing`"),
    ],
)
def test_a_wrong_sheet_is_one_clear_line(study: Path, tmp_path: Path, row: dict | None, message: str) -> None:
    (tmp_path / "sheet.yaml").write_text(yaml.safe_dump({"mixing": [row] if row else []}))
    with pytest.raises(UserError, match=message):
        adapt.main(adapt.AdaptConfig(study, tmp_path / "sheet.yaml", tmp_path / "mixing.json"))
    assert not (tmp_path / "mixing.json").exists()


@pytest.mark.parametrize(("text", "message"), [("mixing: [", "not valid YAML"), ("- a", "found list, expected keys")])
def test_a_sheet_that_is_no_yaml_or_has_no_keys_is_one_clear_line(study: Path, tmp_path: Path, text: str, message: str):
    (tmp_path / "sheet.yaml").write_text(text)
    for sheet, expected in ((tmp_path / "sheet.yaml", message), (tmp_path / "none.yaml", "no such file")):
        with pytest.raises(UserError, match=expected):
            adapt.main(adapt.AdaptConfig(study, sheet, tmp_path / "mixing.json"))


def test_a_mixer_without_the_scores_that_it_needs_is_one_clear_line(study: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs the ∞-gram's scores: --infinigram"):
        adapt.main(adapt.AdaptConfig(study, SHEET, tmp_path / "mixing.json"))
    folders = scored(study, tmp_path / "infinigram")
    with pytest.raises(UserError, match="come from the same text"):
        diagnose.main(diagnose.DiagnoseConfig(study, tmp_path / "helped.json", folders[0]))  # dev's


def test_another_row_needs_no_neighbors(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its groups are those that the example's row has, but for distances and calibration."""
    from knnlm.datastores import neighbors

    given = {"others": ("table1/knn",)}
    diagnose.main(diagnose.DiagnoseConfig(study, tmp_path / "helped.json", **given))
    whole = json.loads((tmp_path / "helped.json").read_text())
    (other,) = whole["rows"]
    names = [one["name"] for one in other["diagnostics"]]
    assert names == ["frequency", "position", "seen"]
    assert other["diagnostics"] == [one for one in whole["diagnostics"] if one["name"] in names]
    assert other["overall"] == whole["overall"] and other["label"]
    monkeypatch.setattr(neighbors, "load", lambda *_: pytest.fail("neighbors were read"))
    assert diagnose.of_row(study, "table1", "knn") == other
    kept = shutil.copytree(study, tmp_path / "kept", symlinks=True)
    for shard in (kept / "keys/fox/seed1/fox/train/ffn_input_ln").iterdir():  # as `keep: needed` does
        shutil.rmtree(shard)
    assert diagnose.of_row(kept, "table1", "knn") == other
    with pytest.raises(UserError, match="--others: found table2, expected OUTPUT/ROW"):
        diagnose.named("table2")
    with pytest.raises(UserError, match="has no datastore"):
        diagnose.of_row(study, "table1", "base")


def test_gates_of_another_study_are_one_clear_line(study: Path, tmp_path: Path) -> None:
    from knnlm.artifacts import npy

    for split in ("dev", "test"):
        npy.save_array(tmp_path / f"network-{split}.npy", tinystudy.np.zeros(3, "float32"))
    with pytest.raises(UserError, match=r"network-dev.npy: found 3 tokens, expected"):
        skip.main(skip.SkipConfig(study, tmp_path / "skipping.json", tmp_path))
