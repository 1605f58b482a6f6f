"""Mixtures and their tuned weights."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knnlm.scores import mixture

seeds = st.integers(0, 2**32 - 1)


def vectors(seed: int, count: int, tokens: int = 300) -> tuple[list[np.ndarray], np.ndarray]:
    """`count` components, zero at a third of the targets, and an LM that is nowhere zero; in nats."""
    rng = np.random.default_rng(seed)
    components = [np.log(rng.beta(1, 3, tokens)) for _ in range(count)]
    for component in components:
        component[rng.random(tokens) < 0.3] = -np.inf
    return components, np.log(rng.beta(1, 4, tokens))


def test_end_points_are_exact():
    (component,), lm = vectors(0, 1)
    np.testing.assert_array_equal(mixture.mix([0], [component], lm), lm)
    np.testing.assert_array_equal(mixture.mix([1], [component], lm), component)
    assert mixture.perplexity(mixture.mix([1], [component], lm)) == np.inf


def test_a_hand_computed_mixture():
    mixed = mixture.mix(
        [0.25, 0.5], [np.log([0.4, 0.0 + 1e-300]), np.array([np.log(0.2), -np.inf])], np.log([0.8, 0.1])
    )
    np.testing.assert_allclose(np.exp(mixed), [0.25 * 0.4 + 0.5 * 0.2 + 0.25 * 0.8, 0.25 * 0.1])


@pytest.mark.parametrize("weights", [[0.7, 0.2, 0.1], [0.5, 0.5 + 1e-12]], ids=["below 1", "above 1"])
def test_rounding_of_a_sum_leaves_the_lm_nothing(weights):
    assert sum(weights) != 1
    components, lm = [np.array([-np.inf])] * len(weights), np.array([0.0])
    assert mixture.mix(weights, components, lm)[0] == -np.inf
    assert mixture.losses(np.array([weights]), components, lm)[0] == np.inf


def test_a_component_of_probability_zero_leaves_the_lm_its_share():
    np.testing.assert_allclose(mixture.mix([0.3], [np.array([-np.inf])], np.array([-2.0])), np.log(0.7) - 2)


def test_perplexity_is_the_exponential_of_the_mean_loss():
    assert mixture.perplexity(np.log([0.5, 0.125])) == pytest.approx(4)


@settings(deadline=None)
@given(seeds, st.floats(0, 1))
def test_a_mixture_lies_between_its_parts(seed, lmbda):
    (component,), lm = vectors(seed, 1)
    mixed = mixture.mix([lmbda], [component], lm)
    assert (mixed >= np.minimum(component, lm) - 1e-12).all() and (mixed <= np.maximum(component, lm) + 1e-12).all()


@settings(deadline=None)
@given(seeds, st.floats(0, 1), st.floats(0, 1))
def test_the_loss_is_convex_and_agrees_with_mix(seed, first, second):
    (component,), lm = vectors(seed, 1)
    points = np.array([first, (first + second) / 2, second])
    low, middle, high = np.log(mixture.curve(points, component, lm))
    assert np.isinf(low + high) or middle <= (low + high) / 2 + 1e-9
    expected = mixture.perplexity(mixture.mix([first], [component], lm))
    assert mixture.curve([first], component, lm)[0] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_the_tuned_weight_is_the_brute_force_one(seed):
    (component,), lm = vectors(seed, 1)
    fine = np.linspace(0, 1, 20001)
    best = fine[np.argmin(mixture.curve(fine, component, lm))]
    assert mixture.tune([component], lm)[0] == pytest.approx(best, abs=2e-4)


@pytest.mark.parametrize("seed", range(5))
def test_the_tuned_weights_of_three_are_the_brute_force_ones(seed):
    components, lm = vectors(seed, 2)
    fine = np.linspace(0, 1, 201)
    simplex = np.array([(a, b) for a in fine for b in fine if a + b <= 1])
    tuned = mixture.tune(components, lm)
    losses = mixture.losses(simplex, components, lm)
    assert mixture.losses(tuned[None], components, lm)[0] <= losses.min() + 1e-12
    np.testing.assert_allclose(tuned, simplex[np.argmin(losses)], atol=0.01)


def test_a_useless_component_gets_no_weight_and_a_perfect_one_all():
    lm = np.log(np.full(50, 0.5))
    assert mixture.tune([np.full(50, -np.inf)], lm)[0] == 0
    assert mixture.tune([np.zeros(50)], lm)[0] == 1


def test_tiny_likelihoods_do_not_underflow():
    component, lm = np.full(64, -900.0), np.full(64, -800.0)
    assert mixture.curve([0, 0.5], component, lm) == pytest.approx([np.inf, np.inf])
    assert mixture.losses(np.array([[0.5]]), [component], lm)[0] == pytest.approx(800 + np.log(2))
    spread = np.where(np.arange(64) % 2, -700.0, 0.0)
    expected = -mixture.mix([0.9], [spread], np.full(64, -1.0)).mean()
    assert mixture.losses(np.array([[0.9]]), [spread], np.full(64, -1.0))[0] == pytest.approx(expected)


def test_tuning_looks_at_a_few_hundred_mixtures_however_many_targets_there_are(monkeypatch):
    components, lm = vectors(0, 2, 5000)
    tried, losses = [], mixture._losses
    monkeypatch.setattr(mixture, "_losses", lambda weights, *rest: tried.append(len(weights)) or losses(weights, *rest))
    mixture.tune(components, lm)
    assert 231 < sum(tried) < 500  # 231 of the coarse grid, then at most six directions a step


@pytest.mark.parametrize(("seed", "resamples", "length"), [(0, 20, 1), (7, 30, 1), (3, 25, 40)])
def test_weights_tuned_on_resamples_are_those_of_the_resampled_tokens(seed: int, resamples: int, length: int) -> None:
    (component,), lm = vectors(seed, 1, 90 * length)
    component[5] = -np.inf  # so that λ = 1 is impossible wherever its document is drawn
    starts, grid = length * np.array([0, 7, 30, 31, 60]), np.linspace(0, 1, 41 if length > 1 else 11)
    tuned = mixture.tune_resampled(grid, component, lm, starts, resamples, seed)
    counts = np.random.default_rng(seed).multinomial(5, [0.2] * 5, size=resamples)
    pieces = np.split(np.arange(90 * length), starts[1:])
    for drawn, lmbda in zip(counts, tuned, strict=True):
        tokens = np.concatenate([pieces[d] for d in range(5) for _ in range(drawn[d])])
        expected = [mixture.mix([x], [component[tokens]], lm[tokens]).sum() for x in grid]
        assert lmbda == grid[np.argmax(expected)]
    assert len({*tuned}) > 1
