"""A study whose model is a published checkpoint, from its text to a table."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

ROOT = Path(__file__).parent.parent
STUDY = ROOT / "tests/data/fairseq/study.yaml"
sys.path.append(str(ROOT / "workflow"))
from study import StudyError, load  # noqa: E402


def test_checkpoint_to_table(tmp_path):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "snakemake", "table1", "--nolock", "--cores", "2"]
    command += ["--configfile", str(STUDY), "--config", f"results={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    base, knn = json.loads((tmp_path / "fairseq/experiments/table1.json").read_text())["rows"]
    assert base["parameters"] == 20784
    assert base["dev"]["perplexity"] == pytest.approx(18.682, abs=1e-3)
    assert knn["datastore"]["entries"] == 17321
    published = int(np.argmin(np.abs(np.array(knn["curve"]["lmbda"]) - 0.25)))
    assert knn["curve"]["dev"][published] == pytest.approx(13.819, abs=0.05)  # the study trains an index of its own
    assert knn["dev"]["perplexity"] <= knn["curve"]["dev"][published]  # and tunes λ
    assert f"| {knn['dev']['perplexity']:.2f} |" in " ".join(
        (tmp_path / "fairseq/tables/table1.md").read_text().split()
    )


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("models", {"architecture": {"heads": 16}}, "models.published.architecture: .*checkpoint has its own"),
        ("models", {"training": {"lr": 1.0}}, "models.published.training: .*checkpoint has its own"),
        ("models", {"seeds": [1, 2]}, r"models.published.seeds: found \[1, 2\], a checkpoint is one training run"),
        ("vocabs", {"file": None}, "models.published.vocab: a checkpoint needs .*dict.txt"),
    ],
)
def test_what_a_checkpoint_tells_is_told_once(section, changes, message):
    study = yaml.safe_load(STUDY.read_text())
    (entry,) = study[section].values()
    entry |= changes
    for key in [key for key, value in changes.items() if value is None]:
        del entry[key]
    with pytest.raises(StudyError, match=message):
        load(study)
