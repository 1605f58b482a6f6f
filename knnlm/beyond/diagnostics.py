"""Which tokens kNN helps: groups of the tokens of a split, each a function of the split's signals.

`@diagnostic` gives a function the title and the axis of its figure. It returns a label and a mask [N] for each group.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numba
import numpy as np

from knnlm.artifacts import npy
from knnlm.artifacts.files import UserError
from knnlm.beyond import mixers
from knnlm.beyond.signals import Signals
from knnlm.scores import stats

GROUPS = 8  # of equally many tokens
Group = tuple[str, np.ndarray]  # a label, and which tokens are in it


class Diagnostic(NamedTuple):
    title: str
    x: str
    groups: Callable[[Signals], Iterator[Group]]
    near: bool  # whether the groups depend on neighbors


DIAGNOSTICS: dict[str, Diagnostic] = {}


def diagnostic(title: str, x: str, near: bool = True) -> Callable:
    def named(function: Callable[[Signals], Iterator[Group]]) -> Callable[[Signals], Iterator[Group]]:
        DIAGNOSTICS[function.__name__] = Diagnostic(title, x, function, near)
        return function

    return named


@diagnostic("How often the target stands in the datastore's text", "occurrences", near=False)
def frequency(split: Signals) -> Iterator[Group]:
    """After Nishida et al. (2025)."""
    train = np.asarray(stream(split), np.int64)
    counts = np.bincount(train, minlength=int(split.tokens.max()) + 1)[split.tokens]
    yield from between(counts, (0, 1, 11, 101, 1001, 10_001))


@diagnostic("Longest end of the context in the datastore's text", "tokens", near=False)
def match(split: Signals) -> Iterator[Group]:
    """After Nørlund et al. (2023)."""
    if split.infinigram is not None:
        yield from between(split.infinigram.length, (0, 1, 2, 3, 4, 5, 9, 17))


@diagnostic("Place in the document", "tokens before", near=False)
def position(split: Signals) -> Iterator[Group]:
    yield from between(places(split), (0, 16, 64, 256, 1024))


@diagnostic("The target's last occurrence in its document", "tokens ago", near=False)
def seen(split: Signals) -> Iterator[Group]:
    ago = last_seen(np.asarray(split.tokens, np.int64), split.documents)
    yield from between(
        np.where(ago < 0, np.iinfo(np.int64).max, ago), (1, 11, 101, 1001, np.iinfo(np.int64).max), "never"
    )


@diagnostic("Distance of the nearest neighbor", "squared L2, groups of equal size")
def distance(split: Signals) -> Iterator[Group]:
    near = mixers.nearest(split)
    edges = np.quantile(near, np.arange(1, GROUPS) / GROUPS)
    group = np.searchsorted(edges, near, side="right")
    for number in range(GROUPS):
        low, high = ("" if end in (0, GROUPS) else f"{edges[end - 1]:.3g}" for end in (number, number + 1))
        yield f"{low}–{high}" if low and high else f"below {high}" if high else f"from {low}", group == number


def between(values: np.ndarray, edges: Sequence[int], last: str = "") -> Iterator[Group]:
    """Groups of integers [N], from each edge to before the next; the last one, named `last`, has no end."""
    for low, high in zip(edges, [*edges[1:], None], strict=True):
        if high is None:
            yield last or f"{low:,}+", values >= low
        else:
            yield f"{low:,}" if high == low + 1 else f"{low:,}–{high - 1:,}", (values >= low) & (values < high)


def stream(split: Signals) -> np.ndarray:
    """The text that the datastore holds, [n]."""
    if split.source is None:
        raise UserError("a diagnostic asked for the datastore's text of signals that come from no study")
    return npy.open_array(split.source.tokens(split.source.store["corpus"], "train"), "integer", 1)


def places(split: Signals) -> np.ndarray:
    """How many tokens of its document stand before each token, [N] int64."""
    sizes = np.diff([*split.documents, len(split.tokens)])
    return np.arange(len(split.tokens)) - np.repeat(split.documents, sizes)


@numba.njit(cache=True)
def last_seen(tokens, documents):
    """How many tokens ago each token occurred in its document, [N] int64; -1 where it had not."""
    ago, last = np.full(len(tokens), -1, np.int64), np.full(tokens.max() + 1, -1, np.int64)
    document, begin = 0, 0
    for i in range(len(tokens)):
        while document < len(documents) and documents[document] <= i:
            begin = documents[document]
            document += 1
        if last[tokens[i]] >= begin:
            ago[i] = i - last[tokens[i]]
        last[tokens[i]] = i
    return ago


def measured(values: np.ndarray, inside: np.ndarray, documents: np.ndarray) -> dict:
    """The mean of `values` [N] over the tokens `inside` [N], with its bootstrap interval over documents [D]."""
    sums, _ = stats.document_sums(np.where(inside, values, 0.0), documents)
    counts, _ = stats.document_sums(inside.astype(np.float64), documents)
    there = counts > 0.5
    low, high = stats.ratio(sums[there], counts[there]) if there.sum() >= stats.FEWEST else (None, None)
    return {"tokens": int(inside.sum()), "value": float(values[inside].mean()), "low": low, "high": high}


def top(split: Signals) -> tuple[np.ndarray, np.ndarray]:
    """The largest probability that p_kNN gives a word, [N] float32, and whether this word is the target, [N] bool."""
    probability, hit = np.empty(len(split.tokens), np.float32), np.empty(len(split.tokens), np.bool_)
    for block in mixers.blocks(len(split.tokens)):
        near = np.ascontiguousarray(split.distances(block), np.float32)
        targets = np.asarray(split.tokens[block], np.int64)
        _top(near, split.values[block], targets, split.temperature, probability[block], hit[block])
    return probability, hit


@numba.njit(parallel=True, cache=True)
def _top(distances, values, targets, temperature, probability, hit):
    for i in numba.prange(len(targets)):
        nearest, total, best, word = distances[i].min(), 0.0, 0.0, -1
        order = np.argsort(values[i])
        run, one = 0.0, -1
        for j in order:
            if np.isfinite(distances[i, j]):
                weight = np.exp((nearest - distances[i, j]) / temperature)
                run = weight + (run if values[i, j] == one else 0.0)
                one, total = values[i, j], total + weight
                if run > best:
                    best, word = run, one
        probability[i] = best / total if total else 0.0
        hit[i] = word == targets[i]
