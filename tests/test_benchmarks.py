"""How a benchmark's line is made from its measured pairs."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT

from benchmarks import own_corpus, recipes
from benchmarks.harness import Sides, columns, load_cases, timed
from benchmarks.published import run
from knnlm.artifacts import files, npy
from knnlm.artifacts.files import UserError
from knnlm.corpora.vocab import WordVocab
from knnlm.models import model as language_model


def sides(**options):
    return Sides(lambda: 1, lambda: 1, lambda ours, other: None, 100.0, "queries", **options)


def test_rates_and_ratio_are_those_of_the_pair_with_the_median_ratio():
    pairs = [(1.0, 9.0), (2.0, 4.0), (10.0, 30.0)]  # ratios 9, 2 and 3; each side's own median is 2 and 9
    assert columns(sides(), pairs) == {
        "ours": "10 queries/s",
        "other": "3 queries/s",
        "ratio": "**3.00×** (2.00× to 9.00×)",
    }


def test_extra_time_has_a_sign():
    assert columns(sides(overhead=True), [(1.1, 1.0), (0.9, 1.0), (2.0, 1.0)])["ratio"] == "**+10%** (-10% to +100%)"


def test_both_sides_must_agree_before_either_is_timed():
    def same(ours, other):
        raise AssertionError("other answers")

    with pytest.raises(AssertionError, match="other answers"):
        timed(Sides(lambda: 1, lambda: 2, same, 1.0, ""))


def test_every_case_can_be_loaded():
    assert {"exact-512", "extract", "workflow"} <= set(load_cases())


@pytest.mark.parametrize("name", ["encode-sentencepiece", "encode-bert"])
def test_both_sides_of_encoding_give_the_same_tokens(tmp_path, name):
    made = load_cases()[name].make(tmp_path, 0.01)
    made.same(made.ours(), made.other())


def test_both_sides_of_the_published_run_get_the_same_whole_lines(tmp_path):
    results, out = tmp_path / "results", tmp_path / "out"
    (results / "vocabs/words").mkdir(parents=True)
    (results / "tokens/words/wikitext").mkdir(parents=True)
    out.mkdir()
    words = WordVocab([("a", 3), ("b", 2)])
    words.save(results / "vocabs/words")
    ids = np.concatenate([words.encode(line) for line in ("a b", "", "b c a", "a a")]).astype(np.uint16)
    for split in ("train", "dev"):
        np.save(results / f"tokens/words/wikitext/{split}.npy", ids)
    run.prepare(results, out, 9)
    assert (out / "train.txt").read_text() == "a b\n\nb <unk> a\n"
    assert np.load(out / "train.npy").tolist() == ids[:8].tolist() and np.load(out / "dev.npy").tolist() == ids.tolist()


def test_seconds_of_a_part_are_the_sum_of_its_steps(tmp_path):
    (tmp_path / "seconds").mkdir()
    for name, took in (("evaluate", 1), ("search-fast", 2), ("search-paper", 30), ("train", 9)):
        (tmp_path / f"seconds/ours-{name}.json").write_text(json.dumps({"wall": 0, "processor": took}))
    assert run.seconds(tmp_path, "ours", "dev, kNN, fast index") == 3
    assert run.seconds(tmp_path, "ours", "dev, kNN") == 31


def test_old_names_are_there_for_the_published_scripts(tmp_path):
    (tmp_path / "beside.py").write_text("import torch\nfull = torch.full([2], -10000).cuda()\n")
    script = tmp_path / "script.py"
    script.write_text("import sys, numpy as np, beside\nprint(np.int(2), beside.full.dtype, sys.argv[1])\n")
    command = [sys.executable, ROOT / "benchmarks/published/compat.py", script, "--flag"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed == "2 torch.float32 --flag\n"


@pytest.fixture
def results(tmp_path):
    """A results folder with random tokens of 40 words, cut off where the search of recipes needs no more."""
    tokens, rng = tmp_path / "tokens/words/wikitext", np.random.default_rng(0)
    tokens.mkdir(parents=True)
    for split, size in (("train", 900), ("dev", 300), ("test", 300)):
        npy.save_array(tokens / f"{split}.npy", rng.integers(2, 40, size).astype(np.uint16))
    (tmp_path / "vocabs/words").mkdir(parents=True)
    files.write_json(tmp_path / "vocabs/words/vocab.json", {"size": 40})
    return tmp_path


SMALL = {"layers": 1, "dim": 8, "ffn_dim": 8, "heads": 2, "adaptive_cutoffs": [], "updates": 20, "warmup": 5}


def scored(folder, tokens):
    """Perplexity of 128 tokens at a time after up to 128 tokens of context."""
    lm, read, total = language_model.load(folder), torch.from_numpy(np.append(2, tokens).astype(np.int64)), 0.0
    for start in range(0, len(tokens), 128):
        begin, end = max(0, start - 128), min(start + 128, len(tokens))
        logprob = lm.logprob(lm(read[None, begin:end])[0]).gather(1, read[begin + 1 : end + 1, None])
        total += logprob[start - begin :].sum().item()
    return np.exp(-total / len(tokens))


@pytest.mark.parametrize(("share", "cost", "updates"), [(0.5, 2.0, 5), (0.5, 0.5, 20), (1.0, 0.8, 25)])
def test_a_recipe_gets_as_many_updates_as_take_its_share_of_todays_time(results, monkeypatch, share, cost, updates):
    monkeypatch.setattr(recipes, "TODAY", recipes.TODAY | SMALL)
    monkeypatch.setattr(recipes, "cost", lambda *_: cost)
    one = recipes.measure({"lr": 0.01}, share, recipes.inputs(results), results, test=True)
    assert (one.updates, one.epochs) == (updates, updates * 512 / 900)
    model = next(results.glob("lr 0.01 for*"))
    trained = files.read_json(model / "meta.json")["config"]["training"]
    assert (trained["lr"], trained["updates"], trained["warmup"]) == (0.01, updates, round(updates / 4))
    for split, perplexity in (("dev", one.dev), ("test", one.test)):
        assert perplexity == pytest.approx(
            scored(model, np.load(results / f"tokens/words/wikitext/{split}.npy")), rel=1e-4
        )


def test_what_a_recipe_costs_is_relative_to_today(monkeypatch):
    monkeypatch.setattr(recipes, "TODAY", recipes.TODAY | SMALL)
    tokens = np.random.default_rng(0).integers(2, 40, 9000).astype(np.uint16)
    assert recipes.cost({"tokens_per_update": 4096, "tokens_per_batch": 4096}, tokens, 40) > 2


def test_recipes_say_what_is_missing_or_no_setting(tmp_path):
    with pytest.raises(UserError, match=r"train.npy: not found: run the mini study"):
        recipes.inputs(tmp_path)
    with pytest.raises(UserError, match=r"lrate: not a setting"):
        recipes.recipe({"lrate": 1}, 100)
    with pytest.raises(UserError, match=r"training: .*lr"):
        recipes.recipe({"lr": -1}, 100)


@pytest.mark.parametrize(("words", "documents"), [(1, 1), (1999, 1), (2010, 2), (9000, 5)])
def test_texts_of_so_many_words_are_made_of_all_lines_before_one_comes_again(words, documents):
    lines = [f"word{number} and {'more ' * (number % 5)}" for number in range(600)]  # 2,400 words in all
    texts = list(own_corpus.documents(lines, words))
    assert texts == list(own_corpus.documents(lines, words)) != list(own_corpus.documents(lines, words, seed=2))
    used = [line for text in texts for line in text.removesuffix("\n").split("\n")]
    assert len(texts) == documents and 0 <= sum(len(line.split()) for line in used) - words < 6
    assert set(used[:600]) <= set(lines) and len(set(used[:600])) == len(used[:600])
    assert len(used) < 1200 or (set(used[600:1200]) == set(lines) and used[600:1200] != used[:600])
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize(("words", "lines"), [(2000, [2]), (3000, [2, 1]), (4000, [2, 2]), (4001, [2, 2, 1])])
def test_a_text_ends_with_its_two_thousandth_word_and_the_last_with_the_last_one(words, lines):
    texts = own_corpus.documents([f"{name} " * 1000 for name in "abcde"], words)
    assert [text.count("\n") for text in texts] == lines


@pytest.mark.parametrize(
    ("words", "updates", "held_out"), [(199_999, 600, 0), (200_000, 3400, 0), (2_000_001, 3400, 200_000)]
)
def test_a_corpus_is_measured_with_what_the_document_says_of_its_size(tmp_path, words, updates, held_out):
    made = own_corpus.study(tmp_path / "results/mine", words)
    assert Path(made["results"]) / made["study"] == tmp_path / "results/mine"
    assert made["models"]["mine"]["training"]["updates"] == updates
    assert made["corpora"]["mine"].get("dev_words", 0) == made["corpora"]["mine"].get("test_words", 0) == held_out
    text = (own_corpus.ROOT / "docs/your-corpus.md").read_text()
    assert ", ".join(f"`{key}: {value}`" for key, value in own_corpus.FEWER_UPDATES.items()) in text
    assert ", ".join(f"`{key}: {value}`" for key, value in own_corpus.HELD_OUT.items()) in text
