"""Which neighbors a study makes and keeps: what was found in shards goes once it is merged and reranked."""

import copy
import re
import sys

import pytest
import yaml
from conftest import ROOT, snakemake

sys.path.insert(0, str(ROOT / "tests/faults"))
import tinyrun

from knnlm.settings import OTHER_KEYTYPES


def planned(configured, config, *arguments) -> str:
    """The text of a dry run."""
    run = snakemake("-n", "--nolock", *arguments, "--configfile", configured(config))
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout + run.stderr


def count(text: str, rule: str) -> int:
    """Jobs of a rule and of those that replace it for part of its jobs."""
    found = dict(re.findall(rf"^({rule}(?:_passing|_dev)?) +(\d+)$", text, re.MULTILINE))  # the table comes twice
    return sum(map(int, found.values()))


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
    made = re.findall(r"^    output: (\S+/searched/.+)$", text, re.MULTILINE)
    expected = [path for paths in made for path in paths.split(", ") if path.endswith(".npy")]
    assert len(removed) == len(set(removed)) == (len(expected) if keep == "needed" else 0)
    assert len(expected) == 2 * (
        2 * (9 + 1) + 13 + 2
    )  # two arrays a split: searches and merges of both, and of dev alone


@pytest.mark.parametrize("keep", ["all", "needed"])
def test_neighbors_go_once_they_are_scored_but_for_those_that_examples_show(smoke_config, configured, tmp_path, keep):
    config = copy.deepcopy(smoke_config) | {"results": str(tmp_path / "none"), "keep": keep}
    text = planned(configured, config)
    removed = set(re.findall(r"^Would remove temporary output \S+/smoke/(neighbors/\S+)", text, re.MULTILINE))
    made = set(
        re.findall(r"/smoke/(neighbors/[^\s,]+\.npy)", "\n".join(re.findall(r"^    output: .*", text, re.MULTILINE)))
    )
    shown = "neighbors/wikitext/seed1/wikitext/{}/wikitext/ffn_input_ln/fast/exact/first1of1/{}.npy"
    kept = {shown.format(split, name) for split in ("dev", "test") for name in ("rows", "exact")}
    assert kept < made and removed == (made - kept if keep == "needed" else set())


def test_what_only_outputs_of_dev_use_is_neither_searched_nor_scored_on_test(smoke_config, configured, tmp_path):
    text = planned(configured, copy.deepcopy(smoke_config) | {"results": str(tmp_path / "none")}, "-p")
    outputs = " ".join(re.findall(r"^    output: (.*)", text, re.MULTILINE))

    def found(kind, split):
        """Model/seed, datastore, key type and index of what was made of a split, and of which shards."""
        at = {
            "neighbors": rf"neighbors/(\S+)/\w[\w-]*/{split}/(\S+?)/exact/(\S+?)/meta",
            "knn": rf"{split}/knn/(\S+)/meta",
        }
        return set(re.findall(at[kind], outputs))

    seeds = {f"wikitext/seed{seed}/wikitext/ffn_input_ln/fast/first1of1" for seed in (1, 2, 3)}
    small = "wiki-small/seed1/wiki/ffn_input_ln/fast/first"
    books = {f"{model}/seed1/books/ffn_input_ln/fast/first1of1" for model in ("books", "wiki")}
    assert found("knn", "test") == seeds | books | {f"{small}4of4"}
    others = [f"wikitext/seed1/wikitext/{keytype}/fast/first1of1" for keytype in OTHER_KEYTYPES]
    indexes = {f"wikitext/seed1/wikitext/ffn_input_ln/{index}/first1of1" for index in ("ivfpq", "inner-product")}
    assert found("knn", "dev") == found("knn", "test") | {*others} | indexes | {f"{small}{m}of4" for m in (1, 2, 3)}
    for split in ("dev", "test"):
        assert {"/".join(parts) for parts in found("neighbors", split)} == found("knn", split)
    assert "/dev/lm/memorizing/" in outputs and "/test/lm/memorizing/" not in outputs
    assert "/dev/ngram/" in outputs and "/test/ngram/" in outputs  # Table 1 shows them
    scores = re.findall(r"--scores (.*?) --out", text)
    of_test = [pair[1] for pair in (re.findall(r"'(\[\[.*?\]\])'", given) for given in scores) if len(pair) == 2]
    assert of_test == ['[["exact", 128, 1]]'] * 6
    assert max(given.count("exact") for given in scores) == 8 + 1 + 3  # k of Figure 4, and temperatures


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


def test_a_streamed_datastore_that_the_examples_show_stays(tmp_path):
    folder = tinyrun.workspace(tmp_path)
    streamed = {"mine": {"shards": 2, "distance": "quantized", "store_keys": False}}
    config = tinyrun.configured(folder, keep="needed", datastores=streamed)
    tinyrun.run(folder, config, target="explore")
    results = folder / "results/mine"
    assert (
        len(list(results.glob("keys/**/shard?of2/ids.npy"))) == len(list(results.glob("indexes/**/shard*.faiss"))) == 2
    )
    assert not list(results.glob("keys/**/sample/*.npy"))
    assert tinyrun.planned(tinyrun.run(folder, config, "--dry-run", target="explore")) == 0


@pytest.mark.parametrize("keytype", ["ffn_input_ln", "output"])
def test_keys_of_the_type_that_the_examples_show_stay(smoke_config, configured, tmp_path, keytype):
    sheet = yaml.safe_load((ROOT / "config/experiments/paper.yaml").read_text())
    next(row for row in sheet["table1"] if row["name"] == "knn")["keytype"] = keytype
    (tmp_path / "sheet.yaml").write_text(yaml.safe_dump(sheet))
    config = copy.deepcopy(smoke_config) | {
        "results": str(tmp_path / "none"),
        "experiments": str(tmp_path / "sheet.yaml"),
        "keep": "needed",
    }
    text = planned(configured, config)
    removed = re.findall(r"^Would remove temporary output \S+/smoke/(\S+)", text, re.MULTILINE)
    of_types = {path.split("/")[5] for path in removed if path.startswith("keys/wikitext/seed1/wikitext/train")}
    assert of_types == {*OTHER_KEYTYPES} - {keytype}
    assert f"indexes/wikitext/seed1/wikitext/{keytype}/fast/trained.faiss" not in removed


def test_an_index_of_another_datastore_changes_no_sample(quantized, configured):
    quantized["indexes"]["fast"]["sample"] = 1000
    text = planned(configured, quantized, "-p")
    assert set(re.findall(r"--entries (\d+)", text)) == {"4000"}  # the smoke study's inner-product index takes more


def test_a_key_type_less_extracts_and_searches_nothing_again(tmp_path):
    folder = tinyrun.workspace(tmp_path)
    kept = ["mhsa_input_ln", "ffn_input", "output"]
    rows = [{"name": "base", "label": "LM", "model": "mine", "corpus": "mine"}]
    rows += [rows[0] | {"name": one, "label": one, "datastore": "mine", "keytype": one} for one in kept]
    config = tinyrun.configured(folder, keep="all", experiments="sheet.yaml")
    (folder / "sheet.yaml").write_text(yaml.safe_dump({"table5": rows}))
    target = "results/mine/experiments/table5.json"
    tinyrun.run(folder, config, target=target)
    (folder / "sheet.yaml").write_text(yaml.safe_dump({"table5": rows[:1] + rows[2:]}))
    text = tinyrun.run(folder, config, "--dry-run", target=target)
    assert set(re.findall(r"^(?:local)?rule (\w+):", text, re.MULTILINE)) == {"interpolate"}
