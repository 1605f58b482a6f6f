"""Rows of a table from log probabilities."""

import json
from pathlib import Path

import numpy as np
import pytest

from knnlm.artifacts import description, files
from knnlm.scores import interpolate, mixture

N, D = {"dev": 1200, "test": 900}, 12
TEMPERATURES = [0.3, 1, 2.5, 30]


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


@pytest.mark.parametrize("middle", [0, 1, 2])
def test_weights_are_tuned_on_resamples_of_dev_of_the_median_seed(study, tmp_path, middle):
    sheet, rng = study["rows"][1], np.random.default_rng(middle)
    lowered = np.roll([1.0, 0.0, 3.0], middle)  # nats: the seed at `middle` is neither the best nor the worst
    row = dict(sheet, seeds=[1, 2, 3], model_dirs=sheet["model_dirs"][:1] * 3, lm={}, components={"knn": {}})
    for split, tokens in N.items():
        for name, of_row in (("lm", row["lm"]), ("knn", row["components"]["knn"])):
            of_row[split] = [str(tmp_path / f"third-{name}-{split}-{seed}.npy") for seed in row["seeds"]]
            for path, nats in zip(of_row[split], lowered, strict=True):
                np.save(path, np.log(rng.beta(1, 3, tokens)).astype(np.float32) - np.float32(nats))
    study["rows"] = [row]
    found, starts = measured(study)["knn"], np.load(study["documents"]["wikitext"]["dev"])
    assert found["best_seed"] == row["seeds"][middle]
    lm, knn = (np.load(paths["dev"][middle]) for paths in (row["lm"], row["components"]["knn"]))
    expected = mixture.tune_resampled(np.linspace(0, 1, 101), knn, lm, starts, 200, 1)
    assert found["lmbda_resampled"] == expected.tolist()


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


def tempered_scores(study: dict, best: dict[str, float]) -> dict[str, np.ndarray]:
    """kNN's scores of every temperature, by split [T, N]: best where the split wants it, and worse further away."""
    rng, scores = np.random.default_rng(1), {}
    for split, tokens in N.items():
        off = np.abs(np.log(np.array(TEMPERATURES) / best[split]))[:, None]
        scores[split] = np.log(np.clip(rng.beta(2, 3, tokens) * np.exp(-off / 3), 1e-6, 1)).astype(np.float32)
        for seed in (1, 2):
            folder = study["out"].parent.parent / f"tuned-{split}-{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            for temperature, logprob in zip(TEMPERATURES, scores[split], strict=True):
                np.save(folder / f"exact-k8-t{temperature:g}.npy", logprob)
            np.save(folder / "exact-k8-t77.npy", np.zeros(tokens, np.float32))  # of another row: certain of everything
            np.save(folder / "quantized-k8-t1.npy", np.zeros(tokens, np.float32))
            description.write_meta(folder, "score_knn", {}, {"neighbors": study["out"].parent.parent / "neighbors"})
    return scores


@pytest.fixture
def tuned(study) -> dict:
    """The study's rows with kNN, whose temperature is now left to dev."""
    store = {"distance": "exact", "temperature": "tune", "temperatures": TEMPERATURES}
    for row in study["rows"][1:]:
        row["datastore"] = row["datastore"] | store
        folders = {s: [str(study["out"].parent.parent / f"tuned-{s}-{seed}") for seed in (1, 2)] for s in N}
        row["components"] = row["components"] | {"knn": folders}
    return study


@pytest.mark.parametrize(("dev", "test"), [(2.5, 30), (30, 0.3), (0.3, 1)])
def test_the_temperature_is_the_one_that_is_best_on_dev_with_its_weight(tuned, dev, test):
    scores = tempered_scores(tuned, {"dev": dev, "test": test})
    row = measured(tuned)["knn"]
    lm = {split: [np.load(path) for path in tuned["rows"][1]["lm"][split]] for split in N}

    def perplexity(split: str, seed: int, t: int, lmbda: float) -> float:
        mixed = lmbda * np.exp(scores[split][t].astype(float)) + (1 - lmbda) * np.exp(lm[split][seed].astype(float))
        return np.exp(-np.log(mixed).mean())

    for seed in (0, 1):
        tried = [(perplexity("dev", seed, t, x), t) for t in range(4) for x in np.linspace(0, 1, 101)]
        lowest, t = min(tried)
        assert row["datastore"]["temperature"][seed] == TEMPERATURES[t] == dev
        assert row["dev"]["per_seed"][seed] == pytest.approx(lowest, rel=1e-4)
        expected = perplexity("test", seed, t, row["lmbda"]["knn"][seed])
        assert row["test"]["per_seed"][seed] == pytest.approx(expected, rel=1e-6)
    low, high = row["test"]["interval"]
    assert low < row["test"]["per_seed"][[1, 2].index(row["best_seed"])] < high
    paths = json.loads(tuned["out"].read_text())["paths"]["knn"]
    assert paths["knn"]["test"] == [f"../tuned-test-{seed}/exact-k8-t{dev:g}.npy" for seed in (1, 2)]
    assert paths["neighbors"]["dev"] == ["../neighbors"] * 2


def test_the_temperature_and_the_caches_setting_are_chosen_together(tuned):
    scores = tempered_scores(tuned, {"dev": 1, "test": 1})
    row = measured(tuned)["knn-cache"]
    for seed in (0, 1):
        lm, tried = np.load(tuned["rows"][2]["lm"]["dev"][seed]), []
        for size, theta in ((100, 0.1), (500, 0.3)):
            folder = tuned["rows"][2]["components"]["cache"]["dev"][seed]
            cache = np.load(f"{folder}/size{size}-theta{theta}.npy")
            for t, knn in enumerate(scores["dev"]):
                mixed = mixture.mix(mixture.tune([knn, cache], lm), [knn, cache], lm)
                tried.append((mixture.perplexity(mixed), {"size": size, "theta": theta}, TEMPERATURES[t]))
        lowest, cache, temperature = min(tried, key=lambda one: one[0])
        assert row["dev"]["per_seed"][seed] == pytest.approx(lowest, rel=1e-9)
        assert (row["cache"][seed], row["datastore"]["temperature"][seed]) == (cache, temperature)


def test_of_equally_good_temperatures_the_first_is_taken(tuned):
    tempered_scores(tuned, {"dev": 1, "test": 1})
    for seed in (1, 2):
        folder = tuned["out"].parent.parent / f"tuned-dev-{seed}"
        for temperature in TEMPERATURES:
            np.save(folder / f"exact-k8-t{temperature:g}.npy", np.load(folder / "exact-k8-t30.npy"))
        description.write_meta(folder, "score_knn", {}, {"neighbors": tuned["out"].parent.parent / "neighbors"})
    assert measured(tuned)["knn"]["datastore"]["temperature"] == [0.3, 0.3]


def test_the_files_of_each_row_are_recorded_as_seen_from_the_experiment(study):
    measured(study)
    paths = json.loads(study["out"].read_text())["paths"]
    assert set(paths) == {"base", "knn", "knn-cache"} and set(paths["base"]) == {"model", "lm"}
    assert paths["base"]["lm"]["test"] == ["../lm-test-1.npy", "../lm-test-2.npy"]
    assert paths["knn-cache"]["cache"]["dev"][1] == "../cache-dev-2/size500-theta0.3.npy"
    assert paths["knn"]["model"] == ["../model"] * 2 and paths["knn"]["neighbors"]["dev"] == [None, None]


def test_where_tokenizers_differ_the_words_and_bytes_of_each_rows_text_are_recorded(study, tmp_path):
    documents = {}
    for vocab, factor in (("words", 5), ("pieces", 7)):
        (tmp_path / vocab).mkdir()
        text = {split: {"words": tokens // factor, "bytes": factor * tokens} for split, tokens in N.items()}
        for split, tokens in N.items():
            np.save(tmp_path / f"{vocab}/{split}.npy", np.zeros(tokens, np.uint16))
            np.save(tmp_path / f"{vocab}/{split}.documents.npy", np.arange(0, tokens, tokens // D)[:D])
        description.write_meta(tmp_path / vocab, "binarize", {}, {}, text=text)
        documents[f"{vocab}/wikitext"] = {split: str(tmp_path / f"{vocab}/{split}.documents.npy") for split in N}
    for row in study["rows"]:  # scores of the same text as their documents
        row |= {"vocab": "pieces" if row["name"] == "knn" else "words", "components": {}, "datastore": None}
        row |= {"model_dirs": None, "lm": {s: [described(path) for path in paths] for s, paths in row["lm"].items()}}
    study["documents"] = documents
    rows = measured(study)
    for name, vocab, factor in (("base", "words", 5), ("knn", "pieces", 7)):
        assert rows[name]["vocab"] == vocab
        for split, tokens in N.items():
            assert rows[name][split]["words"] == tokens // factor and rows[name][split]["bytes"] == factor * tokens
    description.write_meta(tmp_path / "pieces", "binarize", {}, {})
    with pytest.raises(files.UserError, match=r"dev.documents.npy: its description has no words and bytes of dev: bin"):
        measured(study)


def described(path: str) -> str:
    """The same scores in a folder of their own, which has a description."""
    folder = Path(path).with_suffix("")
    folder.mkdir(exist_ok=True)
    np.save(folder / "logprob.npy", np.load(path))
    description.write_meta(folder, "evaluate", {}, {})
    return str(folder / "logprob.npy")


def test_a_grid_can_be_given(study):
    assert measured(study, lmbda=[0, 0.25, 1])["knn"]["curve"]["lmbda"] == [0, 0.25, 1]
    with pytest.raises(files.UserError, match="lmbda: found"):
        measured(study, lmbda=[0.5, 0.25])


def test_vectors_of_different_lengths_are_refused_by_name(study):
    path = study["rows"][1]["components"]["knn"]["dev"][1]
    np.save(path, np.zeros(1100, np.float32))
    with pytest.raises(files.UserError, match=r"row knn: .*lm-dev-2.npy has 1,200 targets, .*knn-dev-2.npy 1,100"):
        measured(study)


CACHE = [(20, 0.5), (100, 0.1), (100, 0.3), (1000, 0.1)]  # by name, size 1000 comes before size 20


def cached_scores(study: dict, best: dict[str, tuple[int, int]]) -> dict[tuple, np.ndarray]:
    """A cache at the settings of CACHE, best at a place of its own for each split and seed; the third row mixes it."""
    rng, scores, folders = np.random.default_rng(5), {}, {split: [] for split in N}
    for split, tokens in N.items():
        for seed, wanted in enumerate(best[split]):
            folder, likely = study["out"].parent.parent / f"cached-{split}-{seed}", rng.beta(2, 3, tokens)
            folder.mkdir()
            for place, (size, theta) in enumerate(CACHE):
                scores[split, seed, place] = np.log(likely * np.exp(-abs(place - wanted) / 2)).astype(np.float32)
                np.save(folder / f"size{size}-theta{theta}.npy", scores[split, seed, place])
            description.write_meta(folder, "score_cache", {}, {})
            folders[split].append(str(folder))
    study["rows"][2] |= {"datastore": None, "components": {"cache": folders}}
    return scores


@pytest.mark.parametrize(("dev", "test"), [((1, 3), (0, 2)), ((0, 2), (3, 3)), ((3, 0), (1, 1))])
def test_the_caches_setting_is_the_one_that_is_best_on_dev_for_each_seed(study, dev, test):
    scores = cached_scores(study, {"dev": dev, "test": test})
    row = measured(study)["knn-cache"]
    paths = json.loads(study["out"].read_text())["paths"]["knn-cache"]["cache"]["test"]
    for seed in (0, 1):
        lm = {split: np.exp(np.load(study["rows"][2]["lm"][split][seed]).astype(float)) for split in N}
        grid, losses = np.linspace(0, 1, 101), []
        for place in range(len(CACHE)):
            near = np.exp(scores["dev", seed, place].astype(float))
            losses.append([-np.log(x * near + (1 - x) * lm["dev"]).mean() for x in grid])
        place = int(np.argmin(np.min(losses, axis=1)))
        assert place == dev[seed] != test[seed]
        assert row["cache"][seed] == dict(zip(("size", "theta"), CACHE[place], strict=True))
        weight = row["lmbda"]["cache"][seed]
        assert weight == pytest.approx(grid[np.argmin(losses[place])], abs=0.011)
        assert row["dev"]["per_seed"][seed] == pytest.approx(np.exp(np.min(losses)), rel=1e-3)
        mixed = weight * np.exp(scores["test", seed, place].astype(float)) + (1 - weight) * lm["test"]
        assert row["test"]["per_seed"][seed] == pytest.approx(np.exp(-np.log(mixed).mean()), rel=1e-6)
        assert paths[seed] == "../cached-test-{}/size{}-theta{}.npy".format(seed, *CACHE[place])


def test_of_equally_good_caches_the_smallest_is_taken(study):
    scores = cached_scores(study, {"dev": (1, 2), "test": (1, 2)})
    for seed in (0, 1):
        folder = study["out"].parent.parent / f"cached-dev-{seed}"
        for size, theta in CACHE:
            np.save(folder / f"size{size}-theta{theta}.npy", scores["dev", seed, 0])
        (folder / "size100-theta0.1.npy").rename(folder / "size20-theta0.9.npy")
        description.write_meta(folder, "score_cache", {}, {})
    assert measured(study)["knn-cache"]["cache"] == [{"size": 20, "theta": 0.5}] * 2


@pytest.mark.parametrize(("dev", "test"), [((0, 1, 3), (3, 0, 1)), ((3, 0, 1), (0, 1, 3)), ((1, 3, 0), (3, 1, 0))])
def test_the_seed_of_intervals_is_devs_median_and_each_splits_number_its_own_median(study, tmp_path, dev, test):
    """Three seeds that dev and test rank differently, by so many nats a token."""
    rng, vectors, row = np.random.default_rng(8), {}, study["rows"][0]
    row |= {"seeds": [4, 2, 9], "model_dirs": row["model_dirs"][:1] * 3, "lm": {}}
    for split, lowered in {"dev": dev, "test": test}.items():
        row["lm"][split] = [str(tmp_path / f"ranked-{split}-{seed}.npy") for seed in row["seeds"]]
        vectors[split] = [np.log(rng.beta(1, 3, N[split])) - nats for nats in lowered]
        for path, vector in zip(row["lm"][split], vectors[split], strict=True):
            np.save(path, vector.astype(np.float32))
    study["rows"] = [row]
    found, best = measured(study)["base"], dev.index(1)
    assert found["best_seed"] == row["seeds"][best] and test[best] != 1
    for split in N:
        expected = [np.exp(-vector.mean()) for vector in vectors[split]]
        assert found[split]["per_seed"] == pytest.approx(expected, rel=1e-5)
        assert found[split]["perplexity"] == pytest.approx(sorted(expected)[1], rel=1e-5)
        low, high = found[split]["interval"]
        assert [low < perplexity < high for perplexity in expected] == [seed == best for seed in range(3)]


@pytest.mark.parametrize("seed", [1, 6])
def test_resamples_and_their_seed_are_those_of_the_settings(study, seed):
    rows = measured(study, resamples=10, seed=seed)
    for split in N:
        starts, best = np.load(study["documents"]["wikitext"][split]), rows["base"]["best_seed"]
        pieces = np.split(np.load(study["rows"][0]["lm"][split][best - 1]).astype(float), starts[1:])
        drawn = np.random.default_rng(seed).integers(0, D, (10, D))
        perplexities = [np.exp(-np.concatenate([pieces[d] for d in one]).mean()) for one in drawn]
        expected = np.quantile(perplexities, [0.025, 0.975]).tolist()
        assert rows["base"][split]["interval"] == pytest.approx(expected, rel=1e-6)
    best, starts = rows["knn"]["best_seed"] - 1, np.load(study["documents"]["wikitext"]["dev"])
    lm, near = (
        np.exp(np.load(paths["dev"][best]).astype(float))
        for paths in (study["rows"][1]["lm"], study["rows"][1]["components"]["knn"])
    )
    grid = np.linspace(0, 1, 101)
    sums = np.add.reduceat([np.log(x * near + (1 - x) * lm) for x in grid], starts, axis=1)  # [G, D]
    counts = np.random.default_rng(seed).multinomial(D, [1 / D] * D, size=200)
    assert rows["knn"]["lmbda_resampled"] == grid[np.argmax(counts @ sums.T, axis=1)].tolist()


@pytest.mark.parametrize(("split", "beyond"), [("dev", 0), ("test", 0), ("test", 5)])
def test_a_document_that_begins_behind_the_last_target_is_refused(study, split, beyond):
    starts = np.load(study["documents"]["wikitext"][split])
    np.save(study["documents"]["wikitext"][split], [*starts[:-1], N[split] + beyond])
    with pytest.raises(files.UserError, match=rf"{split}.documents.npy does not fit {N[split]:,} scored targets"):
        measured(study)
    np.save(study["documents"]["wikitext"][split], [*starts[:-1], N[split] - 1])
    assert measured(study)["base"][split]["documents"] == D


@pytest.mark.parametrize(("value", "allowed"), [(9e-5, True), (2e-4, False)])
@pytest.mark.parametrize("split", ["dev", "test"])
def test_log_probabilities_may_be_above_0_by_rounding_only(study, split, value, allowed):
    path = study["rows"][0]["lm"][split][1]
    vector = np.load(path)
    vector[-1] = value
    np.save(path, vector)
    if allowed:
        measured(study)
    else:
        with pytest.raises(files.UserError, match=rf"lm-{split}-2.npy holds a log probability of 0.0002 \(above 0\)"):
            measured(study)


def test_a_word_without_any_probability_is_allowed_of_knn_but_not_of_the_lm(study):
    near, lm = study["rows"][1]["components"]["knn"]["dev"][0], study["rows"][0]["lm"]["test"][0]
    for path in (near, lm):
        vector = np.load(path)
        vector[0] = -np.inf
        np.save(path, vector)
        if path == near:
            assert measured(study)["knn"]["curve"]["dev"][-1] is None
        else:
            with pytest.raises(files.UserError, match=r"lm-test-1\.npy holds -inf, and the lm gives no word 0"):
                measured(study)
