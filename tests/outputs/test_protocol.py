"""Everything chosen is dev's: a study by hand whose dev and test want other settings, from vectors to its table.

Every number is computed a second time here, in float64 and by trying everything.
"""

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from knnlm.artifacts import description
from knnlm.outputs import tabulate
from knnlm.scores import interpolate, score_cache, score_knn

PAPER = Path(__file__).parents[2] / "config/paper_numbers.yaml"
SEEDS, WORDS, K, ENTRIES = (3, 1, 2), 12, 8, 60
STARTS = {
    "dev": [0, 5, 22, 40, 61, 90, 100, 131, 150, 188, 200, 231],
    "test": [0, 40, 41, 66, 80, 99, 120, 130, 150, 171, 190],
}
N = {"dev": 260, "test": 210}
TEMPERATURES = [0.5, 4, 60]
SIZES, THETAS = (3, 30), (0.05, 1.5)
CACHES = [*itertools.product(SIZES, THETAS)]
WEIGHTS = np.linspace(0, 1, 51)
PAIRS = np.array([(a, b) for a in WEIGHTS for b in WEIGHTS if a + b <= 1 + 1e-9])  # of kNN and of the cache
# How often the nearest neighbor and how often the others hold the target, and how far context vectors give it away.
NEAR = {"dev": [(0.9, 0.15), (0.5, 0.4), (0.1, 0.35)], "test": [(0.1, 0.35), (0.9, 0.15), (0.5, 0.2)]}
GIVEN_AWAY = {"dev": [1.2, 0.0, 1.0], "test": [0.0, 1.2, -0.3]}
LM = {"dev": [0.35, 0.5, 0.2], "test": [0.15, 0.25, 0.4]}  # the LM's mean probability: seed 3 is dev's median


class Made:
    """The study's arrays, and its files below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder, rng = folder, np.random.default_rng(0)
        self.stored = np.arange(ENTRIES, dtype=np.uint32) % WORDS
        self.write("shard", "extract", values=self.stored, ids=rng.permutation(ENTRIES))
        self.targets, self.lm, self.near, self.values, self.keys = {}, {}, {}, {}, {}
        for split, count in N.items():
            tokens = rng.integers(0, WORDS, count)
            for i in range(3, count):  # dev repeats what was just read, test what was read long ago
                if rng.random() < 0.7:
                    tokens[i] = tokens[i - int(rng.integers(1, 3 if split == "dev" else min(i, 25) + 1))]
            self.targets[split] = tokens
            np.save(folder / f"{split}.documents.npy", np.array(STARTS[split]))
            for seed, name in enumerate(SEEDS):
                self.make(split, seed, f"{split}-{name}", rng)

    def make(self, split: str, seed: int, name: str, rng: np.random.Generator) -> None:
        tokens, at = self.targets[split], (split, seed)
        mean, (first, others) = LM[split][seed], NEAR[split][seed]
        self.lm[at] = rng.beta(4 * mean, 4 * (1 - mean), len(tokens)).clip(1e-4)
        np.save(self.folder / f"lm-{name}.npy", np.log(self.lm[at]).astype(np.float32))
        near = np.cumsum(rng.gamma(4, 0.5, (len(tokens), K)), axis=1).astype(np.float32)
        hit = rng.random(near.shape) < np.array([first, *[others] * (K - 1)])
        values = np.where(hit, tokens[:, None], rng.integers(0, WORDS, near.shape))
        rows = values + WORDS * rng.integers(0, ENTRIES // WORDS, near.shape)  # entries that hold these values
        keys = GIVEN_AWAY[split][seed] * np.eye(WORDS)[tokens] * 1.5 + 0.7 * rng.standard_normal((len(tokens), WORDS))
        self.near[at], self.values[at], self.keys[at] = near, values, keys.astype(np.float32)
        facts = {"metric": "l2", "entries": ENTRIES, "entries_total": 2 * ENTRIES, "nprobe": 1}
        inputs = {"shard0": self.folder / "shard"}
        self.write(f"neighbors-{name}", "rerank", inputs, facts, rows=rows.astype(np.uint32), exact=near)
        self.write(f"queries-{name}", "evaluate", keys=self.keys[at], values=tokens.astype(np.uint32))

    def write(self, name: str, stage: str, inputs: dict | None = None, facts: dict | None = None, **arrays) -> None:
        (self.folder / name).mkdir()
        for key, array in arrays.items():
            np.save(self.folder / name / f"{key}.npy", array)
        description.write_meta(self.folder / name, stage, {}, inputs or {}, **(facts or {}))

    def paths(self, part: str, end: str = "") -> dict[str, list[str]]:
        return {split: [str(self.folder / f"{part}-{split}-{name}{end}") for name in SEEDS] for split in N}

    def knn(self, split: str, seed: int, k: int, temperature: float) -> np.ndarray:
        """p_kNN of the targets [N]."""
        near, values = self.near[split, seed].astype(float)[:, :k], self.values[split, seed][:, :k]
        weights = np.exp(-near / temperature)
        return (weights * (values == self.targets[split][:, None])).sum(1) / weights.sum(1)

    def cache(self, split: str, seed: int, size: int, theta: float) -> np.ndarray:
        """p_cache of the targets [N]."""
        keys, tokens, found = self.keys[split, seed].astype(float), self.targets[split], np.zeros(N[split])
        for i in range(N[split]):
            begin = max(max(start for start in STARTS[split] if start <= i), i - size)
            weights = np.exp(theta * keys[begin:i] @ keys[i])
            found[i] = weights[tokens[begin:i] == tokens[i]].sum() / weights.sum() if begin < i else 0
        return found


def best(lm: np.ndarray, parts: dict) -> tuple:
    """The setting and the weights with the least loss: parts {setting: [p of each component]}, by trying everything."""
    tried = {}
    for setting, components in parts.items():
        points = PAIRS if len(components) == 2 else WEIGHTS[:, None]
        with np.errstate(divide="ignore"):
            losses = -np.log(points @ np.array(components) + np.outer(1 - points.sum(1), lm)).mean(1)
        tried[setting] = losses.min(), points[losses.argmin()].tolist()
    chosen = min(tried, key=lambda setting: tried[setting][0])
    return chosen, tried[chosen][1]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    """The study, scored and interpolated."""
    study = Made(tmp_path_factory.mktemp("protocol"))
    for seed, split in itertools.product(SEEDS, N):
        name = f"{split}-{seed}"
        documents, out = study.folder / f"{split}.documents.npy", study.folder / f"cache-{name}"
        config = study.folder / f"queries-{name}", documents, out, SIZES[::-1], THETAS
        score_cache.main(score_cache.ScoreCacheConfig(*config))
    parts = [study.paths(part) for part in ("neighbors", "queries", "knn")]
    folders = [[path for split in N for path in part[split]] for part in parts]
    scores = [["exact", k, t] for k in (K, 1, 3) for t in (1, *TEMPERATURES[::-1])]
    given = (tuple(map(Path, one)) for one in folders)
    score_knn.main(score_knn.ScoreKnnConfig(*given, (json.dumps(scores),)))
    base = {"label": "", "corpus": "fox", "model": "fox", "seeds": SEEDS, "lm": study.paths("lm", ".npy")}
    store = {"corpus": "fox", "distance": "exact", "k": K, "neighbors": study.paths("neighbors")["dev"][0]}
    tuned = {"datastore": store | {"temperature": "tune", "temperatures": TEMPERATURES}}
    near, cache = {"knn": study.paths("knn")}, {"cache": study.paths("cache")}
    rows = [
        base | {"name": "base", "components": {}},
        base | tuned | {"name": "knn", "components": near},
        base | {"name": "cache", "components": cache},
        base | tuned | {"name": "knn-cache", "components": near | cache},
    ]
    points = [
        base
        | {"name": f"k{k}", "components": {"knn": study.paths("knn", f"/exact-k{k}-t1.npy")}}
        | {"datastore": store | {"k": k, "temperature": 1}}
        for k in (1, 3, K)
    ]
    documents = json.dumps({"fox": {split: str(study.folder / f"{split}.documents.npy") for split in N}})
    for output, sheet in {"table1": rows, "figure4": [rows[0], *points]}.items():
        out = study.folder / f"experiments/{output}.json"
        interpolate.main(interpolate.InterpolateConfig(json.dumps(sheet), documents, out, '{"resamples": 100}'))
    return study


def measured(made: Made, output: str) -> dict[str, dict]:
    return {row["name"]: row for row in json.loads((made.folder / f"experiments/{output}.json").read_text())["rows"]}


@pytest.fixture(scope="module")
def tried(made) -> dict[tuple[str, int], dict[str, dict]]:
    """Of each split and seed what the rows choose from: {row: {setting: [p of each component]}}."""
    return {(split, seed): candidates(made, split, seed) for split in N for seed in range(len(SEEDS))}


def candidates(made: Made, split: str, seed: int) -> dict[str, dict]:
    near = {t: made.knn(split, seed, K, t) for t in TEMPERATURES}
    cache = {setting: made.cache(split, seed, *setting) for setting in CACHES}
    both = {(t, setting): [near[t], cache[setting]] for t in near for setting in cache}
    return {
        "knn": {(t, None): [p] for t, p in near.items()},
        "cache": {(None, setting): [p] for setting, p in cache.items()},
        "knn-cache": both,
    }


def perplexity(weights: list[float], components: list[np.ndarray], lm: np.ndarray) -> float:
    rest = (1 - sum(weights)) * lm
    return float(np.exp(-np.log(sum(w * p for w, p in zip(weights, components, strict=True)) + rest).mean()))


@pytest.mark.parametrize("name", ["knn", "cache", "knn-cache"])
def test_dev_chooses_settings_and_weights_of_each_seed_and_test_is_reported_with_them(made, tried, name):
    row, others = measured(made, "table1")[name], 0
    parts = [part for part in ("knn", "cache") if part in name]
    for seed in range(len(SEEDS)):
        on_dev, on_test = (tried[split, seed][name] for split in ("dev", "test"))
        (temperature, cache), weights = best(made.lm["dev", seed], on_dev)
        found = [row["lmbda"][part][seed] for part in parts]
        assert found == pytest.approx(weights, abs=0.021)
        if temperature:
            assert row["datastore"]["temperature"][seed] == temperature
        if cache:
            assert row["cache"][seed] == dict(zip(("size", "theta"), cache, strict=True))
        for split, of_split in (("dev", on_dev), ("test", on_test)):
            expected = perplexity(found, of_split[temperature, cache], made.lm[split, seed])
            assert row[split]["per_seed"][seed] == pytest.approx(expected, rel=1e-5)
        wanted, other_weights = best(made.lm["test", seed], on_test)
        others += wanted != (temperature, cache)
        assert other_weights != pytest.approx(weights, abs=0.05), "test must want other weights"
    assert others >= 2, "test must want other settings"


@pytest.mark.parametrize("name", ["base", "knn", "cache", "knn-cache"])
def test_numbers_are_medians_of_their_split_and_intervals_are_of_devs_median_seed(made, name):
    row = measured(made, "table1")[name]
    middle = sorted(range(3), key=row["dev"]["per_seed"].__getitem__)[1]
    assert row["best_seed"] == SEEDS[middle]
    for split in N:
        assert row[split]["perplexity"] == sorted(row[split]["per_seed"])[1]
        low, high = row[split]["interval"]
        assert low < row[split]["per_seed"][middle] < high
    if name == "base":
        assert sorted(range(3), key=row["test"]["per_seed"].__getitem__)[1] != middle
        for seed, split in itertools.product(range(3), N):
            assert row[split]["per_seed"][seed] == pytest.approx(perplexity([], [], made.lm[split, seed]), rel=1e-5)


def test_each_number_of_neighbors_has_its_own_row_with_the_weight_of_dev(made):
    rows, order = measured(made, "figure4"), {}
    for k, seed in itertools.product((1, 3, K), range(3)):
        row, (_, weights) = rows[f"k{k}"], best(made.lm["dev", seed], {k: [made.knn("dev", seed, k, 1)]})
        found = [row["lmbda"]["knn"][seed]]
        assert found == pytest.approx(weights, abs=0.021)
        for split in N:
            expected = perplexity(found, [made.knn(split, seed, k, 1)], made.lm[split, seed])
            assert row[split]["per_seed"][seed] == pytest.approx(expected, rel=1e-5)
            order.setdefault((split, seed), []).append(expected)
    assert [int(np.argmin(order["dev", seed])) for seed in range(3)] != [
        int(np.argmin(order["test", seed])) for seed in range(3)
    ], "dev and test must want other numbers of neighbors"


def test_the_table_shows_these_numbers_where_it_says(made, tmp_path):
    given = made.folder / "experiments/table1.json", made.folder / "experiments/figure4.json"
    tabulate.main(tabulate.TabulateConfig("table1", tmp_path, PAPER, experiments=given))
    table = pd.read_csv(tmp_path / "table1.csv", index_col="name")
    for name, row in measured(made, "table1").items():
        for split in N:
            low, high = row[split]["interval"]
            seeds = sorted(row[split]["per_seed"])
            expected = {"": seeds[1], "_min": seeds[0], "_max": seeds[2], "_low": low, "_high": high}
            for end, value in expected.items():
                assert table.loc[name, f"{split}{end}"] == pytest.approx(value, rel=1e-5)
        shown = [f"{sorted(row['lmbda'][part])[1]:.3g}" for part in row["lmbda"]]
        if len(shown) > 1:
            shown = [f"{part} {weight}" for part, weight in zip(row["lmbda"], shown, strict=True)]
        if "knn" in name:
            shown.append(f"T = {sorted(row['datastore']['temperature'])[1]:g}")
        assert str(table.loc[name, "lmbda"]) == (", ".join(shown) or "nan")
