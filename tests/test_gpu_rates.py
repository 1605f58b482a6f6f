"""`make test-gpu` in tiny sizes: every part runs on the CPU, and its results have the names that plans expect."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from conftest import ROOT

from benchmarks.gpu import __main__ as runner
from benchmarks.gpu import indexes, part, written
from knnlm.datastores import ann
from knnlm.settings import KEYTYPES

sys.path.insert(0, str(ROOT / "workflow"))


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """The folder of a whole run in tiny sizes."""
    folder = tmp_path_factory.mktemp("rates")
    assert runner.measure(folder, reduced=True) == []
    return folder


@pytest.fixture(scope="module")
def parts(out):
    measured = json.loads((out / "measured.json").read_text())
    assert measured["reduced"] is True
    return measured["parts"]


def cases(rows, *names):
    return [tuple(row.get(name) for name in names) for row in rows]


def test_every_part_ran(parts):
    assert set(parts) == set(runner.PARTS)
    assert all(found["seconds"] > 0 for found in parts.values())
    assert sum(parts["tests"]["counts"].values()) > 40


def test_training_is_measured_in_three_precisions_and_two_batch_sizes(parts):
    rows = parts["training"]["updates"]
    expected = [(precision, batch) for precision in part.PRECISIONS for batch in part.reduced().batches]
    assert cases(rows, "precision", "tokens_per_batch") == expected
    for row in rows:
        if row["precision"] == "float16" and not torch.cuda.is_available():
            assert "needs a GPU" in row["note"]
        else:
            assert row["tokens_per_second"] > 0 and row["updates"] >= 1


def test_extraction_is_measured_with_one_and_with_eleven_key_types(parts):
    found = parts["extraction"]
    expected = [(precision, count) for precision in part.PRECISIONS for count in (1, 11)]
    assert cases(found["passes"], "precision", "key_types") == expected
    halves = [(precision, keytype) for precision in part.PRECISIONS[:2] for keytype in KEYTYPES]
    assert cases(found["changes_of_keys"], "precision", "key_type") == halves
    assert all(0 < row["rms_change"] < 0.02 * row["rms_of_key"] for row in found["changes_of_keys"])
    assert all(0 < row["largest_change_nats"] < 0.2 for row in found["changes_of_log_probabilities"])


def test_a_pretrained_models_forward_pass_is_measured(parts):
    rows = parts["pretrained"]["passes"]
    assert cases(rows, "precision") == [(precision,) for precision in part.PRECISIONS]
    assert all(row["operations_per_second"] > 0 for row in rows)


def test_indexes_are_trained_filled_and_searched(parts):
    found = parts["indexing"]
    assert cases(found["training"], "seed") == [(1,), (2,), (1,)]
    assert found["seeds_differ_by"] > found["same_seed_differs_by"]
    sides = [(side, k) for k in (1152, 2048) for side in ("GPU", "CPU")]
    assert cases(found["searching"], "on", "k") == sides
    assert all(row["shared_neighbors"] > 0.95 for row in found["gpu_beside_cpu"])
    assert all(0.3 < row["recall"] <= 1 for row in found["searching"])
    if not ann.gpus(needed=False):
        assert "FAISS has no GPU here" in found["note"] and "make FAISS=gpu" in found["note"]


def test_reranking_streaming_and_resuming(parts):
    assert cases(parts["reranking"]["rates"], "on") == [("GPU",), ("CPU",)]
    assert parts["reranking"]["largest_relative_difference"] < 1e-4
    assert parts["streaming"]["steps"][-1]["keys"] >= part.reduced().streamed
    assert parts["resuming"]["largest_difference_of_a_weight"] == 0


def test_the_rates_and_the_page_are_written(out, parts):
    rates = json.loads((out / "rates.json").read_text())
    assert set(rates) == {"gpu", "core"} and set(rates["core"]) == {"matrix", "gather"}
    assert set(rates["gpu"]["forward"]) == set(part.PRECISIONS)
    assert set(rates["gpu"]["train"]) >= {"bfloat16", "float32"}
    page = (out / "rates.md").read_text()
    assert "nothing about speed" in page and "gpu.forward.bfloat16" in page
    assert all(f"## {name.capitalize()}" in page for name in parts)


def test_the_plan_takes_the_rates(out, monkeypatch):
    import rates

    monkeypatch.setenv(rates.VARIABLE, str(out / "rates.json"))
    given = json.loads((out / "rates.json").read_text())
    loaded = rates.load()
    assert loaded["gpu"]["forward"] == given["gpu"]["forward"]
    assert loaded["core"]["gather"] == given["core"]["gather"] and loaded["core"]["scan"] > 0


@pytest.mark.parametrize("words", [True, False])
def test_operations_are_counted_as_in_the_plan(words):
    import resources

    model = part.full().architecture
    models = {"wikitext": {"vocab": "words"}}
    study = SimpleNamespace(architecture=lambda _: model, pretrained=lambda _: None, study={"models": models})
    assert resources.Sizes.flops(study, "wikitext", 3072, words) == part.operations(model, 3072, words)


def rows_for_rates(**found):
    return written.rates({"training": {}, "extraction": {}, "indexing": {}, "reranking": {}} | found)


def test_only_what_was_measured_becomes_a_rate():
    updates = [
        {"precision": "bfloat16", "tokens_per_batch": 3072, "operations_per_second": 1e14},
        {"precision": "bfloat16", "tokens_per_batch": 9216, "operations_per_second": 2e14},
        {"precision": "float32", "tokens_per_batch": 9216, "note": "out of memory"},
    ]
    assert rows_for_rates(training={"updates": updates}) == {"gpu": {"train": {"bfloat16": 2e14}}}
    adding = [{"on": "CPU", "operations_per_second": 1e9, "operations_per_second_and_core": 5e8}]
    assert rows_for_rates(indexing={"adding": adding}) == {"core": {"matrix": 5e8}}
    assert rows_for_rates() == {}


def test_the_full_sizes_are_the_papers():
    sizes = part.full()
    assert (sizes.architecture.layers, sizes.architecture.dim, sizes.architecture.vocab_size) == (16, 1024, 267_744)
    assert sizes.architecture.adaptive_cutoffs == (20_000, 60_000)
    assert all(sizes.recipe.tokens_per_update % batch == 0 for batch in sizes.batches)
    assert sizes.batch_tokens >= 2 * sizes.windows.length and sizes.index.parsed.lists == 4096
    assert sizes.index.sample >= sizes.index.parsed.centroids and sizes.streamed == 2_000_000


def gpu_of(monkeypatch, total=80e9):
    """PyTorch as with a GPU whose memory counts the calls that reset it."""
    resets = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: resets.append(1))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3e9 / len(resets))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (total / 2, total))
    return resets


def failing(error):
    def measure():
        raise error

    return measure


def test_a_case_without_enough_memory_is_noted_and_the_next_goes_on(tmp_path, monkeypatch):
    resets = gpu_of(monkeypatch)
    results = part.Results(tmp_path / "part.json")
    assert results.attempt("rows", {"batch": 2}, failing(torch.OutOfMemoryError("CUDA out of memory. Tried …"))) is None
    assert results.attempt("rows", {"batch": 1}, lambda: {"rate": 5}) == {"rate": 5, "peak_memory_gb": 1.5}
    found = json.loads((tmp_path / "part.json").read_text())
    assert found == {"rows": [{"batch": 2, "note": "out of memory"}, {"batch": 1, "rate": 5, "peak_memory_gb": 1.5}]}
    assert len(resets) == 2


def test_a_case_that_fails_is_a_failure_and_the_next_goes_on(tmp_path):
    results = part.Results(tmp_path / "part.json")
    assert results.attempt("rows", {"on": "GPU"}, failing(RuntimeError("CUDA error: device-side assert"))) is None
    results.attempt("rows", {"on": "CPU"}, lambda: {"rate": 5})
    found = json.loads((tmp_path / "part.json").read_text())
    assert found["failures"] == [{"what": "GPU: CUDA error: device-side assert"}] and found["rows"][1]["rate"] == 5


def test_the_gpus_side_of_an_index_becomes_a_rate(tmp_path, monkeypatch):
    """With copies on the CPU that say that they are on a GPU."""
    copies = []

    def copied(index, *_, **__):
        copies.append(ann.faiss.clone_index(index))
        return copies[-1]

    def trained(index, **_):
        return index if not index.is_trained else copied(index)

    monkeypatch.setattr(ann, "gpus", lambda needed=True: 1)
    monkeypatch.setattr(ann, "on_gpu", trained)
    monkeypatch.setattr(ann, "on_gpus", copied)
    monkeypatch.setattr(ann, "is_on_gpu", lambda index: any(index is copy for copy in copies))
    monkeypatch.setattr(ann, "off_gpu", lambda index: ann.faiss.clone_index(index))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    results = part.Results(tmp_path / "part.json")
    indexes.indexing(replace(part.reduced(), seconds=0.01), results, tmp_path)
    found = results.found
    assert "note" not in found and "failures" not in found
    assert cases(found["adding"], "on", "keys") == [("CPU", 3000), ("GPU", 4000)]
    assert cases(found["searching"], "on", "ran_on") == [("GPU", "GPU"), ("CPU", "CPU")] * 2
    assert set(rows_for_rates(indexing=found)["gpu"]) == {"index"}


def test_indexes_of_two_seeds_that_are_the_same_are_a_failure(tmp_path, monkeypatch):
    train = ann.train
    monkeypatch.setattr(ann, "train", lambda keys, chosen: train(keys, chosen.model_copy(update={"seed": 1})))
    results = part.Results(tmp_path / "part.json")
    indexes.train_with_seeds(part.reduced(), results, part.keys(2000, 128, seed=1))
    assert results.found["failures"] == [{"what": "indexes trained with two seeds are the same"}]


@pytest.mark.parametrize(
    ("name", "limit", "reason"), [("machine", 0.5, "not finished after"), ("no such part", 60, "ended with status 2")]
)
def test_a_part_that_hangs_or_crashes_is_reported(name, limit, reason, tmp_path):
    found = runner.run(name, limit, tmp_path, tmp_path, True)
    assert reason in found["failures"][0]["what"] and found["seconds"] < 60


def test_a_part_is_ended_with_all_that_it_started():
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(300)'])"
    child = subprocess.Popen([sys.executable, "-c", code])
    while not (started := psutil.Process(child.pid).children()):
        time.sleep(0.01)
    runner.end(child)
    assert child.returncode
    while started[0].is_running() and started[0].status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)


def test_one_gpu_is_used_and_no_workflow_asked_for_it(monkeypatch):
    monkeypatch.setenv("KNNLM_GPUS", "4")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    environment = runner.environment()
    assert environment["CUDA_VISIBLE_DEVICES"] == "3" and "KNNLM_GPUS" not in environment
    assert int(environment["OMP_NUM_THREADS"]) >= 1


@pytest.mark.parametrize(
    ("machine", "is_reduced", "expected"),
    [
        ({"gpu": None, "torch": "2.13.0, CPU build", "driver": "command not found"}, True, "PyTorch sees no GPU"),
        ({"gpu": "A100", "driver": "A100, 580", "faiss": "1.15.1", "faiss_gpus": 0}, False, "make FAISS=gpu"),
        ({"gpu": "A100", "driver": "A100, 580", "faiss": "1.15.1", "faiss_gpus": 1}, False, "A100"),
    ],
)
def test_what_is_missing_is_announced(machine, is_reduced, expected, capsys):
    assert runner.announced(machine) is is_reduced
    said = capsys.readouterr().out
    assert expected in said and ("FAISS" in said) == (machine.get("faiss_gpus") == 0)


def test_true_neighbors_are_found():
    keys = part.keys(300, 16, seed=1)
    found = indexes.nearest(keys, keys[:5].astype(np.float32), 3)
    distances = np.square(keys[:5, None].astype(np.float32) - keys[None].astype(np.float32)).sum(2)
    np.testing.assert_array_equal(found, np.argsort(distances, axis=1)[:, :3])
