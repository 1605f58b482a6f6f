"""Studies of pretrained models: docs/any-lm.md from a folder to tables and commands, and plans of other studies."""

import copy
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, snakemake
from test_pretrained import SIZES, published

sys.path.insert(0, str(ROOT / "workflow"))
from resources import Formulas
from study import StudyError, load

from knnlm.corpora import vocab
from knnlm.live import layout
from knnlm.live.retrieval import Retriever
from knnlm.models import model
from knnlm.settings import MAIN_KEYTYPE

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
    assert "".join(f"    {line}\n" for line in lines) in page
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
    changes |= {"ngram": {"orders": [2]}, "mixture": {"resamples": 10}, "paper": "config/paper_numbers.yaml"}
    run = snakemake("--cores", 2, "--nolock", "--configfile", configured(any_lm | changes))
    assert run.returncode == 0, run.stderr[-3000:]
    results = tmp_path / "results/mine"
    base, knn, _, ngram = json.loads((results / "experiments/table1.json").read_text())["rows"]
    assert base["parameters"] == sum(np.prod(shape) for shape in shapes())
    assert knn["dev"]["perplexity"] < 0.9 * base["dev"]["perplexity"]  # the LM is random
    assert ngram["dev"]["perplexity"] < 0.9 * base["dev"]["perplexity"]
    assert set(ngram["lmbda"]) == {"ngram"}
    keys = {path.parent.parent.name for path in results.glob("keys/mine/seed1/mine/train/*/shard0of1/keys.npy")}
    assert keys == {MAIN_KEYTYPE, ADDED}
    table = (results / "tables/table1.md").read_text()
    assert table.startswith("# Three texts (paper: §4.1, Table 1)")
    assert "mine: made up, 3 layers." in table
    for page in ("report.html", "explorer.html", "examples/examples.html", "examples/examples.md"):
        text = (results / page).read_text(encoding="utf-8")
        assert len(text) > 1000 and "mine: made up, 3 layers." in text
    check_query_and_generate(results)


def check_query_and_generate(study):
    """What the commands print of the study's model, against the study's own scores and a model without a cache."""
    source = layout.find(study)
    words = vocab.load(source.vocab)
    stream = np.load(source.tokens("mine", "test"))
    stored = {name: np.load(path("test")) for name, path in (("lm", source.lm), ("knn", source.knn))}
    retriever = Retriever(source)
    for position in range(1, 33, 5):  # of the first window, which begins with the text
        found = retriever.next(stream[:position].tolist())
        expected = [stored[name][position] for name in ("lm", "knn")]
        target = stream[position]
        assert np.log([found.lm[target], found.knn[target]]) == pytest.approx(expected, abs=2e-3)

    context = words.detokenize(stream[:9].tolist())
    answer = json.loads(knnlm("query", study, "--context", context, "--words", 300))
    tokens = words.encode(context.strip()).tolist()
    tokens = tokens[:-1] if tokens[-1] == words.eos else tokens
    assert answer["tokens"] == words.tokens(tokens) and answer["lmbda"] == source.lmbda
    with torch.inference_mode():
        lm = model.load(source.model)
        logprob = lm.logprob(lm(torch.tensor([[lm.eos, *tokens]]))[0, -1:])[0].tolist()
    names = words.tokens(range(words.size))
    likeliest = {one["token"]: one["logprob"] for one in answer["next"]["lm"] if names.count(one["token"]) == 1}
    assert len(likeliest) > 100  # the bytes that are no character have one name
    expected = {name: value for name, value in zip(names, logprob, strict=True) if name in likeliest}
    assert likeliest == pytest.approx(expected, abs=1e-3)

    options = ("--prompt", context, "--words", 40, "--temperature", 0, "--mode", "lm")
    answer = json.loads(knnlm("generate", study, *options))  # 40 words: the window of 64 is not refilled
    read = [lm.eos, *tokens]
    for word in answer["words"]:
        with torch.inference_mode():
            logprob = lm.logprob(lm(torch.tensor([read]))[0, -1:])[0]  # all of it again
        read.append(int(logprob.argmax()))
        assert word["token"] == names[read[-1]]
        assert word["logprob"]["lm"] == pytest.approx(logprob[read[-1]].item(), abs=1e-3)
    assert answer["text"].strip() == words.detokenize(read[1:]).strip()


def knnlm(verb, study, *options) -> str:
    """What a command prints as JSON."""
    line = [sys.executable, "-m", "knnlm", verb, "--study", study, "--json", *options]
    run = subprocess.run([*map(str, line)], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout


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
    formulas = Formulas(load(yaml.safe_load((ROOT / "config/pretrained.yaml").read_text())))
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


def planned(*options):
    """How many jobs of each rule a study has, and what its dry run prints."""
    run = snakemake("-n", "--nolock", *options)
    assert run.returncode == 0, run.stderr[-3000:]
    printed = run.stdout + run.stderr
    return {name: int(n) for name, n in re.findall(r"(?m)^(\w+) +(\d+)$", printed)}, printed


def test_a_fine_tuned_model_begins_with_the_one_that_the_study_uses_as_it_is(tmp_path):
    counts, printed = planned("--configfile", "config/finetuned.yaml", "--config", f"results={tmp_path}")
    assert counts["finetune"] == counts["import_pretrained"] == 1 and "train" not in counts
    assert counts["evaluate"] == counts["extract"] == 2 and "import_initial" not in counts
    job = printed[printed.index("rule finetune:") :].split("\n\n")[0]
    assert f"{tmp_path}/finetuned/models/smollm2/seed1/meta.json" in job


def test_gpt2_is_imported_trained_and_compared_with_what_others_published(tmp_path):
    folders = (f"results={tmp_path}/results", f"downloads={tmp_path}/downloads")
    counts, printed = planned("--configfile", "config/gpt2.yaml", "--config", *folders)
    assert counts["fetch_dataset"] == counts["import_initial"] == counts["finetune"] == counts["evaluate"] == 3
    assert "import_pretrained" not in counts
    assert (counts["stream_wikitext"], counts["stream_wikitext_shown"]) == (2 * 4, 4)  # examples show one model
    job = re.search(r"rule finetune:\n +input: (.*)\n", printed)
    assert job and "/gpt2/initial/" in job[1]
    assert "config/gpt2_numbers.yaml" in printed
    rows = yaml.safe_load((ROOT / "config/experiments/gpt2.yaml").read_text())["table1"]
    published = yaml.safe_load((ROOT / "config/gpt2_numbers.yaml").read_text())["table1"]["rows"]
    assert [row["name"] for row in rows if row.get("temperature") != "tune"] == list(published)


FINETUNING = {"optimizer": "adamw", "lr": 1e-4, "min_lr": 0.0, "warmup": 0, "updates": 4, "tokens_per_update": 64}
FINETUNING |= {"tokens_per_batch": 64, "block": 32, "clip_norm": 1.0, "evaluate_every": 2}


@pytest.mark.parametrize("key", ["optimizer", "lr", "updates", "clip_norm"])
def test_a_recipe_of_fine_tuning_is_named_whole(any_lm, key):
    any_lm["models"]["mine"]["training"] = {name: value for name, value in FINETUNING.items() if name != key}
    assert f"models.mine.training.{key}: missing: beside pretrained the defaults" in refusal(any_lm)


def test_blocks_longer_than_the_model_reads_are_refused(any_lm):
    longer = {"block": 128, "tokens_per_batch": 128, "tokens_per_update": 128}
    any_lm["models"]["mine"]["training"] = FINETUNING | longer
    assert "models.mine.training.block: found 128, the model can read 64 tokens; allowed: at mo" in refusal(any_lm)


def test_dropout_of_a_pretrained_model_is_its_own(any_lm):
    any_lm["models"]["mine"] |= {"training": FINETUNING, "architecture": {"dropout": 0.1}}
    assert "models.mine.architecture: the pretrained model has its own" in refusal(any_lm)


def test_what_fine_tuning_needs(any_lm):
    study = copy.deepcopy(any_lm)
    study["models"]["tuned"] = study["models"]["mine"] | {"training": FINETUNING}
    formulas, w = Formulas(load(study)), {"model": "tuned", "corpus": "mine"}
    needs, weights = formulas.finetune(w), formulas.weights_gb("tuned")
    flops = 3 * formulas.flops("tuned", 32) * 4 * 64
    assert needs.hours == pytest.approx(flops / formulas.rates["gpu"]["train"]["float32"] / 3600)
    assert needs.gpus == 1 and needs.memory == pytest.approx(2 + 8 * weights)


def test_a_model_is_trained_further_in_a_study_and_searched(any_lm, configured, tmp_path):
    rows = [
        {"name": "base", "label": "tiny LM", "model": "mine"},
        {"name": "tuned", "label": "trained further", "model": "tuned"},
        {"name": "knn", "label": "trained further + kNN-LM", "model": "tuned", "datastore": "mine"},
    ]
    (tmp_path / "sheet.yaml").write_text(yaml.safe_dump({"table1": rows}))
    numbers = {"table1": {"section": "", "title": "t", "rows": {"tuned": {"dev": 12.34, "test": None}}}}
    (tmp_path / "numbers.yaml").write_text(yaml.safe_dump(numbers))
    any_lm["models"]["mine"]["pretrained"]["description"] = "made up"
    recipe = FINETUNING | {"updates": 30, "lr": 0.01, "evaluate_every": 10}
    any_lm["models"]["tuned"] = any_lm["models"]["mine"] | {"training": recipe}
    changes = {"experiments": str(tmp_path / "sheet.yaml"), "published": str(tmp_path / "numbers.yaml")}
    changes |= {"mixture": {"resamples": 10}}
    target = f"{tmp_path}/results/mine/tables/table1.md"
    run = snakemake("--cores", 2, "--nolock", target, "--configfile", configured(any_lm | changes))
    assert run.returncode == 0, run.stderr[-3000:]
    base, tuned, knn = json.loads((tmp_path / "results/mine/experiments/table1.json").read_text())["rows"]
    assert tuned["dev"]["perplexity"] < 0.8 * base["dev"]["perplexity"]
    assert knn["dev"]["perplexity"] <= tuned["dev"]["perplexity"]
    assert tuned["parameters"] == base["parameters"]
    table = (tmp_path / "results/mine/tables/table1.md").read_text()
    assert "tuned: made up, trained further" in table
    assert [line for line in table.splitlines() if "12.34" in line and "trained further " in line]
