"""The continuous cache against a naive loop."""

import numpy as np
import pytest

from knnlm.artifacts import description, files
from knnlm.scores import continuous_cache, score_cache

SIZES, THETAS, DOCUMENTS = [1, 5, 40, 1000], [0.1, 1.0], [0, 1, 90, 700]


@pytest.fixture
def stream() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((1000, 8)).astype(np.float32), rng.integers(0, 12, 1000).astype(np.uint32)


def naive(queries, targets, size, theta) -> np.ndarray:
    out = np.full(len(targets), -np.inf)
    for n in range(len(targets)):
        begin = max(start for start in DOCUMENTS if start <= n)
        history = np.arange(max(begin, n - size), n)
        if len(history):
            logits = theta * (queries[history].astype(np.float64) @ queries[n])
            weights = np.exp(logits - logits.max())
            with np.errstate(divide="ignore"):
                out[n] = np.log(weights[targets[history] == targets[n]].sum() / weights.sum())
    return out


def test_every_size_and_theta_equals_the_naive_loop(stream):
    grid = continuous_cache.target_logprobs(*stream, np.array(DOCUMENTS), SIZES, THETAS)
    for s, size in enumerate(SIZES):
        for t, theta in enumerate(THETAS):
            np.testing.assert_allclose(grid[s, t], naive(*stream, size, theta), rtol=1e-4, atol=1e-5)


def test_the_first_token_of_a_document_and_an_unseen_word_have_probability_zero(stream):
    grid = continuous_cache.target_logprobs(*stream, np.array(DOCUMENTS), SIZES, THETAS)
    assert np.isneginf(grid[:, :, DOCUMENTS]).all()
    queries, targets = stream
    targets[650] = 99
    grid = continuous_cache.target_logprobs(queries, targets, np.array(DOCUMENTS), SIZES, THETAS)
    assert np.isneginf(grid[:, :, 650]).all()


def test_the_stage_writes_the_whole_grid(stream, tmp_path):
    queries, targets = stream
    (tmp_path / "queries").mkdir()
    np.save(tmp_path / "queries/keys.npy", queries)
    np.save(tmp_path / "queries/values.npy", targets)
    description.write_meta(tmp_path / "queries", "evaluate", {}, {})
    np.save(tmp_path / "documents.npy", np.array(DOCUMENTS))
    config = tmp_path / "queries", tmp_path / "documents.npy", tmp_path / "out", (5, 40), (0.1, 1)
    score_cache.main(score_cache.ScoreCacheConfig(*config))
    grid = continuous_cache.target_logprobs(queries, targets, np.array(DOCUMENTS), [5, 40], THETAS)
    np.testing.assert_array_equal(np.load(tmp_path / "out/size40-theta0.1.npy"), grid[1, 0])
    assert len(list((tmp_path / "out").glob("size*.npy"))) == 4
    with pytest.raises(files.UserError, match="--sizes"):
        score_cache.ScoreCacheConfig(*config[:3], (0,), (1,))


def test_the_stage_scores_each_document_at_every_setting_whatever_their_order(stream, tmp_path):
    queries, targets = stream
    config = stage(tmp_path, queries, targets, DOCUMENTS)
    score_cache.main(score_cache.ScoreCacheConfig(*config, (40, 5, 1000), (1.0, 0.03)))
    for size in (5, 40, 1000):
        for theta in (0.03, 1.0):
            found = np.load(tmp_path / f"out/size{size}-theta{theta:g}.npy")
            np.testing.assert_allclose(found, naive(queries, targets, size, theta), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("last", "queries_left"), [(1000, 1000), (1001, 1000), (700, 999)])
def test_documents_and_keys_of_another_split_are_refused(stream, tmp_path, last, queries_left):
    queries, targets = stream
    config = stage(tmp_path, queries[:queries_left], targets, [0, 1, 90, last])
    with pytest.raises(files.UserError, match=rf"the last document of .* starts at {last:,}: use the documents"):
        score_cache.main(score_cache.ScoreCacheConfig(*config, (5,), (1.0,)))
    assert not (tmp_path / "out").exists()


def test_the_last_document_may_be_one_token(stream, tmp_path):
    queries, targets = stream
    config = stage(tmp_path, queries, targets, [0, 998, 999])
    score_cache.main(score_cache.ScoreCacheConfig(*config, (5,), (1.0,)))
    assert np.isneginf(np.load(tmp_path / "out/size5-theta1.npy")[[0, 998, 999]]).all()


def stage(folder, queries, targets, documents) -> tuple:
    """The first arguments of the stage: queries, documents and the folder of the scores."""
    (folder / "queries").mkdir()
    np.save(folder / "queries/keys.npy", queries)
    np.save(folder / "queries/values.npy", targets)
    description.write_meta(folder / "queries", "evaluate", {}, {})
    np.save(folder / "documents.npy", np.array(documents))
    return folder / "queries", folder / "documents.npy", folder / "out"
