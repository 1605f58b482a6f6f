"""The smoke study end to end on real text, and what a changed setting runs again."""

import copy
import json
import re

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT, snakemake
from test_prepare import assert_no_leak

from knnlm.scores.mixture import perplexity

EXTRA_TABLES = ["precision", "metric", "temperature", "memorizing", "claims", "cost"]
TABLES = [*(f"table{number}" for number in range(1, 6)), *EXTRA_TABLES]
FIGURES = ["figure1", "figure2a", "figure2b", *(f"figure{number}" for number in (3, 4, 5, 7, 8))]


@pytest.fixture(scope="session")
def study(smoke_config, tmp_path_factory):
    """The finished smoke study: (its configuration, its results folder, the process that made it)."""
    results = tmp_path_factory.mktemp("smoke")
    config = copy.deepcopy(smoke_config) | {"results": str(results)}
    path = results / "study.yaml"
    path.write_text(yaml.safe_dump(config))
    run = snakemake("--cores", 2, "--nolock", "--configfile", path)
    return config, results / config["study"], run


def rows(results, output):
    return {row["name"]: row for row in json.loads((results / f"experiments/{output}.json").read_text())["rows"]}


def test_the_study_runs_to_its_end(study):
    _, results, run = study
    assert run.returncode == 0, run.stderr[-3000:]
    for name in TABLES:
        assert all((results / f"tables/{name}.{end}").stat().st_size for end in ("md", "tex", "csv"))
    for name in FIGURES:
        assert all((results / f"figures/{name}.{end}").stat().st_size for end in ("pdf", "png", "csv"))
    assert (results / "examples/examples.html").stat().st_size


def test_the_run_ends_by_saying_once_where_everything_is(study):
    _, results, run = study
    assert run.stderr.count(f"Done. {results} holds {len(TABLES)} tables, {len(FIGURES)} figures, ") == 1
    assert run.stderr.count(f"{results}/report.html in a browser") == 1


def test_rows_of_the_temperature_table_differ_in_temperature_alone(study):
    found = rows(study[1], "temperature")
    stores = [found[name]["datastore"] for name in ("knn", "t3", "t10", "t30")]
    assert [store.pop("temperature") for store in stores] == [1, 3, 10, 30]
    assert all(store == stores[0] for store in stores)
    assert found["knn"]["dev"]["per_seed"] == rows(study[1], "table1")["knn"]["dev"]["per_seed"][:1]


def test_figure_1_mixes_the_numbers_that_it_shows(study):
    query = json.loads((study[1] / "figures/figure1.json").read_text())
    assert [near["distance"] for near in query["neighbors"]] == sorted(near["distance"] for near in query["neighbors"])
    for word in query["words"]:
        shown = sum(near["weight"] for near in query["neighbors"] if near["target"] == word["word"])
        assert shown <= word["knn"] + 1e-6
        mixture = query["lmbda"] * word["knn"] + (1 - query["lmbda"]) * word["lm"]
        assert word["mixture"] == pytest.approx(mixture, rel=1e-5)


def test_figure_3_names_the_key_types_of_table_5(study):
    shown = set(pd.read_csv(study[1] / "figures/figure3.csv")["keytype"])
    compared = {row["datastore"]["keytype"] for row in rows(study[1], "table5").values() if row["datastore"]}
    assert shown == {keytype for keytype in compared if not keytype.endswith("-second_last")}


def test_knn_improves_on_the_base_model_on_dev(study):
    for output in ("table1", "table2", "table4"):
        found = rows(study[1], output)
        assert found["knn"]["dev"]["perplexity"] < found["base"]["dev"]["perplexity"]


def test_a_tuned_mixture_is_never_worse_on_dev_than_its_parts(study):
    found = rows(study[1], "table1")
    alone = min(found[name]["dev"]["perplexity"] for name in ("base", "knn", "cache"))
    assert found["knn-cache"]["dev"]["perplexity"] <= alone


def test_perplexities_are_those_of_the_log_probabilities(study):
    _, results, _ = study
    base = rows(results, "table1")["base"]
    for split in ("dev", "test"):
        for seed, found in zip(base["seeds"], base[split]["per_seed"], strict=True):
            logprob = np.load(results / f"logprobs/wikitext/{split}/lm/wikitext/seed{seed}/logprob.npy")
            tokens = np.load(results / f"tokens/words/wikitext/{split}.npy")
            assert len(logprob) == len(tokens) == base[split]["tokens"]
            assert found == pytest.approx(perplexity(logprob), rel=1e-9)


def test_a_table_prints_what_its_experiment_found(study):
    found = rows(study[1], "table1")["knn-cache"]
    assert f"{found['test']['perplexity']:.2f}" in (study[1] / "tables/table1.md").read_text()


def test_the_whole_datastore_of_shards_is_searched(study):
    config, results, _ = study
    entries = [row["datastore"]["entries"] for row in rows(results, "figure2").values() if row["datastore"]]
    context = config["models"]["wiki-small"]["windows"]["datastore"]["context"]
    tokens = len(np.load(results / "tokens/subwords/wiki/train.npy", mmap_mode="r"))
    assert entries == sorted(entries) and len(set(entries)) == 4
    assert tokens - context - entries[-1] < config["models"]["wiki-small"]["windows"]["datastore"]["new"]


def jobs(config, results, *targets):
    """The rules that a dry run of a changed study would run, with their numbers."""
    path = results.parent / "study.yaml"
    if config != yaml.safe_load(path.read_text()):
        path = path.with_name("changed.yaml")
        path.write_text(yaml.safe_dump(config))
    run = snakemake(*targets, "-n", "--nolock", "--configfile", path)
    assert run.returncode == 0, run.stderr[-2000:]
    counts = re.findall(r"^(\w+) +(\d+)$", run.stdout + run.stderr, re.MULTILINE)
    return {rule: int(number) for rule, number in counts if rule != "total"}


def test_no_held_out_document_is_in_any_training_text(study):
    config, results, _ = study
    for corpus in config["corpora"]:
        assert_no_leak(results / "corpora" / corpus)


def changed(config, *path, value):
    config = copy.deepcopy(config)
    part = config
    for key in path[:-1]:
        part = part.setdefault(key, {})
    part[path[-1]] = value
    return config


RETRIEVAL = {"train", "evaluate", "extract", "train_index", "add", "search", "merge", "rerank"}


def test_a_second_run_does_nothing(study):
    config, results, _ = study
    assert jobs(config, results) == {}


def test_a_changed_grid_of_lmbda_reruns_no_retrieval_and_no_scores(study):
    config, results, _ = study
    again = jobs(changed(config, "mixture", "lmbda", value=[0, 0.25, 0.5, 1]), results)
    assert again["interpolate"] == len(yaml.safe_load((ROOT / "config/experiments/paper.yaml").read_text()))
    assert not (RETRIEVAL | {"score_knn", "score_cache", "score_ngram"}) & set(again)


def test_a_changed_list_of_k_reruns_no_retrieval(study, tmp_path):
    config, results, _ = study
    sheet = yaml.safe_load((ROOT / "config/experiments/paper.yaml").read_text())
    sheet["figure4"].append(dict(sheet["figure4"][-1], name="k3", label="k = 3", k=3))
    (tmp_path / "sheet.yaml").write_text(yaml.safe_dump(sheet))
    again = jobs(changed(config, "experiments", value=str(tmp_path / "sheet.yaml")), results, "figure4")
    assert again["score_knn"] >= 1
    assert not RETRIEVAL & set(again)


def test_a_changed_nlist_reruns_no_extraction_and_only_its_own_index(study):
    config, results, _ = study
    again = jobs(changed(config, "indexes", "ivfpq", "factory", value="IVF32,PQ16x8"), results)
    assert again["train_index"] == 1
    assert not {"train", "evaluate", "extract"} & set(again)


def test_a_changed_plot_reruns_nothing_but_the_plot(study):
    config, results, _ = study
    (results / "figures/figure4.png").unlink()
    assert set(jobs(config, results, "figure4")) <= {"draw_figure4", "figure4"}


@pytest.mark.parametrize(
    ("target", "models"),
    [
        ("table1", {"wikitext"}),
        ("table2", {"books"}),
        ("table3", {"wiki", "wiki-small"}),
        ("table4", {"wiki", "books"}),
        ("figure2", {"wiki", "wiki-small"}),
        ("figure8", {"wikitext", "memorizing"}),
    ],
)
def test_a_target_runs_exactly_the_models_it_needs(smoke_config, configured, tmp_path, target, models):
    path = configured(smoke_config | {"results": str(tmp_path / "none")})
    run = snakemake(target, "-n", "--nolock", "--configfile", path)
    assert run.returncode == 0, run.stderr[-2000:]
    trained = set(re.findall(rf"output: {tmp_path}/none/smoke/models/([\w-]+)/", run.stdout + run.stderr))
    assert trained == models


def test_what_came_after_the_paper_runs_on_the_finished_study(study):
    _, results, _ = study
    path = results.parent / "study.yaml"
    run = snakemake("beyond", "--cores", 2, "--nolock", "--configfile", path)
    assert run.returncode == 0, run.stderr[-3000:]
    methods = pd.read_csv(results / "tables/beyond.csv").set_index("name")
    table1 = rows(results, "table1")
    assert methods.loc["lm", "test"] == pytest.approx(table1["base"]["test"]["per_seed"][0], rel=1e-4)
    assert methods.loc["constant", "test"] == pytest.approx(table1["knn"]["test"]["per_seed"][0], rel=1e-3)
    assert (results / "beyond.html").stat().st_size > 100_000 and (results / "figures/beyond-helped.png").is_file()
    again = snakemake("beyond", "--cores", 2, "--nolock", "--configfile", path)
    assert "Nothing to be done" in again.stderr, again.stderr[-1000:]
