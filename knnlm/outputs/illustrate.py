"""One query of the study, worked out in full for Figure 1: its neighbors, their weights, and the next words."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from knnlm.artifacts import files
from knnlm.artifacts.files import UserError
from knnlm.datastores import neighbors
from knnlm.live import layout, passages
from knnlm.live.layout import KnnLM
from knnlm.live.retrieval import Next, Retriever
from knnlm.models import windows

SPLIT = "test"
TRIED = 2000  # tokens with the largest gain that are looked at


@dataclass(frozen=True)
class IllustrateConfig:
    """Choose a telling token of the test text and write down how the kNN-LM answers it."""

    study: Path
    """folder of a finished study, as results/smoke"""
    out: Path
    """figure1.json"""
    neighbors: int = 5
    """neighbors written down"""
    words: int = 4
    """next words written down"""


def main(config: IllustrateConfig) -> None:
    source = layout.find(config.study)
    source.check(SPLIT)
    train = passages.Passages(source, before=16, after=0)
    stream = files.open_array(source.tokens(source.row["corpus"], SPLIT), "integer", 1)
    position = choose(source, train, stream, config.neighbors)
    retriever = Retriever(source)
    found = retriever.after(read_before(stream, source, position))
    near = found.nearest
    heaviest = np.argsort(-near.weights, kind="stable")[: config.neighbors]
    shown = [
        {"context": passage.before, "target": passage.target, "distance": near.distances[i], "weight": near.weights[i]}
        for i in heaviest
        for passage in [train.at(int(near.ids[i]))]
    ]
    context = train.vocab.detokenize(stream[max(0, position - 16) : position].tolist()).replace("\n", " ")
    facts = {"context": context, "target": train.vocab.tokens([int(stream[position])])[0], "neighbors": shown}
    facts |= {"words": words(found, source.lmbda, train, config.words, int(stream[position]))}
    files.write_json(config.out, facts | {"k": source.store["k"], "lmbda": source.lmbda, "position": position})


def choose(source: KnnLM, train: passages.Passages, stream: np.ndarray, count: int) -> int:
    """Where kNN helps most, among words of the text whose heaviest neighbors name three or more, it twice.

    kNN gives it 0.3 to 0.9. Failing that, simply the word that kNN helps most.
    """
    lm, knn = (files.open_array(path, "floating", 1) for path in (source.lm(SPLIT), source.knn(SPLIT)))
    found = neighbors.load(source.neighbors(SPLIT))
    near = found["exact"] if source.store["distance"] == "exact" else found["distances"]
    order = np.argsort(np.exp(lm) - np.exp(knn), kind="stable")[:TRIED]
    readable = [int(i) for i in order if is_word(train.vocab.tokens([int(stream[i])])[0])]
    for i in readable:
        first = found["values"][i, np.argsort(near[i], kind="stable")[:count]].tolist()
        if len(set(first)) >= 3 and first.count(int(stream[i])) >= 2 and 0.3 < np.exp(knn[i]) < 0.9:
            return i
    if not readable:
        raise UserError(f"{source.folder}: no word among the {TRIED:,} tokens that kNN helps most")
    return readable[0]


def read_before(stream: np.ndarray, source: KnnLM, position: int) -> list[int]:
    """What the model read when the study evaluated the token at `position`."""
    every = windows.evaluation(stream, source.windows)
    window = every.take(np.searchsorted(every.start, [position], side="right") - 1)
    inputs, _, _ = windows.batch(stream, window, 0)  # [1, T]
    return inputs[0, : position - int(window.begin[0]) + 1].tolist()


def is_word(token: str) -> bool:
    """Whether a token says something by itself."""
    return token.strip("▁").isalpha() and len(token.strip("▁")) > 3


def words(found: Next, lmbda: float, train: passages.Passages, count: int, target: int) -> list[dict]:
    """The target and the likeliest words of kNN and the LM in turn, with their three probabilities."""
    mixed = found.mixed(lmbda)

    def spelled(word: int) -> str:
        return train.vocab.tokens([int(word)])[0]

    ranked = zip(np.argsort(-found.knn, kind="stable"), np.argsort(-found.lm, kind="stable"), strict=True)
    shown: list[int] = [target]
    for pair in ranked:
        shown += [int(word) for word in dict.fromkeys(pair) if int(word) not in shown and is_word(spelled(word))]
        if len(shown) >= count:
            break
    return [
        {"word": spelled(word), "knn": found.knn[word], "lm": found.lm[word], "mixture": mixed[word]}
        for word in sorted(shown[:count], key=lambda word: -mixed[word])
    ]
