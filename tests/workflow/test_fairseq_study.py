"""A study whose model is a published checkpoint, from its text to a table."""

import json
import sys

import numpy as np
import pytest
import yaml
from conftest import ROOT, snakemake

STUDY = ROOT / "tests/data/fairseq/study.yaml"
sys.path.insert(0, str(ROOT / "workflow"))
from study import StudyError, load  # noqa: E402


def test_checkpoint_to_table(tmp_path, monkeypatch):
    for name, value in (("OMP_NUM_THREADS", "1"), ("CUDA_VISIBLE_DEVICES", "")):
        monkeypatch.setenv(name, value)
    options = ("--configfile", STUDY, "--config", f"results={tmp_path}")
    done = snakemake("table1", "--nolock", "--cores", 2, *options)
    assert done.returncode == 0, done.stderr[-3000:]
    base, knn = json.loads((tmp_path / "fairseq/experiments/table1.json").read_text())["rows"]
    assert base["parameters"] == 20784
    assert base["dev"]["perplexity"] == pytest.approx(18.682, abs=1e-3)
    assert knn["datastore"]["entries"] == 17321
    published = int(np.argmin(np.abs(np.array(knn["curve"]["lmbda"]) - 0.25)))
    assert knn["curve"]["dev"][published] == pytest.approx(13.819, abs=0.05)  # the study trains an index of its own
    assert knn["dev"]["perplexity"] <= knn["curve"]["dev"][published]  # and tunes λ
    table = (tmp_path / "fairseq/tables/table1.md").read_text()
    assert f"{knn['dev']['perplexity']:.2f}" in table.split("+ kNN-LM ")[1]


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("models", {"architecture": {"heads": 16}}, "models.published.architecture: .*checkpoint has its own"),
        ("models", {"training": {"lr": 1.0}}, "models.published.training: .*checkpoint has its own"),
        ("models", {"seeds": [1, 2]}, r"models.published.seeds: found \[1, 2\], a checkpoint is one training run"),
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
