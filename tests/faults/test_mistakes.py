"""A user's mistakes on the command line and files of a user's own: one line, and nothing of the user's is lost."""

import io
import json
import os
import shlex
import shutil
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest
import tinystudy

from knnlm.__main__ import main
from knnlm.artifacts import archives, description, devices
from knnlm.artifacts.files import UserError
from knnlm.datastores import ann
from knnlm.live import layout

KEYS = "study/keys/fox/seed1/fox/dev/ffn_input_ln/shard0of1"
CACHE = f"score_cache --queries {KEYS} --documents study/tokens/words/fox/dev.documents.npy --sizes 8 --thetas 1 --out"
MODEL = "study/models/fox/seed1"
EVALUATE = "evaluate --tokens study/tokens/words/fox/dev.npy --out out"
TRAIN = "train --train study/tokens/words/fox/train.npy --dev study/tokens/words/fox/dev.npy --out out"
PREPARE = """{"sources": [{"kind": "folder", "path": "texts"}], "dev_words": 40, "test_words": 40}"""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    tinystudy.write(folder / "study")
    return folder


@pytest.fixture
def study(made, tmp_path, monkeypatch) -> Path:
    """A folder with a finished study in `study`, in which commands run."""
    shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def run(monkeypatch, command: str) -> str:
    """What a command ends with: its error, or nothing."""
    monkeypatch.setattr(sys, "argv", ["knnlm", *shlex.split(command)])
    try:
        main()
    except SystemExit as ended:
        return str(ended.code or "")
    return ""


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Where outputs go


def test_a_folder_of_other_things_is_not_overwritten(study, monkeypatch):
    (study / "home/thesis").mkdir(parents=True)
    (study / "home/thesis/chapter.tex").write_text("important")
    (study / "notes").mkdir()
    (study / "notes/todo.txt").write_text("important")
    before = content(study)
    for out, found in (("study", "corpora"), ("home", "thesis"), ("notes", "todo.txt")):
        ended = run(monkeypatch, f"{CACHE} {out}")
        assert ended.startswith(f"error: {out}: found {found} in it, which is not of this output and would be lost: ")
    ended = run(monkeypatch, "explore --study study --neighbors 4 --words 5 --out home")
    assert ended == "error: home: found a folder, expected a file or nothing there: write elsewhere"
    ended = run(monkeypatch, f"{CACHE} notes/todo.txt")
    assert ended == "error: notes/todo.txt: found a file, expected a folder or nothing there: write elsewhere"
    ended = run(monkeypatch, f"{CACHE} notes/todo.txt/x")
    assert ended == "error: notes/todo.txt/x: a file stands where a folder is needed: write elsewhere"
    assert content(study) == before


def test_what_an_earlier_run_made_is_replaced_with_other_settings_and_after_a_half_removal(study, monkeypatch):
    assert run(monkeypatch, f"{CACHE} out") == ""
    changed = CACHE.replace("--sizes 8", "--sizes 4")
    first = content(study / "out")
    assert run(monkeypatch, f"{changed} out") == "" and content(study / "out").keys() != first.keys()
    (study / "out/meta.json").unlink()  # as Snakemake does before it runs a job again
    (study / "out/.snakemake_timestamp").touch()
    assert run(monkeypatch, f"{CACHE} out") == "" and content(study / "out").keys() == first.keys()


def test_a_link_to_a_folder_stays_a_link(study, monkeypatch):
    (study / "large").mkdir()
    (study / "out").symlink_to("large")
    assert run(monkeypatch, f"{CACHE} out") == ""
    assert (study / "out").is_symlink() and description.check(study / "large") == study / "large"


def test_only_folders_that_writers_left_are_cleaned_up(study, monkeypatch):
    for name in (".out.backup.tmp", ".out.0123abcd.tmp"):
        (study / name).mkdir()
    assert run(monkeypatch, f"{CACHE} out") == ""
    assert (study / ".out.backup.tmp").exists() and not (study / ".out.0123abcd.tmp").exists()


# Files of the user's own


def test_a_meta_json_of_others_describes_nothing(study, monkeypatch):
    (study / "mine").mkdir()
    for name, share in (("lm", 0.1), ("knn", 0.2)):
        np.save(study / f"mine/{name}.npy", np.log(np.full(100, share)))
    (study / "mine/meta.json").write_text('{"model": "gpt2"}')
    assert run(monkeypatch, "mix --lm mine/lm.npy --knn mine/knn.npy --lmbda 0.5") == ""
    for damaged in ("{", '{"stage": "evaluate", "outputs": {}}'):
        (study / "mine/meta.json").write_text(damaged)
        assert "meta.json" in run(monkeypatch, "mix --lm mine/lm.npy --knn mine/knn.npy --lmbda 0.5")


def test_titles_may_hold_separators_of_lines(study, monkeypatch):
    (study / "texts").mkdir()
    for number, end in enumerate(("\u0085", "\u2028", "\u2029", "")):
        (study / f"texts/story {number}{end} of a fox.txt").write_text("A fox ran over the hill. " * 20)
        (study / f"texts/story {number}{end} of a dog.txt").write_text(f"{number} dogs slept near the old mill. " * 20)
    (study / "texts/meta.json").write_text('{"by": "me"}')
    assert run(monkeypatch, f"prepare --settings '{PREPARE}' --out corpus") == ""
    assert run(monkeypatch, """build_vocab --corpora corpus --settings '{"type": "word"}' --out vocab""") == ""
    assert run(monkeypatch, "binarize --vocab vocab --corpus corpus --out tokens") == ""
    monkeypatch.setattr(layout.KnnLM, "tokens", lambda self, corpus, split: study / f"tokens/{split}.npy")
    titles = layout.KnnLM.titles(object.__new__(layout.KnnLM), "mine", "train")
    assert len(titles) == len(np.load("tokens/train.documents.npy"))
    assert {title[7] for title in titles} & {"\u0085", "\u2028", "\u2029"}


@pytest.mark.parametrize("factory", ["IDMap,Flat", "IDMap,IVF4,Flat", "RR4,IDMap,Flat"])
def test_an_index_with_ids_of_its_own_is_refused(tmp_path, factory):
    index, keys = faiss.index_factory(4, factory), np.random.default_rng(0).standard_normal((50, 4)).astype("f")
    index.train(keys)
    index.add_with_ids(keys, np.arange(50) + 10**12) if "RR" not in factory else None
    faiss.write_index(index, str(tmp_path / "knn.index"))
    with pytest.raises(UserError, match=r"knn.index: found ids of its own \(IDMap\), expected row numbers"):
        ann.load(tmp_path / "knn.index")


def test_rows_beyond_the_shard_are_not_looked_up():
    index = faiss.IndexFlatL2(2)
    index.add(np.zeros((9, 2), np.float32))
    with pytest.raises(UserError, match="the index names row 8 of 8: add the shard's keys again"):
        ann.search(index, np.zeros((1, 2), np.float32), 9, np.arange(8))


# Flags


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (
            f"{EVALUATE} --model {MODEL} --keytypes nosuch",
            "found the key type nosuch, this model has ",
        ),
        (
            f"{EVALUATE} --model theirs --keytypes output",
            "theirs: found a model of Hugging Face, ",
        ),
        (f"{EVALUATE} --model odd --keytypes output", "odd/config.json: "),
        (f"{TRAIN} --vocab study/vocabs/words", "study/vocabs/words: found a folder, expected a JSON file"),
        (f"{TRAIN} --vocab study/vocabs/words/vocab.json --architecture {{layers:1}}", "--architecture: found "),
        (
            f"{TRAIN} --vocab study/vocabs/words/vocab.json --architecture [1]",
            "--architecture: found '[1]', ",
        ),
        (f"{TRAIN} --vocab study/vocabs/words/vocab.json --seed -1", "--seed: found -1, expected a number from 0"),
        ("generate --study study --prompt a --seed -1", "--seed: found -1, expected a number from 0"),
        ("generate --study study --prompt a --temperature nan", "found --temperature nan"),
        ("frontier --study study --out out --factories bogus", "--factories: "),
        ("frontier --study study --out out --nprobes 0 4", "--nprobes: found 0 4, expected numbers from 1"),
        ("frontier --study study --out out --queries 0", "--queries: found 0, expected numbers from 1"),
        ("interpolate --rows @nofile.json --documents {} --out out.json", "nofile.json: no such file"),
        ("interpolate --rows [ --documents {} --out out.json", "--rows: found '[', expected JSON"),
        ("interpolate --rows {} --documents {} --out out.json", "--rows: found '{}', expected a list"),
        ("merge --shards a b --out", "--shards names 2 directories for 0 splits"),
    ],
)
def test_a_wrong_flag_is_one_line(study, monkeypatch, command, error):
    for name, config in (("theirs", {"model_type": "gpt2"}), ("odd", {"layers": 2})):
        (study / name).mkdir()
        (study / name / "config.json").write_text(json.dumps(config))
    ended = run(monkeypatch, command)
    assert ended.startswith("error: ") and error in ended and "\n" not in ended, ended
    assert not list(study.glob("out*"))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"mixer": "bins", "count": [3]}, "found [3], expected a single value"),
        ({"mixer": "joint", "temperatures": 3}, "found 3, expected a list of numbers"),
        ({"mixer": "joint", "temperatures": []}, "found [], expected a list of numbers"),
    ],
)
def test_a_value_of_another_kind_in_the_sheet_of_mixers_is_one_line(study, monkeypatch, settings, expected):
    (study / "mixing.yaml").write_text(json.dumps({"mixing": [{"name": "a", "label": "A"} | settings]}))
    assert expected in run(monkeypatch, "adapt --study study --sheet mixing.yaml --out out/mixing.json")


def test_lines_that_are_not_utf8_are_one_line_under_a_strict_locale(study, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9 is\n"), encoding="utf-8", errors="strict"))
    assert "standard input: 'caf\\udce9 is' is not UTF-8" in run(monkeypatch, "query --study study")


def test_threads_may_be_a_list_as_openmp_takes_it(monkeypatch):
    for given, expected in (("2,1", 2), ("3", 3), ("", os.cpu_count()), ("auto", os.cpu_count())):
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        assert devices.cores() == expected


def test_a_folder_has_no_digest_to_check(tmp_path):
    with pytest.raises(UserError, match="found a folder, expected a file with sha256 ab"):
        archives.check(tmp_path, "ab")
