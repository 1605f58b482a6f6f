"""Each way of mixing against numbers worked out by hand or by trying everything."""

import itertools

import numpy as np
import pytest
from beyond_signals import signals

from knnlm.beyond import contexts, infinigram, mixers, networks, unbounded
from knnlm.scores import mixture


def test_bins_have_the_best_lambda_of_dev_each() -> None:
    near, far = np.full((200, 1), 1.0), np.full((200, 1), 9.0)
    stored = np.concatenate([near, far])
    lm = np.full(400, 0.2)
    knn = np.concatenate([np.tile([0.9, 0.1], 100), np.full(200, 0.01)])  # of the near ones half are good
    dev = signals(lm=lm, knn=knn, stored=stored)
    test = signals(lm=np.full(2, 0.3), knn=np.full(2, 0.5), stored=np.array([[8.0], [0.5]]))
    found = mixers.bins(dev, test, count=2)
    grid = np.linspace(0, 1, 10_001)
    best = grid[np.argmax(np.log(grid * 0.9 + (1 - grid) * 0.2) + np.log(grid * 0.1 + (1 - grid) * 0.2))]
    assert found.gates is not None and found.gates[1].tolist() == pytest.approx([0, best], abs=2e-4)
    assert np.exp(found.test).tolist() == pytest.approx([0.3, best * 0.5 + (1 - best) * 0.3], abs=1e-4)
    assert mixers.bins(dev, test, count=64).facts["bins"] == 4  # a hundred tokens each


def test_confidence_is_a_sigmoid_of_the_ratio_of_distances(tmp_path) -> None:
    stored = np.array([[1.0, 2.0, 4.0], [3.0, np.inf, np.inf], [4.0, 1.0, np.inf]])
    values = np.array([[5, 6, 5], [5, 0, 0], [6, 5, 0]])
    both = signals(tmp_path, lm=np.full(3, 0.2), tokens=np.array([5, 6, 5]), stored=stored, values=values, dim=16)
    found = mixers.confidence(both, both)
    weights = np.exp(-stored / 4)  # the root of 16 dimensions
    for i, (least, most) in enumerate([(1, 4), (3, 3), (1, 4)]):
        lm_weight = 1 / (1 + np.exp(-(least / most - 0.3) / 0.1))
        near = weights[i][(values[i] == both.tokens[i]) & np.isfinite(stored[i])].sum() / weights[i].sum()
        assert np.exp(found.test[i]) == pytest.approx((1 - lm_weight) * near + lm_weight * 0.2, rel=1e-5)
    tuned = mixers.confidence(both, both, tuned=True)
    assert tuned.dev.sum() > found.dev.sum() and tuned.facts != found.facts


def brute_joint(split, temperatures, ks):
    best = None
    for temperature, k in itertools.product(temperatures, ks):
        near = np.array(
            [
                np.exp(-d[:k] / temperature)[v[:k] == t].sum() / np.exp(-d[:k] / temperature).sum()
                for d, v, t in zip(split.stored.astype(float), split.values, split.tokens, strict=True)
            ]
        )
        for lmbda in np.linspace(0, 1, 201):
            with np.errstate(divide="ignore"):
                loss = -np.log(lmbda * near + (1 - lmbda) * np.exp(split.lm.astype(float))).mean()
            if best is None or loss < best[0] - 1e-9:
                best = loss, temperature, k, lmbda
    return best


def random_split(seed: int, count: int = 60, k: int = 8, noise: float = 1.0):
    rng = np.random.default_rng(seed)
    tokens, values = rng.integers(0, 4, count), rng.integers(0, 4, (count, k))
    stored = np.sort(rng.random((count, k)) * 20, axis=1)
    values[:, :2] = np.where(rng.random((count, 2)) < noise, tokens[:, None], values[:, :2])  # the nearest two are good
    return signals(lm=rng.random(count) * 0.5, tokens=tokens, stored=stored, values=values)


def test_joint_tuning_finds_the_best_of_all_combinations() -> None:
    dev, test = random_split(0, noise=0.4), random_split(1)
    found = mixers.joint(dev, test, temperatures=(0.3, 3, 30))
    loss, temperature, k, lmbda = brute_joint(dev, (0.3, 3, 30), (1, 2, 4, 8))
    assert (found.facts["temperature"], found.facts["k"]) == (temperature, k)
    assert found.facts["lmbda"] == pytest.approx(lmbda, abs=0.006) and -found.dev.mean() == pytest.approx(
        loss, abs=1e-3
    )


TUNED = [mixers.constant, mixers.bins, mixers.joint, lambda dev, test: mixers.confidence(dev, test, tuned=True)]


@pytest.mark.parametrize("chosen", TUNED)
def test_nothing_is_chosen_on_test(chosen, tmp_path) -> None:
    """Another test gives the same choice, and a token of test the same probability whatever stands beside it."""
    dev, test = random_split(0, 300, noise=0.3), random_split(5, 300, noise=0.9)
    few = signals(lm=np.exp(test.lm[:7]), tokens=test.tokens[:7], stored=test.stored[:7], values=test.values[:7])
    for name, split in {"dev": dev, "test": test, "few": few}.items():
        signals.store(split, tmp_path / name, 16)
    whole, part = (chosen(dev, split) for split in (test, few))
    assert whole.facts == part.facts
    np.testing.assert_allclose(whole.test[:7], part.test, rtol=1e-6)  # `few` was made from rounded probabilities
    np.testing.assert_array_equal(whole.dev, part.dev)


def planted(tmp_path, seed: int, count: int = 2000):
    """Tokens whose context vector says by its first component whether kNN or the LM knows the target."""
    rng = np.random.default_rng(seed)
    vectors, good = rng.standard_normal((count, 4)), rng.random(count) < 0.5
    vectors[:, 0] = np.where(good, 2, -2) + 0.1 * rng.standard_normal(count)
    lm, knn = np.where(good, 0.05, 0.6), np.where(good, 0.6, 0.05)
    return signals(tmp_path / str(seed), lm=lm, knn=knn, vectors=vectors, documents=np.arange(0, count, 50)), good


def test_a_lambda_network_learns_where_knn_is_right(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(contexts, "inputs", lambda split: np.zeros((len(split.lm), 10), np.float32))
    (dev, _), (test, good) = planted(tmp_path, 1), planted(tmp_path, 2)
    found, again = (networks.network(dev, test, seed=1) for _ in range(2))
    np.testing.assert_array_equal(found.test, again.test)
    assert found.gates is not None and found.gates[1][good].min() > 0.6 > 0.4 > found.gates[1][~good].max()
    assert found.test.mean() > mixers.constant(dev, test).test.mean() + 0.2
    np.testing.assert_allclose(
        found.test, np.log(found.gates[1] * np.exp(test.knn) + (1 - found.gates[1]) * np.exp(test.lm)), rtol=1e-5
    )


def test_meta_k_takes_the_lm_where_neighbors_are_noise_and_the_nearest_where_only_it_is_right() -> None:
    rng = np.random.default_rng(0)

    def split(nearest_right: bool, seed: int):
        rng = np.random.default_rng(seed)
        tokens, values = rng.integers(0, 50, 1500), rng.integers(50, 99, (1500, 8))
        values[:, 0] = tokens if nearest_right else values[:, 0]
        stored = np.sort(rng.random((1500, 8)), axis=1)
        documents = np.arange(0, 1500, 30)
        return signals(lm=np.full(1500, 0.1), tokens=tokens, values=values, stored=stored, documents=documents)

    noise = networks.meta_k(split(False, 1), split(False, 2), temperature=1)
    assert noise.facts["weight of the LM on test"] > 0.98 and np.exp(noise.test).min() > 0.09
    right = networks.meta_k(split(True, 1), split(True, 2), temperature=1)
    assert np.exp(right.test).mean() > 0.9  # k = 1 gives the target all of p_kNN
    assert networks.distinct(np.array([[3, 3, 5, 3, 7, 5]]), [1, 2, 4, 6]).tolist() == [[1, 1, 2, 3]]
    values = rng.integers(0, 5, (40, 16))
    expected = [[len(set(row[:k])) for k in (1, 2, 4, 8, 16)] for row in values.tolist()]
    assert networks.distinct(values, [1, 2, 4, 8, 16]).tolist() == expected


def test_the_infinigram_has_a_weight_for_each_kind_of_token() -> None:
    sparse = np.tile([True, False], 100)
    unbounded_dev = np.where(sparse, 0.9, 0.01)  # right where one word followed, and useless elsewhere
    scored = [
        infinigram.Scored(np.log(p).astype(np.float32), np.ones(200, np.int32), sparse)
        for p in (unbounded_dev, np.full(200, 0.5))
    ]
    dev, test = (signals(lm=np.full(200, 0.3), knn=np.full(200, 0.2), infinigram=one) for one in scored)
    found = unbounded.infinigram(dev, test)
    np.testing.assert_allclose(np.exp(found.test), np.where(sparse, 0.5, 0.3), atol=1e-3)  # weights 1 and 0, from dev
    three = unbounded.infinigram_knn(dev, test)
    np.testing.assert_allclose(np.exp(three.test), np.where(sparse, 0.5, 0.3), atol=1e-3)
    assert three.facts["share of test where one word followed"] == 0.5
    assert mixture.perplexity(found.dev) < mixture.perplexity(dev.lm)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_ngrams_and_their_successors_are_counted(order: int) -> None:
    rng = np.random.default_rng(order)
    train, tokens = rng.integers(0, 4, 300), rng.integers(0, 5, 80)
    counts, fertility = contexts.counted(train, tokens, order)
    padded = [-1] * order + train.tolist()
    grams = [tuple(padded[i : i + order]) for i in range(len(train))]
    for i in range(len(tokens)):
        asked = tuple(([-1] * order + tokens.tolist())[i : i + order])
        followers = [train[j] for j, gram in enumerate(grams) if gram == asked]
        assert (counts[i], fertility[i]) == (len(followers), len(set(followers)))


def test_a_target_of_test_that_a_component_does_not_know_costs_no_infinity() -> None:
    near = np.full((200, 1), 1.0)
    dev = signals(lm=np.full(200, 0.1), knn=np.full(200, 0.9), stored=near)
    test = signals(lm=np.full(2, 0.1), knn=np.array([0.9, 0.0]), stored=near[:2])
    assert np.exp(mixers.bins(dev, test, count=1).test).tolist() == pytest.approx([0.999 * 0.9 + 0.0001, 0.0001])
    scored = [
        infinigram.Scored(np.log(p), np.ones(len(p), np.int32), np.ones(len(p), bool))
        for p in (np.full(200, 0.9), np.array([0.9, 1e-300]))
    ]
    dev, test = (
        signals(lm=np.exp(split.lm), knn=np.exp(split.knn), infinigram=one)
        for split, one in zip((dev, test), scored, strict=True)
    )
    for found in (unbounded.infinigram(dev, test), unbounded.infinigram_knn(dev, test)):
        assert np.exp(found.test[1]) == pytest.approx(0.0001, rel=1e-3)


def test_networks_begin_and_shuffle_by_their_seed_and_test_is_scaled_as_dev(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(contexts, "inputs", lambda split: np.zeros((len(split.lm), 10), np.float32))
    monkeypatch.setattr(networks, "EPOCHS", 2)
    (dev, _), (test, good) = planted(tmp_path, 1, 400), planted(tmp_path, 2, 400)
    first, other = (networks.network(dev, test, seed=seed) for seed in (1, 2))
    assert np.abs(first.test - other.test).max() > 1e-4
    only_good = signals(
        tmp_path / "good",
        lm=np.exp(test.lm[good]),
        knn=np.exp(test.knn[good]),
        vectors=np.load(tmp_path / "2/keys.npy")[good],
        documents=np.arange(0, good.sum(), 50),
    )
    alone = networks.network(dev, only_good, seed=1)
    assert first.gates is not None and alone.gates is not None
    np.testing.assert_allclose(alone.gates[1], first.gates[1][good], rtol=1e-3)
