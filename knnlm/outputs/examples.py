"""Show the contexts where p_kNN exceeds p_LM most, with neighbors (Figure 6, Tables 6 to 9)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from knnlm.artifacts import description, files
from knnlm.live import layout
from knnlm.live.layout import KnnLM
from knnlm.live.passages import Passages
from knnlm.outputs import pages, scored
from knnlm.outputs.scored import SPLIT, ScoredText


@dataclass(frozen=True)
class ExamplesConfig:
    """Show the contexts of the test text where p_kNN exceeds p_LM most, as Markdown and HTML."""

    study: Path
    """folder of a finished study, as results/smoke"""
    out: Path
    """folder of examples.md and examples.html"""
    output: str = "table1"
    """the experiment that the row is of"""
    row: str = "knn"
    """a row with a datastore; its first seed is shown"""
    count: int = 8
    """number of examples"""
    context: int = 40
    """tokens of left context shown"""
    neighbors: int = 5
    """neighbors shown for each example"""
    note: str = ""
    """the line below the title: the study and its scale"""


@dataclass(frozen=True)
class Neighbor:
    """An entry of the datastore that contributed to p_kNN."""

    context: str
    target: str
    hit: bool  # whether its target is the example's
    distance: float  # as the row weighs it
    probability: float  # its share of p_kNN


@dataclass(frozen=True)
class Example:
    """A token of the test text, its left context and its probabilities."""

    context: str
    target: str
    knn: float
    lm: float
    mixture: float
    neighbors: list[Neighbor]


def main(config: ExamplesConfig) -> None:
    source = layout.find(config.study, config.output, config.row)
    text = scored.load(source)
    test = Passages(source, config.context, after=0, held_out=SPLIT, line_end=" ")
    train = Passages(source, config.context, after=0, line_end=" ")
    gain = np.exp(text.knn) - np.exp(text.lm)  # [N]
    chosen = select(gain, lambda i: test.text(i, i + 1), test.documents, config.context, config.count)
    examples = [example(text, test, train, i, source.lmbda, config.neighbors) for i in chosen]
    facts = {"examples": examples, "lmbda": source.lmbda}
    facts["note"] = pages.about_models(config.note, [source.row])
    with files.atomic(config.out, directory=True) as tmp:
        for name in ("examples.md", "examples.html"):
            (tmp / name).write_text(pages.render(name, **facts), encoding="utf-8")
        description.write_meta(tmp, "examples", config, inputs(config, source))


def inputs(config: ExamplesConfig, source: KnnLM) -> dict[str, Path]:
    """What the pages were made from, for their description."""
    return {
        "neighbors": source.neighbors(SPLIT),
        "lm": source.lm(SPLIT),
        "knn": source.knn(SPLIT),
        "eval_tokens": source.tokens(source.row["corpus"], SPLIT),
        "experiment": config.study / "experiments" / f"{config.output}.json",
    }


def select(gain: np.ndarray, word: Callable[[int], str], documents: np.ndarray, context: int, count: int) -> list[int]:
    """Positions of the largest `gain` [N] whose words are readable, largest first; none where no gain is positive.

    Each document and each word is used once. If that gives too few, words are used again, then documents too, at
    positions more than `context` tokens from every other one. `documents` [D] are the positions where they begin.
    """
    order = [int(position) for position in np.argsort(-gain, kind="stable")[: 200 * count] if gain[position] > 0]
    order = [position for position in order if readable(word(position))]
    document = dict(zip(order, np.searchsorted(documents, order, side="right").tolist(), strict=True))
    chosen: list[int] = []

    def fill(fits: Callable[[int, int], bool]) -> None:
        for position in order:
            if len(chosen) < count and all(fits(position, other) for other in chosen):
                chosen.append(position)

    fill(lambda one, other: document[one] != document[other] and word(one).lower() != word(other).lower())
    fill(lambda one, other: document[one] != document[other])
    fill(lambda one, other: abs(one - other) > context)
    return sorted(chosen, key=lambda position: -gain[position])


def readable(target: str) -> bool:
    """Whether a token means something to a reader: no end of line, punctuation or <unk>."""
    return any(character.isalnum() for character in target) and not target.startswith("<")


def example(text: ScoredText, test: Passages, train: Passages, position: int, lmbda: float, count: int) -> Example:
    """The token at `position` with its `count` heaviest neighbors; the mixture is equation 3's."""
    passage = test.at(position)
    knn, lm = float(np.exp(text.knn[position])), float(np.exp(text.lm[position]))
    nearest = list(heaviest(text, train, position, count))
    return Example(passage.before, passage.target, knn, lm, lmbda * knn + (1 - lmbda) * lm, nearest)


def heaviest(text: ScoredText, train: Passages, position: int, count: int) -> Iterator[Neighbor]:
    """The neighbors that contribute most to p_kNN at `position`, heaviest first."""
    shares, distances = np.exp(text.log_shares(position)), text.distances(position)  # [k] both
    for column in np.argsort(-shares, kind="stable")[:count]:
        if (entry := int(text.ids[position, column])) >= 0:
            passage, hit = train.at(entry), bool(text.values[position, column] == text.tokens[position])
            yield Neighbor(passage.before, passage.target, hit, float(distances[column]), float(shares[column]))
