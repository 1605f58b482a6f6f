"""Generated texts: their measures by hand, and what `compare_texts` and its table make of a tiny study."""

import dataclasses
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import tinystudy
import torch

from knnlm.artifacts.files import UserError
from knnlm.beyond import compare_texts, texts
from knnlm.beyond.compare_texts import CompareTextsConfig
from knnlm.live import layout, sampling
from knnlm.live.retrieval import Retriever
from knnlm.models import evaluate
from knnlm.outputs import followup_tables
from knnlm.scores import interpolate, stats
from knnlm.settings import WindowSettings

SMALL = {"prompts": 5, "prompt_tokens": 6, "words": 12}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tinystudy.write(tmp_path_factory.mktemp("results") / "tiny")


@pytest.fixture(scope="module")
def retriever(study: Path) -> Retriever:
    return Retriever(layout.find(study))


def written(study: Path, out: Path, **settings) -> dict:
    compare_texts.main(CompareTextsConfig(study, out, **(SMALL | settings)))
    return json.loads(out.read_text())


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([1, 2, 3, 4, 1, 2, 3, 4], 4 / 8),
        ([1, 2, 3, 4, 9, 1, 2, 3, 4], 4 / 9),
        ([5, 5, 5, 5, 5, 5], 5 / 6),  # from the second token on, in one that overlaps the first
        ([1, 2, 3, 1, 2, 3, 1, 2], 5 / 8),
        ([1, 2, 3, 4, 5], 0),
        ([1, 1, 1], 0),  # too short for a 4-gram
    ],
)
def test_repetition_by_hand(tokens: list[int], expected: float) -> None:
    assert texts.repetition(np.array(tokens)) == pytest.approx(expected)


@pytest.mark.parametrize("order", [1, 2, 4])
def test_repetition_and_distinct_are_as_in_plain_python(order: int) -> None:
    for seed in range(10):
        tokens = np.random.default_rng(seed).integers(0, 3, 30).tolist()
        grams, inside = [tuple(tokens[i : i + order]) for i in range(31 - order)], set()
        for i, gram in enumerate(grams):
            if gram in grams[:i]:
                inside |= set(range(i, i + order))
        assert texts.repetition(np.array(tokens), order) == pytest.approx(len(inside) / 30)
        assert texts.distinct(np.array(tokens), order) == pytest.approx(len(set(grams)) / len(grams))


def test_measures_by_hand() -> None:
    near, lm = np.array([1, 2, 3, 4, 5.0, 6]), np.array([1, 1, 1, 1, 2.0, 2])  # quarters of 2, 2, 1 and 1 tokens
    assert texts.measures(np.array([1, 2, 1, 2, 1, 1]), near, lm) == pytest.approx(
        {
            "repetition": 0,
            "distinct1": 2 / 6,
            "distinct2": 3 / 5,
            "distinct3": 3 / 4,
            "distinct4": 1,
            "entropy1": 1.5,
            "entropy2": 3.5,
            "entropy3": 5,
            "entropy4": 6,
            "rise": 4.5 - 1,
        }
    )
    assert texts.entropy(np.array([0.5, 0.25, 0, 0.25])) == pytest.approx(1.5 * math.log(2))
    found = texts.nearer(np.array(3.0), np.array([1.0, 2.0, 5.0]), np.array([2.0, 2.0, 0.0]))
    assert found.tolist() == [1, 0, -1]


@pytest.mark.parametrize(
    ("count", "needed", "expected"),
    [(1, 5, [0]), (2, 5, [0, 4]), (3, 5, [0, 3, 4]), (40, 5, [0, 3, 4, 5]), (4, 6, [0, 4, 5]), (4, 99, [])],
)
def test_prompts_are_spread_evenly_over_documents_that_are_long_enough(count, needed, expected) -> None:
    documents = np.array([0, 9, 11, 12, 17, 25])  # of 9, 2, 1, 5, 8 and 6 tokens
    assert texts.chosen(documents, 31, count, needed).tolist() == expected


def test_intervals_are_of_prompts_drawn_again() -> None:
    values = np.random.default_rng(3).normal(size=(3, 12))
    drawn = np.random.default_rng(0)
    rows = np.concatenate([drawn.integers(0, 12, (200, 12)) for _ in range(5)])
    means = [[float(np.mean(one[row])) for one in values] for row in rows]
    found = compare_texts.compared(*({"entropy1": one.tolist(), "nats": [None] * 12} for one in values))
    assert set(found["differences"]) == set(found["nearer"]) == {"entropy1"}  # there is no second model
    held, lm, near = values.mean(1)
    for name, value, several in (
        ("differences", near - lm, [c - b for _, b, c in means]),
        ("nearer", abs(lm - held) - abs(near - held), [abs(b - a) - abs(c - a) for a, b, c in means]),
    ):
        one = found[name]["entropy1"]
        expected = [value, *np.quantile(several, [0.025, 0.975])]
        assert [one["value"], one["low"], one["high"]] == pytest.approx(expected, rel=1e-9), name
    low, high = stats.total(values[2] - values[1])
    assert stats.of_means(lambda a, b: b - a, *values[1:]) == pytest.approx((low / 12, high / 12))
    short = compare_texts.compared(*({"rise": one[:9].tolist()} for one in values))
    assert short["differences"]["rise"]["low"] is None


def test_entropies_and_nats_are_those_of_the_distributions_at_each_prefix(study: Path, retriever: Retriever) -> None:
    stream = np.load(study / "tokens/words/fox/test.npy").tolist()
    prompt, text = stream[:6], stream[6:18]
    found = compare_texts.along(retriever, prompt, text)
    assert found.tokens == text and len(found.near) == len(found.lm) == 12
    nats = []
    for place, (near, lm) in enumerate(zip(found.near, found.lm, strict=True)):
        expected = retriever.next(stream[: 6 + place])
        shares: dict[int, float] = {}
        for value, weight in zip(expected.nearest.values.tolist(), expected.nearest.weights, strict=True):
            shares[value] = shares.get(value, 0) + weight
        assert near == pytest.approx(-sum(p * math.log(p) for p in shares.values() if p > 0), rel=1e-4, abs=1e-6)
        assert lm == pytest.approx(-sum(p * math.log(p) for p in expected.lm.tolist()), rel=1e-4)
        nats.append(-math.log(expected.lm[text[place]]))
    assert compare_texts.surprise(retriever.lm, prompt, text) == pytest.approx(np.mean(nats), rel=1e-4)


def test_a_weight_of_zero_is_the_lm_alone(study: Path, retriever: Retriever) -> None:
    config, prompt = CompareTextsConfig(study, Path("texts.json"), **SMALL, seed=4), [5, 6, 7, 8]
    found = compare_texts.continued(config, retriever, prompt, 0.0, 2)
    draws, text = np.random.default_rng((4, 2)), list(prompt)
    for _ in range(12):
        likely = sampling.nucleus(retriever.next(text).lm, 0.9)
        text.append(int(draws.choice(len(likely), p=likely)))
    assert found.tokens == text[4:]


def test_texts_of_a_study(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = written(study, tmp_path / "texts.json")
    facts = {"prompts": 5, "prompt_tokens": 6, "words": 12, "top_p": 0.9, "seed": 1, "second": None}
    assert found["facts"] == facts | {"lmbda": layout.find(study).lmbda}
    assert [method["name"] for method in found["methods"]] == ["heldout", "lm", "knn-lm"]
    for method in found["methods"]:
        assert method["measures"]["nats"] == [None] * 5
        assert all(len(values) == 5 for values in method["measures"].values())
    stream, starts = (np.load(study / f"tokens/words/fox/test{end}.npy") for end in ("", ".documents"))
    for place, number in enumerate([0, 1, 3, 4, 6]):  # of eight documents
        text = stream[starts[number] + 6 : starts[number] + 18]
        assert found["methods"][0]["measures"]["distinct1"][place] == len(set(text.tolist())) / 12
    assert [one["title"] for one in found["examples"]] == ["Story <0>", "Story <1>", "Story <3>"]
    whole = (study / "corpora/fox/test.txt").read_text().splitlines()[0].split()
    first = found["examples"][0]
    for name, expected in (("prompt", whole[:6]), ("heldout", whole[6:18])):
        assert "".join(first[name].split()) == "".join(expected)
    means = [np.mean(method["measures"]["entropy2"]) for method in found["methods"]]
    assert found["differences"]["entropy2"]["value"] == pytest.approx(means[2] - means[1])
    monkeypatch.setattr(layout.KnnLM, "lmbda", 0.0)
    without = written(study, tmp_path / "without.json", examples=5)
    assert without["methods"][1] == found["methods"][1]
    assert without["methods"][2]["measures"] == without["methods"][1]["measures"]
    assert all(one["lm"] == one["knn-lm"] for one in without["examples"])
    assert all(one["value"] == 0 for one in without["differences"].values())


def test_one_seed_gives_the_same_file_and_another_other_texts(study: Path, tmp_path: Path) -> None:
    found = [written(study, tmp_path / f"{place}.json", seed=seed) for place, seed in enumerate((1, 1, 2))]
    assert (tmp_path / "0.json").read_bytes() == (tmp_path / "1.json").read_bytes()
    for one, other in zip(found[0]["examples"], found[2]["examples"], strict=True):
        assert one["prompt"] == other["prompt"] and one["heldout"] == other["heldout"]
        assert one["lm"] != other["lm"] and one["knn-lm"] != other["knn-lm"]
    texts_of_lm = [one["lm"] for one in found[0]["examples"]]
    assert len(set(texts_of_lm)) == len(texts_of_lm)


def test_another_seed_reads_the_texts_or_else_another_model_of_the_study(study: Path, tmp_path: Path) -> None:
    source = layout.find(study)
    assert compare_texts.second_model(source, "table1") is None
    paths = {**source.paths, "model": [source.model, tmp_path / "seed2", tmp_path / "seed3"]}
    seeds = dataclasses.replace(source, row=source.row | {"seeds": [1, 2, 3]}, paths=paths)
    assert compare_texts.second_model(seeds, "table1") == tmp_path / "seed2"
    moved = tinystudy.write(tmp_path / "two")
    tokens, other = moved / "tokens/words/fox", moved / "models/other/seed1"
    tinystudy.train(other, moved / "vocabs/words", tokens, 7)
    scores = {split: moved / f"logprobs/fox/{split}/lm/other/seed1" for split in ("dev", "test")}
    splits = tuple(tokens / f"{split}.npy" for split in scores)
    evaluate.main(evaluate.EvaluateConfig(other, splits, tuple(scores.values()), windows=tinystudy.WINDOWS))
    rows, documents = tinystudy.sheet(moved)
    base = json.loads(rows)[0] | {"name": "other", "model": "other", "model_dirs": [str(other)]}
    base["lm"] = {split: [str(path / "logprob.npy")] for split, path in scores.items()}
    out = moved / "experiments/table3.json"
    interpolate.main(interpolate.InterpolateConfig(json.dumps([base]), documents, out, '{"resamples": 10}'))
    found = written(moved, tmp_path / "texts.json", prompts=2)
    assert found["facts"]["second"] == "models/other/seed1" and "nats" in found["nearer"]
    assert all(math.isfinite(one) for method in found["methods"] for one in method["measures"]["nats"])


def test_texts_are_shortened_to_what_documents_and_windows_have_room_for(study: Path, monkeypatch) -> None:
    """Its documents have 41 tokens, its windows 64: 40 + 80 asked for become 14 + 27, a third and two thirds."""
    source = layout.find(study)
    asked = CompareTextsConfig(study, study, prompt_tokens=40, words=80, shorten=True)
    short = compare_texts.shortened(asked, source)
    assert (short.prompt_tokens, short.words) == (14, 27)
    assert compare_texts.shortened(CompareTextsConfig(study, study, prompt_tokens=9, words=8), source).words == 8
    monkeypatch.setattr(type(source), "windows", WindowSettings(new=8, context=4))
    short = compare_texts.shortened(asked, source)
    assert (short.prompt_tokens, short.words) == (4, 7)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"words": 3}, "--words 3: expected at least 4"),
        ({"top_p": 0.0}, "found --top-p 0.0"),
        ({"prompts": 0}, "--prompts 0"),
        ({"prompt_tokens": 40, "words": 24}, "expected at most 63 together: the study's windows have 64 tokens"),
        ({"prompt_tokens": 30, "words": 20}, r"test.npy: no document has 50 tokens, which --prompt-tokens 30"),
        ({"row": "base"}, "row base of table1 has no datastore"),
    ],
)
def test_what_cannot_be_compared_is_one_clear_line(study: Path, tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        written(study, tmp_path / "texts.json", **settings)
    assert len(str(caught.value).splitlines()) == 1 and not (tmp_path / "texts.json").exists()


PAPERS = {
    name: {"citation": "W.", "source": "p. 1", "finding": f"{name}'s"} for name in ("wang2023", "wang2023-entropy")
}
NAMES = ("heldout", "lm", "knn-lm")


def made_up(nearer: dict[str, tuple], rises: list[float], nats: bool = True) -> dict:
    """What compare_texts writes, with these intervals, and these rises of the kNN-LM's texts."""
    keys = [key for key in followup_tables.MEASURES if nats or key != "nats"]
    values = {name: {key: [float(place)] * len(rises) for key in keys} for place, name in enumerate(NAMES, 1)}
    values["knn-lm"]["rise"] = rises
    same = {"value": 0.5, "low": -1.0, "high": 1.0}
    found = {key: same | dict(zip(("low", "high"), nearer.get(key, (-1.0, 1.0)), strict=True)) for key in keys}
    methods = [{"name": name, "label": name, "measures": values[name]} for name in NAMES]
    return {"methods": methods, "differences": dict.fromkeys(keys, same), "nearer": found}


UP, DOWN = {"distinct1": (0.1, 0.9)}, {"repetition": (-0.9, -0.1)}
NONE = {key: (None, None) for key in followup_tables.QUALITY}


@pytest.mark.parametrize(
    ("nearer", "rises", "verdicts"),
    [
        ({}, [0.0, 1.0, -1.0] * 4, ("within noise", "within noise")),
        (UP, [1.0, 2.0] * 6, ("did not hold", "held")),
        (DOWN, [-1.0, -2.0] * 6, ("held", "did not hold")),
        (UP | DOWN, [1.0] * 9, ("held", "cannot be judged at this scale")),
        (NONE, [1.0] * 9, ("cannot be judged at this scale", "cannot be judged at this scale")),
    ],
)
def test_the_table_says_whether_the_published_findings_hold(nearer: dict, rises: list, verdicts: tuple) -> None:
    texts = made_up(nearer, rises)
    numbers, shown = followup_tables.written(texts)
    assert numbers["measure"].tolist() == list(followup_tables.MEASURES) and len(shown) == 11
    by_name = numbers.set_index("measure")["verdict"]
    assert (by_name["distinct1"] == "held") == ("distinct1" in nearer and nearer is not NONE)
    assert (by_name["repetition"] == "did not hold") == ("repetition" in nearer and nearer is not NONE)
    assert by_name[["entropy1", "rise"]].tolist() == ["", ""]
    assert shown["heldout"].tolist()[:2] == [f"{math.e:.1f}", "1.000"]  # nats as a perplexity
    assert shown["Difference"][1] == "+0.500 [−1.000, +1.000]"
    lines = [line for line in followup_tables.judged(numbers, texts, PAPERS).splitlines() if line.startswith("- ")]
    for line, verdict, name in zip(lines, verdicts, PAPERS, strict=True):
        assert line.startswith(f"- **{verdict}** – W.: {name}'s; p. 1. Here: ")
    assert ("nearer to held-out text than the LM's: different 1-grams" in lines[0]) == (
        "distinct1" in nearer and nearer is not NONE
    )


def test_without_a_second_model_its_line_has_dashes() -> None:
    numbers, shown = followup_tables.written(made_up({}, [1.0] * 12, nats=False))
    assert set(shown.iloc[0][1:]) == {"–"} and numbers["verdict"][0] == "" and np.isnan(float(numbers["lm"][0]))
    assert not set(itertools.chain(*shown.iloc[1:, 1:5].values)) & {"–", "nan"}


def test_a_window_read_at_once_is_as_step_by_step(retriever: Retriever) -> None:
    inputs = [retriever.lm.eos, 5, 6, 7, 9, 8]
    text, stepped = retriever.begin(), []
    with torch.inference_mode():
        stepped = [retriever.read(text, [token]) for token in inputs]
    found = list(retriever.along(inputs, 2))
    assert len(found) == 4
    for one, other in zip(found, stepped[2:], strict=True):
        np.testing.assert_allclose(one.lm, other.lm, rtol=1e-4, atol=1e-7)
        assert one.nearest.ids.tolist() == other.nearest.ids.tolist()
