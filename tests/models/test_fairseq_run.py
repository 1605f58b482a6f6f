"""A whole run of the published code, from its own files to its perplexities (tests/data/oracles/README.md)."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from knnlm.artifacts import description
from knnlm.corpora.vocab import WordVocab
from knnlm.datastores import import_datastore, rerank, search
from knnlm.datastores.import_datastore import ImportDatastoreConfig
from knnlm.datastores.rerank import RerankConfig
from knnlm.datastores.search import SearchConfig
from knnlm.models import evaluate, features, import_fairseq, model
from knnlm.models import windows as windows_
from knnlm.models.evaluate import EvaluateConfig
from knnlm.models.import_fairseq import ImportFairseqConfig
from knnlm.scores import knn, mixture, score_knn
from knnlm.scores.score_knn import ScoreKnnConfig
from knnlm.settings import WindowSettings

RUN = Path(__file__).parents[1] / "data/oracles/fairseq_run"
EVALUATION = {"new": 16, "context": 80, "mode": "complete"}
DATASTORE = WindowSettings(new=48, context=48)
N, D, K = 17321, 32, 64
KEYTYPE = "ffn_input_ln"


@pytest.fixture(scope="module", autouse=True)
def on_a_cpu():
    """Where the reference run was made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "device", lambda: "cpu")
        yield


@pytest.fixture(scope="module")
def published():
    return np.load(RUN / "results.npz")


@pytest.fixture(scope="module")
def run(tmp_path_factory, published):
    """The published files imported, searched and scored with the commands of this package."""
    at = tmp_path_factory.mktemp("run")
    words = WordVocab.read(RUN / "dict.txt")
    words.pretokenized = True
    for split in ("train", "valid"):
        np.save(at / f"{split}.npy", words.encode((RUN / f"{split}.txt").read_text()))
    import_fairseq.main(ImportFairseqConfig(RUN / "checkpoint_best.pt", RUN / "dict.txt", at / "model"))
    evaluated(at, "packed", EVALUATION)
    published["keys"].tofile(at / "dstore_keys.npy")  # raw memory maps, as the published code writes them
    published["values"].tofile(at / "dstore_vals.npy")
    raw = at / "dstore_keys.npy", at / "dstore_vals.npy"
    import_datastore.main(ImportDatastoreConfig(*raw, N, D, vocab_size=304, out=at / "keys", dtype="float32", first=48))
    queries = (at / "packed/queries",)
    search.main(SearchConfig(RUN / "knn.index", at / "keys", queries, K, (at / "searched",), '{"nprobe": 8}'))
    stages = (at / "searched",), (at / "keys",), queries, (at / "found",)
    rerank.main(RerankConfig(*stages, keep_index_distances=True))
    scores = json.dumps([[distance, K, 1] for distance in knn.DISTANCES])
    score_knn.main(ScoreKnnConfig((at / "found",), queries, (at / "knn",), (scores,)))
    return SimpleNamespace(at=at, lm=np.load(at / "packed/lm/logprob.npy"))


def evaluated(at, name, sizes, directory="model", text="valid"):
    """Evaluate the model on a text, valid by default, into {name}/; the LM's perplexity."""
    out = at / name
    config = EvaluateConfig(
        at / directory,
        (at / f"{text}.npy",),
        (out / "lm",),
        (KEYTYPE,),
        (out / "queries",),
        json.dumps(sizes),
        batch_tokens=960,
    )
    evaluate.main(config)
    return mixture.perplexity(np.load(out / "lm/logprob.npy"))


def mixed(run, distance):
    """Log probabilities [N] of the mixture with λ = 0.25, as the published run's."""
    return mixture.mix([0.25], [np.load(run.at / f"knn/{distance}-k64-t1.npy")], run.lm)


def test_the_dictionary_gives_the_published_token_ids(run, published):
    np.testing.assert_array_equal(np.load(run.at / "valid.npy"), published["base/targets"])


def test_evaluation_windows_pack_whole_lines(run, published):
    windows = windows_.evaluation(np.load(run.at / "valid.npy"), WindowSettings(**EVALUATION))
    np.testing.assert_array_equal(windows.end - windows.start, published["base/block_len"])
    np.testing.assert_array_equal(windows.start - windows.begin, published["base/context_len"])


def test_datastore_has_the_published_entries(run, published):
    tokens = np.load(run.at / "train.npy")
    chosen = windows_.datastore(len(tokens), DATASTORE, seed=1)
    lm = model.load(run.at / "model")
    blocks = list(features.stream(lm, tokens, chosen, DATASTORE.length, (KEYTYPE,), batch_tokens=960))
    ids = np.concatenate([block.ids for block in blocks])
    order = np.argsort(ids)  # our windows come in a seeded order
    np.testing.assert_array_equal(ids[order], np.arange(48, 48 + N))  # the first window has too little context
    np.testing.assert_array_equal(np.concatenate([block.values for block in blocks])[order], published["values"])
    keys = np.concatenate([block.keys[KEYTYPE] for block in blocks])[order]  # [N, D]
    np.testing.assert_allclose(keys, published["keys"], rtol=0, atol=1e-5)


def test_base_perplexity(run, published):
    np.testing.assert_allclose(run.lm, published["base/logp"], rtol=1e-6, atol=1e-5)
    assert mixture.perplexity(run.lm) == pytest.approx(18.682, abs=1e-3)


@pytest.mark.parametrize(
    ("distance", "name", "perplexity"), [("exact", "full", 13.819), ("quantized", "quant", 13.860)]
)
def test_knn_perplexity_with_the_published_index(run, published, distance, name, perplexity):
    ours = mixed(run, distance)
    np.testing.assert_allclose(
        ours, published[f"knn_{name}/logp"], rtol=0, atol=1e-3
    )  # keys are kept in half precision
    assert mixture.perplexity(ours) == pytest.approx(perplexity, abs=1e-3)


def test_with_keys_of_single_precision_each_token_agrees_to_the_sixth_digit(run, published):
    """What docs/differences.md says of both precisions."""
    at = run.at
    raw = at / "dstore_keys.npy", at / "dstore_vals.npy"
    import_datastore.main(
        ImportDatastoreConfig(*raw, N, D, 304, at / "single", dtype="float32", key_precision="float32", first=48)
    )
    assert np.load(at / "single/keys.npy").tobytes() == published["keys"].tobytes()
    queries = (at / "packed/queries",)
    search.main(SearchConfig(RUN / "knn.index", at / "single", queries, K, (at / "searched32",), '{"nprobe": 8}'))
    rerank.main(RerankConfig((at / "searched32",), (at / "single",), queries, (at / "found32",)))
    score_knn.main(ScoreKnnConfig((at / "found32",), queries, (at / "knn32",), (json.dumps([["exact", K, 1]]),)))
    ours = mixture.mix([0.25], [np.load(at / "knn32/exact-k64-t1.npy")], run.lm)
    worst = np.abs(ours - published["knn_full/logp"]).max()
    halved = np.abs(mixed(run, "exact") - published["knn_full/logp"]).max()
    assert worst < 1e-5 and 1e-4 < halved < 1e-3
    assert mixture.perplexity(ours) == pytest.approx(13.819, abs=1e-3)


def test_roots_of_quantized_distances(run):
    assert mixture.perplexity(mixed(run, "quantized_sqrt")) == pytest.approx(13.936, abs=1e-3)


def test_evaluation_windows_of_fixed_stride(run):
    assert evaluated(run.at, "fixed", EVALUATION | {"mode": "fixed"}) == pytest.approx(19.032, abs=1e-3)


def test_a_published_perplexity_is_of_the_lines_that_fit(run, caplog):
    """With 32 positions: the scores of the lines that fit, from the valid text and from one without the others."""
    sizes = {"new": 8, "context": 24, "mode": "published"}
    tokens = np.load(run.at / "valid.npy")
    with caplog.at_level("INFO", "knnlm"):
        perplexity = evaluated(run.at, "dropped", sizes)
    ids = np.load(run.at / "dropped/queries/ids.npy")
    logprob = np.load(run.at / "dropped/lm/logprob.npy")
    assert 0 < len(ids) == len(logprob) < len(tokens)
    assert (
        f"{len(tokens) - len(ids):,} of {len(tokens):,} tokens are in lines that the published code drops"
        in caplog.text
    )
    for folder in ("lm", "queries"):
        assert description.described(run.at / "dropped" / folder)["dropped"] == len(tokens) - len(ids)
    np.testing.assert_array_equal(np.load(run.at / "dropped/queries/values.npy"), tokens[ids])
    ends = np.flatnonzero(tokens == 2) + 1
    lines = np.diff(np.concatenate([[0], ends]))
    assert len(tokens) - len(ids) == lines[lines > 32].sum() > 0
    assert perplexity != pytest.approx(evaluated(run.at, "undropped", sizes | {"mode": "complete"}), rel=1e-3)
    assert "dropped" not in description.described(run.at / "undropped/lm")


def test_with_lines_longer_than_the_positions_each_score_is_the_published_codes(run):
    """It scored 611 of 1,025 tokens and printed 26.06, and 18.52 with kNN; all tokens have another perplexity."""
    reported = np.load(RUN / "long.npz")
    words = WordVocab.read(RUN / "dict.txt")
    words.pretokenized = True
    tokens = words.encode((RUN / "long.txt").read_text())
    np.save(run.at / "long.npy", tokens)
    base = evaluated(run.at, "long", EVALUATION | {"mode": "published"}, text="long")
    np.testing.assert_allclose(np.load(run.at / "long/lm/logprob.npy"), reported["base"], rtol=0, atol=1e-5)
    assert (len(tokens), len(reported["base"])) == (1025, 611) and base == pytest.approx(26.057, abs=1e-3)
    assert evaluated(run.at, "long-whole", EVALUATION, text="long") == pytest.approx(28.938, abs=1e-3)

    queries, found = (run.at / "long/queries",), (run.at / "long/found",)
    search.main(SearchConfig(RUN / "knn.index", run.at / "keys", queries, K, found, '{"nprobe": 8}'))
    rerank.main(RerankConfig(found, (run.at / "keys",), queries, (run.at / "long/exact",)))
    score_knn.main(ScoreKnnConfig((run.at / "long/exact",), queries, (run.at / "long/knn",), (f'[["exact", {K}, 1]]',)))
    near = np.load(run.at / f"long/knn/exact-k{K}-t1.npy")
    ours = mixture.mix([0.25], [near], np.load(run.at / "long/lm/logprob.npy"))
    np.testing.assert_allclose(ours, reported["knn_full"], rtol=0, atol=1e-3)  # keys are kept in half precision
    assert mixture.perplexity(ours) == pytest.approx(18.524, abs=1e-3)


def test_a_wrong_number_of_heads_fits_every_weight_and_costs_perplexity(run):
    shutil.copytree(run.at / "model", run.at / "heads8")
    config = json.loads((run.at / "heads8/config.json").read_text())
    (run.at / "heads8/config.json").write_text(json.dumps(config | {"heads": 8}))
    description.write_meta(run.at / "heads8", "import_fairseq", {}, {}, role="model")
    assert evaluated(run.at, "heads8-scores", EVALUATION, "heads8") == pytest.approx(19.237, abs=1e-3)
