"""Index, search, exact distances."""

import os
from pathlib import Path

import faiss
import numpy as np
import pytest

from knnlm.artifacts import description, files
from knnlm.datastores import ann, exact, train_index
from knnlm.settings import IndexSettings

D = 16
RABITQ = ["RaBitQ", "IVF16,RaBitQ", "IVF16,RaBitQ4", "IVF16,RaBitQfs", "IVF16,RaBitQfs4"]


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((3000, D)).astype(np.float16), rng.standard_normal((40, D)).astype(np.float32)


def build(keys: np.ndarray, factory: str, metric: str = "l2", nprobe: int = 8):
    index = ann.train(keys.astype(np.float32), IndexSettings(factory=factory, metric=metric))
    ann.add(index, keys)
    if hasattr(index, "nprobe"):
        index.nprobe = nprobe
    return index


def brute(keys: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    squared = ((queries[:, None].astype(np.float64) - keys[None].astype(np.float64)) ** 2).sum(-1)
    order = np.argsort(squared, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(squared, order, 1), order


def test_flat_search_finds_the_nearest_by_squared_l2(data):
    keys, queries = data
    distances, rows = ann.search(build(keys, "Flat"), queries, 10, np.arange(len(keys)))
    expected, order = brute(keys, queries, 10)
    np.testing.assert_array_equal(rows, order)
    np.testing.assert_allclose(distances, expected, rtol=1e-5)


def test_flat_search_is_exact_where_a_matrix_product_is_not(data):
    keys, queries = data[0] + np.float16(200), data[1] + np.float32(200)  # lengths so large that products lose digits
    products = (queries**2).sum(1)[:, None] + (keys.astype(np.float32) ** 2).sum(1) - 2 * queries @ keys.T
    distances, _ = ann.search(build(keys, "Flat"), queries, 10, np.arange(len(keys)))
    expected, _ = brute(keys, queries, 10)
    np.testing.assert_allclose(distances, expected, rtol=1e-5)
    assert np.abs(np.sort(products, axis=1)[:, :10] - expected).max() > 1e-3 * expected.max()


def test_a_flat_distance_does_not_depend_on_the_other_queries(data):
    index, ids = build(data[0], "Flat"), np.arange(len(data[0]))
    together = ann.search(index, data[1], 10, ids)
    for q, query in enumerate(data[1]):
        alone = ann.search(index, query[None], 10, ids)
        np.testing.assert_array_equal(alone[0][0], together[0][q])
        np.testing.assert_array_equal(alone[1][0], together[1][q])


def test_inner_products_come_back_negated_and_ascending(data):
    keys, queries = data
    distances, rows = ann.search(build(keys, "Flat", "ip"), queries, 10, np.arange(len(keys)))
    expected = np.sort(-(queries @ keys.astype(np.float32).T), axis=1)[:, :10]
    np.testing.assert_allclose(distances, expected, rtol=1e-5)
    np.testing.assert_allclose(exact.distances(keys, queries, rows, inner_product=True), expected, rtol=1e-5)


@pytest.mark.parametrize("factory", ["Flat", "SQfp16", "IVF32,PQ8x8", "IVF32,PQ8x4fs", "IVF32,Flat", *RABITQ])
def test_training_twice_gives_the_same_neighbors(data, factory):
    keys, queries = data
    first, second = (ann.search(build(keys, factory), queries, 20, np.arange(len(keys))) for _ in range(2))
    np.testing.assert_array_equal(first[1], second[1])
    np.testing.assert_array_equal(first[0], second[0])


@pytest.mark.parametrize("factory", ["Flat", "IVF16,Flat", "IVF16,PQ8x8", "IVF16,PQ8x4fs", *RABITQ])
def test_equal_distances_are_ordered_by_id_at_the_cut_too(data, factory):
    keys = np.repeat(data[0][:500], 6, axis=0)  # every key six times: ties everywhere
    ids = np.random.default_rng(1).permutation(len(keys)).astype(np.int64)
    index = build(keys, factory, nprobe=16)
    distances, rows = ann.search(index, data[1], 8, ids)
    all_distances, all_rows = ann.search(index, data[1], len(keys), ids)
    for q in range(len(rows)):
        order = np.lexsort((ids[all_rows[q]], all_distances[q]))[:8]
        np.testing.assert_array_equal(ids[rows[q]], ids[all_rows[q]][order])
        np.testing.assert_array_equal(distances[q], all_distances[q][order])


@pytest.mark.parametrize("factory", ["IVF64,PQ8x8", "IVF64,PQ8x4fsr", "IVF64,SQfp16", "IVF1,Flat", *RABITQ[1:]])
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_an_entry_between_two_lists_falls_where_it_falls_alone(data, tmp_path, factory, metric):
    settings = IndexSettings(factory=factory, metric=metric)
    with_all, alone = (ann.train(data[0].astype(np.float32), settings) for _ in range(2))
    centroids = alone.quantizer.reconstruct_n(0, alone.nlist)
    between = (centroids[:, None] + centroids[None]).reshape(-1, D) / 2  # [nlist², d]: rounding decides
    ann.add(with_all, between)
    wide = between[:, None].astype(np.float64), centroids[None].astype(np.float64)
    far = -(wide[0] * wide[1]).sum(2) if metric == "ip" else ((wide[0] - wide[1]) ** 2).sum(2)  # [nlist², nlist]
    lists = far.argmin(1)
    plain = ann._unpacked(alone)
    for key, place in zip(between, lists, strict=True):  # one by one, in the list that is nearest in float64
        plain.add_core(1, faiss.swig_ptr(key), None, faiss.swig_ptr(np.array([place])))
    if plain is not alone:
        packed = type(alone)(plain, alone.bbs)
        alone.replace_invlists(packed.invlists, False)
        alone.ntotal = plain.ntotal
    ann.save(with_all, tmp_path / "all.faiss")
    ann.save(alone, tmp_path / "alone.faiss")
    assert (tmp_path / "all.faiss").read_bytes() == (tmp_path / "alone.faiss").read_bytes()


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("length", [1e-3, 1, 100])
def test_the_list_of_a_key_is_the_nearest_in_float64_and_of_equally_near_ones_the_first(metric, length):
    """Centroids on a sphere, each twice: from keys near its center, float32 cannot tell which is nearest."""
    rng = np.random.default_rng(5)
    centroids, keys = rng.standard_normal((40, D)), rng.standard_normal((500, D))
    centroids = np.tile(100 * centroids / np.linalg.norm(centroids, axis=1, keepdims=True), (2, 1)).astype(np.float32)
    keys = (length * keys / np.linalg.norm(keys, axis=1, keepdims=True)).astype(np.float32)
    quantizer = {"l2": faiss.IndexFlatL2, "ip": faiss.IndexFlatIP}[metric](D)
    quantizer.add(centroids)
    products = keys.astype(np.float64) @ centroids[:40].T.astype(np.float64)
    squared = ((keys[:, None].astype(np.float64) - centroids[None, :40].astype(np.float64)) ** 2).sum(2)
    expected = (-products if metric == "ip" else squared).argmin(1)
    np.testing.assert_array_equal(ann._nearest_lists(quantizer, keys), expected)


def test_missing_neighbors_are_minus_one_and_infinitely_far(data):
    keys, queries = data[0], np.append(data[1], data[0][:1], axis=0).astype(np.float32)  # the last is row 0's own key
    distances, rows = ann.search(build(keys, "IVF64,Flat", nprobe=1), queries, 500, np.arange(len(keys)))
    assert (rows[-1, 0], distances[-1, 0]) == (0, 0)
    assert (rows[:, -1] == -1).all() and np.isinf(distances[rows < 0]).all() and np.isfinite(distances[rows >= 0]).all()
    assert np.isinf(exact.distances(keys, queries, rows)[rows < 0]).all()


@pytest.mark.parametrize("dimension", [1, 7, 16, 128])
def test_exact_distances_equal_float64_ones(dimension):
    rng = np.random.default_rng(2)
    keys, queries = rng.standard_normal((50, dimension)).astype(np.float16), rng.standard_normal((9, dimension))
    keys[0, 0], keys[1, 0] = 6e-8, -65504  # subnormal, largest
    rows = rng.integers(-1, 50, (9, 20))
    expected = ((queries[:, None] - keys[rows].astype(np.float64)) ** 2).sum(-1)
    np.testing.assert_allclose(exact.distances(keys, queries, rows)[rows >= 0], expected[rows >= 0], rtol=1e-5)


def test_the_sample_does_not_depend_on_the_sharding(data):
    keys = data[0]
    whole = ann.sample([keys], 100, seed=3)
    np.testing.assert_array_equal(whole, ann.sample([keys[:1000], keys[1000:1001], keys[1001:]], 100, seed=3))
    assert len(np.unique(whole, axis=0)) == 100


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("IVF4096,Flat", "4,096 lists, the sample 200 keys"),
        ("IVF8,PQ8x8", "256 centroids"),
        ("PQ5", "'PQ5' does not fit"),
    ],
)
def test_an_impossible_index_is_refused_by_name(data, factory, message):
    with pytest.raises(files.UserError, match=message):
        ann.train(data[0][:200].astype(np.float32), IndexSettings(factory=factory))


def test_too_large_a_k_and_wrong_dimensions_are_refused(data):
    keys, queries = data
    index = build(keys[:50], "Flat")
    with pytest.raises(files.UserError, match="k is 51, the index holds 50"):
        ann.search(index, queries, 51, np.arange(50))
    with pytest.raises(files.UserError, match="the index 16 dimensions"):
        ann.add(index, keys[:, :8])


@pytest.mark.parametrize(("size", "seed"), [(100, 3), (100, 4), (2999, 3), (3000, 3), (9999, 3)])
def test_the_sample_is_drawn_by_its_seed_and_at_most_everything(data, size, seed):
    keys = data[0]
    order = np.random.default_rng(seed).choice(3000, min(size, 3000), replace=False, shuffle=False)
    expected = keys[np.sort(order)] if size < 3000 else keys
    np.testing.assert_array_equal(ann.sample([keys[:1000], keys[1000:]], size, seed), expected.astype(np.float32))


def test_the_settings_seed_draws_the_sample_and_begins_each_clustering(data, tmp_path):
    """Two seeds: of the sample alone, of the clustering of one sample, and both by the stage."""
    keys, codes = data[0].astype(np.float32), []
    for seed in (1, 2, 1):
        index = ann.train(keys[:400], IndexSettings(factory="IVF8,PQ4x4", seed=seed))
        codes.append((index.quantizer.reconstruct_n(0, 8), faiss.vector_to_array(index.pq.centroids)))
    for first, other, again in zip(*codes, strict=True):
        np.testing.assert_array_equal(first, again)
        assert np.abs(first - other).max() > 1e-3
    (tmp_path / "keys").mkdir()
    np.save(tmp_path / "keys/keys.npy", data[0])
    description.write_meta(tmp_path / "keys", "extract", {}, {})
    drawn, train = [], ann.train
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ann, "train", lambda sampled, settings: drawn.append(sampled) or train(sampled, settings))
        for seed in (1, 2):
            asked = f'{{"factory": "Flat", "sample": 100, "seed": {seed}}}'
            train_index.main(train_index.TrainIndexConfig((tmp_path / "keys",), tmp_path / f"{seed}.faiss", asked))
    for seed, sampled in zip((1, 2), drawn, strict=True):
        order = np.random.default_rng(seed).choice(3000, 100, replace=False, shuffle=False)
        np.testing.assert_array_equal(sampled, keys[np.sort(order)])


@pytest.mark.parametrize(("factory", "same"), [("OPQ4,PQ4x4", False), ("IVF8,PQ4x4", True)])
def test_a_rotation_may_be_learned_from_fewer_keys(data, factory, same):
    keys, settings = data[0].astype(np.float32), IndexSettings(factory=factory)
    whole, few, more = (ann.train(keys, settings, points) for points in (None, 500, 5000))
    for index in (whole, few, more):
        ann.add(index, keys[:50])
    near = [ann.search(index, keys[:5], 9, np.arange(50))[0] for index in (whole, few, more)]
    np.testing.assert_array_equal(near[0], near[2])
    assert np.array_equal(near[0], near[1]) == same


@pytest.mark.parametrize(("factory", "enough"), [("IVF64,Flat", 64), ("IVF4,PQ4x4", 16)])
def test_a_key_for_each_centroid_is_enough(data, factory, enough):
    keys = data[0].astype(np.float32)
    assert ann.train(keys[:enough], IndexSettings(factory=factory)).is_trained
    with pytest.raises(files.UserError, match=f"the sample {enough - 1} keys"):
        ann.train(keys[: enough - 1], IndexSettings(factory=factory))


PUBLISHED = Path(__file__).parents[1] / "data/oracles/fairseq_run/knn.index"
SIZES, IDS = 37044, 39836  # bytes before the lists' sizes and before the first list's row numbers


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (4, 2**31 - 1, "not a whole FAISS index"),  # dimensions
        (8, 10**6, "found 17,321 entries in its lists, expected 1,000,000"),
        (32, 0, "found an index without training"),
        (SIZES - 8, 2**60, "not a whole FAISS index"),
        (SIZES, 2**60, "not a whole FAISS index"),
        (SIZES, 2**31, "not a whole FAISS index"),
        (SIZES + 8, 0, "found 1[67],.* entries in its lists, expected 17,321|not a whole FAISS index"),
        (IDS, 17321, "found row 17,321, expected rows below 17,321"),
        (IDS + 8, -1, "found row -1, expected rows below 17,321"),
        (IDS, 2**62, "found row 4,611,.*, expected rows below 17,321"),
    ],
)
def test_a_published_index_with_crafted_numbers_is_refused(tmp_path, at, value, message):
    content = bytearray(PUBLISHED.read_bytes())
    assert int.from_bytes(content[8:16], "little") == 17321
    width = 4 if at == 4 else 1 if at == 32 else 8
    content[at : at + width] = value.to_bytes(width, "little", signed=value < 0)
    (tmp_path / "knn.index").write_bytes(content)
    with pytest.raises(files.UserError, match=f"knn.index: ({message})"):
        ann.load(tmp_path / "knn.index")
    ann.load(PUBLISHED)


@pytest.mark.parametrize(
    ("stored", "dimension", "factory"),
    [
        *((None, 16, "Flat"), (199_999, 16, "Flat"), (200_000, 16, "IVF512,PQ8x4fsr")),
        *((1_000_000, 6, "IVF1024,PQ2x4fsr"), (200_000, 7, "IVF512,SQ8")),
    ],
)
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_an_automatic_index_is_that_of_all_entries_and_is_described_as_it_was_made(
    data, tmp_path, stored, dimension, factory, metric
):
    """The shard is a sample of so many entries, as of a datastore whose keys are not stored."""
    keys, queries = data[0][:, :dimension], data[1][:, :dimension]
    (tmp_path / "keys").mkdir()
    np.save(tmp_path / "keys/keys.npy", keys)
    facts = {} if stored is None else {"entries_total": stored}
    description.write_meta(tmp_path / "keys", "extract", {}, {}, **facts)
    made, plain = [], factory.removesuffix("fsr")
    for name in ("first", "again"):
        out = tmp_path / f"{name}.faiss"
        asked = f'{{"factory": "auto", "metric": "{metric}", "seed": 3}}'
        train_index.main(train_index.TrainIndexConfig((tmp_path / "keys",), out, asked))
        made.append(out.read_bytes())
    assert made[0] == made[1]
    assert description.described(out)["config"] == IndexSettings(factory=factory, metric=metric, seed=3).model_dump()
    products = queries.astype(np.float64) @ keys.T.astype(np.float64)
    nearest = brute(keys, queries, 50)[1] if metric == "l2" else np.argsort(-products, axis=1)[:, :50]
    shares = []
    for index in (ann.load(out), ann.train(keys.astype(np.float32), IndexSettings(factory=plain, metric=metric))):
        ann.add(index, keys)
        _, found = ann.search(ann.visiting(index, 1024), queries, 50, np.arange(len(keys)))
        shares.append(np.mean([np.isin(*pair).mean() for pair in zip(found, nearest, strict=True)]))
    assert shares[0] > shares[1] - 0.05 and shares[1] > 0.4, shares  # of codes of random keys; by chance, 0.02


def test_an_automatic_index_counts_the_entries_of_all_shards(tmp_path, monkeypatch):
    """Shards of a datastore that was imported do not say how many entries there are in all."""
    monkeypatch.setattr("knnlm.settings.factory.EXACT_BELOW", 1000)
    for number, entries in enumerate((600, 400)):
        shard = tmp_path / f"shard{number}"
        shard.mkdir()
        np.save(shard / "keys.npy", np.random.default_rng(number).standard_normal((entries, 8)).astype(np.float16))
        description.write_meta(shard, "import_datastore", {}, {})
        shards = tuple(tmp_path / f"shard{done}" for done in range(number + 1))
        train_index.main(train_index.TrainIndexConfig(shards, tmp_path / f"{number}.faiss", '{"factory": "auto"}'))
    chosen = [description.described(tmp_path / f"{number}.faiss")["config"]["factory"] for number in (0, 1)]
    assert chosen == ["Flat", "IVF32,PQ4x4fsr"]


def test_an_index_whose_lists_are_in_another_file_is_refused_before_that_file_is_opened(tmp_path, data):
    keys, other = data[0].astype(np.float32), tmp_path / "lists.data"
    index = ann.train(keys, IndexSettings(factory="IVF16,PQ4x4"))
    ann.add(index, keys)
    ann.save(index, tmp_path / "whole.faiss")
    lists = faiss.OnDiskInvertedLists(index.nlist, index.code_size, str(other))
    for number in range(index.nlist):
        size = index.invlists.list_size(number)
        lists.add_entries(number, size, index.invlists.get_ids(number), index.invlists.get_codes(number))
    index.replace_invlists(lists)
    faiss.write_index(index, str(tmp_path / "knn.index"))
    assert faiss.read_index(str(tmp_path / "knn.index")).ntotal == len(keys)  # FAISS itself opens the other file

    written = other.read_bytes()
    other.unlink()
    for opened in (False, True):  # the other file is not asked for, whether it is there or not
        if opened:
            os.mkfifo(other)  # opening it would wait without end
        with pytest.raises(files.UserError, match=r"knn.index: found lists that are in another file \(OnDisk.*: merge"):
            ann.load(tmp_path / "knn.index")
    assert written and ann.load(tmp_path / "whole.faiss").ntotal == len(keys)
