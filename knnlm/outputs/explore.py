"""Write the neighbor explorer: held-out text as one page that shows each token's neighbors.

The page holds one row with a datastore, and may hold others of the same model, text and datastore: two of them, or one
and the LM, are compared token by token.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from knnlm.artifacts import files, lineage, npy
from knnlm.artifacts.files import UserError
from knnlm.corpora import vocab
from knnlm.live import layout
from knnlm.live.layout import KnnLM
from knnlm.outputs import packing, pages, scored, spacing
from knnlm.outputs.candidates import candidates
from knnlm.outputs.scored import ScoredText
from knnlm.scores import experiments

FACTS = ("corpus", "keytype", "index", "distance", "k", "temperature", "entries")  # of a datastore, for the reader


@dataclass(frozen=True)
class ExploreConfig:
    """Write the neighbor explorer of a study: one static page that needs no network."""

    study: Path
    """folder of a finished study, as results/smoke"""
    out: Path
    """the page, explorer.html"""
    output: str = "table1"
    """the experiment that the row is of"""
    row: str = "knn"
    """a row with a datastore"""
    compare: tuple[str, ...] = ()
    """experiments whose rows are held too, if they are of the same model, text and datastore"""
    split: Literal["dev", "test"] = "dev"
    """the text shown: rows of temperatures and distances are scored on dev alone"""
    tokens: int = 8_000
    """tokens of the text shown, from its beginning: they decide the page's size"""
    neighbors: int = 6
    """neighbors shown for each token"""
    before: int = 12
    """tokens shown of a neighbor's left context"""
    after: int = 4
    """tokens shown after a neighbor's target"""
    words: int = 6
    """most probable words kept of the LM, and as many of kNN"""
    megabytes: float = 10.0
    """the page's largest size"""
    batch_tokens: int = 12288
    """tokens in one forward pass: bounds the memory"""
    note: str = ""
    """the study and its scale"""


def main(config: ExploreConfig) -> None:
    source = layout.find(config.study, config.output, config.row)
    note = pages.about_models(config.note, [source.row])
    page = pages.render("explorer.html", data=collect(config, source), note=note)
    if (size := len(page.encode()) / 1e6) > config.megabytes:
        raise UserError(
            f"{config.out}: {size:.1f} MB, at most {config.megabytes:g} are allowed; "
            "lower --tokens or --neighbors, or raise --megabytes"
        )
    files.write_text(config.out, page)


def collect(config: ExploreConfig, source: KnnLM) -> dict:
    """The data of the page: facts, words and titles as JSON, and arrays as compressed text.

    A row names its arrays by their places in "arrays". Of a row whose neighbors were deleted (`keep: needed`), the page
    holds p_kNN of each token alone.
    """
    held = rows(config, source)
    full = [name for name, row in held.items() if row is source or (row.neighbors(config.split) / "rows.npy").exists()]
    texts = [scored.load(held[name], config.split) for name in full]
    text = texts[0]
    count = min(config.tokens, len(text.tokens))
    words = candidates(source, texts, count, config.words, config.batch_tokens)
    near = [nearest(each, count, config.neighbors) for each in texts]
    around = contexts(source, np.stack([entries for entries, _, _ in near]), config.before, config.after)
    used, (token, train, *word) = packing.compact([text.tokens[:count], around.tokens, *(each.words for each in words)])
    pool = packing.Pool()
    shared = {"token": token, "train": train, "trainDocument": around.documents, "lm": text.lm[:count]}
    if cache := source.cache(config.split):
        shared["cache"] = npy.open_array(cache, "float32", 1)[:count]
    arrays = {name: {"knn": scores(source, row, config.split, count)} for name, row in held.items()}
    for r, name in enumerate(full):
        arrays[name] |= {"word": word[r], "wordLm": words[r].lm, "wordKnn": words[r].knn}
        arrays[name] |= {"neighbor": around.places[r], "distance": near[r][1], "weight": near[r][2]}
    return {
        "study": config.study.resolve().name,
        "split": config.split,
        "store": {key: source.store[key] for key in FACTS},
        "rows": [
            facts(name, row) | {"arrays": {part: pool.add(array) for part, array in arrays[name].items()}}
            for name, row in held.items()
        ],
        "shown": {"tokens": count, "of": len(text.tokens), "neighbors": config.neighbors, "words": config.words}
        | {"before": config.before, "after": config.after, "steps": packing.STEPS, "zero": packing.ZERO},
        "words": spelled(source, used),
        "documents": documents(source, config.split, count),
        "titles": around.titles,
        "shared": {name: pool.add(array) for name, array in shared.items()},
        "arrays": pool.arrays,
    }


def rows(config: ExploreConfig, source: KnnLM) -> dict[str, KnnLM]:
    """The rows that the page holds by name, `source` first; without those that have the scores of one before them."""
    held = {source.row["name"]: source}
    for output in config.compare:
        study = experiments.load([config.study / "experiments" / f"{output}.json"])
        for name in [name for name, row in study.rows(output).items() if comparable(source, row)]:
            row = layout.find(config.study, output, name, source.seed)
            if row.knn(config.split) not in [other.knn(config.split) for other in held.values()]:
                held[f"{output}-{name}" if name in held else name] = row
    return held


def scores(source: KnnLM, row: KnnLM, split: str, count: int) -> np.ndarray:
    """log p_kNN of the first `count` tokens, float32 nats; raises UserError where they are of another text or model."""
    lineage.agree((source.lm(split), row.knn(split)), "vocab", "text", "model")
    return npy.open_array(row.knn(split), "float32", 1)[:count]


def comparable(source: KnnLM, row: dict) -> bool:
    """Whether a row is of the same LM, text and datastore as `source` and interpolates with kNN alone."""
    store = row["datastore"] or {}
    same = [row[key] == source.row[key] for key in ("model", "corpus")]
    same += [store.get(key) == source.store[key] for key in ("corpus", "shards", "of")]
    return all(same) and source.seed in row["seeds"] and list(row["lmbda"]) == ["knn"]


def facts(name: str, source: KnnLM) -> dict:
    """What the page says of a row."""
    label = source.row["label"].removeprefix("+ ")
    store = {key: source.store[key] for key in FACTS}
    return {"name": name, "label": label, "seed": source.seed, "store": store, "lmbda": source.lmbda}


def documents(source: KnnLM, split: str, count: int) -> list[list]:
    """Position and title of each document that begins within the first `count` tokens."""
    corpus = source.row["corpus"]
    starts = npy.open_array(source.documents(corpus, split), "integer", 1)
    pairs = zip(starts.tolist(), source.titles(corpus, split), strict=True)
    return [[start, title] for start, title in pairs if start < count]


def nearest(text: ScoredText, count: int, shown: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The nearest entries of the first `count` tokens: three arrays [count, shown].

    They are the entries (int64, -1 where missing), their distances (float32, rounded) and the logs of their shares
    of p_kNN as 16-bit steps (`packing.quantized`).
    """
    every = slice(count)
    distances = text.distances(every).astype(np.float32)  # [N, k]
    order = np.argsort(distances, axis=1, kind="stable")[:, :shown]  # [N, M]
    kept = (np.take_along_axis(array, order, 1) for array in (text.ids[every], distances, text.log_shares(every)))
    entries, near, shares = kept
    return entries, packing.rounded(near), packing.quantized(shares)


class Contexts(NamedTuple):
    """The training text around the entries shown, joined, each token once: T tokens of D documents."""

    tokens: np.ndarray  # [T] integer
    documents: np.ndarray  # [D] uint32, where each document begins among these tokens
    titles: list[str]  # [D]
    places: np.ndarray  # [..., M] uint32, each entry's place among these tokens from 1 on; 0 is a missing neighbor


def contexts(source: KnnLM, entries: np.ndarray, before: int, after: int) -> Contexts:
    """The training text around `entries` [..., M], -1 where missing."""
    corpus = source.store["corpus"]
    stream = npy.open_array(source.tokens(corpus, "train"), "integer", 1)
    starts = np.asarray(npy.open_array(source.documents(corpus, "train"), "integer", 1), np.int64)
    wanted = np.unique(entries[entries >= 0])
    kept = np.flatnonzero(packing.windows(wanted, starts, len(stream), before, after))  # positions in the stream
    numbers, begin = np.unique(np.searchsorted(starts, kept, side="right") - 1, return_index=True)
    titles = source.titles(corpus, "train")
    places = np.where(entries < 0, 0, np.searchsorted(kept, entries) + 1)
    return Contexts(stream[kept], begin.astype(np.uint32), [titles[i] for i in numbers], places.astype(np.uint32))


def spelled(source: KnnLM, used: np.ndarray) -> list[str | int]:
    """Text and spacing flags of the words `used`, in one flat list: text, flags, text, flags…"""
    words = vocab.load(source.vocab)
    kind = files.read_json(source.vocab / "vocab.json")["type"]
    piece = spacing.subword if kind in ("sentencepiece", "pretrained") else spacing.piece
    return [part for token in words.tokens(used.tolist()) for part in piece(token)]
