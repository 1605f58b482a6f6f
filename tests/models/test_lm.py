"""Training, extraction and evaluation on a tiny corpus."""

import json

import numpy as np
import pytest
import torch

from knnlm.artifacts import files, npy
from knnlm.artifacts.files import UserError
from knnlm.datastores import extract
from knnlm.models import evaluate, features, model, train
from knnlm.settings import ModelConfig

ARCHITECTURE = dict(
    layers=2, dim=16, ffn_dim=32, heads=2, adaptive_cutoffs=[20, 40], dropout=0.1, attention_dropout=0.0
)
RECIPE = dict(
    optimizer="adamw",
    lr=0.01,
    warmup=2,
    updates=12,
    tokens_per_update=64,
    tokens_per_batch=32,
    block=16,
    evaluate_every=4,
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm")
    rng = np.random.default_rng(0)
    npy.save_array(folder / "train.npy", rng.integers(2, 60, 700).astype(np.uint16))
    npy.save_array(folder / "dev.npy", rng.integers(2, 60, 150).astype(np.uint16))
    files.write_json(folder / "vocab.json", {"size": 64})
    return folder


def configured(corpus, out, **recipe):
    return train.TrainConfig(
        corpus / "train.npy",
        corpus / "dev.npy",
        corpus / "vocab.json",
        out,
        json.dumps(ARCHITECTURE),
        json.dumps(RECIPE | recipe),
    )


@pytest.fixture(scope="module")
def trained(corpus):
    train.main(configured(corpus, corpus / "model"))
    return corpus / "model"


def weights(directory):
    return (directory / "model.safetensors").read_bytes()


def test_training_twice_gives_the_same_weights(corpus, trained, tmp_path):
    train.main(configured(corpus, tmp_path / "again"))
    assert weights(tmp_path / "again") == weights(trained)


def test_an_interrupted_training_ends_with_the_same_weights(corpus, trained, tmp_path, monkeypatch):
    real, calls = train.update, []

    def killed(*args):
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        real(*args)

    monkeypatch.setattr(train, "update", killed)
    with pytest.raises(KeyboardInterrupt):
        train.main(configured(corpus, tmp_path / "model", save_every=1e-9))
    monkeypatch.setattr(train, "update", real)
    assert (tmp_path / ".model.resume" / "state.pt").exists()
    train.main(configured(corpus, tmp_path / "model", save_every=1e-9))
    assert weights(tmp_path / "model") == weights(trained)
    assert not (tmp_path / ".model.resume").exists()


def test_training_lowers_the_loss_and_writes_a_curve(trained):
    curve = [json.loads(line) for line in (trained / "curve.jsonl").read_text().splitlines()]
    assert [point["update"] for point in curve] == [4, 8, 12]
    assert curve[-1]["train_loss"] < curve[0]["train_loss"]


def test_a_diverging_training_stops_and_names_the_update(corpus, tmp_path):
    with pytest.raises(UserError, match=r"update \d+: loss"):
        train.main(configured(corpus, tmp_path / "model", lr=1e30, warmup=0))
    assert not (tmp_path / "model").exists()


def test_an_unknown_key_of_the_recipe_is_named(corpus, tmp_path):
    with pytest.raises(UserError, match="unknown key 'epochs'"):
        train.main(configured(corpus, tmp_path / "model", epochs=3))


def extracted(trained, corpus, out, shard=0, shards=1, keytypes=("ffn_input_ln",)):
    outs = tuple(out / keytype for keytype in keytypes)
    extract.main(
        extract.ExtractConfig(
            trained, corpus / "train.npy", keytypes, outs, '{"new": 16, "context": 16}', shard, shards, batch_tokens=96
        )
    )
    return [np.load(outs[0] / f"{name}.npy") for name in ("keys", "values", "ids")]


def test_a_datastore_is_the_same_whatever_its_number_of_shards(trained, corpus, tmp_path):
    whole = extracted(trained, corpus, tmp_path / "whole")
    for shards in (2, 5):
        parts = [extracted(trained, corpus, tmp_path / f"{i}of{shards}", i, shards) for i in range(shards)]
        for array, pieces in zip(whole, zip(*parts, strict=True), strict=True):
            assert np.array_equal(array, np.concatenate(pieces))


def test_values_are_the_tokens_at_the_ids(trained, corpus, tmp_path):
    keys, values, ids = extracted(trained, corpus, tmp_path)
    tokens = np.load(corpus / "train.npy")
    assert sorted(ids) == list(range(16, len(tokens)))
    assert np.array_equal(tokens[ids], values)
    assert keys.dtype == np.float16 and values.dtype == np.uint32 and ids.dtype == np.int64


def test_a_key_is_the_models_representation_at_the_predicting_position(trained, corpus, tmp_path):
    import torch

    keys, _, ids = extracted(trained, corpus, tmp_path)
    tokens = torch.from_numpy(np.load(corpus / "train.npy").astype(np.int64))
    lm, taps = model.load(trained), {}
    lm(tokens[None, 15:47], taps)  # inputs of the window that predicts tokens 32 to 47 after 16 of context
    expected = taps["ffn_input_ln"][0, 16:].detach().numpy()
    rows = np.array([int(np.flatnonzero(ids == position)[0]) for position in range(32, 48)])
    np.testing.assert_allclose(keys[rows], expected, atol=2e-3)


def test_evaluation_scores_every_token_and_agrees_with_the_full_distribution(trained, corpus, tmp_path):
    import torch

    evaluate.main(
        evaluate.EvaluateConfig(
            trained,
            (corpus / "dev.npy",),
            (tmp_path / "lm",),
            ("ffn_input_ln",),
            (tmp_path / "q",),
            '{"new": 150, "context": 0}',
        )
    )
    logprob = np.load(tmp_path / "lm" / "logprob.npy")
    tokens = torch.from_numpy(np.load(corpus / "dev.npy").astype(np.int64))
    lm = model.load(trained)
    with torch.inference_mode():
        full = lm.logprob(lm(torch.cat([torch.tensor([2]), tokens[:-1]])[None])[0])
    np.testing.assert_allclose(full.exp().sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(logprob, full[torch.arange(len(tokens)), tokens], atol=1e-4)
    assert np.load(tmp_path / "q" / "keys.npy").dtype == np.float32


@pytest.mark.parametrize("options", [{"adaptive_cutoffs": []}, {}])
@torch.inference_mode()
def test_reading_word_by_word_gives_the_same_as_reading_at_once(options):
    torch.manual_seed(1)
    lm = model.LanguageModel(ModelConfig(**ARCHITECTURE | dict(vocab_size=64) | options)).eval()
    ids, whole = torch.randint(2, 64, (2, 30)), {}
    expected, cache = lm(ids, whole), lm.cache()
    for first, last in [(0, 9), (9, 10), (10, 14), *((i, i + 1) for i in range(14, 30))]:
        recorded = {}
        output = lm(ids[:, first:last], recorded, cache)
        torch.testing.assert_close(output, expected[:, first:last], atol=1e-5, rtol=1e-5)
        for keytype, tensor in recorded.items():
            torch.testing.assert_close(tensor, whole[keytype][:, first:last], atol=1e-5, rtol=1e-5)
    assert recorded.keys() == whole.keys()
    assert torch.equal(lm(ids, None, lm.cache()), expected)  # the first tokens are read as without a cache, to the bit


def test_keys_beyond_half_precision_are_refused(monkeypatch):
    with pytest.raises(UserError, match=r"output: a key component of 1e\+06 does not fit .*65504.*: another key type"):
        features.half(np.array([[1e6]], np.float32), "output", "another key type")


def test_a_token_outside_the_vocabulary_is_named(trained, tmp_path):
    npy.save_array(tmp_path / "dev.npy", np.array([5, 99], np.uint16))
    with pytest.raises(UserError, match="token 99"):
        evaluate.main(evaluate.EvaluateConfig(trained, (tmp_path / "dev.npy",), (tmp_path / "lm",)))
