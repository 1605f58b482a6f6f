"""The same numbers as the published code, array by array (tests/data/oracles/README.md)."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from knnlm.models import fairseq
from knnlm.models.adaptive import AdaptiveEmbedding
from knnlm.models.model import LanguageModel
from knnlm.models.schedule import NAG, cosine
from knnlm.settings import LAYER_KEYTYPES

ORACLES = Path(__file__).parents[1] / "data/oracles"
CLOSE = {"rtol": 1e-6, "atol": 1e-5}


@pytest.fixture(scope="module", params=["lm_adaptive", "lm_full_softmax", "lm_tied_softmax"])
def run(request):
    """One published model, its own numbers and ours; `keep` [B, T] is True where there is a target."""
    stored = np.load(ORACLES / f"{request.param}.npz")
    config = fairseq.architecture(json.loads(str(stored["args_json"])), vocab_size=404)
    model = LanguageModel(config).eval()
    model.load_state_dict(published(stored, "state/", model))
    taps: dict[str, torch.Tensor] = {}
    features = model(torch.from_numpy(stored["src"]), taps)  # [B, T, D]
    targets = torch.from_numpy(stored["tgt"])  # [B, T]
    keep = targets != 1
    logprob = model.target_logprob(features[keep], targets[keep])  # [N]
    gradients = torch.autograd.grad(-logprob.sum(), list(model.parameters()), retain_graph=True)
    names = [name for name, _ in model.named_parameters()]
    return SimpleNamespace(
        stored=stored,
        model=model,
        keep=keep.numpy(),
        taps=taps,
        features=features[keep].detach(),
        logprob=logprob.detach(),
        gradients=dict(zip(names, gradients, strict=True)),
    )


def published(stored, prefix, model):
    """The arrays of an oracle file that begin with `prefix`, by the model's names."""
    arrays = {name.removeprefix(prefix): stored[name] for name in stored.files if name.startswith(prefix)}
    return fairseq.convert({name: torch.from_numpy(array) for name, array in arrays.items()}, model)


def test_features(run):
    np.testing.assert_allclose(run.features, run.stored["features"][run.keep], **CLOSE)


@pytest.mark.parametrize("keytype", LAYER_KEYTYPES)
def test_keys(run, keytype):
    np.testing.assert_allclose(run.taps[keytype].detach()[run.keep], run.stored[f"key/{keytype}"][run.keep], **CLOSE)


def test_target_log_probabilities(run):
    np.testing.assert_allclose(run.logprob, run.stored["tgt_lprobs"][run.keep], **CLOSE)


def test_full_log_probabilities(run):
    with torch.no_grad():
        full = run.model.logprob(run.features)  # [N, V]
    np.testing.assert_allclose(full, run.stored["full_lprobs"][run.keep], **CLOSE)
    np.testing.assert_allclose(full.exp().sum(1), 1, atol=1e-5)


def test_summed_loss(run):
    np.testing.assert_allclose(-run.logprob.sum(), run.stored["loss"], rtol=1e-6)


def test_every_gradient(run):
    expected = published(run.stored, "grad/", run.model)
    assert set(expected) == set(run.gradients)
    for name, gradient in run.gradients.items():
        atol = 2e-6 * float(expected[name].abs().max())
        np.testing.assert_allclose(gradient, expected[name], rtol=0, atol=atol, err_msg=name)


def test_row_1_of_every_adaptive_band_gets_no_gradient_as_an_input():
    # fairseq's AdaptiveInput gives every band the padding index, so that two real words share its fate
    embedding = AdaptiveEmbedding(24, 8, (8, 16), factor=2)
    embedding(torch.tensor([[0, 9, 10, 17]])).sum().backward()
    touched = [words.weight.grad.abs().sum(1).nonzero().flatten().tolist() for words in embedding.words]
    assert touched == [[0], [2], []]  # 9 and 17 are row 1 of their bands


def test_nag_steps():
    stored = np.load(ORACLES / "optimizer.npz")
    parameter = torch.nn.Parameter(torch.from_numpy(stored["nag/param0"]))
    optimizer = NAG([parameter], lr=float(stored["nag/lr"][0]))
    for step, gradient in enumerate(stored["nag/grads"]):
        parameter.grad = torch.from_numpy(gradient.copy())
        norm = torch.nn.utils.clip_grad_norm_([parameter], 0.1)
        optimizer.param_groups[0]["lr"] = float(stored["nag/lr"][step])
        optimizer.step()
        np.testing.assert_allclose(norm, stored["nag/grad_norm"][step], rtol=1e-6)
        np.testing.assert_allclose(parameter.detach(), stored["nag/params"][step], rtol=1e-6, atol=1e-6)


def test_learning_rate_schedule():
    stored = np.load(ORACLES / "optimizer.npz")
    training = stored["schedule/update"] < 286000  # that update comes after training: the published cosine restarts
    ours = [cosine(int(update), 16000, 286000, 1.0, 1e-4) for update in stored["schedule/update"][training]]
    assert training.sum() == 442
    np.testing.assert_allclose(ours, stored["schedule/lr"][training], rtol=1e-9)
