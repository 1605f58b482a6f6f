"""Tables and figures of what came after the paper, from files as its verbs write them."""

import csv
import json

import numpy as np
import pandas as pd
import pytest

from knnlm.artifacts.files import UserError
from knnlm.outputs import followup_tables, followups, verdicts

TOKENS = [100] * 20


PAPERS = """
drozdov2022: {citation: Drozdov et al. 2022, source: arXiv 1, finding: 64 bins help}
he2021: {citation: He et al. 2021, source: arXiv 2, finding: a network helps}
he2021-skipping: {citation: He et al. 2021, source: arXiv 3, finding: half are enough}
"""


OTHER = {
    "output": "table2",
    "row": "knn",
    "label": "books",
    "gain": {"value": 0.25, "low": 0.2, "high": 0.3, "tokens": 900},
    "diagnostics": [{"name": "seen", "title": "Seen", "sentence": "New ones."}],
    "overall": {"tokens helped": 0.4, "documents helped": 0.9, "documents": 20},
}


def method(name, nats, paper=None, dev=20.0):
    """A method with so many nats for each document of a hundred tokens."""
    perplexity = float(np.exp(-np.sum(nats) / np.sum(TOKENS)))
    test = {"perplexity": perplexity, "nats": list(nats), "tokens": TOKENS}
    return {"name": name, "label": name.title(), "paper": paper, "dev": dev, "test": test, "facts": {}}


def nats(mean, spread=0.0, seed=0):
    return -100 * (mean + spread * np.random.default_rng(seed).standard_normal(20))


def write(tmp_path, methods, rows=True, **others):
    bins = [
        {"label": f"{i}–{i + 1}", "tokens": 500, "value": 0.1 * i, "low": None if few else 0.1 * i - 0.05, "high": None}
        | ({} if few else {"high": 0.1 * i + 0.05})
        | {"helped": 0.25}
        for i, few in enumerate((True, False))
    ]
    one = {
        "name": "frequency",
        "title": "Training frequency",
        "x": "occurrences",
        "y": "gain",
        "bins": bins,
        "sentence": "Rare ones.",
    }
    point = {"perplexity": 20.1, "nats": list(nats(3.0, 0.1)), "facts": {}}
    random = {"name": "random", "label": "at random", "paper": None}
    gap = {key: {"value": 0.1, "low": 0.05, "high": 0.15} for key in ("repetition", "rise")}
    written = [
        {"name": name, "label": name, "measures": {"repetition": [share], "rise": [share]}}
        for name, share in (("heldout", 0.0), ("lm", 0.1), ("knn-lm", 0.2))
    ]
    case = {"nprobe": 0, "build": 1.0, "bytes": 9.0, "recall": 1.0, "search": 5.0, "perplexity_index": 20.1}
    case |= {"nats": point["nats"]}
    files = {
        "mixing": {"methods": methods},
        "skipping": {
            "methods": [random | {"points": [{"skipped": 0.0} | point, {"skipped": 0.5} | point]}],
            "tokens": TOKENS,
        },
        "smaller": {"methods": [random | {"points": [{"bytes": 2e6} | point]}], "tokens": TOKENS},
        "frontier": {
            "cases": [
                case | {"factory": "Flat", "with_exact": 4.0, "perplexity_exact": 20.0},
                case | {"factory": "SQ8", "nprobe": 4, "with_exact": 9.0, "perplexity_exact": 20.5},
                case | {"factory": "SQ4", "with_exact": 8.0, "perplexity_exact": 20.5},
            ],
            **{"tokens": TOKENS, "queries": 2000, "entries": 9000, "k": 8},
        },
        "texts": {
            "facts": {"prompts": 1, "prompt_tokens": 4, "words": 8, "top_p": 0.9},
            **{"methods": written, "differences": gap, "nearer": gap},
        },
        "helped": {"diagnostics": [one, one | {"name": "other"}], "overall": {"sentence": "Half are helped."}}
        | ({"rows": [OTHER]} if rows else {}),
    }
    for name, content in (files | others).items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "published.yaml").write_text(PAPERS)
    paths = {name: tmp_path / f"{name}.json" for name in files}
    folders = {"tables": tmp_path / "tables", "figures": tmp_path / "figures"}
    for folder in folders.values():
        folder.mkdir(exist_ok=True)
    followups.main(followups.FollowupsConfig(**paths, **folders, published=tmp_path / "published.yaml", note="Tiny."))
    return {path.name: path for folder in folders.values() for path in folder.iterdir()}


def rows(path):
    return {row["name"]: row for row in csv.DictReader(path.open(encoding="utf-8"))}


def test_a_verdict_is_the_paired_difference_from_one_lambda(tmp_path):
    base, noise = nats(3.0, 0.5), 100 * 0.2 * np.random.default_rng(5).standard_normal(20)
    noise -= noise.mean()
    methods = [
        method("lm", nats(3.2, 0.5)),
        method("constant", base),
        method("better", base + 1, "drozdov2022"),  # 0.01 nats a token in every document
        method("worse", base - 1, "drozdov2022"),
        method("noisy", base + noise, "drozdov2022"),
        method("own", base + 1),
    ]
    found = rows(write(tmp_path, methods)["beyond.csv"])
    expected = {"better": verdicts.HELD, "worse": verdicts.FAILED, "noisy": verdicts.NOISE}
    assert {name: found[name]["verdict"] for name in expected} == expected
    assert found["constant"]["verdict"] == found["lm"]["verdict"] == found["own"]["verdict"] == ""
    assert float(found["better"]["gain"]) == pytest.approx(0.01) and float(found["worse"]["gain"]) == pytest.approx(
        -0.01
    )
    assert float(found["better"]["gain_low"]) == pytest.approx(0.01)
    low, value, high = (float(found["constant"][name]) for name in ("test_low", "test", "test_high"))
    assert low < value < high and value == pytest.approx(np.exp(-base.sum() / 2000), rel=1e-4)


def test_tables_name_the_paper_and_its_finding(tmp_path):
    written = write(
        tmp_path, [method("lm", nats(3.2)), method("constant", nats(3)), method("bins", nats(2.9), "drozdov2022")]
    )
    page = written["beyond.md"].read_text(encoding="utf-8")
    assert "Bins (Drozdov et al. 2022: 64 bins help; arXiv 1)." in page and "Tiny." in page
    helped = written["beyond-helped.md"].read_text(encoding="utf-8")
    assert "Half are helped." in helped and helped.count("Rare ones.") == 2
    assert "+0.000 |" in helped and "+0.100 [+0.050, +0.150]" in helped
    assert "50.0%" in written["beyond-skipping.md"].read_text(encoding="utf-8")
    assert {"beyond-skipping.png", "beyond-skipping.pdf", "beyond-helped.csv", "beyond.tex"} <= set(written)


def test_too_few_documents_have_no_interval_and_no_verdict(tmp_path, monkeypatch):
    monkeypatch.setattr(followups.stats, "FEWEST", 21)
    methods = [method("lm", nats(3.2)), method("constant", nats(3)), method("bins", nats(2.9), "drozdov2022")]
    found = rows(write(tmp_path, methods)["beyond.csv"])
    assert found["bins"]["gain"] == found["bins"]["test_low"] == "" and found["bins"]["verdict"] == verdicts.OPEN


def test_each_row_has_its_line(tmp_path):
    given = [method("lm", nats(3.2)), method("constant", nats(3))]
    page = write(tmp_path, given)["beyond-rows.md"].read_text(encoding="utf-8")
    line = "table2: books +0.250 [+0.200, +0.300] 40.0% 90.0% of 20 New ones."
    assert line in " ".join(page.replace("|", " ").split())
    page = write(tmp_path, given, rows=False)["beyond-rows.md"].read_text(encoding="utf-8")
    assert "this study has no other row" in page


def test_papers_of_the_same_authors_keep_their_own_findings(tmp_path):
    given = [method("lm", nats(3.2)), method("constant", nats(3)), method("network", nats(2.9), "he2021")]
    assert "a network helps" in write(tmp_path, given)["beyond.md"].read_text(encoding="utf-8")


@pytest.mark.parametrize(("key", "table"), [("skipped", "skipping"), ("bytes", "smaller")])
def test_a_point_is_compared_with_the_first_and_with_chance(tmp_path, key, table):
    """The verdict below the table is of the point that is nearest to half: 0.6, or the second size."""
    base, chance = nats(3.0, 0.5), nats(3.0, 0.5) - 2  # 0.02 nats a token below in every document
    saved = {"skipped": [0.1, 0.6, 0.95], "bytes": [8e6, 5e6, 1e6]}[key]
    points = [
        {key: saved[i], "perplexity": 20.0, "facts": {}, "random": chance.tolist(), "nats": (base + gain).tolist()}
        for i, gain in enumerate((2, -1, -3))
    ]
    first = {"name": "random", "label": "at random", "paper": None}
    first["points"] = [{key: 8e6 if key == "bytes" else 0.0, "perplexity": 20.0, "facts": {}, "nats": base.tolist()}]
    network = {"name": "network", "label": "network", "paper": "he2021-skipping", "points": points}
    given = {table: {"methods": [first, network], "tokens": TOKENS}}
    written = write(tmp_path, [method("lm", nats(3.2)), method("constant", nats(3))], **given)
    lines = list(csv.DictReader(written[f"beyond-{table}.csv"].open(encoding="utf-8")))[1:]
    assert [float(line["gain"]) for line in lines] == pytest.approx([0.02, -0.01, -0.03])
    assert [float(line["over_random"]) for line in lines] == pytest.approx([0.04, 0.01, -0.01])
    assert [line["verdict"] for line in lines] == [verdicts.HELD, verdicts.HELD, verdicts.FAILED]
    page = written[f"beyond-{table}.md"].read_text(encoding="utf-8")
    where = {"skipped": "searches left out 60.0%", "bytes": "size 5.0 MB"}[key]
    assert f"- **held** – network (He et al. 2021: half are enough; arXiv 3). Here: {where}, −0.0100 nats" in page


def test_the_best_indexes_are_marked(tmp_path):
    written = write(tmp_path, [method("lm", nats(3.2)), method("constant", nats(3))])
    lines = list(csv.DictReader(written["beyond-frontier.csv"].open(encoding="utf-8")))
    assert [(line["factory"], line["best"]) for line in lines] == [("Flat", "True"), ("SQ8", "True"), ("SQ4", "False")]
    page = written["beyond-frontier.md"].read_text(encoding="utf-8")
    assert "2,000 tokens of dev, k 8, 9,000 entries" in page
    assert [line.split("|")[2].strip() for line in page.splitlines()[-3:]] == ["–", "4", "–"]


def test_a_file_without_the_constant_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"mixing.json: found methods lm, expected constant too"):
        write(tmp_path, [method("lm", nats(3.2))])


def test_the_same_files_give_the_same_bytes(tmp_path):
    methods = [method("lm", nats(3.2)), method("constant", nats(3, 0.3))]
    first = {name: path.read_bytes() for name, path in write(tmp_path, methods).items()}
    assert {name: path.read_bytes() for name, path in write(tmp_path, methods).items()} == first


@pytest.mark.parametrize("fewest", [10, 21])
def test_every_table_says_what_brackets_are_and_where_no_interval_can_be_drawn(tmp_path, monkeypatch, fewest):
    monkeypatch.setattr(followups.stats, "FEWEST", fewest)  # there are 20 documents
    monkeypatch.setattr(followups.figures, "save", lambda figure, *_: followups.figures.plt.close(figure))
    methods = [method("lm", nats(3.2)), method("constant", nats(3))]
    for name, path in write(tmp_path, methods).items():
        if name.endswith(".md"):
            note = path.read_text(encoding="utf-8").split("\n\n")[1]
            assert "in brackets 95% bootstrap intervals over" in note, name
            lacking = name == "beyond-helped.md" or (fewest > 20 and name in ("beyond.md", "beyond-skipping.md"))
            assert ("no interval can be drawn" in note) >= lacking, name
            assert fewest > 20 or lacking or "no interval can be drawn" not in note, name


@pytest.mark.parametrize(("low", "expected"), [([1.0, 2.0], False), ([1.0, None], True), ([None, None], True)])
def test_a_number_lacks_an_interval_where_it_is_there_and_the_bound_is_not(low, expected):
    for value, bound in (("test", "test_low"), ("value", "low")):
        assert followup_tables.without_interval(pd.DataFrame({value: [2.0, 3.0], bound: low})) == expected
        assert not followup_tables.without_interval(pd.DataFrame({value: [None, None], bound: [None, None]}))


@pytest.mark.parametrize("name", ["skipping", "frontier"])
def test_whiskers_are_the_differences_that_the_table_has_around_each_perplexity(tmp_path, monkeypatch, name):
    drawn = {}

    def keep(figure, numbers, out):
        drawn[out.name] = figure, numbers
        followups.figures.plt.close(figure)

    monkeypatch.setattr(followups.figures, "save", keep)
    base = nats(3.0, 0.5)
    points = [{"skipped": 0.5, "perplexity": 20.0, "facts": {}, "nats": (base + nats(0.1, 0.3, 4)).tolist()}]
    first = {"skipped": 0.0, "perplexity": 19.0, "facts": {}, "nats": base.tolist()}
    method_of = {"name": "random", "label": "at random", "paper": None, "points": [first, *points]}
    case = {"nprobe": 0, "build": 1.0, "bytes": 9.0, "recall": 1.0, "search": 5.0, "perplexity_index": 20.1}
    cases = [
        case | {"factory": factory, "with_exact": rate, "perplexity_exact": one["perplexity"], "nats": one["nats"]}
        for factory, rate, one in (("Flat", 4.0, first), ("SQ8", 9.0, points[0]))
    ]
    frontier = {"cases": cases, "tokens": TOKENS, "queries": 2048, "entries": 9000, "k": 8}
    write(
        tmp_path,
        [method("lm", nats(3.2)), method("constant", nats(3))],
        skipping={"methods": [method_of], "tokens": TOKENS},
        frontier=frontier,
    )
    figure, _ = drawn[f"beyond-{name}"]
    (axes,) = figure.axes
    gains = nats(0.1, 0.3, 4)
    resampled = np.random.default_rng(3).integers(0, 20, (4000, 20))
    spread = np.quantile((gains[resampled].sum(1) - gains.sum()) / 2000, [0.975, 0.025])
    segments = [part[:, 1] for lines in axes.collections for part in lines.get_segments()]
    (whisker,) = (part for part in segments if part[0] < part[1])
    assert np.log(whisker / 20) == pytest.approx(-spread, rel=0.15)
    assert [part.tolist() for part in segments if part[0] == part[1]] == [[19, 19]]
    assert "95% intervals of the difference from" in figure.get_supxlabel()
    assert name != "frontier" or axes.get_ylabel() == "perplexity, 2,048 tokens of dev"


def test_a_figure_without_intervals_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(followups.stats, "FEWEST", 21)
    said = {}
    monkeypatch.setattr(
        followups.figures, "save", lambda figure, _, out: said.update({out.name: figure.get_supxlabel()})
    )
    write(tmp_path, [method("lm", nats(3.2)), method("constant", nats(3))])
    followups.figures.plt.close("all")
    assert {said[f"beyond-{name}"] for name in ("skipping", "smaller", "frontier")} == {
        "too few documents for intervals (at least 21)"
    }
    assert "hollow" in said["beyond-helped"]


@pytest.mark.parametrize("table", ["beyond", "beyond-skipping", "beyond-smaller", "beyond-frontier", "beyond-rows"])
def test_every_note_says_which_seed_is_taken(tmp_path, table):
    written = write(tmp_path, [method("lm", nats(3.2)), method("constant", nats(3))])
    assert "Of a row with several seeds the first one is taken." in written[f"{table}.md"].read_text(encoding="utf-8")
