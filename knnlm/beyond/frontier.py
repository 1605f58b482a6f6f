"""Which index: perplexity, recall and speed of several on a row's own keys, from the smallest to exact search.

Times are the processor's, of the threads that the job has: on a machine without other work and with one thread, the
wall time. They differ from run to run; everything else does not.
"""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from knnlm.artifacts import files
from knnlm.artifacts.cli import checked
from knnlm.artifacts.files import UserError
from knnlm.beyond import mixers, shrinking, signals
from knnlm.beyond.shrinking import MEMORY, Datastore
from knnlm.beyond.signals import Signals
from knnlm.datastores import ann, exact
from knnlm.live import layout
from knnlm.scores import knn, mixture
from knnlm.settings import IndexSettings

log = logging.getLogger("knnlm")
FLAT = "Flat"
GRAPH_ENTRIES = 300_000  # a graph of more takes many minutes to build
WARM = 64  # queries that are searched before the clock starts: the first calls compile and allocate


@dataclass(frozen=True)
class FrontierConfig:
    """Measure indexes on the keys of a row: bytes a key, recall, queries a second and perplexity of dev.

    Writes frontier.json.
    """

    study: Path
    """folder of a finished study, as results/smoke; the keys of the row's datastore are read"""
    out: Path
    """frontier.json"""
    output: str = "table1"
    """the experiment that the row is of"""
    row: str = "knn"
    """a row with a datastore; its first seed is taken"""
    factories: tuple[str, ...] = ()
    """FAISS factory strings; by default those that `factories` of this module chooses for the number of entries"""
    nprobes: tuple[int, ...] = (2, 4, 8, 16, 32)
    """lists visited for each query"""
    queries: int = 2048
    """targets of dev that are searched for, from all over it"""
    entries: int = 2_000_000
    """of the datastore, at most: of a larger one so many that lie evenly in it"""

    def __post_init__(self) -> None:
        for factory in self.factories:
            checked(IndexSettings, {"factory": factory}, "--factories")
        for flag, numbers in ("nprobes", self.nprobes), ("queries", (self.queries,)), ("entries", (self.entries,)):
            if min(numbers, default=0) < 1:
                raise UserError(f"--{flag}: found {' '.join(map(str, numbers))}, expected numbers from 1")


def main(config: FrontierConfig) -> None:
    source = layout.find(config.study, config.output, config.row)
    dev = signals.load(source, "dev")
    store = shrinking.datastore(dev)
    rows = spread(len(store.ids), config.entries)
    asked = spread(len(dev.tokens), config.queries)
    found: dict[str, Any] = {"entries": len(rows), "queries": len(asked), "k": min(dev.stored.shape[1], len(rows))}
    search = Search(dev, store, rows, asked, found["k"])
    chosen = config.factories or factories(len(rows), store.dimension, shrinking.lists_for(store, len(rows)))
    found["cases"] = [one for factory in [FLAT, *chosen] for one in cases(search, factory, config.nprobes)]
    documents = np.searchsorted(dev.documents, asked, side="right") - 1  # [Q]
    found["tokens"] = np.bincount(documents).tolist()
    for one in found["cases"]:
        one["nats"] = np.bincount(documents, one.pop("logprob")).tolist()
    files.write_json(config.out, found)


def spread(count: int, most: int) -> np.ndarray:
    """At most so many of `count` numbers, evenly spaced and ascending."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def factories(entries: int, dimension: int, lists: int) -> list[str]:
    """Product quantisers, of 64 parts where the keys can be cut so, SQ8, RaBitQ, and a graph of few keys."""
    parts = 64 if dimension % 64 == 0 else dimension // 2
    codes = f"PQ{parts}x8", f"PQ{parts}x4fs", f"PQ{parts}x4fsr", f"PQ{parts // 2}x4fs", "SQ8", "RaBitQ"
    graph = ["HNSW16"] if entries <= GRAPH_ENTRIES else []
    return [*(f"IVF{lists},{code}" for code in codes if entries >= 256 or not code.endswith("x8")), *graph]


@dataclass
class Search:
    """What all cases have in common."""

    dev: Signals
    store: Datastore
    rows: np.ndarray  # [n] of the datastore's entries, ascending
    asked: np.ndarray  # [Q] of dev's targets
    k: int
    nearest: np.ndarray | None = None  # [Q, k] the exact ones' rows, which the first case finds

    def __post_init__(self) -> None:
        self.queries = np.asarray(mixers.context_vectors(self.dev)[self.asked], np.float32)
        self.targets, self.lm = np.asarray(self.dev.tokens[self.asked]), self.dev.lm[self.asked]


def cases(search: Search, factory: str, nprobes: tuple[int, ...]) -> Iterator[dict]:
    """One index, with several numbers of lists visited."""
    store = replace(search.store, nprobe=1)
    building, index = timed(shrinking.coded, store, factory, search.rows)
    parsed = IndexSettings(factory=factory).parsed
    ids = store.ids[search.rows]
    for nprobe in sorted({min(nprobe, parsed.lists) for nprobe in nprobes}) if parsed.lists else [0]:
        ann.visiting(index, nprobe)
        ann.search(index, search.queries[:WARM], search.k, ids)
        searching, (near, found) = timed(ann.search, index, search.queries, search.k, ids)
        if search.nearest is None:
            search.nearest = found
        entries, product = np.where(found >= 0, search.rows[found], -1), ann.is_inner_product(index)
        exact.rerank(store.shards, search.queries[:2], entries[:2], MEMORY, "cpu", product)
        comparing, true = timed(exact.rerank, store.shards, search.queries, entries, MEMORY, "cpu", product)
        measured = {"factory": factory, "nprobe": nprobe, "build": building}
        measured["bytes"] = parsed.entry_bytes(store.dimension)
        measured["recall"] = float(np.mean([np.isin(*pair).mean() for pair in zip(search.nearest, found, strict=True)]))
        measured |= {"search": len(found) / searching, "with_exact": len(found) / (searching + comparing)}
        logprob = {}
        for name, distances in (("index", near), ("exact", true)):
            scored = knn.target_logprob(distances, store.values[entries], search.targets, search.dev.temperature)
            weights = mixture.tune([scored], search.lm)
            logprob[name] = mixture.mix(weights, [scored], search.lm)
            measured |= {f"perplexity_{name}": mixture.perplexity(logprob[name]), f"lmbda_{name}": float(weights[0])}
        log.info("%s", measured)
        yield measured | {"logprob": logprob["exact"]}


def timed(function: Callable, *arguments: object) -> tuple[float, Any]:
    began = time.process_time()
    result = function(*arguments)
    return time.process_time() - began, result
