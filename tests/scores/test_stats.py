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


@pytest.mark.parametrize("seed", [0, 4])
def test_by_default_intervals_are_of_95_percent_and_documents_weigh_by_their_tokens(seed: int) -> None:
    rng = np.random.default_rng(7)
    counts = rng.integers(5, 400, 60)
    means = -2 - 3 * (counts < 150) + 0.4 * rng.standard_normal(60)  # short documents are the hard ones
    pieces = [np.full(count, mean) for count, mean in zip(counts, means, strict=True)]
    sums, starts = counts * means, np.concatenate([[0], np.cumsum(counts)[:-1]])
    drawn = np.random.default_rng(99).integers(0, 60, (20000, 60))
    for found, values in (
        (
            stats.interval(np.concatenate(pieces), starts, 5000, seed),
            np.exp(-sums[drawn].sum(1) / counts[drawn].sum(1)),
        ),
        (stats.total(sums, 5000, seed), sums[drawn].sum(1)),
        (stats.ratio(sums, counts, 5000, seed), sums[drawn].sum(1) / counts[drawn].sum(1)),
        (
            stats.of_means(lambda a, b: a**2 / b, sums, counts, resamples=5000, seed=seed),
            sums[drawn].mean(1) ** 2 / counts[drawn].mean(1),
        ),
    ):
        assert found == pytest.approx(np.quantile(values, [0.025, 0.975]).tolist(), abs=0.15 * values.std())


@pytest.mark.parametrize("seed", [3, 8])
def test_of_one_resample_the_interval_is_its_own_value(seed: int) -> None:
    """So the seed decides which documents are drawn, in all three intervals alike."""
    rng = np.random.default_rng(1)
    values, counts = -rng.gamma(4, 9, 12), rng.integers(3, 30, 12)
    (drawn,) = np.random.default_rng(seed).integers(0, 12, (1, 12))
    assert stats.total(values, 1, seed) == pytest.approx((values[drawn].sum(),) * 2)
    assert stats.ratio(values, counts, 1, seed) == pytest.approx((values[drawn].sum() / counts[drawn].sum(),) * 2)
    expected = values[drawn].mean() - 2 * counts[drawn].mean()
    found = stats.of_means(lambda a, b: a - 2 * b, values, counts, resamples=1, seed=seed)
    assert found == pytest.approx((expected,) * 2)
    logprob, starts = np.repeat(values / counts, counts), np.concatenate([[0], np.cumsum(counts)[:-1]])
    assert stats.interval(logprob, starts, 1, seed) == pytest.approx(
        [np.exp(-values[drawn].sum() / counts[drawn].sum())] * 2
    )


@pytest.mark.parametrize(("documents", "expected"), [(stats.FEWEST - 1, False), (stats.FEWEST, True)])
def test_ten_documents_are_just_enough(documents: int, expected: bool) -> None:
    assert stats.FEWEST == 10
    assert (stats.interval(np.zeros(90), np.arange(documents)) is not None) == expected


def test_a_thousand_resamples_are_drawn_by_seed_0_where_nothing_else_is_asked() -> None:
    rng = np.random.default_rng(2)
    values, counts = -rng.gamma(4, 9, 15), rng.integers(3, 30, 15)
    drawn = np.random.default_rng(0).integers(0, 15, (1000, 15))
    sums, sizes = values[drawn].sum(1), counts[drawn].sum(1)
    logprob, starts = np.repeat(values / counts, counts), np.concatenate([[0], np.cumsum(counts)[:-1]])
    for found, expected in (
        (stats.interval(logprob, starts), np.exp(-sums / sizes)),
        (stats.total(values), sums),
        (stats.ratio(values, counts), sums / sizes),
        (stats.of_means(lambda a, b: a * b, values, counts), sums * sizes / 15**2),
    ):
        assert found == pytest.approx(np.quantile(expected, [0.025, 0.975]).tolist(), rel=1e-9)


def test_a_target_of_probability_zero_makes_its_own_document_infinite_and_no_other():
    sums, counts = stats.document_sums(np.array([-1, -1, -np.inf, -1, -1, -2.0]), np.array([0, 2, 4]))
    assert (sums.tolist(), counts.tolist()) == ([-2, -np.inf, -3], [2, 2, 2])
