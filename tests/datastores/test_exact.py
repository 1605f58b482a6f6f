"""Exact distances of merged neighbors: keys read once and in order, in pieces that a memory limit bounds."""

import numpy as np
import pytest

from knnlm.artifacts import devices
from knnlm.datastores import exact

D = 24
TORCH = "cpu:0"  # PyTorch's name of the same processor: what runs there on a GPU


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> list[np.ndarray]:
    """Memory-mapped keys [n, d] of shards of several sizes, one of them empty."""
    rng, folder, mapped = np.random.default_rng(0), tmp_path_factory.mktemp("keys"), []
    for number, size in enumerate((500, 1, 0, 700)):
        np.save(folder / f"{number}.npy", rng.standard_normal((size, D)).astype(np.float16))
        mapped.append(np.load(folder / f"{number}.npy", mmap_mode="r" if size else None))
    return mapped


@pytest.fixture(scope="module")
def asked() -> tuple[np.ndarray, np.ndarray]:
    """Queries [Q, d] and rows [Q, K], some of them missing."""
    rng = np.random.default_rng(1)
    return rng.standard_normal((60, D)).astype(np.float32), rng.integers(-1, 1201, (60, 40))


@pytest.fixture
def small(monkeypatch):
    """PyTorch compares 7 pairs, and is sent 11 keys, at a time."""
    monkeypatch.setattr(exact, "GATHERED", 7 * D)
    monkeypatch.setattr(exact, "COPIED", 11 * 2 * D)


LIMITS = [1, 2 * D, 2 * D * 13, 2 * D * 500, 2 * D * 699, 2 * D * 700, 1 << 30, None]


@pytest.mark.parametrize("inner_product", [False, True])
@pytest.mark.parametrize("memory", LIMITS)
def test_reranking_equals_distances_bit_for_bit_within_any_memory(shards, asked, memory, inner_product):
    queries, rows = asked
    expected = exact.distances(np.concatenate(shards), queries, rows, inner_product)
    for some in (slice(None), slice(2)):  # all keys are read, or few
        found = exact.rerank(shards, queries[some], rows[some], memory, inner_product=inner_product)
        assert found.tobytes() == expected[some].tobytes()


@pytest.mark.parametrize("together", [1, 97, 1 << 22])
@pytest.mark.parametrize("memory", [2 * D * 13, None])
def test_pairs_may_be_compared_in_any_number_of_blocks(shards, asked, monkeypatch, memory, together):
    monkeypatch.setattr(exact, "TOGETHER", together)
    queries, keys = asked[0], np.concatenate(shards)
    rows = np.random.default_rng(2).integers(-1, len(keys), (60, 40))
    found = exact.rerank([keys], queries, rows, memory)
    expected = np.square(queries[:, None].astype(np.float64) - keys[rows]).sum(2)
    np.testing.assert_allclose(found, np.where(rows < 0, np.inf, expected), rtol=1e-5)
    assert found.tobytes() == exact.distances(keys, queries, rows).tobytes()


@pytest.mark.parametrize("inner_product", [False, True])
@pytest.mark.parametrize("memory", LIMITS)
def test_reranking_by_pytorch_is_the_same_but_for_rounding(shards, asked, small, monkeypatch, memory, inner_product):
    monkeypatch.setattr(devices, "free_memory", lambda device: 2 * D * 400)
    queries, rows = asked
    found = exact.rerank(shards, queries, rows, memory, TORCH, inner_product)
    expected = exact.distances(np.concatenate(shards), queries, rows, inner_product)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert found.dtype == np.float32 and np.isinf(found[rows < 0]).all()


@pytest.mark.parametrize("device", ["cpu", TORCH])
def test_each_key_is_read_once_in_file_order_and_pieces_fit_the_memory(shards, asked, small, monkeypatch, device):
    queries, rows = asked
    read, original = [], exact._read

    def recorded(piece, local):
        keys, places = original(piece, local)
        assert keys.nbytes <= 2 * D * 100
        whole = len(keys) == len(piece.keys)
        read.append(piece.first + (np.arange(len(keys)) if whole else np.unique(local)))
        return keys, places

    monkeypatch.setattr(exact, "_read", recorded)
    exact.rerank(shards, queries, rows, 2 * D * 100, device)
    np.testing.assert_array_equal(np.concatenate(read), np.arange(1201))
    read.clear()
    exact.rerank(shards, queries[:1], rows[:1, :3], 2 * D * 100, device)
    np.testing.assert_array_equal(np.concatenate(read), np.unique(rows[0, :3][rows[0, :3] >= 0]))


def test_a_distance_is_of_single_precision_though_keys_are_of_half(shards):
    """The square of 300 overflows half precision, and 2048 + 1 rounds there."""
    keys = np.array([[300.0, 0], [2048, 0]], np.float16)
    for device in ("cpu", TORCH):
        found = exact.rerank([keys], np.array([[0, 0], [-1, 0]], np.float32), np.array([[0, 1], [1, -1]]), 1, device)
        np.testing.assert_array_equal(found, [[90000, 2048**2], [2049**2, np.inf]])


@pytest.mark.parametrize("inner_product", [False, True])
@pytest.mark.parametrize("memory", [1, 4 * D * 13, None])
def test_keys_of_single_precision_are_compared_to_their_last_digit(shards, asked, small, memory, inner_product):
    queries, rows = asked
    rng = np.random.default_rng(5)
    single = [rng.standard_normal(shard.shape).astype(np.float32) for shard in shards]
    keys = np.concatenate(single).astype(np.float64)[rows]
    expected = -(queries[:, None] * keys).sum(2) if inner_product else np.square(queries[:, None] - keys).sum(2)
    expected = np.where(rows < 0, np.inf, expected)
    for device in ("cpu", TORCH):
        found = exact.rerank(single, queries, rows, memory or 1 << 30, device, inner_product)
        np.testing.assert_allclose(found, expected, rtol=3e-6, atol=3e-5)
    whole = exact.distances(np.concatenate(single), queries, rows, inner_product)
    assert exact.rerank(single, queries, rows, memory, inner_product=inner_product).tobytes() == whole.tobytes()
    half = exact.distances(np.concatenate(single).astype(np.float16), queries, rows, inner_product)
    assert np.abs(half - expected)[rows >= 0].max() > 1e-4  # the test would see half precision


def test_a_row_beyond_the_keys_is_refused(shards):
    with pytest.raises(ValueError, match="row 1,201 is beyond the 1,201 keys"):
        exact.rerank(shards, np.zeros((1, D), np.float32), np.array([[1201]]))


def test_a_pair_takes_four_bytes_while_rows_are_grouped_by_piece():
    rows = np.array([7, -1, 0, 9, 3])
    order, starts = exact._by_piece(rows, np.array([0, 3, 9, 10]))
    assert (order.tolist(), starts.tolist()) == ([2, 0, 4, 3], [0, 1, 3, 4])
    assert order.dtype == np.uint32


def test_pairs_are_grouped_by_piece_only_where_there_are_several_or_few_keys_are_read(shards, asked, monkeypatch):
    grouped, by_piece = [], exact._by_piece
    monkeypatch.setattr(exact, "_by_piece", lambda *arrays: grouped.append(1) or by_piece(*arrays))
    queries, rows = asked
    missing = np.where(np.arange(40) < 1, rows % 700, -1)
    for keys, limit, near, expected in (
        ([shards[3]], None, rows % 700, 0),
        ([shards[3]], 2 * D * 699, rows % 700, 1),  # in two pieces
        ([shards[0], shards[3]], None, rows % 1200, 1),
        ([shards[3]], None, rows[:2] % 700, 1),  # at most 80 of 700 keys
        ([shards[3]], None, missing, 1),  # at most 60
    ):
        grouped.clear()
        exact.rerank(keys, queries[: len(near)], near, limit)
        assert len(grouped) == expected


def test_a_gpu_holds_as_many_keys_as_fit_seven_tenths_of_its_free_memory(shards, asked, monkeypatch):
    held, on_device = [], exact._on_device
    monkeypatch.setattr(devices, "free_memory", lambda device: 2 * D * 400)
    monkeypatch.setattr(exact, "_on_device", lambda keys, device: held.append(len(keys)) or on_device(keys, device))
    exact.rerank(shards, asked[0], asked[1], None, TORCH)
    assert held == [250, 250, 1, 234, 234, 232]


def test_keys_are_read_in_one_direction_but_for_a_four_thousandth_part():
    rows, count = np.random.default_rng(0).integers(-1, 1_000_000, 50_000), 1_000_000
    read = rows[exact._reading_order(rows, count)]
    assert sorted(read) == sorted(rows[rows >= 0])
    assert (np.maximum.accumulate(read) - read).max() <= count // 4096 + 1
