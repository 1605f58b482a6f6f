"""Who is helped: groups and means against plain Python."""

import numpy as np
import pytest
from beyond_signals import signals

from knnlm.beyond import diagnose, diagnostics, infinigram
from knnlm.scores import stats

TOKENS = np.array([3, 1, 3, 3, 2, 1, 1, 2, 3])
DOCUMENTS = np.array([0, 4, 6])


def test_the_last_occurrence_is_looked_for_in_the_same_document() -> None:
    expected = []
    for i, token in enumerate(TOKENS.tolist()):
        begin = DOCUMENTS[i >= DOCUMENTS].max()
        before = [i - j for j in range(begin, i) if TOKENS[j] == token]
        expected.append(min(before, default=-1))
    assert diagnostics.last_seen(TOKENS, DOCUMENTS).tolist() == expected
    groups = dict(diagnostics.seen(signals(lm=np.ones(9), tokens=TOKENS, documents=DOCUMENTS)))
    assert groups["1–10"].tolist() == [e > 0 for e in expected] and groups["never"].tolist() == [
        e < 0 for e in expected
    ]


def test_places_count_from_the_beginning_of_the_document() -> None:
    split = signals(lm=np.ones(9), documents=DOCUMENTS)
    assert diagnostics.places(split).tolist() == [0, 1, 2, 3, 0, 1, 0, 1, 2]


def test_groups_have_no_gap_and_no_overlap() -> None:
    values = np.arange(30)
    groups = dict(diagnostics.between(values, (0, 1, 2, 11)))
    assert list(groups) == ["0", "1", "2–10", "11+"]
    assert np.sum(list(groups.values()), axis=0).tolist() == [1] * 30
    assert values[groups["2–10"]].tolist() == list(range(2, 11)) and values[groups["11+"]][0] == 11


def test_distances_are_in_groups_of_equal_size() -> None:
    near = np.random.default_rng(0).permutation(800).astype(float)
    split = signals(lm=np.ones(800), stored=np.column_stack([near + 5, near]))
    groups = dict(diagnostics.distance(split))
    assert [mask.sum() for mask in groups.values()] == [100] * 8
    assert sorted(near[next(iter(groups.values()))].tolist()) == list(range(100))


def test_match_lengths_are_those_of_the_infinigram() -> None:
    scored = infinigram.Scored(np.zeros(4, np.float32), np.array([0, 3, 12, 40]), np.ones(4, bool))
    groups = dict(diagnostics.match(signals(lm=np.ones(4), infinigram=scored)))
    assert [label for label, mask in groups.items() if mask.any()] == ["0", "3", "9–16", "17+"]
    assert not list(diagnostics.match(signals(lm=np.ones(4))))


def test_a_mean_and_its_interval_are_of_the_documents_that_have_such_tokens(monkeypatch) -> None:
    rng = np.random.default_rng(0)
    values, inside, documents = rng.standard_normal(400), rng.random(400) < 0.3, np.arange(0, 400, 10)
    inside[:30] = False  # three documents without
    found = diagnostics.measured(values, inside, documents)
    assert found["tokens"] == inside.sum() and found["value"] == pytest.approx(values[inside].mean())
    pieces = [(values[s : s + 10][inside[s : s + 10]]) for s in documents]
    sums, counts = (np.array([f(p) for p in pieces if len(p)]) for f in (np.sum, len))
    draws = np.random.default_rng(1).integers(0, len(sums), (4000, len(sums)))
    low, high = np.quantile(sums[draws].sum(1) / counts[draws].sum(1), [0.025, 0.975])
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=0.03)
    monkeypatch.setattr(stats, "FEWEST", len(sums) + 1)
    assert diagnostics.measured(values, inside, documents)["low"] is None


@pytest.mark.parametrize("temperature", [1.0, 5.0])
def test_the_likeliest_word_of_knn_and_whether_it_is_right(temperature: float) -> None:
    rng = np.random.default_rng(3)
    stored, values, tokens = rng.random((50, 12)) * 9, rng.integers(0, 5, (50, 12)), rng.integers(0, 5, 50)
    stored[rng.random((50, 12)) < 0.2] = np.inf
    stored[7] = np.inf  # a token without neighbors
    split = signals(lm=np.ones(50), stored=stored, values=values, tokens=tokens, temperature=temperature)
    probability, hit = diagnostics.top(split)
    for i in range(50):
        weights = np.exp(-split.stored[i].astype(float) / temperature)
        if i == 7:
            assert probability[i] == 0 and not hit[i]
            continue
        shares = np.array([weights[values[i] == word].sum() for word in range(5)]) / weights.sum()
        assert probability[i] == pytest.approx(shares.max(), rel=1e-5) and hit[i] == (shares.argmax() == tokens[i])


def one(label: str, value: float, low: float | None, high: float | None) -> dict:
    return {"label": label, "value": value, "low": low, "high": high}


def test_a_sentence_says_only_what_the_intervals_support() -> None:
    apart = [one("rare", 0.3, 0.2, 0.4), one("often", -0.1, -0.2, -0.05), one("few", 0.9, None, None)]
    assert diagnose.sentence(apart) == (
        "kNN adds most in the group rare (+0.300) and least in the group often (−0.100); it hurts in often."
    )
    assert "intervals of all groups overlap" in diagnose.sentence([one("a", 0.3, 0.0, 0.6), one("b", 0.2, 0.1, 0.3)])
    assert diagnose.sentence([one("a", 0.3, None, None)]) == "Too few documents for intervals."


def test_the_shares_of_tokens_and_documents_are_counted() -> None:
    gain = np.array([0.5, -0.1, -0.1, 0.2, -0.3, 0.0])
    found = diagnose.overall(gain, np.array([0, 3]))
    assert (found["tokens helped"], found["tokens hurt"]) == (pytest.approx(2 / 6), pytest.approx(3 / 6))
    assert found["documents helped"] == 0.5 and "33.3% of the tokens and 50.0% of the 2 documents" in found["sentence"]
