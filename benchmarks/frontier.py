"""Measure indexes on the real keys of a study: bytes a key, recall, queries a second and dev perplexity.

    python -m benchmarks.frontier results/mini --out results/frontier

Each case is a factory string and a number of lists visited. A case that the output folder has is not measured again.
Times are the processor's, of one thread: on a machine without other work, the wall time.
"""

import argparse
import csv
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import faiss
import numpy as np

from benchmarks.__main__ import machine
from benchmarks.harness import environment
from knnlm.artifacts import files
from knnlm.datastores import ann, exact
from knnlm.datastores.train_index import sample
from knnlm.scores import knn, mixture
from knnlm.settings import IndexSettings

ONE_THREAD = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
PAPER = "IVF1024,PQ64x8", 32  # the paper's index at the scale of the mini study
NPROBES = (1, 2, 4, 8, 16, 32)
CODES = ("PQ64x8", "PQ32x8", "PQ64x4fs", "PQ64x4fsr", "PQ32x4fs", "PQ32x4fsr", "SQ8", "SQfp16")
CODES += ("RaBitQ", "RaBitQfs", "RaBitQfs2", "RaBitQfs4")
FACTORIES = ("Flat", *(f"IVF1024,{code}" for code in CODES), "IVF2048,PQ64x4fs", "IVF4096,PQ64x4fs", "RaBitQ", "HNSW16")
COLUMNS = ("index", "nprobe", "bytes a key", "build, s", "recall", "queries/s", "with exact distances")
COLUMNS += ("× the paper's", "perplexity, exact", "λ", "perplexity, index's", "λ", "")


class Study(NamedTuple):
    """What a study's datastore and dev give."""

    keys: np.ndarray  # [n, D] float16
    values: np.ndarray  # [n]
    ids: np.ndarray  # [n]
    queries: np.ndarray  # [Q, D] float32
    targets: np.ndarray  # [Q]
    lm: np.ndarray  # [Q] nats


@dataclass(frozen=True)
class Measured:
    """One case, for a table."""

    factory: str
    nprobe: int
    key_bytes: float
    """of the index's file"""
    build: float
    """seconds to train the index and add all keys"""
    recall: float
    """share of the exact k nearest that were found"""
    search: float
    """queries a second, without exact distances"""
    with_exact: float
    """queries a second, with exact distances"""
    perplexity: dict[str, float]
    """of dev's targets, by the distances that weigh the neighbors: exact, or the index's (quantized)"""
    lmbda: dict[str, float]
    """the best weight of each"""

    @property
    def name(self) -> tuple[str, int]:
        return self.factory, self.nprobe


def load(results: Path, model: str, corpus: str, keytype: str, queries: int) -> Study:
    """The datastore of a model's first seed in memory, and queries from all over dev."""

    def folder(split: str) -> Path:
        return results / "keys" / model / "seed1" / corpus / split / keytype / "shard0of1"

    store, dev = folder("train"), folder("dev")
    keys, values, ids = (np.load(store / f"{name}.npy") for name in ("keys", "values", "ids"))
    asked, targets = (np.load(dev / f"{name}.npy") for name in ("keys", "values"))
    lm = np.load(results / "logprobs" / corpus / "dev/lm" / model / "seed1/logprob.npy")
    chosen = np.linspace(0, len(targets) - 1, min(queries, len(targets))).astype(int)
    return Study(keys, values, ids, asked[chosen].astype(np.float32), targets[chosen], lm[chosen])


def timed(function: Callable, *arguments: object) -> tuple[float, object]:
    began = time.process_time()
    result = function(*arguments)
    return time.process_time() - began, result


def build(study: Study, settings: IndexSettings) -> faiss.Index:
    index = ann.train(sample([study.keys], settings.sample, settings.seed), settings)
    ann.add(index, study.keys)
    return index


def measure(study: Study, settings: IndexSettings, k: int, out: Path) -> Measured:
    """One case; its index and the exact neighbors are kept in the output folder."""
    path, took = out / f"{settings.factory}.faiss", out / f"{settings.factory}.seconds"
    if not took.exists():
        seconds, index = timed(build, study, settings)
        ann.save(index, path)
        took.write_text(f"{seconds:.3f}")
    index = ann.load(path, settings.nprobe)
    ann.search(index, study.queries[:64], k, study.ids)  # the first search compiles and allocates
    searching, (near, rows) = timed(ann.search, index, study.queries, k, study.ids)
    exact.distances(study.keys, study.queries[:2], rows[:2])
    comparing, true = timed(exact.distances, study.keys, study.queries, rows)
    words, perplexity, lmbda = np.where(rows < 0, 0, study.values[rows]), {}, {}
    for distance, stored in (("exact", true), ("quantized", near)):
        scored = knn.target_logprob(stored, words, study.targets)
        weights = mixture.tune([scored], study.lm)
        lmbda[distance] = float(weights[0])
        perplexity[distance] = mixture.perplexity(mixture.mix(weights, [scored], study.lm))
    return Measured(
        settings.factory,
        settings.nprobe if settings.parsed.lists else 0,
        path.stat().st_size / len(study.keys),
        float(took.read_text()),
        recall(rows, nearest(study, rows, k, out)),
        len(rows) / searching,
        len(rows) / (searching + comparing),
        perplexity,
        lmbda,
    )


def nearest(study: Study, rows: np.ndarray, k: int, out: Path) -> np.ndarray:
    """The exact k nearest rows [Q, k]: those that the first case, which must be the flat index, has found."""
    kept = out / f"exact-{len(rows)}-{k}.npy"
    if not kept.exists():
        np.save(kept, rows)
    return np.load(kept)


def recall(rows: np.ndarray, true: np.ndarray) -> float:
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(true, rows, strict=True)]))


def cases(factories: Sequence[str], nprobes: Sequence[int], size: int) -> Iterator[IndexSettings]:
    for factory in factories:
        lists = IndexSettings(factory=factory).parsed.lists
        for nprobe in nprobes if lists else (32,):
            yield IndexSettings(factory=factory, nprobe=nprobe, sample=size)


def table(measured: Sequence[Measured]) -> list[list[str]]:
    """Rows of text; the last column marks cases that no other beats in both speed and perplexity, exact distances."""
    paper = next((one.with_exact for one in measured if one.name == PAPER), float("nan"))
    rows = []
    for one in measured:
        beaten = any(
            other.with_exact > one.with_exact and other.perplexity["exact"] <= one.perplexity["exact"]
            for other in measured
        )
        numbers = f"{one.key_bytes:.0f}", f"{one.build:.0f}", f"{one.recall:.3f}", f"{one.search:,.0f}"
        speed = f"{one.with_exact:,.0f}", f"{one.with_exact / paper:.2f}"
        scores = [f"{scores[d]:.{n}f}" for d in one.perplexity for scores, n in ((one.perplexity, 3), (one.lmbda, 2))]
        rows.append(
            [f"`{one.factory}`", str(one.nprobe or ""), *numbers, *speed, *scores, "" if beaten else "frontier"]
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="of a study, with the keys of train and dev: results/mini")
    parser.add_argument("--out", type=Path, required=True)
    for name, value in (("model", "wikitext"), ("corpus", "wikitext"), ("keytype", "ffn_input_ln")):
        parser.add_argument(f"--{name}", default=value)
    parser.add_argument("--factories", nargs="+", default=FACTORIES)
    parser.add_argument("--nprobes", nargs="+", type=int, default=NPROBES)
    for name, number in (("queries", 2048), ("k", 1024), ("sample", 60_000)):
        parser.add_argument(f"--{name}", type=int, default=number)
    asked = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):
        again = [sys.executable, "-m", "benchmarks.frontier", *sys.argv[1:]]
        os.execve(sys.executable, again, environment() | ONE_THREAD)
    study = load(asked.results, asked.model, asked.corpus, asked.keytype, asked.queries)
    asked.out.mkdir(parents=True, exist_ok=True)
    for settings in cases(asked.factories, asked.nprobes, asked.sample):
        case = asked.out / f"{settings.factory}-{settings.nprobe}.json"
        if not case.exists():
            files.write_json(case, asdict(measure(study, settings, asked.k, asked.out)))
            print(case.read_text(), flush=True)
    write(asked.out, f"{len(study.queries):,} queries of dev, {len(study.keys):,} entries, k {asked.k}. {machine()}")


def write(out: Path, conditions: str) -> None:
    """table.csv and table.md of all cases in the folder."""
    measured = [Measured(**json.loads(path.read_text())) for path in out.glob("*.json")]
    order = {factory: place for place, factory in enumerate(FACTORIES)}
    rows = table(sorted(measured, key=lambda one: (order.get(one.factory, len(order)), one.name)))
    with (out / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    lines = [f"| {' | '.join(row)} |" for row in (COLUMNS, ["---"] * len(COLUMNS), *rows)]
    (out / "table.md").write_text("\n".join([conditions, "", *lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
