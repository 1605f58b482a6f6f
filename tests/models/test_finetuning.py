"""Training on from a pretrained model: the loss, tied weights, and a stop in the middle."""

import json
import os
import re
import shutil
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_pretrained import made, published

from knnlm.__main__ import main as knnlm
from knnlm.artifacts import description, files, npy
from knnlm.artifacts.files import UserError
from knnlm.models import evaluate, model, train
from knnlm.settings import LAYER_KEYTYPES, TrainingSettings

RECIPE = dict(
    optimizer="adamw", lr=0.01, warmup=2, updates=12, tokens_per_update=64, tokens_per_batch=32, block=16, clip_norm=1.0
)
RECIPE |= dict(evaluate_every=4, weight_decay=0.01)
KINDS = {"llama": {"tie_word_embeddings": True, "initializer_range": 0.1}, "gpt2": {"resid_pdrop": 0.1}}


@pytest.fixture(scope="module", params=KINDS)
def initial(request, tmp_path_factory):
    """The folder of an imported model with its vocabulary, and two splits that repeat themselves."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "published").mkdir()
    bos = "<s>" if request.param == "llama" else ""
    published(folder / "published", request.param, bos=bos, max_position_embeddings=64, **KINDS[request.param])
    made(folder / "published", folder)
    phrase = np.random.default_rng(0).integers(0, 300, 50).astype(np.uint16)
    for split, times in (("train", 14), ("dev", 2)):
        npy.save_array(folder / f"{split}.npy", np.tile(phrase, times)[:-3])
    described(folder)
    return folder


def described(folder):
    """Descriptions of the splits, as `binarize` writes them."""
    words = {"vocab": folder / "vocab"}
    shared = {"vocab": description.identity(folder / "vocab")}
    description.write_meta(folder, "binarize", {}, words, shared)


def trained(folder, out, **recipe):
    """Train on from the model of `folder`; the weights."""
    paths = [folder / name for name in ("train.npy", "dev.npy", "vocab/vocab.json")]
    asked = json.dumps(RECIPE | recipe)
    train.main(train.TrainConfig(*paths, out, training=asked, initial=folder / "model"))
    return load_file(out / "model.safetensors")


def curve(out):
    return [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]


def evaluated(folder, lm, to, block=16, **changes):
    """The log-probabilities of dev, in windows without context as training has them."""
    asked = json.dumps({"new": block, "context": 0})
    evaluate.main(evaluate.EvaluateConfig(lm, (folder / "dev.npy",), logprob=(to,), windows=asked, **changes))
    return np.load(to / "logprob.npy").astype(np.float64)


def test_the_loss_falls_and_the_model_is_read_as_an_imported_one(initial, tmp_path):
    weights = trained(initial, tmp_path / "out")
    points = curve(tmp_path / "out")
    assert [point["update"] for point in points] == [4, 8, 12]
    before = -evaluated(initial, initial / "model", tmp_path / "before").mean()
    assert points[-1]["dev_loss"] < before - 0.5
    best = min(point["dev_loss"] for point in points)
    queries = tmp_path / "queries"
    after = evaluated(initial, tmp_path / "out", tmp_path / "after", keytypes=("ffn_input_ln",), out=(queries,))
    assert -after.mean() == pytest.approx(best, abs=1e-5)
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config == json.loads((initial / "model/config.json").read_text())
    imported = load_file(initial / "model/model.safetensors")
    assert {name: tensor.shape for name, tensor in weights.items()} == {n: t.shape for n, t in imported.items()}
    moved = [name for name in weights if not torch.equal(weights[name], imported[name].float())]
    assert len(moved) == len(weights)
    recorded: dict = {}
    with torch.inference_mode():
        model.load(tmp_path / "out")(torch.arange(5)[None], recorded)
    assert set(LAYER_KEYTYPES) <= set(recorded)
    assert np.load(queries / "keys.npy").shape == (97, 32)


@pytest.mark.parametrize("block", [16, 32])
def test_the_first_loss_is_that_of_evaluation(initial, tmp_path, block):
    lm, recipe = model.load(initial / "model"), TrainingSettings(**RECIPE | {"block": block, "updates": 20})
    tokens = np.load(initial / "dev.npy")
    state = train.begin(lm, recipe, 1)
    blocks = train.windows.training(len(tokens), block, -(-len(tokens) // block), 0, 1)
    lm.eval()
    state.model.train = lambda: state.model  # without dropout, as evaluation is
    total = sum(
        train._backward_batch(state, tokens, blocks.take(np.array([row])), len(tokens), recipe).item()
        for row in range(len(blocks.start))
    )
    expected = -evaluated(initial, initial / "model", tmp_path / "lm", block).mean()
    assert total == pytest.approx(expected, rel=1e-5)


def test_tied_weights_stay_tied(initial, tmp_path):
    names = trained(initial, tmp_path / "out")
    lm = model.load(tmp_path / "out").lm
    assert not any("lm_head" in name for name in names)
    assert lm.get_output_embeddings().weight is lm.get_input_embeddings().weight


@pytest.mark.parametrize("after", [1, 7])
def test_a_stopped_training_goes_on_to_the_same_weights(initial, tmp_path, monkeypatch, after):
    whole, real = trained(initial, tmp_path / "whole"), train.update

    def stopping(state, *arguments):
        real(state, *arguments)
        if state.update + 1 == after:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(train, "update", stopping)
    with pytest.raises(files.Unfinished, match=f"update {after}: run again"):
        trained(initial, tmp_path / "out")
    monkeypatch.setattr(train, "update", real)
    resumed = trained(initial, tmp_path / "out")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert curve(tmp_path / "out") == curve(tmp_path / "whole")


def test_a_finished_training_is_not_repeated_unless_its_initial_model_changes(initial, tmp_path, monkeypatch):
    trained(initial, tmp_path / "out", updates=4)
    monkeypatch.setattr(train, "update", lambda *_: pytest.fail("trained again"))
    trained(initial, tmp_path / "out", updates=4)
    (initial / "kept").mkdir()
    shutil.copytree(initial / "model", initial / "kept/model")
    monkeypatch.undo()
    try:
        weights = load_file(initial / "model/model.safetensors")
        (initial / "model/curve.jsonl").unlink()
        shutil.rmtree(initial / "model")
        made(initial / "published", initial, own=json.dumps({"output": f"{last_layer(weights)}:output"}))
        trained(initial, tmp_path / "out", updates=4)
        assert json.loads((tmp_path / "out/config.json").read_text())["taps"]
    finally:
        shutil.rmtree(initial / "model")
        shutil.move(initial / "kept/model", initial / "model")
        (initial / "kept").rmdir()


def last_layer(weights):
    return "transformer.h.-1" if any(name.startswith("transformer") for name in weights) else "model.layers.-1"


@pytest.mark.parametrize(
    "recipe, message",
    [
        (
            {"block": 128, "tokens_per_batch": 128, "tokens_per_update": 128},
            "training.block: found 128, but .*most 64 t",
        ),
        ({"precision": "float16"}, "float16 needs a GPU"),
        ({"lr": 1e30, "clip_norm": 1e30, "warmup": 0}, "lower training.lr"),
        ({"epochs": 3}, "--training: unknown key 'epochs'"),
    ],
)
def test_a_recipe_that_does_not_fit_is_one_line(initial, tmp_path, recipe, message):
    with pytest.raises(UserError, match=message) as error:
        trained(initial, tmp_path / "out", **recipe)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_an_architecture_or_dropout_beside_the_initial_model_is_refused(initial, tmp_path):
    paths = [initial / name for name in ("train.npy", "dev.npy", "vocab/vocab.json")]
    config = train.TrainConfig(*paths, tmp_path / "out", '{"dropout": 0.3}', json.dumps(RECIPE), initial / "model")
    with pytest.raises(UserError, match=r"--architecture: found .*--initial has its own"):
        train.main(config)


def missing(folder):
    shutil.rmtree(folder)


def without_weights(folder):
    (folder / "model.safetensors").unlink()


def truncated(folder):
    os.truncate(folder / "model.safetensors", (folder / "model.safetensors").stat().st_size // 2)


def of_another_width(folder):
    """A whole, described model whose config says 40 dimensions, its weights 32."""
    config, meta = json.loads((folder / "config.json").read_text()), description.described(folder)
    for sizes in (config, config["transformers"]):
        sizes |= {name: 40 for name in ("dim", "hidden_size", "n_embd") if name in sizes}
    (folder / "config.json").write_text(json.dumps(config))
    description.write_meta(folder, meta["stage"], {}, {}, meta["lineage"], "model")


BROKEN = {
    missing: r"copied: ",
    without_weights: r"model\.safetensors",
    truncated: r"model\.safetensors: ",
    of_another_width: r"mismatched keys .* do not fit its architecture",
}


@pytest.mark.parametrize("fault", BROKEN)
def test_an_initial_model_that_cannot_be_read_is_one_line(initial, tmp_path, monkeypatch, fault):
    copied = shutil.copytree(initial / "model", tmp_path / "copied")
    fault(copied)
    assert re.search(BROKEN[fault], refusal(initial, tmp_path / "out", copied, monkeypatch))
    assert not (tmp_path / "out").exists()


def test_a_damaged_state_of_training_is_one_line(initial, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "update", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(files.Unfinished):
        trained(initial, tmp_path / "out")
    state = tmp_path / ".out.resume/state.pt"
    os.truncate(state, state.stat().st_size // 2)
    line = refusal(initial, tmp_path / "out", initial / "model", monkeypatch)
    assert "state.pt: not a whole training state" in line and "delete it to train anew" in line


def refusal(folder, out, model_dir, monkeypatch):
    """The one line that `knnlm train --initial` ends with."""
    given = {"train": folder / "train.npy", "dev": folder / "dev.npy", "vocab": folder / "vocab/vocab.json"}
    given |= {"initial": model_dir, "out": out, "training": json.dumps(RECIPE)}
    flags = [str(part) for name, value in given.items() for part in (f"--{name}", value)]
    monkeypatch.setattr("sys.argv", ["knnlm", "train", *flags])
    with pytest.raises(SystemExit) as ended:
        knnlm()
    line = str(ended.value)  # which Python prints, and exits with 1
    assert line.startswith("error: ") and "\n" not in line
    return line


def test_a_model_of_another_vocabulary_is_refused(initial, tmp_path, monkeypatch):
    (tmp_path / "published").mkdir()
    published(tmp_path / "published", vocab_size=310, bos="<s>")
    made(tmp_path / "published", tmp_path, eos="<s>")
    assert "same vocab" in refusal(initial, tmp_path / "out", tmp_path / "model", monkeypatch)
