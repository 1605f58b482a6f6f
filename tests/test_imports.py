"""What each verb loads before it begins: libraries that take long to import are loaded by verbs that need them only."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

from knnlm.__main__ import verbs

SLOW = ("faiss", "matplotlib", "numba", "pandas", "scipy.stats", "torch", "transformers")
ALLOWED = {
    ("artifacts", "corpora"): (),
    ("models",): ("torch",),
    ("datastores",): ("faiss", "numba"),
    ("scores",): ("numba",),
    ("live",): ("faiss", "numba", "torch"),
    ("beyond",): ("numba",),
    ("outputs",): (),
}
FURTHER = {
    "adapt": ("torch",),
    "compare_texts": ("faiss", "torch"),
    "extract": ("torch",),
    "shrink": ("faiss",),
    "frontier": ("faiss",),
    "followups": ("matplotlib", "pandas"),
    "import_datastore": ("torch",),
    "examples": ("numba",),
    "explore": ("numba", "torch"),
    "illustrate": ("faiss", "numba", "torch"),
    "plot": ("matplotlib", "pandas"),
    "tabulate": ("pandas",),
}
NONE = {
    "add": ("numba",),
    "train_index": ("numba",),
    "merge": ("faiss",),
    "rerank": ("faiss",),
    "score_ngram": ("numba",),
}
LOADED = """
import importlib, json, os, sys
import knnlm.artifacts.cli
for module in json.loads(sys.argv[1]):
    if not (child := os.fork()):
        importlib.import_module(module)
        print(module, *(name for name in json.loads(sys.argv[2]) if name in sys.modules), flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, module
"""


@pytest.fixture(scope="module")
def loaded():
    """The slow modules that each verb's module loads, each imported in a process of its own."""
    modules = [f"knnlm.{room}.{verb}" for verb, (room, _) in verbs().items()]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    asked = [sys.executable, "-c", LOADED, json.dumps(modules), json.dumps(SLOW)]
    run = subprocess.run(asked, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return {module.rpartition(".")[2]: set(names) for module, *names in map(str.split, run.stdout.splitlines())}


@pytest.mark.parametrize(("verb", "room"), [(verb, room) for verb, (room, _) in verbs().items()])
def test_a_verb_loads_no_slow_library_that_it_does_without(loaded, verb, room):
    allowed = {name for rooms, names in ALLOWED.items() if room in rooms for name in names}
    assert loaded[verb] <= (allowed | set(FURTHER.get(verb, ()))) - set(NONE.get(verb, ())), verb


def test_a_job_has_the_threads_of_its_rule(monkeypatch):
    """What the workflow hands down reaches torch, FAISS, numba and Rust's pool, whichever library counts first."""
    code = (
        "import os, knnlm, numba, torch, faiss; print(numba.get_num_threads(), torch.get_num_threads(),"
        " faiss.omp_get_max_threads(), os.environ['RAYON_NUM_THREADS'])"
    )
    for name in ("NUMBA_NUM_THREADS", "RAYON_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for threads in ("1", "2"):
        environment = os.environ | {"OMP_NUM_THREADS": threads}
        run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert run.stdout.split() == [threads] * 4, run.stderr
