"""A value that is not finite, or out of range, stops its stage by name and reaches no table."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tinystudy
import torch
from safetensors.torch import load_file, save_file

from knnlm.artifacts import description
from knnlm.artifacts.files import UserError
from knnlm.datastores import extract, import_datastore
from knnlm.models import evaluate, train
from knnlm.scores import interpolate

TOKENS, MODEL, LM = "tokens/words/fox", "models/fox/seed1", "logprobs/fox/dev/lm/fox/seed1"
ARCHITECTURE = {"layers": 1, "dim": 16, "ffn_dim": 32, "heads": 2, "dropout": 0.0}
RECIPE = {"optimizer": "adamw", "updates": 12, "tokens_per_update": 64, "tokens_per_batch": 32, "block": 16}
RECIPE |= {"evaluate_every": 4}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return tinystudy.write(tmp_path_factory.mktemp("numbers") / "study")


@pytest.fixture
def study(made, tmp_path) -> Path:
    return shutil.copytree(made, tmp_path / "study")


def trained(study: Path, **recipe: object) -> None:
    at, settings = study / TOKENS, json.dumps(RECIPE | recipe)
    vocab = study / "vocabs/words/vocab.json"
    train.main(
        train.TrainConfig(at / "train.npy", at / "dev.npy", vocab, study / "new", json.dumps(ARCHITECTURE), settings)
    )


def weights_changed(study: Path, name: str, value: float) -> None:
    """Set a weight of the last layer, and describe the model again."""
    path, meta = study / MODEL / "model.safetensors", description.described(study / MODEL)
    weights = load_file(path)
    weights[name].fill_(value)
    save_file(weights, path)
    description.write_meta(study / MODEL, "train", {}, {}, meta["lineage"], "model")


def test_a_loss_that_is_not_finite_names_the_update_and_the_blocks_and_keeps_the_last_state(study):
    with pytest.raises(UserError, match=r"update (\d+): loss .* in the blocks at tokens \[\d+, ") as error:
        trained(study, lr=1e30, warmup=0, save_every=1e-9)
    state = torch.load(study / ".new.resume/state.pt", weights_only=True)
    assert state["update"] == int(re.search(r"update (\d+)", str(error.value))[1])
    assert all(torch.isfinite(weight).all() for weight in state["model"].values())
    assert not (study / "new").exists()


def test_weights_beyond_single_precision_are_not_kept(study):
    with pytest.raises(UserError, match=r"state.pt: not written after update \d+: a weight is not finite"):
        trained(study, lr=3e38, warmup=0, save_every=1e-9, weight_decay=1e3)
    assert not (study / "new").exists() and not (study / ".new.resume/state.pt").exists()


def test_a_damaged_training_state_is_refused_by_name(study):
    with pytest.raises(UserError):
        trained(study, lr=1e30, warmup=0, save_every=1e-9)
    path = study / ".new.resume/state.pt"
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for damaged in (b"", whole[:-100], whole[:100], bytes(flipped)):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"state.pt: not a whole training state"):
            trained(study, lr=1e30, warmup=0, save_every=1e-9)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_keys_that_are_not_finite_name_the_keytype_and_the_window(study, value):
    weights_changed(study, "layers.1.ffn_norm.bias", value)
    config = study / MODEL, study / TOKENS / "train.npy", ("ffn_input_ln",), (study / "new",), tinystudy.WINDOWS
    with pytest.raises(UserError, match=r"ffn_input_ln: a key is not finite in the window at token \d+"):
        extract.main(extract.ExtractConfig(*config))
    assert not (study / "new").exists()


def test_keys_beyond_half_precision_are_refused(study):
    weights_changed(study, "layers.1.ffn_out.bias", 65505.0)
    config = study / MODEL, study / TOKENS / "train.npy", ("output",), (study / "new",), tinystudy.WINDOWS
    with pytest.raises(UserError, match=r"output: a key component of 6.55e\+04 does not fit float16"):
        extract.main(extract.ExtractConfig(*config))
    assert not (study / "new").exists()


def test_a_log_probability_that_is_not_finite_stops_the_evaluation(study):
    weights_changed(study, "layers.1.ffn_out.bias", float("nan"))
    config = study / MODEL, (study / TOKENS / "dev.npy",), (study / "new",), (), (), tinystudy.WINDOWS
    with pytest.raises(UserError, match=r"a log-probability is not finite in the window at token 0"):
        evaluate.main(evaluate.EvaluateConfig(*config))
    assert not (study / "new").exists()


def test_published_keys_that_are_not_finite_are_refused(tmp_path):
    keys = np.ones((6, 4), np.float16)
    keys[4, 2] = np.nan
    keys.tofile(tmp_path / "keys")
    np.ones(6, np.int64).tofile(tmp_path / "values")
    config = tmp_path / "keys", tmp_path / "values", 6, 4, 20, tmp_path / "new"
    with pytest.raises(UserError, match="keys: a key component of nan does not fit float16"):
        import_datastore.main(import_datastore.ImportDatastoreConfig(*config))
    assert not (tmp_path / "new").exists()


def set_at(position: int, value: float):
    def change(logprob: np.ndarray) -> np.ndarray:
        logprob[position] = value
        return logprob

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_at(7, np.nan), r"row base: .*logprob.npy holds NaN"),
        (set_at(7, 0.25), r"row base: .*logprob.npy holds a log probability of 0.25"),
        (set_at(7, np.inf), r"row base: .*logprob.npy holds a log probability of inf"),
        (set_at(-1, -np.inf), r"row base: .*logprob.npy holds -inf"),
        (lambda logprob: logprob[:-1], r"dev.documents.npy does not fit 245 scored targets"),
        (lambda logprob: np.append(logprob, logprob[:1]), r"dev.documents.npy does not fit 247 scored targets"),
    ],
)
def test_no_perplexity_of_wrong_or_missing_log_probabilities(study, change, message):
    path, meta = study / LM / "logprob.npy", description.described(study / LM)
    np.save(path, change(np.load(path)))
    description.write_meta(study / LM, "evaluate", {}, {}, meta["lineage"])
    with pytest.raises(UserError, match=message):
        interpolate.main(interpolate.InterpolateConfig(*tinystudy.sheet(study), study / "new.json"))
    assert not (study / "new.json").exists()
