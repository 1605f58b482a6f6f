"""The neighbor explorer: held-out text in one page, where each token tells what kNN added and which contexts did it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jinja2 import Environment, FileSystemLoader

from knnlm.artifacts import files
from knnlm.artifacts.cli import progress
from knnlm.artifacts.files import UserError
from knnlm.corpora import vocab
from knnlm.live import layout
from knnlm.live.layout import KnnLM
from knnlm.models import features, model, windows
from knnlm.outputs import packing, spacing
from knnlm.scores import knn

LOGITS = 1 << 24  # of the LM's distributions that are in memory at a time
SPLIT = "test"


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
    page = render(collect(config, source), config.note)
    if (size := len(page.encode()) / 1e6) > config.megabytes:
        raise UserError(f"{config.out}: {size:.1f} MB, at most {config.megabytes:g}: lower --tokens or --neighbors")
    files.write_text(config.out, page)


def collect(config: ExploreConfig, source: KnnLM) -> dict:
    """What the page knows: facts, words and titles as they are, arrays packed."""
    corpus = source.row["corpus"]
    source.check(SPLIT)
    stream = files.open_array(source.tokens(corpus, SPLIT), "integer", 1)
    count = min(config.tokens, len(stream))
    scores = {"lm": source.lm(SPLIT), "knn": source.knn(SPLIT)}
    if cache := source.cache(SPLIT):
        scores["cache"] = cache
    arrays = {name: files.open_array(path, "float32", 1)[:count] for name, path in scores.items()}
    words, arrays["wordLm"], arrays["wordKnn"] = candidates(config, source, stream, count)
    entries, arrays["distance"], arrays["weight"] = nearest(config, source, count)
    train, documents, titles, arrays["neighbor"] = contexts(config, source, entries)
    used, (arrays["token"], arrays["word"], arrays["train"]) = packing.compact([stream[:count], words, train])
    arrays["trainDocument"] = documents
    starts = np.asarray(files.open_array(source.documents(corpus, SPLIT), "integer", 1))
    starts = starts[starts < count]
    return {
        "study": config.study.resolve().name,
        "row": {key: source.row[key] for key in ("model", "corpus", "label")} | {"seed": source.seed},
        "store": source.store,
        "lmbda": source.lmbda,
        "shown": {"tokens": count, "of": len(stream), "neighbors": config.neighbors, "words": config.words}
        | {"before": config.before, "after": config.after, "steps": packing.STEPS, "zero": packing.ZERO},
        "words": spelled(source, used),
        "documents": [[int(start), title] for start, title in zip(starts, source.titles(corpus, SPLIT), strict=False)],
        "titles": titles,
        "arrays": {name: packing.packed(array) for name, array in arrays.items()},
    }


def candidates(config: ExploreConfig, source: KnnLM, stream: np.ndarray, count: int) -> tuple[np.ndarray, ...]:
    """The likeliest words of the LM and of kNN at each token, with what both think of them: three [N, 2 words].

    Words, then their quantised LM and kNN log-probabilities; where the two lists share words, the rest is `ZERO`.
    """
    width = 2 * config.words
    words, lm, near = (np.full((count, width), fill, np.uint32) for fill in (0, packing.ZERO, packing.ZERO))
    retrieved = retrieved_words(source, count)
    for position, logprob in lm_distributions(config, source, stream, count):
        found, share = next(retrieved)
        top = torch.topk(logprob, min(config.words, len(logprob))).indices.numpy()
        chosen = np.union1d(top, found[: config.words]).astype(np.int64)
        here = np.full(len(chosen), -np.inf)
        place = {int(word): i for i, word in enumerate(found)}
        for i, word in enumerate(chosen):
            if int(word) in place:
                here[i] = np.log(share[place[int(word)]]) if share[place[int(word)]] else -np.inf
        words[position, : len(chosen)] = chosen
        lm[position, : len(chosen)] = packing.quantized(logprob[chosen].numpy())
        near[position, : len(chosen)] = packing.quantized(here)
    return words, lm.astype(np.uint16), near.astype(np.uint16)


def retrieved_words(source: KnnLM, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each token's words among its neighbors and their probabilities, most probable first."""
    distances = query_distances(source, count)  # [N, K]
    values = files.open_array(source.neighbors(SPLIT) / "values.npy", "integer", 2)  # [N, K']
    for near, row in zip(distances, values, strict=False):
        yield knn.distribution(near, row[: len(near)], source.store["temperature"])


def query_distances(source: KnnLM, count: int) -> np.ndarray:
    """[N, k] float32 of the first `count` tokens in the row's own distance; inf where a neighbor is missing."""
    kind = "exact" if source.store["distance"] == "exact" else "distances"
    near = files.open_array(source.neighbors(SPLIT) / f"{kind}.npy", "float32", 2)[:count, : source.store["k"]]
    return np.sqrt(np.maximum(near, 0)) if source.store["distance"] == "quantized_sqrt" else near


@torch.inference_mode()
def lm_distributions(
    config: ExploreConfig, source: KnnLM, stream: np.ndarray, count: int
) -> Iterator[tuple[int, torch.Tensor]]:
    """Position and the LM's log-probabilities [V], nats, of the first `count` tokens in the study's own windows."""
    lm, sizes = model.load(source.model, features.device()), source.windows
    chosen = windows.evaluation(stream, sizes)
    chosen = chosen.take(np.flatnonzero(chosen.start < count))
    step = max(1, LOGITS // lm.config.vocab_size)
    with progress(None, "LM", count, "tok") as bar:
        for block in features.stream(lm, stream, chosen, sizes.length, ("output",), config.batch_tokens):
            for start in range(0, len(block.ids), step):
                ids = block.ids[start : start + step]
                output = torch.from_numpy(block.keys["output"][start : start + step]).to(features.device())
                yield from ((i, row) for i, row in zip(ids, lm.logprob(output).cpu(), strict=True) if i < count)
                bar.update(len(ids))


def nearest(config: ExploreConfig, source: KnnLM, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The heaviest entries [N, M] int64 (-1 where missing), their distances and quantised log weights."""
    distances = query_distances(source, count).astype(np.float32)  # [N, k]
    ids = files.open_array(source.neighbors(SPLIT) / "ids.npy", "int64", 2)[:count, : distances.shape[1]]
    order = np.argsort(distances, axis=1, kind="stable")[:, : config.neighbors]  # [N, M]
    logits = -distances.astype(np.float64) / source.store["temperature"]
    highest = logits.max(1, keepdims=True)
    with np.errstate(invalid="ignore"):
        weights = logits - highest - np.log(np.exp(logits - highest).sum(1, keepdims=True))
    shares = np.take_along_axis(np.nan_to_num(weights, nan=-np.inf), order, 1)  # [N, M]
    near = np.take_along_axis(distances, order, 1)
    return np.take_along_axis(ids, order, 1), packing.rounded(near), packing.quantized(shares)


def contexts(
    config: ExploreConfig, source: KnnLM, entries: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[str], np.ndarray]:
    """The training text around `entries` [N, M], joined; where its documents begin in it, their titles; entries in it.

    An entry's place counts from 1: 0 is a missing neighbor.
    """
    corpus = source.store["corpus"]
    stream = files.open_array(source.tokens(corpus, "train"), "integer", 1)
    documents = np.asarray(files.open_array(source.documents(corpus, "train"), "integer", 1), np.int64)
    wanted = np.unique(entries[entries >= 0])
    kept = np.flatnonzero(packing.windows(wanted, documents, len(stream), config.before, config.after))
    place = np.searchsorted(kept, entries) + 1
    place[entries < 0] = 0
    numbers, starts = np.unique(np.searchsorted(documents, kept, side="right") - 1, return_index=True)
    titles = source.titles(corpus, "train")
    return stream[kept], starts.astype(np.uint32), [titles[i] for i in numbers], place.astype(np.uint32)


def spelled(source: KnnLM, used: np.ndarray) -> list:
    """Texts and flags of the vocabulary's words `used`, interleaved: text, flags, text, flags…"""
    known = vocab.load(source.vocab)
    kind = files.read_json(source.vocab / "vocab.json")["type"]
    piece = spacing.subword if kind == "sentencepiece" else spacing.piece
    return [part for token in known.tokens(used.tolist()) for part in piece(token)]


def render(data: dict, note: str) -> str:
    folder = FileSystemLoader(Path(__file__).parent / "templates")
    page = Environment(loader=folder, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return page.get_template("explorer.html.j2").render(data=data, note=note)
