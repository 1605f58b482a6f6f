"""What rows of different vocabularies have in common: perplexity per word and bits per byte."""

import math

import numpy as np
import pytest

from knnlm.scores import experiments


def measured(perplexity: float, tokens: int, words: int, size: int) -> dict:
    found = {"perplexity": perplexity, "per_seed": [perplexity], "interval": [perplexity / 2, perplexity * 2]}
    return found | {"tokens": tokens, "documents": 12, "words": words, "bytes": size}


def test_nats_are_spread_over_words_and_bytes():
    found = measured(8, tokens=4, words=3, size=6)  # 4 ln 8 = 12 ln 2 nats, between 4 ln 4 = 8 and 4 ln 16 = 16 ln 2
    words, size = experiments.per_word(found), experiments.bits_per_byte(found)
    assert words["perplexity"] == pytest.approx(2 ** (12 / 3)) == pytest.approx(words["per_seed"][0])
    assert words["interval"] == pytest.approx([2 ** (8 / 3), 2 ** (16 / 3)])
    assert size["perplexity"] == pytest.approx(12 / 6) and size["interval"] == pytest.approx([8 / 6, 16 / 6])


def test_the_median_over_seeds_is_that_of_the_converted_numbers():
    found = measured(5, tokens=10, words=5, size=50) | {"per_seed": [2, 8], "interval": None}
    words = experiments.per_word(found)
    assert words["per_seed"] == pytest.approx([4, 64]) and words["perplexity"] == pytest.approx(34)
    assert words["interval"] is None
    assert experiments.bits_per_byte(found)["perplexity"] == pytest.approx((10 * 1 / 50 + 10 * 3 / 50) / 2)


def test_a_perplexity_that_is_infinite_stays_so():
    found = measured(math.inf, tokens=4, words=3, size=6) | {"interval": None}
    assert experiments.per_word(found)["perplexity"] == experiments.bits_per_byte(found)["perplexity"] == math.inf


def study(vocabs: tuple[str, str]) -> experiments.Study:
    """Two rows of the same 100 words, in 100 and in 200 tokens; each with a curve."""
    rows = []
    for name, vocab, perplexity, tokens in zip(("base", "knn"), vocabs, (50, 9), (100, 200), strict=True):
        split = measured(perplexity, tokens, words=100, size=600)
        curve = {"lmbda": [0, 0.5, 1], "dev": [perplexity, 3, None], "test": [perplexity, 4, None]}
        rows.append({"name": name, "vocab": vocab, "dev": split, "test": split, "curve": curve, "datastore": None})
    return experiments.Study({"table1": {"experiment": "table1", "rows": rows}}, {})


def test_rows_of_different_vocabularies_compare_per_word():
    found = study(("words", "pieces"))
    assert found.perplexity("table1", "base") == pytest.approx(50)
    assert found.perplexity("table1", "knn") == pytest.approx(9**2)
    assert found.gain("table1", "knn", split="test") == pytest.approx(50 - 81)  # per token it would be 50 - 9
    curve = found.row("table1", "knn")["curve"]
    assert curve["dev"] == pytest.approx([81, 9, None]) and curve["test"][1] == pytest.approx(16)
    assert curve["lmbda"] == [0, 0.5, 1]


def test_rows_of_different_vocabularies_that_show_dev_alone_compare_per_word_too():
    found = study(("words", "pieces"))
    for row in found.experiments["table1"]["rows"]:
        row["test"] = None
        row["curve"] = row["curve"] | {"test": None}
    assert found.perplexity("table1", "knn") == pytest.approx(9**2)
    assert found.row("table1", "knn")["curve"]["dev"] == pytest.approx([81, 9, None])
    del found.experiments["table1"]["rows"][1]["test"]
    assert found.gain("table1", "knn") == pytest.approx(50 - 81)


def test_rows_of_one_vocabulary_compare_per_token():
    found = study(("pieces", "pieces"))
    assert found.gain("table1", "knn") == 50 - 9
    assert found.row("table1", "knn")["curve"]["dev"] == [9, 3, None]


@pytest.mark.parametrize("weights", [{"knn": 1, "base": -1}, {"base": 1, "knn": -1}, {"k8": 2, "base": -1, "knn": -1}])
@pytest.mark.parametrize("split", ["dev", "test"])
def test_differences_are_nats_a_token_with_intervals_over_documents(weights: dict, split: str) -> None:
    rng, documents, tokens = np.random.default_rng(len(weights)), 40, {"dev": 700, "test": 900}
    rows = [
        {
            "name": name,
            **{part: {"nats": rng.gamma(9, 5, documents).tolist(), "tokens": tokens[part]} for part in tokens},
        }
        for name in ("base", "knn", "k8")
    ]
    study = experiments.Study({"figure4": {"experiment": "figure4", "rows": rows}}, {})
    found = study.difference("figure4", weights, split)
    of_document = [-sum(weights.get(r["name"], 0) * r[split]["nats"][d] for r in rows) for d in range(documents)]
    assert found.value == pytest.approx(sum(of_document) / tokens[split])
    drawn = rng.choice(of_document, (20000, documents)).sum(axis=1) / tokens[split]
    spread = np.std(drawn)
    assert [found.low, found.high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]).tolist(), abs=0.25 * spread)


def splits_that_differ() -> experiments.Study:
    """Rows of Figures 2 and 4, in no order, whose test says the opposite of their dev."""
    rng, rows, stores = np.random.default_rng(3), [], []
    for name, dev in {"k16": 40.0, "base": 80.0, "k2": 60.0, "k128": 30.0}.items():
        split = {"perplexity": dev, "nats": rng.gamma(9, 5, 10).tolist(), "tokens": 300}
        other = {"perplexity": 100 - dev, "nats": rng.gamma(9, 5, 10).tolist(), "tokens": 700}
        rows.append({"name": name, "dev": split, "test": other, "datastore": None})
    for name, entries in {"half": 500, "all": 1000, "tenth": 100}.items():
        stores.append({"name": name, "dev": {}, "test": {}, "datastore": {"entries": entries}})
    made = {"figure4": rows, "figure2": [*stores, rows[1]]}
    return experiments.Study({name: {"experiment": name, "rows": found} for name, found in made.items()}, {})


def test_a_number_is_that_of_the_split_that_is_asked_for() -> None:
    study = splits_that_differ()
    assert [study.perplexity("figure4", "k2", split) for split in ("dev", "test")] == [60, 40]
    assert study.perplexity("figure4", "k2") == 60
    assert [study.gain("figure4", "k128", split=split) for split in ("dev", "test")] == [50, -50]
    assert study.gain("figure4", "k128", "k2", "test") == 40 - 70


def test_sizes_and_numbers_of_neighbors_are_in_the_order_of_numbers() -> None:
    study = splits_that_differ()
    assert experiments.neighbors(study) == [(2, 60), (16, 40), (128, 30)]  # of dev
    assert [(entries, row["name"]) for entries, row in experiments.sizes(study)] == [
        (100, "tenth"),
        (500, "half"),
        (1000, "all"),
    ]


@pytest.mark.parametrize(
    ("left", "message"),
    [(10, None), (9, "9 documents are too few"), (1, "1 document is too few"), (11, "different documents")],
)
def test_differences_need_ten_documents_and_the_same(left: int, message: str | None) -> None:
    study = splits_that_differ()
    rows = {row["name"]: row for row in study.experiments["figure4"]["rows"]}
    if left < 10:
        for row in rows.values():
            row["test"]["nats"] = row["test"]["nats"][:left]
    elif left > 10:
        rows["k2"]["test"]["nats"].append(5.0)
    if message is None:
        found = study.difference("figure4", {"k2": 1, "base": -1}, "test")
        expected = sum(rows["base"]["test"]["nats"]) - sum(rows["k2"]["test"]["nats"])
        assert found.value == pytest.approx(expected / 700) and found.low < found.value < found.high
    else:
        with pytest.raises(experiments.Missing, match=message):
            study.difference("figure4", {"k2": 1, "base": -1}, "test")
