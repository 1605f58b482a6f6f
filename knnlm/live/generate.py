"""Generate text from the kNN-LM, the LM or kNN alone, and explain each word on request."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from knnlm.artifacts.cli import progress
from knnlm.artifacts.files import UserError
from knnlm.live import layout, passages, sampling
from knnlm.live.retrieval import Next, Retriever

MODES = ("mixture", "lm", "knn")


@dataclass(frozen=True)
class GenerateConfig:
    """Continue a prompt with words drawn from the kNN-LM, the LM or kNN alone."""

    study: Path
    """folder of a finished study, as results/smoke"""
    prompt: str = ""
    """what the text begins with"""
    mode: str = "mixture"
    """mixture, lm or knn"""
    words: int = 60
    """tokens to generate"""
    lmbda: float | None = None
    """weight of kNN in the mixture; by default the one tuned on dev"""
    temperature: float = 1.0
    """below 1 probable words become more probable; 0 always takes the most probable word"""
    top_p: float = 0.9
    """draw only from the most probable words that together have this probability"""
    seed: int = 1
    """seed of the draws"""
    explain: bool = False
    """print for each word its probabilities, and the LM or the stored context that contributed most"""
    output: str = "table1"
    """the experiment that has the row"""
    row: str = "knn"
    """a row with a datastore"""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(f"--mode {self.mode}: expected one of {', '.join(MODES)}")
        if self.lmbda is not None and not 0 <= self.lmbda <= 1:
            raise UserError(f"--lmbda {self.lmbda}: expected a weight between 0 and 1")
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.words < 1:
            raise UserError(
                f"found --temperature {self.temperature}, --top-p {self.top_p} and --words {self.words}; expected "
                "--temperature from 0, --top-p above 0 and at most 1, --words from 1"
            )


class Step(NamedTuple):
    """One generated word and the distributions that it was drawn from."""

    word: int
    next: Next
    lmbda: float

    @property
    def from_knn(self) -> float:
        """The part of the word's probability that its neighbors contributed, 0 to 1."""
        near, lm = self.lmbda * self.next.knn[self.word], (1 - self.lmbda) * self.next.lm[self.word]
        return float(near / (near + lm))


def main(config: GenerateConfig) -> None:
    source = layout.find(config.study, config.output, config.row)
    tuned = source.lmbda if config.lmbda is None else config.lmbda
    lmbda = {"mixture": tuned, "lm": 0.0, "knn": 1.0}[config.mode]
    train = passages.Passages(source, before=8, after=0)
    prompt = passages.encode(train.vocab, config.prompt)
    steps = list(progress(generate(config, Retriever(source), prompt, lmbda), "generate", config.words, "word"))
    print(train.vocab.detokenize([*prompt, *(step.word for step in steps)]))
    if config.explain:
        print(f"\n{'word':<16} {'mixture':>9} {'p_LM':>9} {'p_kNN':>9}  from")
        print("\n".join(explained(step, train) for step in steps))


def generate(config: GenerateConfig, retriever: Retriever, prompt: list[int], lmbda: float) -> Iterator[Step]:
    """Words after `prompt`, each drawn from its distribution after all before it; one seed gives the same words."""
    draws, tokens = np.random.default_rng(config.seed), list(prompt)
    for _ in range(config.words):
        expected = retriever.next(tokens)
        probabilities = sampling.nucleus(sampling.tempered(expected.mixed(lmbda), config.temperature), config.top_p)
        word = int(draws.choice(len(probabilities), p=probabilities))
        tokens.append(word)
        yield Step(word, expected, lmbda)


def explained(step: Step, train: passages.Passages) -> str:
    """One line: the word, its probabilities, and the LM or the stored context that contributed most to it."""
    name, near = train.vocab.tokens([step.word])[0], step.next.nearest
    numbers = [probability[step.word] for probability in (step.next.mixed(step.lmbda), step.next.lm, step.next.knn)]
    line = f"{name:<16.16} " + " ".join(f"{number:9.2g}" for number in numbers)
    if step.from_knn < 0.5:
        return f"{line}  the LM ({1 - step.from_knn:.0%})"
    heaviest = int(np.argmax(np.where(near.values == step.word, near.weights, -1)))
    passage = train.at(int(near.ids[heaviest]))
    count = int((near.values == step.word).sum())
    who = f"kNN ({step.from_knn:.0%}, {count} of {len(near.ids)} neighbors)"
    return f"{line}  {who}: … {passage.before} [{name}]  ({passage.title})"
