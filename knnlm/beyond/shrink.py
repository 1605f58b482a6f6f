"""Measure perplexity against the bytes of the datastore: fewer entries, merged entries, shorter keys."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from knnlm.artifacts import files
from knnlm.beyond import mixers, shrinking, signals, skipping
from knnlm.beyond.shrinking import Datastore
from knnlm.datastores import ann
from knnlm.live import layout
from knnlm.scores import mixture, stats
from knnlm.settings import IndexSettings

log = logging.getLogger("knnlm")
SHARES = (0.5, 0.25, 0.125, 0.0625)  # of the entries
MERGING = 8  # lists visited for each entry's neighbors, where the row's index has none
SIZES = [4, 16, 64]  # neighbors that an entry may take in
LABELS = {
    "whole": ("the row's datastore", None),
    "random": ("entries at random", None),
    "merged": ("greedy merging", "he2021-merging"),
    "pca": ("PCA of the keys, no keys kept", None),
    "opq": ("OPQ of the keys, no keys kept", None),
}


@dataclass(frozen=True)
class ShrinkConfig:
    """Measure test perplexity against the bytes of the datastore; writes smaller.json."""

    study: Path
    """folder of a finished study, as results/smoke; the keys of the row's datastore are read"""
    out: Path
    """smaller.json"""
    output: str = "table1"
    """the experiment that the row is of"""
    row: str = "knn"
    """a row with a datastore; its first seed is taken"""
    seed: int = 1
    """of random choices"""


def main(config: ShrinkConfig) -> None:
    source = layout.find(config.study, config.output, config.row)
    dev, test = (signals.load(source, split) for split in ("dev", "test"))
    store = shrinking.datastore(dev)
    methods: dict[str, dict] = {}
    for name, index, rows, weights, settings, facts in variants(store, config.seed):
        with_keys = dev.distance == "exact" and settings is store.settings
        parts = store, index, rows, weights, with_keys
        near = shrinking.scored(dev, *parts, mixers.TEMPERATURES)  # shorter keys have shorter distances
        temperature, lmbda = mixers.best(dev, zip(mixers.TEMPERATURES, near, strict=True))
        (near,) = shrinking.scored(test, *parts, [temperature])
        mixed = mixture.mix([lmbda], [near], test.lm)
        nats, _ = stats.document_sums(mixed, test.documents)
        size = len(rows) * shrinking.entry_bytes(store, settings, with_keys, weights is not None)
        chosen = {"index": settings.factory, "temperature": temperature, "lmbda": lmbda}
        point: dict = {"bytes": size, "entries": len(rows), "perplexity": mixture.perplexity(mixed)}
        point |= {"nats": nats.tolist(), "facts": facts | chosen}
        log.info("%s: %.1f MB, test %.2f; %s", name, size / 1e6, point["perplexity"], point["facts"])
        label, paper = LABELS[name]
        methods.setdefault(name, {"name": name, "label": label, "paper": paper, "points": []})["points"].append(point)
    random = {one["facts"]["share"]: one for one in methods["random"]["points"]}
    for one in methods["merged"]["points"]:
        one["random"] = random[one["facts"]["share"]]["nats"]
    tokens = stats.document_sums(test.lm, test.documents)[1]
    files.write_json(config.out, {"methods": list(methods.values()), "tokens": tokens.tolist()})


Variant = tuple[str, ann.Index, np.ndarray, np.ndarray | None, IndexSettings, dict]


def variants(store: Datastore, seed: int) -> Iterator[Variant]:
    """Each smaller datastore: method, index, the rows and the weights of its entries, settings, what is special."""
    every = np.arange(len(store.ids))
    whole = shrinking.build(store, every)
    yield "whole", whole, every, None, store.settings, {}
    shares, searched = list(SHARES), whole
    if not store.settings.parsed.lists:  # exact search for each entry would take hours
        factory = f"IVF{shrinking.lists_for(store, len(every))},SQfp16"
        searched = ann.visiting(shrinking.coded(store, factory, every), MERGING)
    for size, weights in zip(SIZES, shrinking.merge(store, searched, SIZES), strict=True):
        rows = np.flatnonzero(weights)
        shares.append(len(rows) / len(every))
        facts = {"neighbors": size, "share": shares[-1]}
        yield "merged", shrinking.build(store, rows), rows, weights[rows], store.settings, facts
    del whole, searched
    for share in sorted(shares, reverse=True):
        rows = np.flatnonzero(skipping.at_random(len(every), 1 - share, seed))
        yield "random", shrinking.build(store, rows), rows, None, store.settings, {"share": share}
    for name, factories in shrinking.factories(store).items():
        for part, factory in factories.items():
            settings = store.settings.model_copy(update={"factory": factory})
            yield name, shrinking.coded(store, factory, every), every, None, settings, {"part": part}
