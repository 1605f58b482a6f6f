"""Studies of pretrained models: docs/any-lm.md from a folder to its tables, and config/pretrained.yaml as a plan."""

import copy
import json
import re
import sys

import numpy as np
import pytest
import yaml
from conftest import ROOT, snakemake
from test_pretrained import SIZES, published

sys.path.insert(0, str(ROOT / "workflow"))
from resources import Formulas
from study import StudyError, load

from knnlm.settings import KEYTYPES, OTHER_KEYTYPES

ADDED = "ffn_input_ln-second_last"
PLACE = "model.layers.-2.post_attention_layernorm:output"
SHEET = {
    "table1": [
        {"name": "base", "label": "tiny LM", "model": "mine"},
        {"name": "knn", "label": "+ kNN-LM", "model": "mine", "datastore": "mine"},
        {"name": "cache", "label": "+ continuous cache", "model": "mine", "cache": True},
        {"name": "ngram", "label": "+ bigrams", "model": "mine", "ngram": 2},
    ],
    "table5": [
        {"name": "base", "label": "no datastore", "model": "mine"},
        {"name": ADDED, "label": "one layer lower", "model": "mine", "datastore": "mine", "keytype": ADDED},
    ],
}


@pytest.fixture
def any_lm(tmp_path, monkeypatch):
    """The configuration of docs/any-lm.md for a tiny model and three short texts."""
    monkeypatch.chdir(ROOT)
    (tmp_path / "my-model").mkdir()
    published(tmp_path / "my-model", max_position_embeddings=64)
    (tmp_path / "my-texts").mkdir()
    generator = np.random.default_rng(0)
    words = ["fox", "dog", "mill", "runs", "Gree", "near", "and", "old"]  # Gree is a whole token, which Figure 1 needs
    for name in ("first", "second", "third"):
        text = "\n".join(" ".join(generator.choice(words, 12)) + "." for _ in range(20))
        (tmp_path / f"my-texts/{name}.txt").write_text(text)
    text = (ROOT / "config/any-lm.yaml").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert len(lines) <= 10
    page = (ROOT / "docs/any-lm.md").read_text(encoding="utf-8")
    assert "".join(f"   {line}\n" for line in lines) in page
    config = yaml.safe_load(
        text.replace("my-texts", f"{tmp_path}/my-texts").replace("my-model", f"{tmp_path}/my-model")
    )
    config["corpora"]["mine"] |= {"dev_words": 300, "test_words": 300}
    config["models"]["mine"]["windows"] = {kind: {"new": 32, "context": 32} for kind in ("evaluation", "datastore")}
    return config | {"results": str(tmp_path / "results"), "retrieval": {"index": "exact", "k": 64}}


def test_a_model_and_a_folder_of_texts_become_tables_and_pages(any_lm, configured, tmp_path):
    (tmp_path / "sheet.yaml").write_text(yaml.safe_dump(SHEET))
    model = {"path": f"{tmp_path}/my-model", "description": "made up, 3 layers", "taps": {ADDED: PLACE}}
    any_lm["models"]["mine"]["pretrained"] = model
    changes = {"experiments": str(tmp_path / "sheet.yaml"), "titles": {"table1": "Three texts"}, "keep": "all"}
    changes |= {"ngram": {"orders": [2]}, "mixture": {"resamples": 10}}
    run = snakemake("--cores", 2, "--nolock", "--configfile", configured(any_lm | changes))
    assert run.returncode == 0, run.stderr[-3000:]
    results = tmp_path / "results/mine"
    base, knn, _, ngram = json.loads((results / "experiments/table1.json").read_text())["rows"]
    assert base["parameters"] == sum(np.prod(shape) for shape in shapes())
    assert knn["dev"]["perplexity"] < 0.9 * base["dev"]["perplexity"]  # the LM is random
    assert ngram["dev"]["perplexity"] < 0.9 * base["dev"]["perplexity"]
    assert set(ngram["lmbda"]) == {"ngram"}
    keys = {path.parent.parent.name for path in results.glob("keys/mine/seed1/mine/train/*/shard0of1/keys.npy")}
    assert keys == set(KEYTYPES)
    table = (results / "tables/table1.md").read_text()
    assert table.startswith("# Three texts (paper: §4.1, Table 1)")
    assert "mine: made up, 3 layers." in table
    for page in ("report.html", "explorer.html", "examples/examples.html"):
        assert (results / page).stat().st_size > 10_000


def shapes():
    """Of the weights of tests/models/test_pretrained.py's llama with 300 tokens; its embeddings are not tied."""
    dim, ffn, kv = SIZES["hidden_size"], SIZES["intermediate_size"], 16
    layer = [(dim, dim), (kv, dim), (kv, dim), (dim, dim), (ffn, dim), (ffn, dim), (dim, ffn), (dim,), (dim,)]
    return [(300, dim), (300, dim), (dim,), *layer * SIZES["num_hidden_layers"]]


def refusal(study):
    with pytest.raises(StudyError) as caught:
        load(study)
    return str(caught.value)


def test_a_window_longer_than_the_model_reads_is_refused(any_lm):
    any_lm["models"]["mine"]["windows"]["evaluation"]["context"] = 33
    assert "models.mine.windows.evaluation: found 65 tokens (new + context), the model can read 64" in refusal(any_lm)


def test_parts_that_do_not_divide_the_models_keys_are_refused(any_lm):
    any_lm["indexes"]["exact"] = {"factory": "PQ5"}
    assert "whose 5 sub-quantisers do not divide the 32 dimensions" in refusal(any_lm)


def test_a_model_that_is_not_there_is_refused(any_lm):
    for section, key in (("vocabs", ("path",)), ("models", ("pretrained", "path"))):
        study = copy.deepcopy(any_lm)
        entry = study[section]["mine"]
        for part in key[:-1]:
            entry = entry[part]
        entry["path"] = "nowhere"
        where = ".".join((section, "mine", *key))
        assert refusal(study).startswith(f"{where}: nowhere is not there; name the model's folder")


@pytest.mark.parametrize("larger", [[], ["config/larger/pretrained.yaml"]])
def test_the_study_of_smollm2_is_planned(larger, tmp_path):
    options = ("--configfile", "config/pretrained.yaml", *larger, "--config", f"results={tmp_path}")
    run = snakemake("-n", "--nolock", *options)
    assert run.returncode == 0, run.stderr[-3000:]
    counts = {name: int(n) for name, n in re.findall(r"(?m)^(\w+) +(\d+)$", run.stdout + run.stderr)}
    assert counts["import_pretrained"] == counts["pretrained_vocab"] == 1
    assert counts["evaluate"] == 4 and "train" not in counts


def test_sizes_of_a_pretrained_model(monkeypatch):
    monkeypatch.chdir(ROOT)
    formulas = Formulas(load(yaml.safe_load((ROOT / "config/pretrained.yaml").read_text())), len(OTHER_KEYTYPES))
    w = {"model": "smollm2", "corpus": "wiki", "shards": "1"}
    assert formulas.dim(w) == 576 and formulas.weights_gb("smollm2") == pytest.approx(0.538, abs=0.001)
    assert formulas.entries("smollm2", "wiki", 1) == pytest.approx(133_337, rel=0.1)
    # 2 operations for each weight; the matrix of the softmax, which is the embedding's too, where words are predicted
    assert formulas.flops("smollm2", 0) == 2 * 134_515_008
    assert formulas.flops("smollm2", 0, words=False) == 2 * (134_515_008 - 49_152 * 576)
    assert formulas.extract(w).disk == pytest.approx(133_337 * (576 * 2 + 12) * 1e-9, rel=0.1)


def test_a_models_repository_is_a_source_as_well(tmp_path, configured):
    entry = {
        "kind": "huggingface",
        "read_as": "language_model",
        "repository": "owner/model",
        "revision": "0123456789" * 4,
        "description": "a model",
        "licence": "MIT",
        "sizes": {"parameters": 10**9, "layers": 24, "dim": 1024, "vocab_size": 50_000},
    }
    catalogue = yaml.safe_load((ROOT / "config/archives.yaml").read_text()) | {"hub": entry}
    (tmp_path / "archives.yaml").write_text(yaml.safe_dump(catalogue))
    study = yaml.safe_load((ROOT / "config/pretrained.yaml").read_text())
    study["vocabs"]["smollm2"]["archive"] = study["models"]["smollm2"]["pretrained"]["archive"] = "hub"
    folders = {"results": str(tmp_path / "results"), "downloads": str(tmp_path / "downloads")}
    path = configured(study | folders | {"archives": str(tmp_path / "archives.yaml")})
    run = snakemake("-n", "--nolock", "table1", "--configfile", path)
    assert run.returncode == 0, run.stderr[-3000:]
    fetched = re.search(r"rule fetch_dataset:\n +output: (\S+)", run.stdout + run.stderr)
    assert fetched and fetched[1] == f"{tmp_path}/downloads/hub"
