"""Extraction and evaluation in half precision: what it changes, and what stays in float32."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from knnlm.artifacts import description, npy
from knnlm.artifacts.files import UserError
from knnlm.corpora.vocab import WordVocab
from knnlm.datastores import extract
from knnlm.models import adaptive, evaluate, features, import_fairseq, model, windows
from knnlm.models.import_fairseq import ImportFairseqConfig
from knnlm.settings import KEYTYPES, LAYER_KEYTYPES, WindowSettings

RUN = Path(__file__).parents[1] / "data/oracles/fairseq_run"
EVALUATION = WindowSettings(new=16, context=80, mode="complete")
DATASTORE = WindowSettings(new=48, context=48)
KEYTYPE, K, LAMBDA = "ffn_input_ln", 64, 0.25


class Run(NamedTuple):
    keys: dict[str, np.ndarray]  # of every key type, [N, D], stored in float16
    values: np.ndarray  # [N]
    queries: np.ndarray  # [Q, D] float32
    logprob: np.ndarray  # [Q] nats


@pytest.fixture(scope="module", autouse=True)
def on_a_cpu():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "device", lambda: "cpu")
        yield


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder with the published model and the tokens of its splits."""
    at = tmp_path_factory.mktemp("precision")
    words = WordVocab.read(RUN / "dict.txt")
    words.pretokenized = True
    for split in ("train", "valid"):
        npy.save_array(at / f"{split}.npy", words.encode((RUN / f"{split}.txt").read_text()))
    import_fairseq.main(ImportFairseqConfig(RUN / "checkpoint_best.pt", RUN / "dict.txt", at / "model"))
    return at


@pytest.fixture(scope="module")
def runs(published):
    """Keys, queries and scores in each precision."""
    lm = model.load(published / "model")
    train, valid = (np.load(published / f"{split}.npy") for split in ("train", "valid"))
    entries, held_out = windows.datastore(len(train), DATASTORE, 1), windows.evaluation(valid, EVALUATION)

    def run(precision):
        how = {"precision": precision, "half_keys": "choose another key type"}
        stored = list(features.stream(lm, train, entries, DATASTORE.length, LAYER_KEYTYPES, 960, **how))
        scored = list(features.stream(lm, valid, held_out, EVALUATION.length, (KEYTYPE,), 960, True, precision))
        return Run(
            {name: np.concatenate([b.keys[name] for b in stored]).astype(np.float32) for name in LAYER_KEYTYPES},
            np.concatenate([b.values for b in stored]),
            np.concatenate([b.keys[KEYTYPE] for b in scored]),
            np.concatenate([b.logprob for b in scored]),
        )

    return {precision: run(precision) for precision in ("float32", "bfloat16", "float16")}


def neighbors(run):
    """Rows [Q, K] of the nearest keys, nearest first, and their squared distances, over the whole datastore."""
    keys = run.keys[KEYTYPE]
    distances = (keys**2).sum(1) - 2 * run.queries @ keys.T + (run.queries**2).sum(1)[:, None]  # [Q, N]
    rows = np.argpartition(distances, K, 1)[:, :K]
    rows = np.take_along_axis(rows, np.argsort(np.take_along_axis(distances, rows, 1), 1), 1)
    return rows, np.take_along_axis(distances, rows, 1)


def perplexities(run, targets):
    """Of the LM, and of the mixture with p_kNN over the exact neighbors."""
    rows, distances = neighbors(run)
    weights = np.exp(distances[:, :1] - distances)
    p_knn = (weights * (run.values[rows] == targets[:, None])).sum(1) / weights.sum(1)
    mixed = np.log(LAMBDA * p_knn + (1 - LAMBDA) * np.exp(run.logprob))
    return float(np.exp(-run.logprob.mean())), float(np.exp(-mixed.mean()))


# Measured on this run: largest change of a component of the paper's key type, root mean square change of the worst key
# type (output_ln), of one log-probability, and of the perplexities 18.682 and 13.781. The bounds are about twice that.
# bfloat16: 0.031, 1.45%, 0.119 nats, +0.008 and +0.011; 98.9% of 64 neighbors stay. float16: 0.0032, 0.17%, 0.013 nats,
# +0.001 and -0.004; 99.8% stay.
@pytest.mark.parametrize(
    ("precision", "component", "relative", "nats", "perplexity", "kept"),
    [("bfloat16", 0.07, 0.03, 0.25, 0.03, 0.975), ("float16", 0.008, 0.004, 0.03, 0.01, 0.995)],
)
def test_what_half_precision_changes(runs, published, precision, component, relative, nats, perplexity, kept):
    full, half = runs["float32"], runs[precision]
    assert 0 < np.abs(half.keys[KEYTYPE] - full.keys[KEYTYPE]).max() < component
    assert 0 < np.abs(half.queries - full.queries).max() < component
    for name, keys in full.keys.items():
        assert np.sqrt(((half.keys[name] - keys) ** 2).sum() / (keys**2).sum()) < relative, name
    assert np.abs(half.logprob - full.logprob).max() < nats
    targets = np.load(published / "valid.npy")
    np.testing.assert_allclose(perplexities(half, targets), perplexities(full, targets), rtol=0, atol=perplexity)
    found, expected = neighbors(half)[0], neighbors(full)[0]
    assert np.mean([len(set(a) & set(b)) / K for a, b in zip(found, expected, strict=True)]) > kept
    assert all(nearest in rows for nearest, rows in zip(expected[:, 0], found, strict=True))


def test_layer_norms_keys_and_softmax_stay_in_float32(published, monkeypatch):
    lm, tokens = model.load(published / "model"), np.load(published / "valid.npy")
    products, norms, logits, real = [], [], [], adaptive._gathered_logprob
    kinds = {torch.nn.Linear: products, torch.nn.LayerNorm: norms}
    for module in lm.modules():
        if type(module) in kinds:
            module.register_forward_hook(lambda module, _, out: kinds[type(module)].append(out.dtype))
    monkeypatch.setattr(adaptive, "_gathered_logprob", lambda *a: (logits.append(a[0].dtype), real(*a))[1])
    chosen = windows.evaluation(tokens, EVALUATION)
    keytypes = (*LAYER_KEYTYPES, "output_ln-second_last")
    block = next(features.stream(lm, tokens, chosen, EVALUATION.length, keytypes, 960, True, "bfloat16"))
    assert set(products) == {torch.bfloat16}
    assert set(norms) == set(logits) == {torch.float32}
    assert {keys.dtype for keys in block.keys.values()} == {np.dtype("float32")} == {block.logprob.dtype}
    for name, keys in block.keys.items():
        if name != "mhsa_input":  # float32 throughout, not half-precision numbers that were converted
            assert not np.array_equal(keys, torch.from_numpy(keys).bfloat16().float().numpy()), name


def test_all_key_types_of_a_batch_are_one_transfer_in_the_stored_precision(published, monkeypatch):
    lm, tokens = model.load(published / "model"), np.load(published / "train.npy")
    sent, real = [], features._to_host
    monkeypatch.setattr(features, "_to_host", lambda tensors: (sent.append(tensors), real(tensors))[1])
    chosen = windows.datastore(len(tokens), DATASTORE, 1).take(np.arange(20))
    blocks = list(features.stream(lm, tokens, chosen, 96, LAYER_KEYTYPES, 960, half_keys="choose another key type"))
    assert len(blocks) == len(sent) == 2
    for block, (keys, numbers) in zip(blocks, sent, strict=True):
        assert keys.dtype == torch.float16 and keys.shape == (len(LAYER_KEYTYPES), len(block.ids), 32)
        assert numbers.numel() == len(LAYER_KEYTYPES)
    singly = list(features.stream(lm, tokens, chosen, 96, LAYER_KEYTYPES, 960))
    for block, single in zip(blocks, singly, strict=True):
        for name in LAYER_KEYTYPES:
            np.testing.assert_array_equal(block.keys[name], single.keys[name].astype(np.float16))


def test_the_next_batch_is_started_before_one_is_waited_for(published, monkeypatch):
    lm, tokens = model.load(published / "model"), np.load(published / "train.npy")
    chosen = windows.datastore(len(tokens), DATASTORE, 1).take(np.arange(35))
    expected = list(features.stream(lm, tokens, chosen, 96, (KEYTYPE,), 960, True))
    events, start, finish = [], features._start, features._Batch.finish
    monkeypatch.setattr(features, "_batches_ahead", lambda _: 1)  # as on a GPU
    monkeypatch.setattr(features, "_start", lambda *a: (events.append("start"), start(*a))[1])
    monkeypatch.setattr(features._Batch, "finish", lambda self: (events.append("finish"), finish(self))[1])
    found = list(features.stream(lm, tokens, chosen, 96, (KEYTYPE,), 960, True))
    assert events == ["start", "start", "finish", "start", "finish", "start", "finish", "finish"]
    for one, other in zip(found, expected, strict=True):
        for a, b in zip((*one[1:], one.keys[KEYTYPE]), (*other[1:], other.keys[KEYTYPE]), strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_commands_take_a_precision_and_record_it(published, tmp_path):
    sizes, common = json.dumps({"new": 48, "context": 48}), (published / "model",)
    keys, scores = {}, {}
    for precision in ("float32", "bfloat16"):
        out = tmp_path / precision
        extract.main(
            extract.ExtractConfig(
                *common, published / "train.npy", (KEYTYPE,), (out / "keys",), sizes, precision=precision
            )
        )
        evaluate.main(
            evaluate.EvaluateConfig(
                *common, (published / "valid.npy",), (out / "lm",), windows=sizes, precision=precision
            )
        )
        keys[precision], scores[precision] = np.load(out / "keys/keys.npy"), np.load(out / "lm/logprob.npy")
        for artifact in ("keys", "lm"):
            assert description.described(out / artifact)["config"]["precision"] == precision
    assert keys["bfloat16"].dtype == np.float16
    assert 0 < np.abs(keys["bfloat16"] - keys["float32"]).max() < 0.07
    assert 0 < np.abs(scores["bfloat16"] - scores["float32"]).max() < 0.25


@pytest.mark.parametrize(("value", "message"), [(1e5, "does not fit float16.*another"), (np.nan, "is not finite")])
def test_a_bad_key_is_refused_in_half_precision_too(published, value, message):
    lm, tokens = model.load(published / "model"), np.load(published / "train.npy")
    with torch.no_grad():
        lm.layers[-1].ffn_norm.bias[3] = value
    chosen = windows.datastore(len(tokens), DATASTORE, 1)
    how = {"precision": "bfloat16", "half_keys": "choose another key type"}
    with pytest.raises(UserError, match=f"{KEYTYPE}: a key .*{message}"):
        list(features.stream(lm, tokens, chosen, 96, (KEYTYPE,), 960, **how))


@pytest.mark.parametrize("name", [*KEYTYPES, features.HEAD_INPUT])
def test_keys_asked_for_alone_are_the_same_and_no_more_of_the_model_runs_than_they_need(published, name):
    lm, tokens = model.load(published / "model"), np.load(published / "train.npy")
    chosen = windows.datastore(len(tokens), DATASTORE, 1).take(np.arange(20))
    together = list(features.stream(lm, tokens, chosen, 96, (*KEYTYPES, features.HEAD_INPUT), 960, logprob=True))
    ran = []
    lm.layers[-1].ffn_out.register_forward_hook(lambda *_: ran.append(name))
    alone = list(features.stream(lm, tokens, chosen, 96, (name,), 960))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.keys[name], other.keys[name])
    assert bool(ran) == (name in ("output", "output_ln", features.HEAD_INPUT))
    ran.clear()
    list(features.stream(lm, tokens, chosen, 96, (name,), 960, logprob=True))
    assert ran
