"""Smaller datastores against searches and merges in plain Python."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tinystudy

from knnlm.artifacts.files import UserError
from knnlm.beyond import mixers, shrink, shrinking
from knnlm.beyond import signals as loaded
from knnlm.beyond.shrinking import Datastore
from knnlm.live import layout


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tinystudy.write(tmp_path_factory.mktemp("results") / "tiny")


@pytest.fixture(scope="module")
def test_split(study: Path) -> loaded.Signals:
    return loaded.load(layout.find(study), "test")


@pytest.fixture(scope="module")
def store(test_split: loaded.Signals) -> Datastore:
    """Of which all four lists are visited, so that a search finds the nearest entries of all."""
    return replace(shrinking.datastore(test_split), nprobe=4)


def test_an_index_of_fewer_lists_than_are_visited_by_default_is_read(test_split, store, monkeypatch) -> None:
    """As its training describes it where the study names no nprobe."""
    described = shrinking.description.described
    config = {"factory": "IVF4,SQfp16", "nprobe": 32, "sample": 2000, "seed": 1, "metric": "l2"}
    monkeypatch.setattr(shrinking.description, "described", lambda path: described(path) | {"config": config})
    found = shrinking.datastore(test_split)
    assert (found.settings.factory, found.nprobe) == ("IVF4,SQfp16", 2) and len(found.ids) == len(store.ids)


def whole(store: Datastore) -> np.ndarray:
    return np.concatenate([np.asarray(shard) for shard in store.shards]).astype(np.float64)


def brute(split, store: Datastore, rows, weights, temperature: float, keys: np.ndarray) -> np.ndarray:
    """p_kNN of each target [N] from the nearest 16 of `rows`, each with its weight; keys [n, d]."""
    queries = np.asarray(mixers.context_vectors(split), np.float64)
    distances = ((queries[:, None] - keys[rows][None]) ** 2).sum(2)  # [N, R]
    near = np.argsort(distances, axis=1, kind="stable")[:, :16]
    distances = np.take_along_axis(distances, near, 1)
    share = np.asarray(weights)[near] * np.exp(-(distances - distances[:, :1]) / temperature)
    hits = store.values[rows][near] == np.asarray(split.tokens)[:, None]
    return (share * hits).sum(1) / share.sum(1)


def test_the_whole_datastore_is_the_study_itself(study: Path, test_split: loaded.Signals) -> None:
    store = shrinking.datastore(test_split)
    rows = np.arange(len(store.ids))
    (found,) = shrinking.scored(test_split, store, shrinking.build(store, rows), rows, None, True, [1])
    np.testing.assert_allclose(found, test_split.knn, rtol=1e-5)


@pytest.mark.parametrize("temperatures", [[1.0], [0.5, 20.0]])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_smaller_datastore_is_searched_as_if_the_rest_were_not_there(
    test_split: loaded.Signals, store: Datastore, temperatures: list[float], weighted: bool
) -> None:
    rows = np.flatnonzero(np.random.default_rng(3).random(len(store.ids)) < 0.2)
    rows = np.union1d(rows, [0, len(store.ids) - 1])  # the first and the last entry among them
    weights = np.random.default_rng(4).integers(1, 9, len(rows)) if weighted else np.ones(len(rows))
    index = shrinking.build(store, rows)
    assert index.ntotal == len(rows)
    found = shrinking.scored(test_split, store, index, rows, weights if weighted else None, True, temperatures)
    for temperature, scores in zip(temperatures, found, strict=True):
        expected = brute(test_split, store, rows, weights, temperature, whole(store))
        np.testing.assert_allclose(np.exp(scores), expected, rtol=2e-3, atol=1e-6)


def test_blocks_of_queries_give_the_same(
    test_split: loaded.Signals, store: Datastore, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.arange(0, len(store.ids), 3)
    parts = test_split, store, shrinking.build(store, rows), rows, None, True, [1]
    expected = shrinking.scored(*parts)
    monkeypatch.setattr(shrinking, "SEARCHED", 7)
    monkeypatch.setattr(shrinking, "PAIRS", 16 * 50)
    np.testing.assert_array_equal(shrinking.scored(*parts), expected)


def test_entries_are_merged_as_the_paper_says(store: Datastore) -> None:
    keys, sizes = whole(store), [1, 3, 10]
    found = shrinking.merge(store, shrinking.coded(store, "Flat", np.arange(len(keys))), sizes)
    near = np.argsort(((keys[:, None] - keys[None]) ** 2).sum(2), axis=1, kind="stable")
    for size, weights in zip(sizes, found, strict=True):
        expected = [1] * len(keys)
        for entry in range(len(keys)):
            if expected[entry]:
                for other in [one for one in near[entry].tolist() if one != entry][:size]:
                    if expected[other] == 1 and store.values[other] == store.values[entry]:
                        expected[entry] += 1
                        expected[other] = 0
        assert weights.tolist() == expected and weights.sum() == len(keys)
    assert (found[0] > 0).sum() > (found[1] > 0).sum() > (found[2] > 0).sum()


def test_merging_by_hand() -> None:
    """Entry 1 has another value, 3 stands for two already, and an entry that is gone takes in nothing."""
    values, weights = np.array([5, 6, 5, 5, 5], np.uint32), np.ones(5, np.int32)
    near = np.array([[0, 1, 2, 4], [1, 0, 2, 3], [2, 3, 4, 0], [3, 4, 0, 2], [4, 3, 2, -1]])
    shrinking._merge(0, near, values, 2, weights)
    assert weights.tolist() == [2, 1, 0, 2, 0]
    weights = np.ones(5, np.int32)
    shrinking._merge(0, near[:3], values, 3, weights)
    shrinking._merge(3, near[3:], values, 3, weights)
    assert weights.tolist() == [3, 1, 0, 1, 0]


def test_keys_of_rows_are_read_across_shards(store: Datastore) -> None:
    border = len(store.shards[0])
    for rows in (np.array([border - 1, border]), np.arange(border, border + 9), np.arange(0, len(store.ids), 7)):
        keys = shrinking.Keys(store.shards, rows)
        np.testing.assert_array_equal(keys[0 : len(rows)], whole(store)[rows])
        np.testing.assert_array_equal(keys[1:2], whole(store)[rows[1:2]])


def test_shorter_keys_are_projections(test_split: loaded.Signals, store: Datastore) -> None:
    store = replace(store, settings=store.settings.model_copy(update={"sample": 10_000}))  # more than there are
    factory = shrinking.factories(store)["pca"][2]
    assert factory == "PCA8,IVF4,SQfp16"
    asked = np.asarray(mixers.context_vectors(test_split), np.float32)
    found, _ = shrinking._searched(shrinking.coded(store, factory, np.arange(len(store.ids))), asked, 16, store.ids)
    keys = whole(store)
    center = keys.mean(0)
    axes = np.linalg.svd(keys - center, full_matrices=False)[2][:8]
    near = (((keys - center) @ axes.T)[None] - ((asked - center) @ axes.T)[:, None]) ** 2  # [Q, n, 8]
    np.testing.assert_allclose(found, np.sort(near.sum(2), axis=1)[:, :16], rtol=5e-3, atol=5e-3)


def test_bytes_of_an_entry(store: Datastore) -> None:
    settings = store.settings  # IVF4,SQfp16 of 16 dimensions: 32 bytes and a row number of 8
    assert shrinking.entry_bytes(store, settings, True) == 32 + 8 + 32 + 4
    assert shrinking.entry_bytes(store, settings, False) == 32 + 8 + 4
    assert shrinking.entry_bytes(store, settings, True, True) == 32 + 8 + 32 + 4 + 4
    opq = settings.model_copy(update={"factory": shrinking.factories(store)["opq"][4]})
    assert opq.factory == "OPQ4,IVF4,PQ4x4" and shrinking.entry_bytes(store, opq, False) == 2 + 8 + 4
    without = replace(store, settings=settings.model_copy(update={"factory": "Flat"}))
    assert shrinking.factories(without)["opq"] == {4: "OPQ4,PQ4x4fs", 8: "OPQ2,PQ2x4fs"}
    many = replace(store, ids=np.zeros(39 * 256, np.int64))
    assert shrinking.factories(many)["opq"][4] == "OPQ4,IVF4,PQ4x8"
    flat = settings.model_copy(update={"factory": "Flat"})
    assert shrinking.entry_bytes(store, flat, True) == 64 + 8 + 4


def test_temperature_and_lambda_are_those_of_dev() -> None:
    from beyond_signals import signals

    dev = signals(lm=np.array([0.5, 0.1]))
    poor, good = (np.log(np.array(one, np.float32)) for one in ([0.4, 0.1], [0.1, 0.9]))
    temperature, lmbda = mixers.best(dev, [(0.3, poor), (7, good), (9, good)])
    grid = np.linspace(0, 1, 1001)
    expected = grid[np.argmax(np.log(0.5 - 0.4 * grid) + np.log(0.1 + 0.8 * grid))]
    assert temperature == 7 and lmbda == pytest.approx(expected, abs=2e-3)  # of equals the first


def test_made_up_signals_have_no_datastore() -> None:
    from beyond_signals import signals

    with pytest.raises(UserError, match="needs the datastore of a study"):
        shrinking.datastore(signals(lm=np.array([0.5])))


def tuned(split, near: np.ndarray) -> tuple[int, float]:
    """The place of the best temperature among p_kNN [T, N], and its λ, by trying everything."""
    lm, grid = np.exp(np.asarray(split.lm, np.float64)), np.linspace(0, 1, 1001)[:-1, None]
    curves = [np.log(grid * one + (1 - grid) * lm).mean(1) for one in near]  # [T][G]
    best = int(np.argmax([curve.max() for curve in curves]))
    return best, float(grid[curves[best].argmax(), 0])


def test_what_is_measured_of_each_datastore(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries, bytes, temperature, λ and perplexity, from searches by hand; dev chooses, test is reported."""
    monkeypatch.setattr(layout.KnnLM, "nprobe", 4)  # all lists: the search is exact
    shrink.main(shrink.ShrinkConfig(study, tmp_path / "smaller.json", seed=3))
    found = {one["name"]: one["points"] for one in json.loads((tmp_path / "smaller.json").read_text())["methods"]}
    dev, test = (loaded.load(layout.find(study), split) for split in ("dev", "test"))
    store = shrinking.datastore(dev)
    keys, every = whole(store), np.arange(len(store.ids))
    draws = np.random.default_rng(3).random(len(every))
    merged = shrinking.merge(store, shrinking.coded(store, "Flat", every), [4])[0]
    expected = [("whole", 0, every, None), ("merged", 0, np.flatnonzero(merged), merged[merged > 0])]
    for place, point in enumerate(found["random"]):
        rows = np.flatnonzero(draws >= 1 - point["facts"]["share"])
        assert point["entries"] == len(rows) and point["bytes"] == len(rows) * (32 + 8 + 32 + 4)
        expected.append(("random", place, rows, None))
    assert {0.5, 0.25, 0.125, 0.0625} < {point["facts"]["share"] for point in found["random"]}
    temperatures, gaps = [], []
    for name, place, rows, weights in expected[:3] + expected[-1:]:
        point, counts = found[name][place], np.ones(len(rows)) if weights is None else weights
        near = [[brute(split, store, rows, counts, t, keys) for t in mixers.TEMPERATURES] for split in (dev, test)]
        lmbda = point["facts"]["lmbda"]
        best, by_hand = tuned(dev, np.array(near[0]))
        temperatures.append(mixers.TEMPERATURES[best])
        assert point["facts"]["temperature"] == temperatures[-1]
        assert lmbda == pytest.approx(by_hand, abs=2e-3) and lmbda > 0.01
        lm = np.exp(np.asarray(test.lm, np.float64))
        losses = [-np.log(lmbda * one + (1 - lmbda) * lm).mean() for one in near[1]]
        # The index rounds keys to half precision: here and there another entry is the sixteenth nearest.
        assert np.log(point["perplexity"]) == pytest.approx(losses[best], abs=2e-3)
        gaps.append(abs(losses[best] - losses[mixers.TEMPERATURES.index(1)]))
        assert point["bytes"] == len(rows) * (32 + 8 + 32 + 4 + 4 * (weights is not None))
    assert max(gaps) > 0.02 and set(temperatures) != {1}
    for point in found["merged"]:
        (twin,) = (one for one in found["random"] if one["facts"]["share"] == point["facts"]["share"])
        assert point["random"] == twin["nats"] and point["facts"]["share"] == point["entries"] / len(every)
    for name, sizes in (("pca", (16, 8, 4)), ("opq", (2, 1))):  # two bytes a component, and four bits a part
        assert [point["bytes"] for point in found[name]] == [len(every) * (size + 8 + 4) for size in sizes]
