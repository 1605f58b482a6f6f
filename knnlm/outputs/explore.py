"""Write the neighbor explorer: the test text as one page that shows each token's neighbors."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from knnlm.artifacts import files, npy
from knnlm.artifacts.files import UserError
from knnlm.corpora import vocab
from knnlm.live import layout
from knnlm.live.layout import KnnLM
from knnlm.outputs import packing, pages, scored, spacing
from knnlm.outputs.candidates import candidates
from knnlm.outputs.scored import SPLIT, ScoredText


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
    tokens: int = 20_000
    """tokens of test text shown, from its beginning"""
    neighbors: int = 8
    """neighbors shown for each token"""
    before: int = 12
    """tokens shown of a neighbor's left context"""
    after: int = 4
    """tokens shown after a neighbor's target"""
    words: int = 10
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
    """The data of the page: facts, words and titles as JSON, and arrays as compressed text."""
    text = scored.load(source)
    count = min(config.tokens, len(text.tokens))
    arrays = {"lm": text.lm[:count], "knn": text.knn[:count]}
    if cache := source.cache(SPLIT):
        arrays["cache"] = npy.open_array(cache, "float32", 1)[:count]
    words, arrays["wordLm"], arrays["wordKnn"] = candidates(source, text, count, config.words, config.batch_tokens)
    entries, arrays["distance"], arrays["weight"] = nearest(text, count, config.neighbors)
    near = contexts(source, entries, config.before, config.after)
    arrays |= {"neighbor": near.places, "trainDocument": near.documents}
    used, compact = packing.compact([text.tokens[:count], words, near.tokens])
    arrays["token"], arrays["word"], arrays["train"] = compact
    return {
        "study": config.study.resolve().name,
        "row": {key: source.row[key] for key in ("model", "corpus", "label")} | {"seed": source.seed},
        "store": source.store,
        "lmbda": source.lmbda,
        "shown": {"tokens": count, "of": len(text.tokens), "neighbors": config.neighbors, "words": config.words}
        | {"before": config.before, "after": config.after, "steps": packing.STEPS, "zero": packing.ZERO},
        "words": spelled(source, used),
        "documents": documents(source, count),
        "titles": near.titles,
        "arrays": {name: packing.packed(array) for name, array in arrays.items()},
    }


def documents(source: KnnLM, count: int) -> list[list]:
    """Position and title of each document that begins within the first `count` tokens."""
    corpus = source.row["corpus"]
    starts = npy.open_array(source.documents(corpus, SPLIT), "integer", 1)
    pairs = zip(starts.tolist(), source.titles(corpus, SPLIT), strict=True)
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
    places: np.ndarray  # [N, M] uint32, each entry's place among these tokens from 1 on; 0 is a missing neighbor


def contexts(source: KnnLM, entries: np.ndarray, before: int, after: int) -> Contexts:
    """The training text around `entries` [N, M], -1 where missing."""
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
