"""N-gram models: real KenLM on tiny streams."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from knnlm.artifacts import files
from knnlm.scores import ngram, score_ngram

V = 30
built = shutil.which("lmplz") or (Path(sys.executable).parent / "lmplz").exists()
needs_lmplz = pytest.mark.skipif(not built, reason="lmplz is not built: setup/kenlm.sh .venv")


@pytest.fixture(scope="module")
def stream() -> tuple[np.ndarray, np.ndarray]:
    """Ids 2 (line ends) to 24 in which a word mostly follows its predecessor; two documents."""
    rng = np.random.default_rng(0)
    tokens = (2 + np.cumsum(rng.choice([1, 1, 1, 2, 7], 6000)) % 23).astype(np.uint16)
    return tokens, np.array([0, 2500])


@pytest.fixture(scope="module")
def bigram(stream, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("ngram") / "order2.arpa"
    ngram.estimate(*stream, 2, out, ngram.find_lmplz())
    return out


@needs_lmplz
def test_probabilities_sum_to_one_over_the_vocabulary(bigram):
    import kenlm

    lm = kenlm.Model(str(bigram))
    for context in (3, 11):
        pairs = [ngram.target_logprob(bigram, np.array([context, word]), np.array([0]), V)[1] for word in range(V)]
        ending = list(lm.full_scores(str(context), bos=True, eos=True))[-1][0]
        np.testing.assert_allclose(np.exp(pairs).sum() + 10**ending, 1, atol=1e-4)


@needs_lmplz
def test_every_token_is_finite_and_documents_do_not_see_each_other(bigram, stream):
    tokens = np.concatenate([stream[0][:50], [0, 29]])  # two words never seen
    scored = ngram.target_logprob(bigram, tokens, np.array([0, 20]), V)
    assert np.isfinite(scored).all() and scored.dtype == np.float32
    np.testing.assert_array_equal(scored[20:], ngram.target_logprob(bigram, tokens[20:], np.array([0]), V))


@needs_lmplz
def test_a_line_end_is_a_word_and_context_crosses_it(bigram):
    same = [ngram.target_logprob(bigram, np.array([before, 3]), np.array([0]), V)[1] for before in (2, 14)]
    assert same[0] > same[1] + 1, "3 mostly follows 2"


@needs_lmplz
def test_all_orders_in_one_job_and_higher_orders_are_no_worse_than_unigrams(stream, tmp_path):
    tokens, documents = stream
    np.save(tmp_path / "train.npy", tokens)
    np.save(tmp_path / "documents.npy", documents)
    np.save(tmp_path / "dev.npy", tokens[:400])
    np.save(tmp_path / "dev.documents.npy", np.array([0]))
    (tmp_path / "vocab.json").write_text(json.dumps({"size": V}))
    train, dev = (tmp_path / "train.npy", tmp_path / "documents.npy"), (tmp_path / "dev.npy",)
    starts, out = (tmp_path / "dev.documents.npy",), (tmp_path / "out",)
    config = score_ngram.ScoreNgramConfig(*train, dev, starts, tmp_path / "vocab.json", out, (2, 3, 7))
    score_ngram.main(config)
    scored = {path.stem: np.load(path) for path in out[0].glob("*.npy")}
    assert set(scored) == {"order2", "order3", "order7"} and all(len(logprob) == 400 for logprob in scored.values())
    counts = np.bincount(tokens, minlength=V) / len(tokens)
    assert all(logprob.mean() > np.log(counts[tokens[:400]]).mean() for logprob in scored.values())


@needs_lmplz
def test_lmplz_failing_is_one_line(stream, tmp_path):
    with pytest.raises(files.UserError, match="lmplz --order 2 failed"):
        ngram.estimate(*stream, 2, tmp_path / "model.arpa", ngram.find_lmplz(), memory="nonsense")


def test_a_missing_lmplz_and_an_impossible_order_are_refused(tmp_path):
    with pytest.raises(files.UserError, match=r"setup/kenlm\.sh"):
        ngram.find_lmplz(tmp_path / "nowhere/lmplz")
    with pytest.raises(files.UserError, match="--orders: found 8"):
        path = tmp_path / "x"
        score_ngram.ScoreNgramConfig(path, path, (path,), (path,), path, (path,), (2, 8))
