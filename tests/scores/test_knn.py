"""The kNN distribution, against hand-computed answers and the published code's own."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knnlm.artifacts import description, files
from knnlm.datastores import ann
from knnlm.scores import knn, score_knn

ORACLES = Path(__file__).parents[1] / "data/oracles"
INF = np.inf


def arrays(distances: list, values: list, targets: list) -> tuple[np.ndarray, ...]:
    return np.array(distances, np.float32), np.array(values, np.uint32), np.array(targets, np.uint32)


def test_a_target_gets_the_softmax_weight_of_the_neighbors_that_hold_it():
    # softmax of -[0, ln 2, ln 4] = [4, 2, 1] / 7
    scored = knn.target_logprob(*arrays([[0, np.log(2), np.log(4)]] * 3, [[5, 6, 5]] * 3, [5, 6, 9]))
    np.testing.assert_allclose(scored, [np.log(5 / 7), np.log(2 / 7), -INF], rtol=1e-6)
    assert scored.dtype == np.float32


def test_temperature_divides_distances():
    scored = knn.target_logprob(*arrays([[0, 2 * np.log(3)]], [[1, 2]], [2]), temperature=2)
    np.testing.assert_allclose(scored, [np.log(1 / 4)], rtol=1e-6)


def test_missing_neighbors_have_no_part_in_the_sum():
    distances, values, targets = arrays([[1, 1, INF], [INF, INF, INF]], [[7, 8, 0], [0, 0, 0]], [7, 0])
    np.testing.assert_allclose(knn.target_logprob(distances, values, targets), [np.log(0.5), -INF])
    words, probabilities = knn.distribution(distances[1], values[1])
    assert len(words) == len(probabilities) == 0


def test_a_far_target_keeps_its_tiny_probability():
    np.testing.assert_allclose(knn.target_logprob(*arrays([[0, 5000]], [[1, 2]], [2])), [-5000])


@pytest.mark.parametrize("temperature", [0.25, 1.0, 2.0])
@pytest.mark.parametrize("nearest", [-3000.0, 1000.0])
def test_a_far_target_is_as_far_whatever_the_nearest_distance_and_temperature(nearest, temperature):
    distances = [[nearest, nearest + 900, nearest + 900]]
    scored = knn.target_logprob(*arrays(distances, [[1, 2, 2]], [2]), temperature=temperature)
    np.testing.assert_allclose(scored, [np.log(2) - 900 / temperature], rtol=1e-6)


def test_large_negative_distances_of_inner_products_do_not_overflow():
    np.testing.assert_allclose(knn.target_logprob(*arrays([[-9000, -8999]], [[1, 2]], [1])), [-np.log1p(np.exp(-1))])


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_smaller_k_is_a_prefix(seed):
    rng = np.random.default_rng(seed)
    distances = rng.gamma(2, 5, (6, 16)).astype(np.float32)
    distances[0, 9:] = INF
    values, targets = rng.integers(0, 4, (6, 16)).astype(np.uint32), rng.integers(0, 4, 6).astype(np.uint32)
    ks = [1, 3, 10, 16]
    for k, scored in zip(ks, knn.target_logprobs_for_ks(distances, values, targets, ks), strict=True):
        alone = knn.target_logprob(distances[:, :k].copy(), values[:, :k].copy(), targets)
        np.testing.assert_array_equal(scored, alone)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_words_probabilities_sum_to_one_and_agree_with_the_targets(seed):
    rng = np.random.default_rng(seed)
    distances, values = rng.gamma(2, 5, (1, 20)).astype(np.float32), rng.integers(0, 6, (1, 20)).astype(np.uint32)
    words, probabilities = knn.distribution(distances[0], values[0])
    np.testing.assert_allclose(probabilities.sum(), 1)
    assert (np.diff(probabilities) <= 0).all()
    repeated = np.repeat(distances, len(words), 0), np.repeat(values, len(words), 0)
    np.testing.assert_allclose(np.exp(knn.target_logprob(*repeated, words)), probabilities, rtol=1e-5)


def test_each_share_is_the_softmax_of_minus_distance_over_the_neighbors_present():
    shares = knn.shares(np.array([[2, 4, INF]], np.float32), temperature=2)
    np.testing.assert_allclose(shares, [[1 / (1 + np.exp(-1)), np.exp(-1) / (1 + np.exp(-1)), 0]])


def test_only_the_root_of_quantized_distances_differs_from_what_is_stored():
    stored = np.array([-1e-6, 4, INF], np.float32)
    assert [knn.weighed(stored, distance).tolist() for distance in ("exact", "quantized")] == [stored.tolist()] * 2
    assert knn.weighed(stored, "quantized_sqrt").tolist() == [0, 2, INF]


SCORED = """
import sys
import numpy as np
from knnlm.scores import knn
rng = np.random.default_rng(0)
distances = rng.gamma(2, 5, (3000, 300)).astype(np.float32)
values, targets = (rng.integers(0, 50, shape).astype(np.uint32) for shape in (distances.shape, 3000))
sys.stdout.buffer.write(knn.target_logprobs_for_ks(distances, values, targets, [128, 300]).tobytes())
"""


def test_a_process_that_compiles_and_one_that_reads_the_cache_agree_to_the_bit(tmp_path):
    scored = [
        subprocess.run(
            [sys.executable, "-c", SCORED],
            env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_NUM_THREADS": threads},
            capture_output=True,
            check=True,
        ).stdout
        for threads in ("1", "1", "2")
    ]
    assert len(scored[0]) == 2 * 3000 * 4 and scored[0] == scored[1] == scored[2]


@pytest.mark.parametrize("kind", ["full_prec", "quantised"])
def test_retrieval_and_scores_agree_with_the_published_code(kind):
    oracle = np.load(ORACLES / "knn_unit.npz")
    index = ann.load(ORACLES / "knn_unit.ivfpq.faiss", nprobe=4)
    kept = oracle["targets"].ravel() != 1  # padding
    queries, targets = oracle["queries"].reshape(-1, 16)[kept], oracle["targets"].ravel()[kept]
    keys = oracle["keys"]
    near, rows = ann.search(index, queries, 32, np.arange(len(keys)))
    np.testing.assert_array_equal(np.sort(rows), np.sort(oracle[f"{kind}/ids"]))
    if kind == "full_prec":  # that run kept keys in single precision
        near = ((queries[:, None] - keys[rows]) ** 2).sum(-1)
    expected = oracle[f"{kind}/logp"].ravel()[kept].astype(np.float64)
    scored = knn.target_logprob(near, oracle["values"][rows], targets)
    np.testing.assert_allclose(scored, np.where(expected <= -9999, -INF, expected), atol=1e-4)


def test_the_stage_writes_a_vector_for_every_score(tmp_path):
    neighbors, queries = neighbors_directory(tmp_path)
    scores = '[["exact", 2, 1], ["quantized", 3, 0.5], ["quantized_sqrt", 2, 10]]'
    score_knn.main(score_knn.ScoreKnnConfig((neighbors,), (queries,), (tmp_path / "out",), (scores,)))
    found = {path.name: np.load(path) for path in (tmp_path / "out").glob("*.npy")}
    assert set(found) == {"exact-k2-t1.npy", "quantized-k3-t0.5.npy", "quantized_sqrt-k2-t10.npy"}
    np.testing.assert_allclose(found["exact-k2-t1.npy"], np.log([1 / (1 + np.exp(-2.0))] * 2), rtol=1e-5)
    np.testing.assert_allclose(found["quantized_sqrt-k2-t10.npy"], np.log([1 / (1 + np.exp(-0.1))] * 2), rtol=1e-5)


def test_each_split_can_have_scores_of_its_own(tmp_path):
    neighbors, queries = neighbors_directory(tmp_path)
    out = tmp_path / "dev", tmp_path / "test"
    both = (neighbors, neighbors), (queries, queries), out
    score_knn.main(score_knn.ScoreKnnConfig(*both, ('[["exact", 2, 1], ["exact", 3, 1]]', '[["exact", 2, 1]]')))
    names = [{path.name for path in folder.glob("*.npy")} for folder in out]
    assert names == [{"exact-k2-t1.npy", "exact-k3-t1.npy"}, {"exact-k2-t1.npy"}]
    assert (out[0] / "exact-k2-t1.npy").read_bytes() == (out[1] / "exact-k2-t1.npy").read_bytes()
    with pytest.raises(files.UserError, match="--scores: found 3 lists, expected one, or one for each of 2"):
        score_knn.main(score_knn.ScoreKnnConfig(*both, ('[["exact", 2, 1]]',) * 3))


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ('[["exact", 4, 1]]', "k is 4, .* keeps 3"),
        ('[["near", 2, 1]]', r"expected a list of \[distance, k, temperature\]"),
        ('[["exact", 2, 0]]', "temperature above 0"),
    ],
)
def test_impossible_scores_are_refused_by_name(tmp_path, scores, message):
    neighbors, queries = neighbors_directory(tmp_path)
    with pytest.raises(files.UserError, match=message):
        score_knn.main(score_knn.ScoreKnnConfig((neighbors,), (queries,), (tmp_path / "out",), (scores,)))
    assert not (tmp_path / "out").exists()


def neighbors_directory(root: Path) -> tuple[Path, Path]:
    for name in ("neighbors", "queries", "shard"):
        (root / name).mkdir()
    np.save(root / "shard/ids.npy", np.array([7, 4, 5, 6]))
    np.save(root / "shard/values.npy", np.array([9, 1, 2, 3], np.uint32))
    np.save(root / "neighbors/rows.npy", np.array([[1, 2, 3]] * 2, np.uint32))
    np.save(root / "neighbors/distances.npy", np.array([[1, 4, 9]] * 2, np.float32))
    np.save(root / "neighbors/exact.npy", np.array([[1, 3, 8]] * 2, np.float32))
    np.save(root / "queries/values.npy", np.array([1, 1], np.uint32))
    description.write_meta(root / "shard", "extract", {}, {})
    facts = {"metric": "l2", "entries": 4, "entries_total": 4, "nprobe": 1}
    description.write_meta(root / "neighbors", "rerank", {}, {"shard0": root / "shard"}, **facts)
    description.write_meta(root / "queries", "evaluate", {}, {})
    return root / "neighbors", root / "queries"


def brute(distances: np.ndarray, values: np.ndarray, targets: np.ndarray, k: int, temperature: float) -> np.ndarray:
    """log p_kNN of the targets from the first k neighbors, in float64 and a loop."""
    found = []
    for near, words, target in zip(distances.astype(float)[:, :k], values[:, :k], targets, strict=True):
        logits = -near / temperature
        hits = logits[(words == target) & np.isfinite(near)]
        found.append(np.logaddexp.reduce(hits) - np.logaddexp.reduce(logits) if len(hits) else -INF)
    return np.array(found)


def random_neighbors(seed: int, queries: int, k: int) -> tuple[np.ndarray, ...]:
    """Distances that do not ascend, some of them far or missing; values and targets of few words."""
    rng = np.random.default_rng(seed)
    distances = rng.gamma(2, 5, (queries, k)).astype(np.float32)
    distances[::3] *= 40  # so far from each other that single precision loses most weights
    distances[1, k // 2 :] = INF
    return distances, rng.integers(0, 6, (queries, k)).astype(np.uint32), rng.integers(0, 7, queries).astype(np.uint32)


@pytest.mark.parametrize("temperature", [0.25, 1, 7.5])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_k_and_temperature_equals_the_loop(seed, temperature):
    distances, values, targets = random_neighbors(seed, 40, 600)
    ks = [1, 7, 255, 256, 257, 599, 600]
    for k, scored in zip(ks, knn.target_logprobs_for_ks(distances, values, targets, ks, temperature), strict=True):
        np.testing.assert_allclose(scored, brute(distances, values, targets, k, temperature), rtol=2e-5, atol=2e-5)
    scored = knn.target_logprob(distances, values, targets, temperature)
    np.testing.assert_allclose(scored, brute(distances, values, targets, 600, temperature), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("temperature", [0.25, 1, 7.5])
def test_the_words_of_a_query_have_the_probabilities_of_its_temperature(temperature):
    distances, values, _ = random_neighbors(2, 40, 9)
    for near, words in zip(distances, values, strict=True):
        found = dict(zip(*(part.tolist() for part in knn.distribution(near, words, temperature)), strict=True))
        weights = {word: 0.0 for word in words[np.isfinite(near)].tolist()}
        for distance, word in zip(near.astype(float), words.tolist(), strict=True):
            if np.isfinite(distance):
                weights[word] += np.exp(-(distance - near.min()) / temperature)
        assert found == pytest.approx({word: weight / sum(weights.values()) for word, weight in weights.items()})


@pytest.fixture
def two_splits(tmp_path) -> dict[str, tuple[np.ndarray, ...]]:
    """Neighbors of two splits of other lengths in one shard: {split: (exact, index distances, values, targets)}."""
    made, rng = {}, np.random.default_rng(3)
    stored = rng.integers(0, 6, 50).astype(np.uint32)
    write(tmp_path / "shard", "extract", values=stored, ids=rng.permutation(50))
    for seed, (split, queries) in enumerate({"dev": 23, "test": 14}.items()):
        exact, _, targets = random_neighbors(seed, queries, 300)
        index = np.sort(np.abs(exact - 1), axis=1)
        rows = rng.integers(0, 50, exact.shape).astype(np.uint32)
        rows[0, 0], rows[-1, -1], rows[exact == INF] = 0, 49, 2**32 - 1
        facts = {"metric": "l2", "entries": 50, "entries_total": 50, "nprobe": 1}
        inputs = {"shard0": tmp_path / "shard"}
        write(tmp_path / split, "rerank", inputs, facts, rows=rows, exact=exact, distances=index)
        write(tmp_path / f"{split}-queries", "evaluate", values=targets)
        values = np.where(rows < 50, stored[np.minimum(rows, 49)], 0)
        made[split] = exact, index, values, targets
    return made


def write(folder: Path, stage: str, inputs: dict | None = None, facts: dict | None = None, **arrays) -> None:
    folder.mkdir()
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    description.write_meta(folder, stage, {}, inputs or {}, **(facts or {}))


def test_each_file_of_the_stage_has_its_own_k_temperature_distance_and_split(two_splits, tmp_path, monkeypatch):
    monkeypatch.setattr(score_knn, "BLOCK", 5)
    folders = [tuple(tmp_path / f"{split}{end}" for split in two_splits) for end in ("", "-queries", "-out")]
    wanted = [
        (kind, k, t) for t in (2.5, 0.5) for k in (300, 2, 257) for kind in ("quantized_sqrt", "exact", "quantized")
    ]
    score_knn.main(score_knn.ScoreKnnConfig(*folders, (json.dumps(wanted),)))
    for split, (exact, index, values, targets) in two_splits.items():
        distances = {"exact": exact, "quantized": index, "quantized_sqrt": np.sqrt(index)}
        for kind, k, temperature in wanted:
            found = np.load(tmp_path / f"{split}-out/{kind}-k{k}-t{temperature:g}.npy")
            expected = brute(distances[kind], values, targets, k, temperature)
            np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5, err_msg=f"{split} {kind} {k}")


@pytest.mark.parametrize("counts", list(itertools.product((1, 2), repeat=3))[1:-1], ids=str)
def test_each_split_has_its_neighbors_targets_and_folder(tmp_path, counts):
    folders = [(tmp_path / "dev",) * count for count in counts]
    with pytest.raises(files.UserError, match="--neighbors, --targets and --out name different numbers of splits"):
        score_knn.main(score_knn.ScoreKnnConfig(*folders))


def test_roots_are_of_l2_distances_only_and_targets_of_the_same_split(two_splits, tmp_path):
    folders = (tmp_path / "dev",), (tmp_path / "dev-queries",), (tmp_path / "out",)
    with pytest.raises(files.UserError, match=r"14 targets, .*dev 23 queries: search again"):
        score_knn.main(score_knn.ScoreKnnConfig(folders[0], (tmp_path / "test-queries",), folders[2]))
    facts = {"metric": "ip", "entries": 50, "entries_total": 50, "nprobe": 1}
    description.write_meta(tmp_path / "dev", "rerank", {}, {"shard0": tmp_path / "shard"}, **facts)
    with pytest.raises(files.UserError, match="holds inner products: quantized_sqrt needs the metric l2"):
        score_knn.main(score_knn.ScoreKnnConfig(*folders, ('[["quantized_sqrt", 3, 1]]',)))
    score_knn.main(score_knn.ScoreKnnConfig(*folders, ('[["quantized", 3, 1]]',)))
    assert [path.name for path in (tmp_path / "out").glob("*.npy")] == ["quantized-k3-t1.npy"]
