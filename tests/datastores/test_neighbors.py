"""The neighbors artifact by hand: what rows mean, missing neighbors, ties, and reranking of shards."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from knnlm.artifacts import description, devices, disk, files, resume
from knnlm.datastores import exact, merge, neighbors, rerank

INF = np.inf
# Two shards of different sizes with shuffled ids: rows 0 to 2 are entries 50, 10, 40, and rows 3 and 4 are 20 and 30.
IDS, VALUES = [[50, 10, 40], [20, 30]], [[7, 8, 9], [5, 6]]
KEYS = [[[0, 0], [1, 0], [0, 2]], [[3, 0], [0, 4]]]
MISSING = {"uint32": 2**32 - 1, "uint64": 2**64 - 1}
DTYPES = pytest.mark.parametrize("dtype", ["uint32", "uint64"])


def write(directory: Path, stage: str, inputs: dict, facts: dict, **arrays: np.ndarray) -> Path:
    directory.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(directory / f"{name}.npy", array)
    description.write_meta(directory, stage, {}, inputs, **facts)
    return directory


def found(directory: Path, shards: list[Path], entries: int, rows: np.ndarray, distances: list, metric: str = "l2"):
    """A searched neighbors directory."""
    sources = {f"{name}{i}": shard for name in ("shard", "index") for i, shard in enumerate(shards)}
    facts = {"entries": entries, "entries_total": 5, "metric": metric, "nprobe": 1}
    return write(directory, "search", sources, facts, rows=rows, distances=np.array(distances, np.float32))


@pytest.fixture
def shards(tmp_path) -> list[Path]:
    """The datastore's shards."""
    return [
        write(
            tmp_path / f"shard{i}",
            "extract",
            {},
            {},
            ids=np.array(IDS[i]),
            values=np.array(VALUES[i], np.uint32),
            keys=np.array(KEYS[i], np.float16),
        )
        for i in (0, 1)
    ]


@pytest.fixture
def searched(tmp_path, shards, dtype) -> tuple[Path, Path]:
    """What was found for two queries in each shard, in rows of the shard."""
    none = MISSING[dtype]
    first = found(
        tmp_path / "found0", shards[:1], 3, np.array([[1, 2, 0], [2, none, none]], dtype), [[1, 2, 2], [5, INF, INF]]
    )
    second = found(
        tmp_path / "found1", shards[1:], 2, np.array([[0, 1, none], [none] * 3], dtype), [[1, 2, INF], [INF] * 3]
    )
    return first, second


@pytest.mark.parametrize(("limit", "expected"), [(6, "uint32"), (5, "uint64")])
@DTYPES
def test_shards_are_merged_by_distance_and_then_by_id(tmp_path, searched, dtype, limit, expected, monkeypatch):
    monkeypatch.setattr(neighbors, "LIMIT", limit)  # five entries
    merge.main(merge.MergeConfig(searched, (tmp_path / "merged",)))
    merged = neighbors.load(tmp_path / "merged")
    none = MISSING[expected]
    assert merged.rows.dtype == expected
    # distance 1: ids 10 (row 1) and 20 (row 3); distance 2: ids 30 (row 4), 40 and 50, of which the nearest three stay
    assert merged.rows.tolist() == [[1, 3, 4], [2, none, none]]
    assert merged.ids[:].tolist() == [[10, 20, 30], [40, -1, -1]]
    assert merged.values[:].tolist() == [[8, 5, 6], [9, 0, 0]]
    assert merged.stored("distances").tolist() == [[1, 1, 2], [5, INF, INF]]
    assert neighbors.facts(tmp_path / "merged")["entries"] == 5
    assert [path.name for path in neighbors.places(tmp_path / "merged", "shard")] == ["shard0", "shard1"]


@DTYPES
def test_the_first_and_the_last_row_have_values_and_ids(tmp_path, shards, dtype):
    rows = np.array([[0, 4, 2, 3]], dtype)
    near = neighbors.load(found(tmp_path / "found", shards, 5, rows, [[1, 2, 3, 4]]))
    assert near.ids[:].tolist() == [[50, 30, 40, 20]] and near.values[:].tolist() == [[7, 6, 9, 5]]
    assert near.ids[0].tolist() == [50, 30, 40, 20] and int(near.values[0, 1]) == 6
    assert near.values[0:1].dtype == np.uint32 and len(near.ids) == 1
    first = neighbors.load(tmp_path / "found", ("distances",), 2)
    assert first.ids[:].tolist() == [[50, 30]] and first.stored("distances").tolist() == [[1, 2]]


def test_a_row_number_takes_64_bits_only_where_32_have_none_left_for_a_missing_neighbor():
    assert neighbors.row_type(2**32 - 2) == "uint32" and neighbors.row_type(2**32 - 1) == "uint64"
    assert neighbors.query_bytes(1024, 10**8) == 8 * 1024
    assert neighbors.query_bytes(1024, 2**32, 2) == 16 * 1024


def reranked(tmp_path: Path, shards: list[Path], source: Path, out: str = "final", **options: object):
    if not (tmp_path / "queries").exists():
        write(tmp_path / "queries", "evaluate", {}, {}, keys=np.array([[0, 0], [1, 1]], np.float32))
    config = rerank.RerankConfig((source,), tuple(shards), (tmp_path / "queries",), (tmp_path / out,), **options)
    rerank.main(config)
    return neighbors.load(tmp_path / out)


@pytest.mark.parametrize("memory", [1e-9, 8])
@pytest.mark.parametrize("metric", ["l2", "ip"])
@DTYPES
def test_exact_distances_are_those_of_the_merged_neighbors(tmp_path, shards, dtype, metric, memory):
    none = MISSING[dtype]
    rows = np.array([[0, 4, 2], [3, 1, none]], dtype)  # in the index's order, which stays
    source = found(tmp_path / "found", shards, 5, rows, [[1, 2, 3], [4, 5, INF]], metric)
    near = reranked(tmp_path, shards, source, memory=memory)
    assert near.rows.tolist() == rows.tolist() and set(near.distances) == {"exact"}
    expected = [[0, 16, 4], [5, 1, INF]] if metric == "l2" else [[0, 0, 0], [-3, -1, INF]]
    assert near.stored("exact").tolist() == expected
    assert near.ids[:].tolist() == [[50, 30, 40], [20, 10, -1]]
    assert [place.name for place in neighbors.places(tmp_path / "final", "shard")] == ["shard0", "shard1"]
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_pytorch_computes_the_same_where_there_is_a_gpu(tmp_path, shards, monkeypatch, metric):
    monkeypatch.setattr(devices, "for_torch", lambda: "cpu:0")  # PyTorch's name of the same processor
    monkeypatch.setattr(devices, "free_memory", lambda device: 16)  # bytes: keys are sent there in pieces
    rows = np.array([[0, 4, 2], [3, 1, MISSING["uint32"]]], np.uint32)
    source = found(tmp_path / "found", shards, 5, rows, [[1, 2, 3], [4, 5, INF]], metric)
    near = reranked(tmp_path, shards, source).stored("exact").tolist()
    assert near == ([[0, 16, 4], [5, 1, INF]] if metric == "l2" else [[0, 0, 0], [-3, -1, INF]])


def test_the_index_distances_stay_only_where_they_are_asked_for(tmp_path, shards):
    rows = np.array([[0, 4], [3, 1]], np.uint32)
    source = found(tmp_path / "found", shards, 5, rows, [[1, 2], [3, 4]])
    assert set(reranked(tmp_path, shards, source, "without").distances) == {"exact"}
    kept = reranked(tmp_path, shards, source, "with", keep_index_distances=True)
    assert kept.stored("distances").tolist() == [[1, 2], [3, 4]]
    with pytest.raises(files.UserError, match=r"without: found no distances.npy, .* --keep-index-distances"):
        neighbors.load(tmp_path / "without").stored("distances")
    with pytest.raises(files.UserError, match=r"found: found no exact.npy, .* rerank"):
        neighbors.load(source).stored("exact")


def test_what_does_not_fit_together_is_refused_by_name(tmp_path, shards):
    source = found(tmp_path / "found", shards, 5, np.array([[0, 4], [3, 1]], np.uint32), [[1, 2], [3, 4]])
    with pytest.raises(files.UserError, match=r"found in \S+shard0, \S+shard1, --keys names \S+shard1, \S+shard0"):
        reranked(tmp_path, shards[::-1], source)
    with pytest.raises(files.UserError, match="--memory: found 0, expected GB above 0"):
        reranked(tmp_path, shards, source, memory=0)
    for entries in (4, 6):  # the shards have 5
        other = found(tmp_path / f"of{entries}", shards, entries, np.array([[0, 3]] * 2, np.uint32), [[1, 2]] * 2)
        with pytest.raises(files.UserError, match=f"{entries} entries were searched, --keys has 5"):
            reranked(tmp_path, shards, other)
        with pytest.raises(files.UserError, match=f"{entries} entries were searched, its shards have 5 ids"):
            neighbors.load(other).ids[0]
    one = found(tmp_path / "one", shards, 5, np.array([[0]], np.uint32), [[1]])
    with pytest.raises(files.UserError, match=r"one has neighbors of shape \(1, 1\), \S+queries 2 queries"):
        reranked(tmp_path, shards, one)
    with pytest.raises(files.UserError, match="found has neighbors of 2 shards: give those of each shard"):
        merge.main(merge.MergeConfig((source,), (tmp_path / "merged",)))
    for counts in list(itertools.product((1, 2), repeat=3))[1:-1]:
        sources, queries, out = (
            tuple(tmp_path / f"{name}{i}" for i in range(count))
            for name, count in zip(("source", "queries", "out"), counts, strict=True)
        )
        with pytest.raises(files.UserError, match="--neighbors, --queries and --out name different numbers of splits"):
            rerank.main(rerank.RerankConfig(sources, tuple(shards), queries, out))
    twice = (source,) * 2, tuple(shards), (tmp_path / "queries",) * 2, (tmp_path / "final",) * 2
    with pytest.raises(files.UserError, match="--out names a directory twice"):
        rerank.main(rerank.RerankConfig(*twice))
    assert not list(tmp_path.glob(".*")) and not (tmp_path / "final").exists()


class Killed(BaseException):
    """Ends a verb like a kill: what it has written stays."""


def dies_at(call: int, function):
    """The function, killed instead of its call of this number."""
    calls = iter(range(call))

    def dying(*arguments, **options):
        if next(calls, None) is None:
            raise Killed
        return function(*arguments, **options)

    return dying


@pytest.mark.parametrize("damaged", [False, True])
def test_reranking_goes_on_after_the_shards_that_are_done(tmp_path, shards, monkeypatch, damaged):
    source = found(tmp_path / "found", shards, 5, np.array([[0, 4], [3, 1]], np.uint32), [[1, 2], [3, 4]])
    whole = reranked(tmp_path, shards, source, "whole")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(exact, "rerank", dies_at(1, exact.rerank))
        reranked(tmp_path, shards, source)
    half = tmp_path / ".final.resume/final/exact.npy"
    if damaged:
        np.load(half, mmap_mode="r+")[0, 0] = 99
    with monkeypatch.context() as patch:
        patch.setattr(exact, "rerank", dies_at(2 if damaged else 1, exact.rerank))
        again = reranked(tmp_path, shards, source)
    assert again.stored("exact").tobytes() == whole.stored("exact").tobytes()
    outputs = [description.described(path)["outputs"] for path in (tmp_path / "whole", tmp_path / "final")]
    assert outputs[0] == outputs[1] and not half.exists() and not list(tmp_path.glob(".*"))


def test_steps_of_other_inputs_or_settings_are_not_used(tmp_path):
    with pytest.raises(Killed), resume.directory(tmp_path / "out", "one") as work:
        work.array("x", (2,), "float32")[0] = 5
        work.done("first", np.zeros(1))
        raise Killed
    assert resume.kept([tmp_path / "out"]) == disk.size(tmp_path / ".out.resume") > 0
    with resume.directory(tmp_path / "out", "two") as work:
        assert not work.is_done("first", np.zeros(1))
        assert work.array("x", (2,), "float32").tolist() == [0, 0]
        description.write_meta(work.folder, "search", {}, {}, fingerprint="two")
    with resume.directory(tmp_path / "out", "two") as work:
        assert work is None  # it is made already


def test_a_record_that_was_cut_short_counts_as_far_as_it_goes(tmp_path):
    with pytest.raises(Killed), resume.directory(tmp_path / "out", "one") as work:
        work.done("first", np.zeros(1))
        work.done("second", np.zeros(1))
        raise Killed
    steps = tmp_path / ".out.resume/steps.jsonl"
    steps.write_text(steps.read_text()[:-9])
    with pytest.raises(Killed), resume.directory(tmp_path / "out", "one") as work:
        assert work.is_done("first", np.zeros(1)) and not work.is_done("first", np.ones(1))
        assert not work.is_done("second", np.zeros(1))
        raise Killed


def test_a_mistake_leaves_nothing_behind(tmp_path):
    with pytest.raises(files.UserError), resume.directory(tmp_path / "out", "one") as work:
        work.done("first", np.zeros(1))
        raise files.UserError("a mistake")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("levels", [1, 3, 40, 10_000])
def test_runs_of_equal_distances_are_sorted_by_id_and_missing_neighbors_stay_last(levels):
    rng = np.random.default_rng(levels)
    ids = rng.permutation(5000) * 3  # [n]
    distances = np.sort(rng.integers(0, levels, (30, 200)), axis=1).astype(np.float32)  # runs of one up to all 200
    rows = np.stack([rng.choice(5000, 200, replace=False) for _ in range(30)])
    distances[:10, 150:], rows[:10, 150:] = np.inf, -1
    expected = [row[np.lexsort((ids[row], near, row < 0))] for row, near in zip(rows, distances, strict=True)]
    neighbors.order_ties(distances, rows, ids)
    np.testing.assert_array_equal(rows, expected)


@DTYPES
def test_a_shard_that_changed_since_it_was_searched_is_not_merged(tmp_path, shards, searched, dtype):
    write(tmp_path / "longer", "extract", {}, {}, ids=np.arange(3), values=np.arange(3, dtype=np.uint32))
    rows = np.array([[0, 1, 0], [1, 0, 1]], dtype)
    other = found(tmp_path / "other", [tmp_path / "longer"], 2, rows, [[1, 2, 3]] * 2)
    with pytest.raises(files.UserError, match="2 entries were searched, its shard has 3"):
        merge.main(merge.MergeConfig((searched[0], other), (tmp_path / "merged",)))


@pytest.mark.parametrize("length", range(neighbors.SHORT - 1, neighbors.SHORT + 3))
def test_a_run_just_as_long_as_those_sorted_by_insertion_is_sorted(length):
    ids = np.random.default_rng(length).permutation(100)
    distances = np.array([[0.5, *[1.0] * length, 2.0]], np.float32)
    rows = np.random.default_rng(1).permutation(100)[None, : length + 2].copy()
    expected = [rows[0, 0], *sorted(rows[0, 1:-1], key=lambda row: ids[row]), rows[0, -1]]
    neighbors.order_ties(distances, rows, ids)
    assert rows[0].tolist() == expected


@pytest.mark.parametrize("metrics", [("l2", "ip"), ("ip", "l2"), ("ip", "ip")])
def test_shards_are_merged_only_if_their_metric_is_the_same(tmp_path, shards, metrics):
    near = np.array([[0, 1]] * 2, np.uint32), [[1, 2], [3, 4]]
    parts = [(shards[:1], 3), (shards[1:], 2)]
    paths = tuple(found(tmp_path / f"found{i}", *parts[i], *near, metric) for i, metric in enumerate(metrics))
    if len({*metrics}) == 1:
        merge.main(merge.MergeConfig(paths, (tmp_path / "merged",)))
        assert neighbors.facts(tmp_path / "merged")["metric"] == "ip"
    else:
        with pytest.raises(
            files.UserError, match=rf"found1 has metric {metrics[1]}, \S+found0 {metrics[0]}: search all"
        ):
            merge.main(merge.MergeConfig(paths, (tmp_path / "merged",)))


@DTYPES
@pytest.mark.parametrize("row", [-1, 2, 3])
def test_a_row_that_its_shard_does_not_have_comes_before_equally_near_ones_and_is_missing(dtype, row):
    """As in damaged neighbors: what lies in memory behind a shard's ids is not read."""
    ids = [np.array([50, 10, 90, 90])[:2], np.array([20, 30])]
    rows = np.array([[[1]], [[0]]]).astype(dtype)  # [S, B, K]: ids 10 and 20
    merged, near = np.full((1, 2), MISSING[dtype], dtype), np.zeros((1, 2), np.float32)
    given = np.ones((2, 1, 1), np.float32), rows, neighbors.first_rows([2, 2]), neighbors.addresses(ids)
    neighbors.merge(*given, near, merged)
    assert merged.tolist() == [[1, 2]]
    rows[0] = row if row >= 0 else MISSING[dtype]
    merged[:] = MISSING[dtype]
    neighbors.merge(*given, near, merged)
    assert merged.tolist() == [[MISSING[dtype], 2]] and near.tolist() == [[1, 1]]
