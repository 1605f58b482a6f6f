"""Work out one query in full for Figure 1: its neighbors, their weights and the next words."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from knnlm.artifacts import files
from knnlm.artifacts.files import UserError
from knnlm.live import layout
from knnlm.live.layout import KnnLM
from knnlm.live.passages import Passages
from knnlm.live.retrieval import Nearest, Next, Retriever
from knnlm.models import windows
from knnlm.outputs import scored
from knnlm.outputs.scored import ScoredText

CONTEXT = 16  # tokens of left context written down
TRIED = 2000  # tokens with the largest gain that are looked at


@dataclass(frozen=True)
class IllustrateConfig:
    """Choose an instructive token of the test text and write down how the kNN-LM predicts it."""

    study: Path
    """folder of a finished study, as results/smoke"""
    out: Path
    """figure1.json"""
    neighbors: int = 5
    """neighbors written down"""
    words: int = 4
    """likeliest next words of kNN, of the LM and of their mixture written down"""


def main(config: IllustrateConfig) -> None:
    source = layout.find(config.study)
    text, train = scored.load(source), Passages(source, before=CONTEXT, after=0)
    position = choose(text, train, config.neighbors)
    retriever = Retriever(source)
    predicted = retriever.after(model_input(text.tokens, source, position, retriever.lm.eos))
    context = train.vocab.detokenize(text.tokens[max(0, position - CONTEXT) : position].tolist()).replace("\n", " ")
    target = int(text.tokens[position])
    query = {
        "context": context,
        "target": spelled(train, target),
        "neighbors": neighbors(predicted.nearest, train, config.neighbors),
        "words": words(predicted, source.lmbda, train, config.words, target),
        "k": source.store["k"],
        "lmbda": source.lmbda,
        "position": position,
    }
    files.write_json(config.out, query)


def choose(text: ScoredText, train: Passages, count: int) -> int:
    """The position where kNN helps most among those that make a good figure, or simply among words.

    In a good figure p_kNN is between 0.3 and 0.9, and the `count` nearest entries have three or more different
    targets, the right one twice or more.
    """
    order = np.argsort(np.exp(text.lm) - np.exp(text.knn), kind="stable")[:TRIED]
    readable = [int(i) for i in order if is_word(spelled(train, int(text.tokens[i])))]
    if not readable:
        raise UserError(
            f"the test text: none of the {TRIED:,} tokens that kNN helps most is a word of four or more letters, "
            "so that Figure 1 has no example; use a vocabulary with whole words, or leave the figure out"
        )
    for i in readable:
        nearest = np.argsort(text.distances(i), kind="stable")[:count]
        targets = text.values[i, nearest].tolist()
        if len(set(targets)) >= 3 and targets.count(int(text.tokens[i])) >= 2 and 0.3 < np.exp(text.knn[i]) < 0.9:
            return i
    return readable[0]


def model_input(tokens: np.ndarray, source: KnnLM, position: int, eos: int) -> list[int]:
    """The tokens that the model read when the study evaluated the token at `position`."""
    every = windows.evaluation(tokens, source.windows, eos)
    window = every.take(np.searchsorted(every.start, [position], side="right") - 1)
    inputs, _, _ = windows.batch(tokens, window, 0, eos)  # [1, T]
    return inputs[0, : position - int(window.begin[0]) + 1].tolist()


def neighbors(nearest: Nearest, train: Passages, count: int) -> list[dict]:
    """The `count` neighbors with the largest weights: context, target, distance and weight."""
    heaviest = np.argsort(-nearest.weights, kind="stable")[:count]
    passages = [train.at(int(entry)) for entry in nearest.ids[heaviest]]
    return [
        {
            "context": passage.before,
            "target": passage.target,
            "distance": nearest.distances[i],
            "weight": nearest.weights[i],
        }
        for i, passage in zip(heaviest, passages, strict=True)
    ]


def words(predicted: Next, lmbda: float, train: Passages, count: int, target: int) -> list[dict]:
    """The target and the `count` likeliest words of kNN, of the LM and of their mixture, with all probabilities."""
    mixed = predicted.mixed(lmbda)
    likeliest = (np.argsort(-p, kind="stable")[:count].tolist() for p in (predicted.knn, predicted.lm, mixed))
    shown = dict.fromkeys([target, *(word for few in likeliest for word in few)])
    return [
        {"word": spelled(train, word), "knn": predicted.knn[word], "lm": predicted.lm[word], "mixture": mixed[word]}
        for word in sorted(shown, key=lambda word: -mixed[word])
    ]


def spelled(train: Passages, word: int) -> str:
    return train.vocab.tokens([word])[0]


def is_word(token: str) -> bool:
    """Whether a token is a word of four or more letters."""
    return token.strip("▁").isalpha() and len(token.strip("▁")) > 3
