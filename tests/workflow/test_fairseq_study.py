"""A study whose model is a published checkpoint, from its text to a table."""

import json
import random
import re
import sys

import numpy as np
import pytest
import yaml
from conftest import ROOT, snakemake

STUDY = ROOT / "tests/data/fairseq/study.yaml"
RUN = ROOT / "tests/data/oracles/fairseq_run"
sys.path.insert(0, str(ROOT / "workflow"))
from study import StudyError, load  # noqa: E402


def test_checkpoint_to_table(tmp_path, monkeypatch):
    for name, value in (("OMP_NUM_THREADS", "1"), ("CUDA_VISIBLE_DEVICES", "")):
        monkeypatch.setenv(name, value)
    options = ("--configfile", STUDY, "--config", f"results={tmp_path}")
    done = snakemake("table1", "--nolock", "--cores", 2, *options)
    assert done.returncode == 0, done.stderr[-3000:]
    log = (tmp_path / "fairseq/logs/import_fairseq/published/seed1.log").read_text()
    assert re.search(r"valid.txt: perplexity 22\.\d+ over \d+ tokens, a unigram model.s 7\d\.", log)
    base, knn = json.loads((tmp_path / "fairseq/experiments/table1.json").read_text())["rows"]
    assert base["parameters"] == 20784
    assert base["dev"]["perplexity"] == pytest.approx(18.682, abs=1e-3)
    assert knn["datastore"]["entries"] == 17321
    published = int(np.argmin(np.abs(np.array(knn["curve"]["lmbda"]) - 0.25)))
    assert knn["curve"]["dev"][published] == pytest.approx(13.819, abs=0.05)  # the study trains an index of its own
    assert knn["dev"]["perplexity"] <= knn["curve"]["dev"][published]  # and tunes λ
    table = (tmp_path / "fairseq/tables/table1.md").read_text()
    assert f"{knn['dev']['perplexity']:.2f}" in table.split("+ kNN-LM ")[1]


@pytest.mark.parametrize("text", ["valid.txt", None])
def test_a_dictionary_in_another_order_warns_where_a_text_is_named(tmp_path, text):
    study = yaml.safe_load(STUDY.read_text())
    lines = (RUN / "dict.txt").read_text().splitlines(keepends=True)
    (tmp_path / "dict.txt").write_text("".join(random.Random(1).sample(lines, len(lines))))
    study["vocabs"]["words"]["file"] = str(tmp_path / "dict.txt")
    study["models"]["published"] |= {"checkpoint_text": text and str(RUN / text)}
    study["results"] = str(tmp_path)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    model = tmp_path / "fairseq/models/published/seed1/meta.json"
    done = snakemake(model, "--nolock", "--cores", 1, "--configfile", tmp_path / "study.yaml")
    assert done.returncode == 0, done.stderr[-3000:]
    log = (tmp_path / "fairseq/logs/import_fairseq/published/seed1.log").read_text()
    assert ("valid.txt: perplexity" in log) == ("is worse than a unigram model's" in log) == (text is not None)


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("models", {"architecture": {"heads": 16}}, "models.published.architecture: .*checkpoint has its own"),
        ("models", {"training": {"lr": 1.0}}, "models.published.training: .*checkpoint has its own"),
        ("models", {"seeds": [1, 2]}, r"models.published.seeds: found \[1, 2\], a checkpoint is one training run"),
        ("models", {"checkpoint": None}, "models.published.checkpoint_text: found without checkpoint"),
        ("models", {"checkpoint_text": "no/valid.txt"}, "models.published.checkpoint_text: no/valid.txt is not a file"),
        ("vocabs", {"file": None}, "models.published.vocab: a checkpoint needs .*dict.txt"),
    ],
)
def test_what_a_checkpoint_tells_is_told_once(monkeypatch, section, changes, message):
    monkeypatch.chdir(ROOT)
    study = yaml.safe_load(STUDY.read_text())
    (entry,) = study[section].values()
    entry |= changes
    for key in [key for key, value in changes.items() if value is None]:
        del entry[key]
    with pytest.raises(StudyError, match=message):
        load(study)
