"""Bootstrap intervals over documents, and medians over seeds."""

import numpy as np
import pytest

from knnlm.scores import stats


def test_documents_sums_are_each_documents_own():
    sums, counts = stats.document_sums(np.array([1.0, 2, 3, 4]), np.array([0, 1, 3]))
    assert sums.tolist() == [1, 5, 4] and counts.tolist() == [1, 2, 1]


def test_the_interval_holds_the_perplexity_and_is_the_same_for_the_same_seed():
    logprob, documents = np.log(np.random.default_rng(0).beta(1, 5, 5000)), np.arange(0, 5000, 100)
    low, high = stats.interval(logprob, documents, seed=1)
    assert low < np.exp(-logprob.mean()) < high
    assert stats.interval(logprob, documents, seed=1) == [low, high] != stats.interval(logprob, documents, seed=2)


def test_documents_that_differ_widen_the_interval():
    documents = np.arange(0, 4000, 100)
    alike = np.tile(np.log([0.1, 0.3]), 2000)
    differing = np.repeat(np.where(np.arange(40) % 2, np.log(0.1), np.log(0.3)), 100)
    widths = [np.diff(stats.interval(logprob, documents))[0] for logprob in (alike, differing)]
    assert widths[0] < 1e-6 < widths[1]


def test_few_documents_or_a_zero_probability_give_no_interval():
    assert stats.interval(np.zeros(90), np.arange(0, 90, 10)) is None
    assert stats.interval(np.full(200, -np.inf), np.arange(0, 200, 10)) is None


@pytest.mark.parametrize(("figures", "expected"), [([3, 1, 2], (2, 2)), ([5], (5, 0)), ([1, 2], (1.5, 0))])
def test_the_median_and_the_seed_nearest_to_it(figures, expected):
    assert stats.median(figures) == expected


@pytest.mark.parametrize(("seed", "confidence"), [(0, 0.95), (3, 0.8)])
def test_the_interval_of_a_sum_is_that_of_resampled_documents(seed: int, confidence: float) -> None:
    values = np.random.default_rng(seed + 10).normal(0.5, 2, 40)
    low, high = stats.total(values, resamples=20000, seed=seed, confidence=confidence)
    drawn = np.random.default_rng(99).choice(values, (20000, 40)).sum(1)
    tail = (1 - confidence) / 2
    assert [low, high] == pytest.approx(np.quantile(drawn, [tail, 1 - tail]), abs=0.6)
    assert (low, high) == stats.total(values, resamples=20000, seed=seed, confidence=confidence)
    assert (low, high) != stats.total(values, resamples=20000, seed=seed + 1, confidence=confidence)


@pytest.mark.parametrize("resamples", [1, 10, 200, 201, 1000])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
@pytest.mark.parametrize("documents", [10, 57])
def test_intervals_are_those_of_scipys_bootstrap_to_the_bit(resamples: int, confidence: float, documents: int) -> None:
    from scipy.stats import bootstrap

    starts = np.arange(0, 20 * documents, 20)
    logprob = np.random.default_rng(documents).normal(-3, 2, 20 * documents)
    sums, counts = stats.document_sums(logprob, starts)
    chosen = {"batch": 200, "n_resamples": resamples, "confidence_level": confidence, "method": "percentile"}
    paired = bootstrap(
        (sums, counts),
        lambda s, c, axis: np.exp(-s.sum(axis) / c.sum(axis)),
        paired=True,
        vectorized=True,
        rng=np.random.default_rng(5),
        **chosen,
    )
    assert stats.interval(logprob, starts, resamples, 5, confidence) == list(paired.confidence_interval)
    summed = bootstrap((sums,), np.sum, vectorized=True, rng=np.random.default_rng(5), **chosen)
    assert stats.total(sums, resamples, 5, confidence) == tuple(summed.confidence_interval)
