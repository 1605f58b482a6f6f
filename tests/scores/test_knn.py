"""The kNN distribution, against hand-computed answers and the published code's own."""

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
