"""Training in two processes (torchrun, gloo): the same result as one process, and resumed bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT
from safetensors.numpy import load_file

from knnlm.artifacts import files, npy
from knnlm.models import checkpoint, train

ARCHITECTURE = dict(layers=1, dim=16, ffn_dim=32, heads=2, dropout=0.1, attention_dropout=0.0)
RECIPE = dict(optimizer="nag", lr=0.1, warmup=5, updates=300, tokens_per_update=64, tokens_per_batch=16, block=16)
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    rng = np.random.default_rng(0)
    for split, size in (("train", 700), ("dev", 64)):
        npy.save_array(folder / f"{split}.npy", rng.integers(2, 60, size).astype(np.uint16))
    files.write_json(folder / "vocab.json", {"size": 64})
    return folder


def command(corpus, out, architecture=None, **recipe):
    """The command `knnlm train` and its flags."""
    flags = {"architecture": ARCHITECTURE | (architecture or {}), "training": RECIPE | {"evaluate_every": 100} | recipe}
    flags = {name: json.dumps(value) for name, value in flags.items()} | {"out": out, "vocab": corpus / "vocab.json"}
    flags |= {split: corpus / f"{split}.npy" for split in ("train", "dev")}
    return ["knnlm", "train", *(part for name, value in flags.items() for part in (f"--{name}", str(value)))]


def start(corpus, out, launcher=(), architecture=None, stderr=None, **recipe):
    """Start `python -m … knnlm train` in the background."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", *launcher, *command(corpus, out, architecture, **recipe)]
    return subprocess.Popen(words, env=environment, stderr=stderr)


def curve(model):
    return [json.loads(line) for line in (model / "curve.jsonl").read_text().splitlines()]


def test_two_processes_train_on_the_same_tokens_as_one(corpus, tmp_path):
    no_dropout = {"dropout": 0.0, "activation_dropout": 0.0, "adaptive_dropout": 0.0}
    recipe = dict(updates=20, evaluate_every=10)
    launchers = {"1": (), "2": TORCHRUN}
    runs = [start(corpus, tmp_path / n, launcher, no_dropout, **recipe) for n, launcher in launchers.items()]
    assert [run.wait(300) for run in runs] == [0, 0]
    one, two = (load_file(tmp_path / n / "model.safetensors") for n in "12")
    for name in one:
        np.testing.assert_allclose(two[name], one[name], atol=1e-5)
    for a, b in zip(curve(tmp_path / "1"), curve(tmp_path / "2"), strict=True):
        assert a["tokens"] == b["tokens"] and a["train_loss"] == pytest.approx(b["train_loss"], abs=1e-5)
    assert files.read_json(tmp_path / "2/meta.json")["processes"] == 2


def test_two_processes_stopped_by_sigterm_end_with_the_same_weights(corpus, tmp_path):
    whole = start(corpus, tmp_path / "whole", TORCHRUN)
    run, state = start(corpus, tmp_path / "model", TORCHRUN, save_every=1e-9), tmp_path / ".model.resume/state.pt"
    while not state.exists():
        assert run.poll() is None
        time.sleep(0.01)
    run.send_signal(signal.SIGTERM)
    assert run.wait(300) != 0
    assert state.exists() and not (tmp_path / "model").exists()
    assert start(corpus, tmp_path / "model", TORCHRUN, save_every=1e-9).wait(300) == 0
    assert whole.wait(300) == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "model")]
    assert weights[0] == weights[1]
    assert not state.parent.exists()


def test_a_second_training_of_a_model_waits_and_finds_it_done(corpus, tmp_path):
    out, log = tmp_path / "model", tmp_path / "log"
    with checkpoint.only_one(tmp_path / ".model.resume"), log.open("w") as stderr:
        second = start(corpus, out, updates=2, warmup=2, stderr=stderr)
        while "waiting for it to finish" not in log.read_text():
            assert second.poll() is None and not out.exists()
            time.sleep(0.05)
        assert second.poll() is None and not out.exists()
    assert second.wait(300) == 0
    written = (out / "meta.json").stat().st_mtime_ns
    config = train.TrainConfig(
        *(corpus / name for name in ("train.npy", "dev.npy", "vocab.json")),
        out,
        json.dumps(ARCHITECTURE),
        json.dumps(RECIPE | {"evaluate_every": 100, "updates": 2, "warmup": 2}),
    )
    train.main(config)
    assert (out / "meta.json").stat().st_mtime_ns == written


def test_half_precision_asks_for_a_gpu(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(train.features, "device", lambda: "cpu")
    config = train.TrainConfig(
        *(corpus / name for name in ("train.npy", "dev.npy", "vocab.json")),
        tmp_path / "model",
        json.dumps(ARCHITECTURE),
        json.dumps(RECIPE | {"precision": "float16"}),
    )
    with pytest.raises(files.UserError, match="float16 needs a GPU"):
        train.main(config)
