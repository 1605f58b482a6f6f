"""Which neighbors a study makes and keeps: what was found in shards goes once it is merged and reranked."""

import copy
import re
import sys

import pytest
import yaml
from conftest import ROOT, snakemake

sys.path.insert(0, str(ROOT / "tests/faults"))
import tinyrun


def planned(configured, config) -> str:
    """The text of a dry run."""
    run = snakemake("-n", "--nolock", "--configfile", configured(config))
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout + run.stderr


def count(text: str, rule: str) -> int:
    found = re.search(rf"^{rule} +(\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else 0


@pytest.fixture
def quantized(smoke_config, tmp_path) -> dict:
    """The smoke study, its sheet without exact distances but for Table 5; the books are streamed."""
    sheet = yaml.safe_load((ROOT / "config/experiments/paper.yaml").read_text())
    for output, rows in sheet.items():
        for row in rows:
            if row.get("datastore"):
                row["distance"] = "exact" if output == "table5" else "quantized"
    sheet["precision"] = [row for row in sheet["precision"] if row["name"] != "exact"]
    (tmp_path / "sheet.yaml").write_text(yaml.safe_dump(sheet))
    config = copy.deepcopy(smoke_config) | {
        "results": str(tmp_path / "none"),
        "experiments": str(tmp_path / "sheet.yaml"),
    }
    config["datastores"]["books"]["store_keys"] = False
    return config


def test_only_sets_of_which_a_row_asks_for_exact_distances_are_reranked(quantized, configured):
    text = planned(configured, quantized)
    final = re.findall(r"^    output: \S+/neighbors/(\S+?)/meta\.json", text, re.MULTILINE)
    assert len(final) == count(text, "score_knn")
    reranked = [path for path in final if "/exact/" in path]
    # Table 5 compares the twelve key types by one index, and Table 1 uses three seeds of the main one.
    assert len(reranked) == count(text, "rerank") == 12 + 2
    assert {path.split("/")[-3] for path in reranked} == {"fast"} and all("first1of1" in path for path in reranked)
    alone = [path for path in final if path.endswith("quantized/shard0of1")]
    assert len(alone) == count(text, "search_quantized") and any(path.startswith("books/") for path in alone)
    parts = [path.split("/")[-1] for path in final if path.startswith("wiki-small/") and "/wiki/dev/wiki/" in path]
    assert sorted(parts) == [f"first{m}of4" for m in (1, 2, 3, 4)]
    assert count(text, "merge") == 0 and count(text, "merge_quantized") == len(final) - len(reranked) - len(alone)


@pytest.mark.parametrize("keep", ["all", "needed"])
def test_what_was_found_in_shards_is_temporary_unless_all_is_kept(smoke_config, configured, tmp_path, keep):
    config = copy.deepcopy(smoke_config) | {"results": str(tmp_path / "none"), "keep": keep}
    text = planned(configured, config)
    removed = re.findall(r"^Would remove temporary output \S+/smoke/searched/(\S+)", text, re.MULTILINE)
    per_job = 2 * 2  # rows.npy and distances.npy of dev and test
    expected = per_job * (count(text, "search") + count(text, "merge")) if keep == "needed" else 0
    assert len(removed) == len(set(removed)) == expected
    assert not re.search(r"^Would remove temporary output \S+/smoke/neighbors/", text, re.MULTILINE)


def test_a_study_that_keeps_what_is_needed_can_be_read_and_has_nothing_left_to_do(tmp_path):
    folder = tinyrun.workspace(tmp_path)
    config = tinyrun.configured(folder, shards=2, keep="needed")
    tinyrun.run(folder, config, target="examples")
    results = folder / "results/mine"
    assert not list(results.glob("searched/**/*.npy")) and list(results.glob("searched/**/meta.json"))
    assert not list(results.glob("**/.*.resume"))
    final = {path.name for path in results.glob("neighbors/**/exact/first2of2/*")}
    assert final == {"meta.json", "rows.npy", "exact.npy"}
    assert (results / "examples/examples.md").read_text().count("Story") > 1
    assert tinyrun.planned(tinyrun.run(folder, config, "--dry-run", target="examples")) == 0
