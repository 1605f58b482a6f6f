"""Searches left out: RetoMaton against a walk in plain Python, masks and thresholds by hand."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import tinystudy
from beyond_signals import signals

from knnlm.artifacts import npy
from knnlm.beyond import mixers, skip, skipping
from knnlm.beyond import signals as loaded
from knnlm.live import layout
from knnlm.scores import mixture


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tinystudy.write(tmp_path_factory.mktemp("results") / "tiny")


def brute(split, store: skipping.Datastore, keys: np.ndarray, fewest: int) -> tuple[list[float], list[bool]]:
    """Probabilities of the targets, and whether they were searched for; keys [n, d] by position in the stream."""
    queries = np.asarray(mixers.context_vectors(split), np.float64)
    probabilities, searched, left = [], [], []
    for i, target in enumerate(split.tokens.tolist()):
        if i in split.documents:
            left = []
        if len(left) >= fewest:
            searched.append(False)
            distances = ((keys[left] - queries[i]) ** 2).sum(1)
            weights = np.exp(-(distances - distances.min()) / split.temperature)
            now = left
            probabilities.append(weights[store.tokens[left] == target].sum() / weights.sum())
        else:
            searched.append(True)
            now = [entry for entry in split.ids[i].tolist() if entry >= 0]
            probabilities.append(np.exp(float(split.knn[i])))
        left = [
            entry + 1
            for entry in now
            if store.tokens[entry] == target
            and entry + 1 < len(store.tokens)
            and store.rows[entry + 1] >= 0
            and store.follows[entry + 1]
        ]
    return probabilities, searched


@pytest.mark.parametrize("fewest", [1, 2, 3, 17])
def test_retomaton_is_the_walk_that_it_says(study: Path, fewest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixers, "BLOCK", 100)  # several groups of documents
    source = layout.find(study)
    split = loaded.load(source, "test")
    store = skipping.datastore(split)
    whole = np.concatenate([npy.open_array(shard / "keys.npy") for shard in source.keys]).astype(np.float64)
    keys = whole[np.maximum(store.rows, 0)]
    probabilities, searched = brute(split, store, keys, fewest)
    found, was_searched = skipping.retomaton(split, store, fewest)
    assert was_searched.tolist() == searched and (fewest == 17) == all(searched)
    np.testing.assert_allclose(np.exp(found), probabilities, rtol=2e-3, atol=1e-5)
    if fewest == 17:
        np.testing.assert_array_equal(found, split.knn)


def test_an_entry_is_a_position_in_the_stream_with_its_own_key(study: Path) -> None:
    source = layout.find(study)
    store = skipping.datastore(loaded.load(source, "dev"))
    ids, values = (
        np.concatenate([npy.open_array(shard / f"{name}.npy") for shard in source.keys]) for name in ("ids", "values")
    )
    assert (store.rows >= 0).sum() == len(ids) and store.tokens[ids].tolist() == values.tolist()
    assert ids[store.rows[ids]].tolist() == ids.tolist()
    assert np.flatnonzero(~store.follows).tolist() == npy.open_array(source.documents("fox", "train")).tolist()


def test_documents_are_grouped_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixers, "BLOCK", 10)
    assert skipping.groups(np.array([0, 4, 9, 14, 30]), 33) == [(0, 14), (14, 30), (30, 33)]
    assert skipping.groups(np.array([0]), 3) == [(0, 3)]


def test_lambda_is_tuned_on_the_searched_tokens_of_dev() -> None:
    good = np.array([True, True, False, False])
    dev = signals(lm=np.full(4, 0.2), knn=np.where(good, 0.9, 0.001))
    test = signals(lm=np.full(4, 0.4), knn=np.full(4, 0.8))
    searched = np.array([True, False, True, False])
    logprob, lmbda = skipping.masked(dev, test, [good, searched])
    assert lmbda == 1 and np.exp(logprob).tolist() == pytest.approx([0.8, 0.4, 0.8, 0.4])
    logprob, lmbda = skipping.masked(dev, test, [~good, searched])
    assert lmbda == 0 and np.exp(logprob).tolist() == pytest.approx([0.4] * 4)
    assert skipping.masked(dev, test, [good & ~good, searched])[1] == 0


def test_random_masks_are_nested_and_as_large_as_asked() -> None:
    masks = [skipping.at_random(20_000, share, 1) for share in (0.0, 0.3, 0.7, 1.0)]
    assert [1 - mask.mean() for mask in masks] == pytest.approx([0, 0.3, 0.7, 1], abs=0.02)
    assert all((later <= earlier).all() for earlier, later in itertools.pairwise(masks))
    assert (masks[1] != skipping.at_random(20_000, 0.3, 2)).any()


def test_a_threshold_is_a_quantile_of_dev(tmp_path: Path) -> None:
    gates = {"dev": np.linspace(0, 0.9, 10), "test": np.array([0.05, 0.5, 0.95])}
    for name, gate in gates.items():
        npy.save_array(tmp_path / f"network-{name}.npy", gate.astype(np.float32))
    dev, test = signals(lm=np.full(10, 0.2)), signals(lm=np.full(3, 0.2), knn=np.full(3, 0.6))
    points = skip.threshold(dev, test, tmp_path)["points"]
    assert [round(point["skipped"], 3) for point in points][:2] == [0, 0.333] and points[-1]["skipped"] == 1
    whole = np.log(gates["test"] * 0.6 + (1 - gates["test"]) * 0.2)
    assert points[0]["perplexity"] == pytest.approx(np.exp(-whole.mean()))
    half = np.log([0.2, 0.5 * 0.6 + 0.5 * 0.2, 0.95 * 0.6 + 0.05 * 0.2])
    assert points[5]["perplexity"] == pytest.approx(np.exp(-half.mean())) and points[-1]["perplexity"] == pytest.approx(
        5
    )


@pytest.mark.parametrize("seed", [1, 4])
def test_each_point_stands_beside_as_many_searches_left_out_at_random(study: Path, tmp_path: Path, seed: int) -> None:
    skip.main(skip.SkipConfig(study, tmp_path / "skipping.json", seed=seed))
    dev, test = (loaded.load(layout.find(study), split) for split in ("dev", "test"))
    by_chance, *methods = json.loads((tmp_path / "skipping.json").read_text())["methods"]
    points = [point for method in methods for point in method["points"]]
    assert "random" not in by_chance["points"][0] and any(0 < point["skipped"] < 0.4 for point in points)
    ends = [*test.documents[1:], len(test.lm)]
    for point in points:
        masks = [np.random.default_rng(seed).random(len(split.lm)) >= point["skipped"] for split in (dev, test)]
        logprob, _ = skipping.masked(dev, test, masks)
        nats = [logprob[first:last].sum() for first, last in zip(test.documents, ends, strict=True)]
        assert point["random"] == pytest.approx(nats)


def test_without_skipping_every_method_is_the_study_itself(study: Path) -> None:
    source = layout.find(study)
    dev, test = (loaded.load(source, split) for split in ("dev", "test"))
    expected = mixture.perplexity(mixture.mix(mixture.tune([dev.knn], dev.lm), [test.knn], test.lm))
    for method in (skip.random(dev, test, 1), skip.retomaton(dev, test)):
        assert method["points"][0]["skipped"] == 0 and method["points"][0]["perplexity"] == pytest.approx(expected)
