"""Show the nearest stored contexts of a sentence of your own, in the terminal or as JSON.

With `--json` each context gives one line of JSON:

    context     the text as it was read
    tokens      its tokens, as the vocabulary prints them
    unknown     words of the context that the vocabulary does not have
    next        {"mixture", "lm", "knn"}: the most probable next tokens, [{"token", "logprob"}], nats
    lmbda       the weight of kNN in the mixture
    distance    which one: "exact" (from the stored keys), "quantized" (the index's own) or "quantized_sqrt" (its root);
                squared L2, or negated inner products where the index has those
    neighbors   the heaviest first: [{"weight", "distance", "entry", "before", "target", "after", "title"}], in which
                weight is the share of p_kNN and entry the position in the datastore's text
    seconds     time of the answer
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from knnlm.artifacts.files import UserError
from knnlm.live import layout, passages, terminal
from knnlm.live.retrieval import Nearest, Next, Retriever


@dataclass(frozen=True)
class QueryConfig:
    """Show the nearest training contexts of a context, and what the LM, kNN and their mixture expect next."""

    study: Path
    """folder of a finished study, as results/smoke"""
    context: str | None = None
    """the beginning of a sentence; without it, each line that is typed or piped is one"""
    json: bool = False
    """print one line of JSON for each context; the module's docstring names its fields"""
    output: str = "table1"
    """the experiment that has the row"""
    row: str = "knn"
    """a row with a datastore"""
    seed: int | None = None
    """seed of the model; by default the row's first"""
    neighbors: int = 10
    """number of contexts shown"""
    words: int = 8
    """number of next words shown"""
    threads: int | None = None
    """threads; by default OMP_NUM_THREADS, else one for a small model and every core for a large one"""

    def __post_init__(self) -> None:
        terminal.check_threads(self.threads)
        if self.neighbors < 0 or self.words < 0:
            raise UserError(f"found --neighbors {self.neighbors} and --words {self.words}; expected numbers from 0")


def main(config: QueryConfig) -> None:
    source = layout.find(config.study, config.output, config.row, config.seed)
    retriever, train = Retriever(source), passages.Passages(source)
    terminal.choose_threads(retriever.lm, config.threads)
    retriever.next(passages.encode(train.vocab, "a"))  # compiles functions, so that no query waits for it
    for context in terminal.prompts(config.context, "--context"):
        started = time.perf_counter()
        tokens, unknown = passages.encode(train.vocab, context), passages.unknown(train.vocab, context)
        terminal.show_unknown(unknown)
        following = retriever.next(tokens)
        if config.json:
            answer = facts(following, source, train, tokens, config)
            terminal.show_json(answer | {"unknown": unknown, "seconds": time.perf_counter() - started})
            continue
        print(f"\n{terminal.painted(f'{train.vocab.detokenize(tokens)} …', 'bold')}\n")
        print(expected(following, source.lmbda, train, config.words))
        print(nearest(following.nearest, train, config.neighbors))
        print(f"{len(following.nearest.ids):,} neighbors in {time.perf_counter() - started:.2f} s", file=sys.stderr)


def facts(
    following: Next, source: layout.KnnLM, train: passages.Passages, tokens: list[int], config: QueryConfig
) -> dict:
    """The answer as JSON, without its time."""
    columns = {"mixture": following.mixed(source.lmbda), "lm": following.lm, "knn": following.knn}
    likeliest = {name: np.argsort(-p, kind="stable")[: config.words] for name, p in columns.items()}
    return {
        "context": train.vocab.detokenize(tokens),
        "tokens": train.vocab.tokens(tokens),
        "next": {
            name: [
                {"token": train.vocab.tokens([word])[0], "logprob": terminal.nats(p[word])}
                for word in likeliest[name]
                if p[word] > 0
            ]
            for name, p in columns.items()
        },
        "lmbda": source.lmbda,
        "distance": source.store["distance"],
        "neighbors": train.facts(following.nearest, config.neighbors),
    }


def expected(following: Next, lmbda: float, train: passages.Passages, count: int) -> str:
    """The most probable next words of the LM, kNN and their mixture, side by side."""
    columns = {"LM": following.lm, "kNN": following.knn, f"mixture, λ = {lmbda:.3f}": following.mixed(lmbda)}
    lines = [terminal.painted("  ".join(f"{name:<26}" for name in columns).rstrip(), "faint")]
    orders = [np.argsort(-p, kind="stable")[:count] for p in columns.values()]
    for words in zip(*orders, strict=True):
        cells = [
            f"{p[word]:7.4f} {train.word(word):<18.18}" if p[word] > 0 else ""
            for word, p in zip(words, columns.values(), strict=True)
        ]
        lines.append("  ".join(f"{cell:<26}" for cell in cells).rstrip())
    return "\n".join(lines) + "\n"


def nearest(near: Nearest, train: passages.Passages, count: int) -> str:
    """One line a neighbor, heaviest first: weight, distance, context with its target in brackets, title."""
    lines = [terminal.painted(" weight  distance  context [target]", "faint")]
    for i in np.argsort(-near.weights, kind="stable")[:count]:
        passage = train.at(int(near.ids[i]))
        target = terminal.painted(f"[{passage.target}]", "knn")
        shown = f"… {passage.before} {target} {passage.after}  {terminal.painted(f'({passage.title})', 'faint')}"
        lines.append(f"{near.weights[i]:7.4f} {near.distances[i]:9.3f}  {shown}")
    return "\n".join(lines) + "\n"
