"""The published initialisation, in statistics, and the published number of parameters."""

import pytest
import torch

from knnlm.models.model import LanguageModel, parameter_count
from knnlm.settings import ModelConfig

D, FFN, V = 128, 512, 6000


@pytest.fixture(scope="module")
def adaptive():
    torch.manual_seed(1)
    return LanguageModel(
        ModelConfig(vocab_size=V, layers=2, dim=D, ffn_dim=FFN, heads=4, adaptive_cutoffs=(1000, 3000))
    )


@pytest.fixture(scope="module")
def plain():
    torch.manual_seed(2)
    return LanguageModel(ModelConfig(vocab_size=V, layers=1, dim=D, ffn_dim=FFN, heads=4))


def assert_normal(weight, std):
    """Within sampling error of N(0, std²): few values beyond 3 standard deviations, some beyond 2."""
    assert float(weight.std()) == pytest.approx(std, rel=0.05)
    assert abs(float(weight.mean())) < 5 * std / weight.numel() ** 0.5
    assert float((weight.abs() > 3 * std).float().mean()) == pytest.approx(0.0027, abs=0.002)


def assert_uniform(weight, bound):
    """Fills [-bound, bound] evenly."""
    assert float(weight.abs().max()) == pytest.approx(bound, rel=0.05)
    assert float(weight.abs().max()) <= bound
    assert float(weight.std()) == pytest.approx(bound / 3**0.5, rel=0.1)


def xavier(rows, columns, gain=1.0):
    return gain * (6 / (rows + columns)) ** 0.5


@pytest.mark.parametrize("band", [0, 1, 2])
def test_adaptive_embeddings_have_the_scale_of_their_band_and_a_zero_row(adaptive, band):
    weight = adaptive.embedding.words[band].weight.data  # [V_band, D / 4^band]
    width = D // 4**band
    assert weight.shape[1] == width
    assert not weight[1].any()
    assert_normal(torch.cat([weight[:1], weight[2:]]), width**-0.5)
    assert_uniform(adaptive.embedding.projections[band].weight.data, xavier(D, width))


def test_adaptive_tail_logits_are_xavier(adaptive):
    assert_uniform(adaptive.softmax.tails.weight.data, xavier(2, D))


def test_plain_embedding_and_softmax(plain):
    embedding, softmax = plain.embedding.weight.data, plain.softmax.weight.data  # [V, D]
    assert not embedding[1].any()
    assert softmax[1].any()
    for weight in (embedding[2:], softmax):
        assert_normal(weight, D**-0.5)


def test_queries_keys_and_values_are_drawn_apart_with_a_smaller_gain(adaptive):
    for weight in adaptive.layers[1].attention.qkv.weight.data.chunk(3):
        assert_uniform(weight, xavier(D, D, gain=2**-0.5))


def test_query_key_and_value_biases_are_those_of_a_linear_layer(adaptive):
    assert_uniform(adaptive.layers[1].attention.qkv.bias.data, D**-0.5)


def test_other_matrices_are_xavier_with_zero_biases(adaptive):
    layer = adaptive.layers[0]
    for linear, rows, columns in ((layer.attention.out, D, D), (layer.ffn_in, FFN, D), (layer.ffn_out, D, FFN)):
        assert_uniform(linear.weight.data, xavier(rows, columns))
        assert not linear.bias.any()


def test_layer_norms_begin_as_the_identity(adaptive):
    for norm in (adaptive.layers[0].attention_norm, adaptive.layers[1].ffn_norm):
        assert (norm.weight == 1).all() and not norm.bias.any() and norm.eps == 1e-5


@pytest.mark.parametrize(
    ("facts", "count"),
    [
        (
            {"vocab_size": 267744, "adaptive_cutoffs": (20000, 60000)},
            246_933_504,
        ),  # the WikiText-103 model, as published
        ({"vocab_size": 28996}, 260_923_392),  # Books and Wiki: the paper says 247M
        ({"vocab_size": 28996, "tie_embeddings": True}, 231_231_488),
    ],
)
def test_parameter_count(facts, count):
    with torch.device("meta"):
        assert parameter_count(LanguageModel(ModelConfig(**facts))) == count
