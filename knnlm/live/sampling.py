"""Drawing words: temperature and nucleus (top-p) on probabilities, and the continuation of a text word by word."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy

if TYPE_CHECKING:
    from knnlm.live.retrieval import Next, Retriever


class Step(NamedTuple):
    """One generated word and the distributions that it was drawn from."""

    word: int
    next: "Next"
    lmbda: float

    @property
    def from_knn(self) -> float:
        """The part of the word's probability that its neighbors contributed, 0 to 1."""
        near, lm = self.lmbda * self.next.knn[self.word], (1 - self.lmbda) * self.next.lm[self.word]
        return float(near / (near + lm))


def draw(
    retriever: "Retriever",
    prompt: list[int],
    lmbda: float,
    words: int,
    top_p: float,
    temperature: float = 1.0,
    seed: int | Sequence[int] = 1,
    end: int | None = None,
) -> Iterator[Step]:
    """Words after `prompt`, each drawn from its distribution after all before it; one seed gives the same words.

    The text stops after the token `end`. A word costs one step of the model (see `Reading`).
    """
    draws, text, unread = np.random.default_rng(seed), retriever.begin(), [retriever.lm.eos, *prompt]
    for _ in range(words):
        expected = retriever.read(text, unread)
        probabilities = nucleus(tempered(expected.mixed(lmbda), temperature), top_p)
        word = int(draws.choice(len(probabilities), p=probabilities))
        unread = [word]
        yield Step(word, expected, lmbda)
        if word == end:
            return


def tempered(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities [V] in proportion to p^(1/T); T = 0 leaves only the most probable word, the first of equals."""
    if temperature == 0:
        return np.eye(1, len(probabilities), int(np.argmax(probabilities)))[0]
    with np.errstate(divide="ignore"):
        return scipy.special.softmax(np.log(probabilities) / temperature)


def nucleus(probabilities: np.ndarray, top_p: float) -> np.ndarray:
    """Probabilities [V] of the fewest most probable words that together hold `top_p`, normalized; all others are 0."""
    order = np.argsort(-probabilities, kind="stable")
    before = np.cumsum(probabilities[order]) - probabilities[order]
    kept = np.zeros_like(probabilities)
    inside = order[before < top_p]
    kept[inside] = probabilities[inside]
    return kept / kept.sum()
