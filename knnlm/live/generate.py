"""Generate text from the kNN-LM, the LM or kNN alone, and explain each word on request.

With `--json` each prompt gives one line of JSON:

    prompt      the text that was continued, as it was read
    text        the prompt and its continuation
    unknown     words of the prompt that the vocabulary does not have
    ended       whether the end of a text was drawn
    words       of each token drawn: {"token", "logprob", "from_knn", "neighbors"}
                logprob     {"mixture", "lm", "knn"} of the token, nats, before temperature and top_p; null for p = 0
                from_knn    the part of its probability that its neighbors contributed, 0 to 1
                neighbors   the heaviest stored contexts, as `knnlm query --json` gives them
    mode, lmbda, temperature, top_p, seed    how it was drawn; lmbda is the weight of kNN in the mixture
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from knnlm.artifacts.cli import progress
from knnlm.artifacts.files import UserError
from knnlm.live import layout, passages, sampling, terminal
from knnlm.live.retrieval import Retriever
from knnlm.live.sampling import Step

MODES = ("mixture", "lm", "knn")


@dataclass(frozen=True)
class GenerateConfig:
    """Continue a prompt with words drawn from the kNN-LM, the LM or kNN alone."""

    study: Path
    """folder of a finished study, as results/smoke"""
    prompt: str | None = None
    """what the text begins with; without it, each line that is typed or piped is a prompt"""
    json: bool = False
    """print one line of JSON for each prompt; the module's docstring names its fields"""
    mode: str = "mixture"
    """mixture, lm or knn"""
    words: int = 60
    """tokens to generate, if the text does not end before"""
    lmbda: float | None = None
    """weight of kNN in the mixture; by default the one tuned on dev"""
    temperature: float = 1.0
    """below 1 probable words become more probable; 0 always takes the most probable word"""
    top_p: float = 0.9
    """draw only from the most probable words that together have this probability"""
    seed: int = 1
    """seed of the draws, for each prompt anew"""
    explain: bool = False
    """print for each word its probabilities, and the LM or the stored context that contributed most"""
    neighbors: int = 3
    """stored contexts of each word in JSON"""
    threads: int | None = None
    """threads; by default OMP_NUM_THREADS, else one for a small model and every core for a large one"""
    output: str = "table1"
    """the experiment that has the row"""
    row: str = "knn"
    """a row with a datastore"""

    def __post_init__(self) -> None:
        terminal.check_threads(self.threads)
        if self.mode not in MODES:
            raise UserError(f"--mode {self.mode}: expected one of {', '.join(MODES)}")
        if self.lmbda is not None and not 0 <= self.lmbda <= 1:
            raise UserError(f"--lmbda {self.lmbda}: expected a weight between 0 and 1")
        if not self.temperature >= 0 or not 0 < self.top_p <= 1 or self.words < 1 or self.neighbors < 0:
            raise UserError(
                f"found --temperature {self.temperature}, --top-p {self.top_p}, --words {self.words} and --neighbors "
                f"{self.neighbors}; expected --temperature from 0, --top-p above 0 and at most 1, --words from 1, "
                "--neighbors from 0"
            )


def main(config: GenerateConfig) -> None:
    source = layout.find(config.study, config.output, config.row)
    tuned = source.lmbda if config.lmbda is None else config.lmbda
    lmbda = {"mixture": tuned, "lm": 0.0, "knn": 1.0}[config.mode]
    train = passages.Passages(source, before=8, after=0)
    retriever = Retriever(source)
    terminal.choose_threads(retriever.lm, config.threads)
    for prompt in terminal.prompts(config.prompt, "--prompt"):
        tokens, unknown = passages.encode(train.vocab, prompt), passages.unknown(train.vocab, prompt)
        terminal.show_unknown(unknown)
        drawn = sampling.draw(retriever, tokens, lmbda, config.words, config.top_p, config.temperature, config.seed)
        steps = list(progress(until_end(drawn, train), "generate", config.words, "word"))
        begun = train.vocab.detokenize(tokens)
        text = train.vocab.detokenize([*tokens, *(step.word for step in steps)]).rstrip("\n")
        if config.json:
            ended = bool(steps) and train.ends(steps[-1].word, steps[-1].next.nearest)
            terminal.show_json(
                {"prompt": begun, "unknown": unknown, "text": text, "ended": ended} | facts(steps, train, config, lmbda)
            )
            continue
        same = len(begun) if text.startswith(begun) else 0
        print(terminal.painted(text[:same], "faint") + text[same:], flush=True)
        if config.explain:
            print("\n" + terminal.painted(f"{'word':<16} {'mixture':>9} {'p_LM':>9} {'p_kNN':>9}  from", "faint"))
            print("\n".join(explained(step, train) for step in steps), flush=True)


def until_end(drawn: Iterator[Step], train: passages.Passages) -> Iterator[Step]:
    """The words up to the end of the text, if one is drawn."""
    for step in drawn:
        yield step
        if train.ends(step.word, step.next.nearest):
            return


def facts(steps: list[Step], train: passages.Passages, config: GenerateConfig, lmbda: float) -> dict:
    """The words as JSON, and how they were drawn."""
    words = []
    for step in steps:
        columns = {"mixture": step.next.mixed(lmbda), "lm": step.next.lm, "knn": step.next.knn}
        logprob = {name: terminal.nats(p[step.word]) for name, p in columns.items()}
        words.append(
            {"token": train.vocab.tokens([step.word])[0], "logprob": logprob, "from_knn": step.from_knn}
            | {"neighbors": train.facts(step.next.nearest, config.neighbors)}
        )
    drawn = {name: getattr(config, name) for name in ("mode", "temperature", "top_p", "seed")}
    return {"words": words, "lmbda": lmbda} | drawn


def explained(step: Step, train: passages.Passages) -> str:
    """One line: the word, its probabilities, and the LM or the stored context that contributed most to it."""
    name, near = train.word(step.word), step.next.nearest
    numbers = [probability[step.word] for probability in (step.next.mixed(step.lmbda), step.next.lm, step.next.knn)]
    line = f"{name:<16.16} " + " ".join(f"{number:9.2g}" for number in numbers)
    if step.from_knn < 0.5:
        return f"{line}  {terminal.painted(f'the LM ({1 - step.from_knn:.0%})', 'lm')}"
    heaviest = int(np.argmax(np.where(near.values == step.word, near.weights, -1)))
    passage = train.at(int(near.ids[heaviest]))
    count = int((near.values == step.word).sum())
    who = f"kNN ({step.from_knn:.0%}, {count} of {len(near.ids)} neighbors)"
    return f"{line}  {terminal.painted(who, 'knn')}: … {passage.before} [{name}]  ({passage.title})"
