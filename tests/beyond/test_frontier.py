"""The frontier of indexes against exact search in NumPy."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tinystudy

from knnlm.artifacts import npy
from knnlm.beyond import frontier, mixers, shrinking
from knnlm.beyond import signals as loaded
from knnlm.live import layout
from knnlm.outputs import followup_tables


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tinystudy.write(tmp_path_factory.mktemp("results") / "tiny")


@pytest.mark.parametrize(("entries", "temperature"), [(300, 1.0), (2_000_000, 7.0)])
def test_recall_and_perplexity_are_those_of_a_search_by_hand(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entries: int, temperature: float
) -> None:
    load = loaded.load
    monkeypatch.setattr(frontier.signals, "load", lambda *given: replace(load(*given), temperature=temperature))
    chosen = {"factories": ("IVF8,PQ8x4fs", "IVF8,Flat"), "nprobes": (1, 8, 64), "queries": 50, "entries": entries}
    frontier.main(frontier.FrontierConfig(study, tmp_path / "frontier.json", **chosen))
    found = json.loads((tmp_path / "frontier.json").read_text())
    source = layout.find(study)
    dev = loaded.load(source, "dev")
    keys, values = (
        np.concatenate([npy.open_array(shard / f"{name}.npy") for shard in source.keys]) for name in ("keys", "values")
    )
    rows = frontier.spread(len(values), entries)
    assert found["entries"] == len(rows) == min(entries, len(values)) and found["queries"] == 50 and found["k"] == 16
    asked = frontier.spread(len(dev.tokens), 50)
    assert (asked[0], asked[-1], len(asked)) == (0, len(dev.tokens) - 1, 50)
    queries = np.asarray(mixers.context_vectors(dev), np.float64)[asked]
    distances = ((queries[:, None] - keys[rows].astype(np.float64)[None]) ** 2).sum(2)
    order = np.argsort(distances, axis=1, kind="stable")[:, :16]
    near = np.take_along_axis(distances, order, 1)
    shares = np.exp((near[:, :1] - near) / temperature)
    p = (shares * (values[rows[order]] == dev.tokens[asked][:, None])).sum(1) / shares.sum(1)
    lm = np.exp(dev.lm[asked].astype(np.float64))
    best = min(np.exp(-np.log(w * p + (1 - w) * lm).mean()) for w in np.linspace(0, 0.999, 5000))
    flat, *coded = found["cases"]
    assert flat["perplexity_exact"] == pytest.approx(best, rel=1e-3)
    assert flat["perplexity_index"] == pytest.approx(best, rel=1e-3) and flat["recall"] == 1
    assert [(one["factory"], one["nprobe"]) for one in coded] == [
        (factory, nprobe) for factory in chosen["factories"] for nprobe in (1, 8)
    ]
    recall = {(one["factory"], one["nprobe"]): one["recall"] for one in coded}
    assert recall["IVF8,Flat", 8] == 1 > recall["IVF8,Flat", 1] and recall["IVF8,PQ8x4fs", 8] < 1
    assert coded[-1]["perplexity_exact"] == pytest.approx(best, rel=1e-3)
    assert [flat["bytes"], coded[0]["bytes"]] == [64 + 8, 4 + 8]
    of_document = np.searchsorted(dev.documents, asked, side="right") - 1
    assert found["tokens"] == [int((of_document == document).sum()) for document in range(len(dev.documents))]
    for one in found["cases"]:
        assert np.exp(-np.sum(one["nats"]) / 50) == pytest.approx(one["perplexity_exact"], rel=1e-6)


def test_what_no_other_case_beats_is_best() -> None:
    points = [(10, 20.0), (100, 21.0), (400, 21.0), (400, 22.0), (500, 20.5)]
    cases = [{"with_exact": rate, "perplexity_exact": loss} for rate, loss in points]
    assert followup_tables.pareto(cases) == [True, False, False, False, True]
    assert followup_tables.pareto(cases[:3]) == [True, False, True]


def test_lists_are_the_rows_or_near_the_root(study: Path) -> None:
    store = shrinking.datastore(loaded.load(layout.find(study), "dev"))
    assert [shrinking.lists_for(store, entries) for entries in (2, 2000)] == [2, 4]
    flat = replace(store, settings=store.settings.model_copy(update={"factory": "Flat"}))
    assert [shrinking.lists_for(flat, entries) for entries in (2, 1000, 120_000, 2_000_000)] == [1, 32, 256, 1024]


def test_default_indexes_fit_the_datastore() -> None:
    assert frontier.factories(1_700_000, 128, 1024) == [
        f"IVF1024,{code}" for code in ("PQ64x8", "PQ64x4fs", "PQ64x4fsr", "PQ32x4fs", "SQ8", "RaBitQ")
    ]
    flat = frontier.factories(120_000, 576, 256)
    assert flat[0] == "IVF256,PQ64x8" and flat[-1] == "HNSW16"
    assert frontier.factories(100, 16, 4) == [
        *(f"IVF4,{code}" for code in ("PQ8x4fs", "PQ8x4fsr", "PQ4x4fs", "SQ8", "RaBitQ")),
        "HNSW16",
    ]
