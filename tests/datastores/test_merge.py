"""Shards searched apart and merged equal one index over everything, bit for bit."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from knnlm.artifacts import description, files, lineage
from knnlm.datastores import add, ann, merge, neighbors, rerank, search, train_index

D, K = 16, 24
CUTS = {1: [0, 2400], 3: [0, 700, 1500, 2400]}


def write(directory: Path, **arrays: np.ndarray) -> Path:
    directory.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(directory / f"{name}.npy", array)
    description.write_meta(directory, "extract", {}, {}, entries_total=2400)
    return directory


@pytest.fixture(scope="module")
def datastore(tmp_path_factory) -> Path:
    """2400 entries in random order of id, every key stored four times in different shards, and 50 queries."""
    root, rng = tmp_path_factory.mktemp("datastore"), np.random.default_rng(0)
    keys = rng.permutation(np.repeat(rng.standard_normal((600, D)), 4, axis=0)).astype(np.float16)
    ids, values = rng.permutation(5000)[:2400].astype(np.int64), rng.integers(0, 99, 2400).astype(np.uint32)
    for shards, cuts in CUTS.items():
        for i in range(shards):
            part = slice(cuts[i], cuts[i + 1])
            write(root / f"shard{i}of{shards}", keys=keys[part], ids=ids[part], values=values[part])
    write(root / "queries", keys=rng.standard_normal((50, D)).astype(np.float32), values=values[:50])
    return root


def retrieve(datastore: Path, out: Path, shards: int, settings: dict, k: int = K) -> Path:
    parts = [datastore / f"shard{i}of{shards}" for i in range(shards)]
    text = json.dumps(settings)
    train_index.main(train_index.TrainIndexConfig(tuple(parts), out / "trained.faiss", text))
    for i, part in enumerate(parts):
        add.main(add.AddConfig(out / "trained.faiss", part, out / f"{i}.faiss"))
        search.main(
            search.SearchConfig(out / f"{i}.faiss", part, (datastore / "queries",), k, (out / f"found{i}",), text)
        )
    merge.main(merge.MergeConfig(tuple(out / f"found{i}" for i in range(shards)), (out / "merged",)))
    final = out / "final"
    rerank.main(
        rerank.RerankConfig(
            (out / "merged",), tuple(parts), (datastore / "queries",), (final,), keep_index_distances=True
        )
    )
    return final


def arrays(directory: Path) -> dict[str, np.ndarray]:
    """Everything that neighbors say, whatever the shards are, by name."""
    found = neighbors.load(directory)
    return {"ids": found.ids[:], "values": found.values[:], **found.distances}


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize(
    "factory",
    [
        "Flat",
        "SQfp16",
        "IVF16,PQ8x8",
        "IVF16,PQ8x4fs",
        "RaBitQ",
        "RaBitQ4",
        "RaBitQfs",
        "IVF16,PQ8x4fsr",
        "IVF16,RaBitQ",
        "IVF16,RaBitQ2",
        "IVF16,RaBitQfs",
        "IVF16,RaBitQfs2",
    ],
)
def test_sharded_retrieval_equals_one_index_bit_for_bit(datastore, tmp_path, factory, metric):
    settings = {"factory": factory, "metric": metric, "nprobe": 5, "sample": 1000}
    one = arrays(retrieve(datastore, tmp_path / "one", 1, settings))
    three = arrays(retrieve(datastore, tmp_path / "three", 3, settings))
    assert set(one) == {"ids", "distances", "exact", "values"}
    for name in one:
        np.testing.assert_array_equal(one[name], three[name], err_msg=name)
    assert (np.diff(one["distances"]) >= 0).all()
    assert (np.diff(one["ids"])[np.diff(one["distances"]) == 0] > 0).all(), "ties are ordered by id"
    assert files.read_json(tmp_path / "three/final/meta.json")["entries"] == 2400


def test_merged_neighbors_name_their_queries(datastore, tmp_path):
    retrieve(datastore, tmp_path, 3, {"factory": "Flat"})
    assert lineage.sources(tmp_path / "merged")["queries"][0].samefile(datastore / "queries")


def test_a_single_shard_merges_to_itself(datastore, tmp_path):
    retrieve(datastore, tmp_path, 1, {"factory": "IVF16,PQ8x8", "nprobe": 1}, k=400)
    merged, itself = arrays(tmp_path / "merged"), arrays(tmp_path / "found0")
    assert set(merged) == set(itself) == {"ids", "values", "distances"}
    assert (merged["ids"] == -1).any()
    for name in merged:
        np.testing.assert_array_equal(merged[name], itself[name])


def test_ids_and_values_are_the_entries_own(datastore, tmp_path):
    found = arrays(retrieve(datastore, tmp_path, 3, {"factory": "Flat"}))
    everything = datastore / "shard0of1"
    keys, ids, values = (np.load(everything / f"{name}.npy") for name in ("keys", "ids", "values"))
    queries = np.load(datastore / "queries/keys.npy")
    row = np.argsort(ids)[np.searchsorted(np.sort(ids), found["ids"])]  # [Q, K]
    np.testing.assert_array_equal(values[row], found["values"])
    expected = ((queries[:, None] - keys[row].astype(np.float32)) ** 2).sum(-1)
    np.testing.assert_allclose(found["exact"], expected, rtol=1e-5)


def test_a_shard_whose_keys_were_not_stored_is_searched_and_not_reranked(datastore, tmp_path):
    expected = arrays(retrieve(datastore, tmp_path, 1, {"factory": "IVF16,PQ8x8", "nprobe": 5}))
    whole, queries = datastore / "shard0of1", (datastore / "queries",)
    quantized = write(tmp_path / "shard", ids=np.load(whole / "ids.npy"), values=np.load(whole / "values.npy"))
    settings = '{"nprobe": 5}'
    search.main(search.SearchConfig(tmp_path / "0.faiss", quantized, queries, K, (tmp_path / "out",), settings))
    found = arrays(tmp_path / "out")
    assert set(found) == {"ids", "distances", "values"}
    for name in found:
        np.testing.assert_array_equal(found[name], expected[name])
    with pytest.raises(files.UserError, match=r"shard/keys.npy: no such file"):
        rerank.main(rerank.RerankConfig((tmp_path / "out",), (quantized,), queries, (tmp_path / "final",)))


@pytest.fixture
def searching(datastore, tmp_path, monkeypatch):
    """A search of 50 queries in four blocks, and a function that runs something before the search of one block."""
    settings = {"factory": "IVF16,PQ8x4fs", "nprobe": 5}
    retrieve(datastore, tmp_path, 1, settings)
    shard, queries = datastore / "shard0of1", (datastore / "queries",)
    config = search.SearchConfig(tmp_path / "0.faiss", shard, queries, K, (tmp_path / "again",), json.dumps(settings))
    monkeypatch.setattr(search, "BLOCK", 16)
    find, calls = ann.search, []

    def before(block, happening):
        def recorded(*arguments):
            calls.append(len(calls))
            if len(calls) == block:
                happening()
            return find(*arguments)

        monkeypatch.setattr(ann, "search", recorded)
        return calls

    return config, before


def assert_found_as_at_once(tmp_path):
    for name in ("rows", "distances"):
        assert (tmp_path / f"again/{name}.npy").read_bytes() == (tmp_path / f"found0/{name}.npy").read_bytes()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("damaged", [False, True])
def test_searching_goes_on_after_the_blocks_that_are_done(searching, tmp_path, damaged):
    def killed():
        raise KeyboardInterrupt

    config, before = searching
    calls = before(3, killed)
    with pytest.raises(KeyboardInterrupt):
        search.main(config)
    kept = tmp_path / ".again.resume/again"
    assert kept.is_dir() and not (tmp_path / "again").exists()
    if damaged:
        np.load(kept / "rows.npy", mmap_mode="r+")[3, 0] += 1
    search.main(config)
    assert len(calls) == 3 + 2 + damaged  # the blocks that were done are not searched again
    assert_found_as_at_once(tmp_path)


@pytest.mark.parametrize("block", [2, 4])
def test_a_search_that_is_asked_to_stop_ends_after_its_block_and_goes_on(searching, tmp_path, block):
    config, before = searching
    calls = before(block, lambda: os.kill(os.getpid(), signal.SIGTERM))
    if block < 4:
        with pytest.raises(files.UserError, match="stopped by SIGTERM after 32 of 50 queries: run again to go on"):
            search.main(config)
    search.main(config)
    assert len(calls) == 4  # no block twice; a signal in the last block lets the search end
    assert_found_as_at_once(tmp_path)


def test_a_signal_in_the_last_block_of_a_split_stops_the_next_split(searching, tmp_path):
    config, before = searching
    both = replace(config, queries=config.queries * 2, out=(*config.out, tmp_path / "next"))
    calls = before(4, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(files.UserError, match="stopped by SIGTERM after 16 of 50 queries"):
        search.main(both)
    search.main(both)
    assert len(calls) == 8
    assert_found_as_at_once(tmp_path)


def test_mistakes_are_refused_by_name(datastore, tmp_path):
    with pytest.raises(files.UserError, match=r"k is 701, .* holds 700 entries"):
        retrieve(datastore, tmp_path / "k", 3, {"factory": "Flat"}, k=701)
    retrieve(datastore, tmp_path / "a", 1, {"factory": "Flat"}, k=5)
    retrieve(datastore, tmp_path / "b", 1, {"factory": "Flat"}, k=6)
    with pytest.raises(files.UserError, match=r"shape \(50, 6\).*\(50, 5\): search all shards alike"):
        merge.main(merge.MergeConfig((tmp_path / "a/merged", tmp_path / "b/merged"), (tmp_path / "out",)))
    with pytest.raises(files.UserError, match="700 ids"):
        part, queries = datastore / "shard0of3", datastore / "queries"
        search.main(search.SearchConfig(tmp_path / "a/0.faiss", part, (queries,), 5, (tmp_path / "out",)))


def brute(store: Path, queries: np.ndarray, k: int, metric: str) -> dict[str, np.ndarray]:
    """Every query's k nearest entries of the whole datastore by (distance, id), in float64."""
    keys, ids, values = (np.load(store / f"shard0of1/{name}.npy") for name in ("keys", "ids", "values"))
    keys, queries = keys.astype(float), queries.astype(float)
    distances = ((queries[:, None] - keys) ** 2).sum(-1) if metric == "l2" else -queries @ keys.T  # [Q, n]
    order = np.array([np.lexsort((ids, near.round(9)))[:k] for near in distances])
    return {"ids": ids[order], "values": values[order], "distances": np.take_along_axis(distances, order, 1)}


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_two_splits_in_several_blocks_get_the_nearest_of_all_shards_each(datastore, tmp_path, metric, monkeypatch):
    """Splits of other lengths, searched, merged and reranked together in blocks that end within them."""
    monkeypatch.setattr(search, "BLOCK", 16)
    monkeypatch.setattr(merge, "CELLS", 3 * K * 7)
    monkeypatch.setattr(rerank, "BLOCK", 9)
    rng, text = np.random.default_rng(6), json.dumps({"factory": "Flat", "metric": metric})
    asked = {name: rng.standard_normal((count, D)).astype(np.float32) for name, count in (("dev", 20), ("test", 37))}
    queries = tuple(write(tmp_path / name, keys=keys) for name, keys in asked.items())
    shards = tuple(datastore / f"shard{i}of3" for i in range(3))
    train_index.main(train_index.TrainIndexConfig(shards, tmp_path / "trained.faiss", text))
    for i, shard in enumerate(shards):
        add.main(add.AddConfig(tmp_path / "trained.faiss", shard, tmp_path / f"{i}.faiss"))
        out = tuple(tmp_path / f"{name}{i}" for name in asked)
        search.main(search.SearchConfig(tmp_path / f"{i}.faiss", shard, queries, K, out, text))
    found = tuple(tmp_path / f"{name}{i}" for name in asked for i in range(3))
    merged, final = (tuple(tmp_path / f"{end}-{name}" for name in asked) for end in ("merged", "final"))
    merge.main(merge.MergeConfig(found, merged))
    rerank.main(rerank.RerankConfig(merged, shards, queries, final, keep_index_distances=True))
    for keys, one, reranked in zip(asked.values(), merged, final, strict=True):
        expected = brute(datastore, keys, K, metric)
        for folder, kinds in ((one, ("distances",)), (reranked, ("distances", "exact"))):
            measured = arrays(folder)
            for name in ("ids", "values"):
                np.testing.assert_array_equal(measured[name], expected[name])
            for kind in kinds:
                np.testing.assert_allclose(measured[kind], expected["distances"], rtol=1e-4, atol=1e-4)
        described = files.read_json(reranked / "meta.json")
        assert [described[name] for name in ("metric", "entries", "entries_total")] == [metric, 2400, 2400]
    with pytest.raises(files.UserError, match="5 directories for 2 splits: give the same number for each"):
        merge.main(merge.MergeConfig(found[:5], (tmp_path / "a", tmp_path / "b")))


@pytest.mark.parametrize("nprobe", [1, 3])
def test_as_many_lists_are_visited_as_the_settings_say(datastore, tmp_path, nprobe):
    """By brute force over the lists whose centroids are nearest to the query."""
    settings = {"factory": "IVF8,Flat", "nprobe": nprobe, "sample": 1000}
    retrieve(datastore, tmp_path, 1, settings, k=2400)
    found, index = neighbors.load(tmp_path / "found0").rows, ann.load(tmp_path / "0.faiss")
    keys, queries = (np.load(datastore / name / "keys.npy").astype(float) for name in ("shard0of1", "queries"))
    centroids = index.quantizer.reconstruct_n(0, 8)
    lists = ((keys[:, None] - centroids) ** 2).sum(-1).argmin(1)  # [n]
    visited = ((queries[:, None] - centroids) ** 2).sum(-1).argsort(1)[:, :nprobe]  # [Q, nprobe]
    for rows, numbers in zip(found, visited, strict=True):
        np.testing.assert_array_equal(np.sort(rows[rows < 2400]), np.flatnonzero(np.isin(lists, numbers)))
    assert neighbors.facts(tmp_path / "merged")["nprobe"] == nprobe


@pytest.mark.parametrize(("k", "fits"), [(0, False), (700, True)])
def test_all_entries_of_a_shard_may_be_asked_for(datastore, tmp_path, k, fits):
    part = datastore / "shard0of3"
    train_index.main(train_index.TrainIndexConfig((part,), tmp_path / "trained.faiss", '{"factory": "Flat"}'))
    add.main(add.AddConfig(tmp_path / "trained.faiss", part, tmp_path / "0.faiss"))
    asked = search.SearchConfig(tmp_path / "0.faiss", part, (datastore / "queries",), k, (tmp_path / "found",))
    if fits:
        search.main(asked)
        rows = neighbors.load(tmp_path / "found").rows
        np.testing.assert_array_equal(np.sort(rows, axis=1), np.tile(np.arange(700), (50, 1)))
    else:
        with pytest.raises(files.UserError, match=r"k is 0, .* holds 700 entries"):
            search.main(asked)
