"""Rows of a table from log probabilities."""

import json

import numpy as np
import pytest

from knnlm.artifacts import description, files
from knnlm.scores import interpolate, mixture

N, D = {"dev": 1200, "test": 900}, 12


@pytest.fixture
def study(tmp_path) -> dict:
    """Two seeds of an LM, a kNN and a cache of two settings, as vectors, and a sheet of rows."""
    rng, paths = np.random.default_rng(0), {}
    for split, tokens in N.items():
        np.save(tmp_path / f"{split}.documents.npy", np.arange(0, tokens, tokens // D)[:D])
        for name in ("lm", "knn"):
            paths[name, split] = [str(tmp_path / f"{name}-{split}-{seed}.npy") for seed in (1, 2)]
            for path in paths[name, split]:
                np.save(path, np.log(rng.beta(1, 3, tokens)).astype(np.float32))
        paths["cache", split] = [str(tmp_path / f"cache-{split}-{seed}") for seed in (1, 2)]
        for path in paths["cache", split]:
            (tmp_path / path).mkdir()
            np.save(f"{path}/size100-theta0.1.npy", np.full(tokens, -9, np.float32))
            np.save(f"{path}/size500-theta0.3.npy", np.log(rng.beta(2, 3, tokens)).astype(np.float32))
            description.write_meta(path, "score_cache", {}, {})
    (tmp_path / "neighbors").mkdir()
    description.write_meta(tmp_path / "neighbors", "merge", {}, {}, entries=70, entries_total=140)
    (tmp_path / "model").mkdir()
    files.write_json(tmp_path / "model/config.json", {"parameters": 1234})
    description.write_meta(tmp_path / "model", "train", {}, {}, training_tokens=5678)
    both = {name: {split: paths[name, split] for split in N} for name in ("lm", "knn", "cache")}
    base = {"label": "", "corpus": "wikitext", "model": "wikitext", "model_dirs": [str(tmp_path / "model")] * 2}
    base |= {"seeds": [1, 2], "lm": both["lm"], "ngram": None, "memorizing": None, "components": {}}
    datastore = {"corpus": "wikitext", "k": 8, "neighbors": str(tmp_path / "neighbors")}
    rows = [
        base | {"name": "base", "datastore": None},
        base | {"name": "knn", "datastore": datastore, "components": {"knn": both["knn"]}},
        base
        | {"name": "knn-cache", "datastore": datastore, "components": {"knn": both["knn"], "cache": both["cache"]}},
    ]
    documents = {"wikitext": {split: str(tmp_path / f"{split}.documents.npy") for split in N}}
    return {"rows": rows, "documents": documents, "out": tmp_path / "experiments/table1.json"}


def measured(study: dict, **settings: object) -> dict[str, dict]:
    rows, documents = json.dumps(study["rows"]), json.dumps(study["documents"])
    interpolate.main(interpolate.InterpolateConfig(rows, documents, study["out"], json.dumps(settings)))
    written = json.loads(study["out"].read_text(), parse_constant=pytest.fail)
    assert written["experiment"] == "table1" and len(written["rows"]) == len(study["rows"])
    return {row["name"]: row for row in written["rows"]}


def test_the_base_row_is_the_lms_own_perplexity(study):
    row = measured(study)["base"]
    expected = [np.exp(-np.load(path).mean(dtype=np.float64)) for path in study["rows"][0]["lm"]["test"]]
    assert row["test"]["per_seed"] == pytest.approx(expected) and row["test"]["perplexity"] == pytest.approx(
        np.mean(expected)
    )
    assert row["lmbda"] == {} and row["curve"] is None and row["datastore"] is None and row["cache"] is None
    assert (row["parameters"], row["training_tokens"], row["test"]["documents"]) == (1234, 5678, D)


def test_each_documents_nats_are_the_mean_over_seeds(study):
    rows = measured(study)
    starts = np.load(study["documents"]["wikitext"]["test"])
    base = [np.load(path).astype(np.float64) for path in study["rows"][0]["lm"]["test"]]
    expected = [
        -np.mean([piece.sum() for piece in pair]) for pair in zip(*(np.split(v, starts[1:]) for v in base), strict=True)
    ]
    assert rows["base"]["test"]["nats"] == pytest.approx(expected, abs=1e-4)
    mean = np.mean(np.log(rows["knn"]["test"]["per_seed"]))
    assert sum(rows["knn"]["test"]["nats"]) / N["test"] == pytest.approx(mean, abs=1e-6)
    assert len(rows["knn"]["lmbda_resampled"]) == 200 and rows["knn-cache"]["lmbda_resampled"] is None
    assert min(rows["knn"]["lmbda_resampled"]) <= max(rows["knn"]["lmbda"]["knn"])


def test_weights_are_tuned_on_dev_and_applied_to_test(study):
    row = measured(study)["knn"]
    sheet = study["rows"][1]
    lm, knn = np.load(sheet["lm"]["test"][0]), np.load(sheet["components"]["knn"]["test"][0])
    mixed = mixture.mix(row["lmbda"]["knn"][:1], [knn], lm)
    assert row["test"]["per_seed"][0] == pytest.approx(mixture.perplexity(mixed))
    assert min(row["curve"]["dev"]) == pytest.approx(row["dev"]["per_seed"][0], rel=1e-3)
    assert len(row["curve"]["lmbda"]) == 101 and row["best_seed"] in (1, 2)
    low, high = row["dev"]["interval"]
    assert low < row["dev"]["per_seed"][[1, 2].index(row["best_seed"])] < high
    assert row["datastore"] == {"corpus": "wikitext", "k": 8, "entries": 70, "entries_total": 140}


def test_the_caches_setting_is_tuned_with_the_weights(study):
    rows = measured(study)
    assert rows["knn-cache"]["cache"] == [{"size": 500, "theta": 0.3}] * 2
    assert rows["knn-cache"]["dev"]["perplexity"] < rows["knn"]["dev"]["perplexity"] < rows["base"]["dev"]["perplexity"]
    assert set(rows["knn-cache"]["lmbda"]) == {"knn", "cache"} and rows["knn-cache"]["curve"] is None


def test_the_files_of_each_row_are_recorded_as_seen_from_the_experiment(study):
    measured(study)
    paths = json.loads(study["out"].read_text())["paths"]
    assert set(paths) == {"base", "knn", "knn-cache"} and set(paths["base"]) == {"model", "lm"}
    assert paths["base"]["lm"]["test"] == ["../lm-test-1.npy", "../lm-test-2.npy"]
    assert paths["knn-cache"]["cache"]["dev"][1] == "../cache-dev-2/size500-theta0.3.npy"
    assert paths["knn"]["model"] == ["../model"] * 2 and paths["knn"]["neighbors"]["dev"] == [None, None]


def test_a_grid_can_be_given(study):
    assert measured(study, lmbda=[0, 0.25, 1])["knn"]["curve"]["lmbda"] == [0, 0.25, 1]
    with pytest.raises(files.UserError, match="lmbda: found"):
        measured(study, lmbda=[0.5, 0.25])


def test_vectors_of_different_lengths_are_refused_by_name(study):
    path = study["rows"][1]["components"]["knn"]["dev"][1]
    np.save(path, np.zeros(1100, np.float32))
    with pytest.raises(files.UserError, match=r"row knn: .*lm-dev-2.npy has 1,200 targets, .*knn-dev-2.npy 1,100"):
        measured(study)
