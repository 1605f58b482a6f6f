"""Tables and figures of what came after the paper, from files as its verbs write them."""

import csv
import json

import numpy as np
import pytest

from knnlm.artifacts.files import UserError
from knnlm.outputs import followups, verdicts

TOKENS = [100] * 20


def method(name, nats, paper=None, dev=20.0):
    """A method with so many nats for each document of a hundred tokens."""
    perplexity = float(np.exp(-np.sum(nats) / np.sum(TOKENS)))
    test = {"perplexity": perplexity, "nats": list(nats), "tokens": TOKENS}
    return {"name": name, "label": name.title(), "paper": paper, "dev": dev, "test": test, "facts": {}}


def nats(mean, spread=0.0, seed=0):
    return -100 * (mean + spread * np.random.default_rng(seed).standard_normal(20))


def write(tmp_path, methods, **others):
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
    files = {
        "mixing": {"methods": methods},
        "skipping": {
            "methods": [
                {
                    "name": "random",
                    "label": "at random",
                    "paper": None,
                    "points": [{"skipped": 0.0} | point, {"skipped": 0.5} | point],
                }
            ],
            "tokens": TOKENS,
        },
        "helped": {"diagnostics": [one, one | {"name": "other"}], "overall": {"sentence": "Half are helped."}},
    }
    for name, content in (files | others).items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "published.yaml").write_text("drozdov2022: {citation: Drozdov et al. 2022, finding: 64 bins help}\n")
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
    assert "Bins (Drozdov et al. 2022): 64 bins help." in page and "Tiny." in page
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


def test_a_file_without_the_constant_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"mixing.json: found methods lm, expected constant too"):
        write(tmp_path, [method("lm", nats(3.2))])


def test_the_same_files_give_the_same_bytes(tmp_path):
    methods = [method("lm", nats(3.2)), method("constant", nats(3, 0.3))]
    first = {name: path.read_bytes() for name, path in write(tmp_path, methods).items()}
    assert {name: path.read_bytes() for name, path in write(tmp_path, methods).items()} == first
