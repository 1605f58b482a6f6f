"""Show the nearest stored contexts of a sentence of your own, in the terminal."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from knnlm.live import layout, passages
from knnlm.live.retrieval import Nearest, Next, Retriever


@dataclass(frozen=True)
class QueryConfig:
    """Show the nearest training contexts of a context, and what the LM, kNN and their mixture expect next."""

    study: Path
    """folder of a finished study, as results/smoke"""
    context: str
    """the beginning of a sentence; - reads one context from each line of standard input"""
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


def main(config: QueryConfig) -> None:
    source = layout.find(config.study, config.output, config.row, config.seed)
    retriever, train = Retriever(source), passages.Passages(source)
    retriever.next(passages.encode(train.vocab, "a"))  # compiles functions, so that no query waits for it
    for context in sys.stdin if config.context == "-" else [config.context]:
        started = time.perf_counter()
        tokens = passages.encode(train.vocab, context)
        following = retriever.next(tokens)
        print(f"\n{train.vocab.detokenize(tokens)} …\n")
        print(expected(following, source.lmbda, train, config.words))
        print(nearest(following.nearest, train, config.neighbors))
        print(f"{len(following.nearest.ids):,} neighbors in {time.perf_counter() - started:.2f} s", file=sys.stderr)


def expected(following: Next, lmbda: float, train: passages.Passages, count: int) -> str:
    """The most probable next words of the LM, kNN and their mixture, side by side."""
    columns = {"LM": following.lm, "kNN": following.knn, f"mixture, λ = {lmbda:.3f}": following.mixed(lmbda)}
    lines = ["  ".join(f"{name:<26}" for name in columns)]
    orders = [np.argsort(-p, kind="stable")[:count] for p in columns.values()]
    for words in zip(*orders, strict=True):
        cells = [
            f"{p[word]:7.4f} {train.vocab.tokens([word])[0]:<18.18}" if p[word] > 0 else ""
            for word, p in zip(words, columns.values(), strict=True)
        ]
        lines.append("  ".join(f"{cell:<26}" for cell in cells).rstrip())
    return "\n".join(lines) + "\n"


def nearest(near: Nearest, train: passages.Passages, count: int) -> str:
    """One line a neighbor, heaviest first: weight, distance, context with its target in brackets, title."""
    lines = [" weight  distance  context [target]"]
    for i in np.argsort(-near.weights, kind="stable")[:count]:
        passage = train.at(int(near.ids[i]))
        shown = f"… {passage.before} [{passage.target or '↵'}] {passage.after}"
        lines.append(f"{near.weights[i]:7.4f} {near.distances[i]:9.3f}  {shown}  ({passage.title})")
    return "\n".join(lines) + "\n"
