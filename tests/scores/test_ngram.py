"""N-gram models: real KenLM on tiny streams."""

import errno
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from knnlm.artifacts import files, npy
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


@pytest.mark.parametrize(("last", "error"), [(True, OSError), (False, files.UserError)])
def test_the_last_line_of_lmplz_says_why_it_failed(stream, tmp_path, last, error):
    full = "write: No space left on device"
    lines = ["reading", full, "unpacking", "bad order"] if not last else ["reading", "unpacking", "sorting", full]
    lmplz = tmp_path / "lmplz"
    lmplz.write_text("#!/bin/sh\ncat >/dev/null\n" + "".join(f"echo '{line}' >&2\n" for line in lines) + "exit 1\n")
    lmplz.chmod(0o755)
    with pytest.raises(error, match="No space left" if last else "^lmplz --order 2 failed: bad order$") as raised:
        ngram.estimate(*stream, 2, tmp_path / "model.arpa", str(lmplz))
    assert getattr(raised.value, "errno", None) == (errno.ENOSPC if last else None)


def test_a_missing_lmplz_and_an_impossible_order_are_refused(tmp_path):
    with pytest.raises(files.UserError, match=r"setup/kenlm\.sh"):
        ngram.find_lmplz(tmp_path / "nowhere/lmplz")
    with pytest.raises(files.UserError, match="--orders: found 8"):
        path = tmp_path / "x"
        score_ngram.ScoreNgramConfig(path, path, (path,), (path,), path, (path,), (2, 8))


def by_kenlm(arpa: Path, tokens: np.ndarray, documents: np.ndarray) -> list[float]:
    """log p of each token, nats: KenLM is asked word by word, and begins each document anew."""
    import kenlm

    lm, found = kenlm.Model(str(arpa)), []
    unseen = sum(str(word) not in lm for word in range(V))
    for document in np.split(tokens, documents[1:]):
        state, after = kenlm.State(), kenlm.State()
        lm.BeginSentenceWrite(state)
        for token in document.tolist():
            logprob = lm.BaseScore(state, str(token), after) * np.log(10)
            found.append(logprob - (0 if str(token) in lm else np.log(unseen)))
            state, after = after, state
    return found


@needs_lmplz
def test_each_split_has_its_own_scores_from_its_own_documents(stream, tmp_path):
    """Two splits of other lengths; 7 begins each document of train, and stands nowhere else."""
    rng, tokens = np.random.default_rng(4), stream[0][:3000].copy()
    tokens[tokens == 7] = 8
    starts = {"train": np.arange(0, 3000, 60), "dev": np.array([0, 90]), "test": np.array([0, 30, 31])}
    tokens[starts["train"]] = 7
    texts = {"train": tokens, "dev": tokens[60:200].copy(), "test": rng.permutation(tokens[:80])}
    texts["test"][[0, 30, 79]], texts["dev"][-1] = (7, 7, 29), 28  # the last tokens are words never seen
    for name, text in texts.items():
        np.save(tmp_path / f"{name}.npy", text)
        np.save(tmp_path / f"{name}.documents.npy", starts[name])
    (tmp_path / "vocab.json").write_text(json.dumps({"size": V}))
    splits = [
        tuple(tmp_path / f"{name}{end}" for name in ("dev", "test")) for end in (".npy", ".documents.npy", "-out")
    ]
    train = tmp_path / "train.npy", tmp_path / "train.documents.npy"
    score_ngram.main(score_ngram.ScoreNgramConfig(*train, *splits[:2], tmp_path / "vocab.json", splits[2], (3, 2)))
    for order in (2, 3):
        ngram.estimate(tokens, starts["train"], order, tmp_path / "lm.arpa", ngram.find_lmplz())
        for name, out in zip(("dev", "test"), splits[2], strict=True):
            scored = np.load(out / f"order{order}.npy")
            np.testing.assert_allclose(scored, by_kenlm(tmp_path / "lm.arpa", texts[name], starts[name]), rtol=1e-5)
            assert (np.exp(scored[starts[name]][texts[name][starts[name]] == 7]) > 0.5).all()
    assert np.exp(scored[0]) > 0.5 > 0.1 > np.exp(scored[31])  # in a document that begins with another word
    for name, out in zip(("dev", "test"), splits[2], strict=True):
        inputs = files.read_json(out / "meta.json")["inputs"]
        assert [Path(inputs[key]["path"]).name for key in ("tokens", "documents")] == [
            f"{name}.npy",
            f"{name}.documents.npy",
        ]


@pytest.mark.parametrize(("last", "fits"), [(39, True), (40, False), (41, False)])
def test_a_document_that_begins_behind_the_last_token_is_refused(tmp_path, last, fits):
    np.save(tmp_path / "dev.npy", np.zeros(40, np.uint16))
    np.save(tmp_path / "dev.documents.npy", np.array([0, 17, last]))
    if fits:
        tokens, starts = npy.open_stream(tmp_path / "dev.npy", tmp_path / "dev.documents.npy")
        assert (len(tokens), starts.tolist()) == (40, [0, 17, last])
    else:
        with pytest.raises(files.UserError, match="does not fit the 40 tokens"):
            npy.open_stream(tmp_path / "dev.npy", tmp_path / "dev.documents.npy")
