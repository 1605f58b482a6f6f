"""The ∞-gram language model (Liu et al. 2024): next words after the longest end of the context that stands in a text.

    p(y | x) = count(s y) / count(s),   s the longest end of x that a word follows somewhere in the text

The authors' index has a separator after each document, which no context contains, so that no match runs from one
document into the next. So it is here. They count the separator as a word that may follow. Here it is none: documents
have their own end token, and a match that ends where its document ends is not counted, so that the probabilities of the
vocabulary's words sum to one.

All places where a context occurs are neighbors in a suffix array of the text. pydivsufsort makes it: it sorts bytes, in
the integer mode that is used here those of numbers of fixed width with the most significant byte first, of which it
returns the aligned suffixes. Two million tokens take it about a second.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numba
import numpy as np
import pydivsufsort

from knnlm.scores import mixture

SEPARATOR, ABOVE = 0, 1 << 32  # below and above all words of an indexed text, which are the tokens plus one

MOST = 0.999  # of the weight at most is not the LM's: with 1, a target that never followed would cost infinitely


class Index(NamedTuple):
    """A text of n tokens in D documents, ready for search."""

    stream: np.ndarray  # [n + D] uint32, the tokens plus one, with SEPARATOR after each document
    order: np.ndarray  # [n + D] int32, or int64 for a text of 2 GiB: where the suffixes begin, in their lexical order


class Matches(NamedTuple):
    """Of each of N targets: the longest end of its context that a word follows in the text, and what follows there."""

    length: np.ndarray  # [N] int32, tokens of the end that was found; 0: all words of the text follow
    total: np.ndarray  # [N] int64, words that follow it, at least 1
    hits: np.ndarray  # [N] int64, how many of them are the target
    sparse: np.ndarray  # [N] bool, whether they are all the same word


class Scored(NamedTuple):
    """Of each of N targets."""

    logprob: np.ndarray  # [N] float32 nats; -inf where the target never followed
    length: np.ndarray  # [N] int32, tokens of the longest end that was found; 0: the text's words by frequency
    sparse: np.ndarray  # [N] bool, whether only one word ever followed


class Mixture(NamedTuple):
    """The LM mixed with the ∞-gram, and with other components."""

    weights: np.ndarray  # [2, M] of the ∞-gram and the others: where several words followed, and where only one did
    dev: np.ndarray  # [N] float64 nats
    test: np.ndarray  # [N] float64 nats


def index(tokens: np.ndarray, documents: np.ndarray) -> Index:
    """Index a text: tokens [n] from 0 to 2^32 - 2, documents [D] start offsets.

    Memory is 25 bytes a token, and 45 where there are more than 2^16 words.
    """
    ends = np.append(documents[1:], len(tokens))
    stream = np.insert(np.asarray(tokens, np.uint32) + np.uint32(1), ends, SEPARATOR)
    return Index(stream, pydivsufsort.divsufsort(stream))


def search(text: Index, tokens: np.ndarray, documents: np.ndarray) -> Matches:
    """Find the context of every one of `tokens` [N] in a text; it begins with the token's document, documents [D]."""
    tokens = np.ascontiguousarray(tokens, np.uint32)
    spans = np.append(documents, len(tokens)).astype(np.int64)  # [D + 1]
    kinds = (np.int32, np.int64, np.int64, np.bool_)
    found = Matches(*(np.empty(len(tokens), kind) for kind in kinds))
    _search(*text, tokens, spans, *found)
    return found


def scored(found: Matches) -> Scored:
    with np.errstate(divide="ignore"):
        logprob = np.log(found.hits) - np.log(found.total)
    return Scored(logprob.astype(np.float32), found.length, found.sparse)


def mixed(
    dev: Scored,
    test: Scored,
    lm_dev: np.ndarray,
    lm_test: np.ndarray,
    others: Sequence[tuple[np.ndarray, np.ndarray]] = (),
) -> Mixture:
    """Mix the ∞-gram with the LM by two λ, one for sparse targets and one for the rest, each tuned on dev.

    lm_dev and lm_test [N] nats; `others` are the log-probabilities, of dev and of test, of further components, as
    kNN's, each with two weights too. Where dev has no target of one of the two kinds, this kind is left to the LM.
    """
    weights = np.zeros((2, 1 + len(others)))
    out = Mixture(weights, np.empty(len(lm_dev)), np.empty(len(lm_test)))
    for kind in (0, 1):
        parts = [
            ([here[rows] for here in components], lm[rows], rows)
            for components, lm, rows in (
                ([dev.logprob, *(one[0] for one in others)], lm_dev, dev.sparse == kind),
                ([test.logprob, *(one[1] for one in others)], lm_test, test.sparse == kind),
            )
        ]
        if parts[0][2].any():
            found = mixture.tune(*parts[0][:2])
            weights[kind] = found * min(1, MOST / max(MOST, found.sum()))
        for split, (components, lm, rows) in zip((out.dev, out.test), parts, strict=True):
            split[rows] = mixture.mix(weights[kind], components, lm)
    return out


@numba.njit(parallel=True, cache=True)
def _search(stream, order, tokens, spans, length, total, hits, sparse):
    """Fill length, total, hits and sparse [N], document by document.

    The places of a context and of the same context with its next token are one range of `order` inside another. So the
    range is carried along while it has a word that follows, and searched anew, for a shorter context, where it has not.
    """
    for document in numba.prange(len(spans) - 1):
        size, low, high = _longest(stream, order, tokens, spans[document], 0)
        for i in range(spans[document], spans[document + 1]):
            length[i], total[i] = size, high - low
            sparse[i] = stream[order[low] + size] == stream[order[high - 1] + size]
            low, high = _narrowed(stream, order, low, high, size, tokens[i])
            hits[i] = high - low
            size, low = size + 1, _first(stream, order, low, high, size + 1, SEPARATOR + 1)
            if low == high:
                size, low, high = _longest(stream, order, tokens, i + 1, size - 1)


@numba.njit(cache=True)
def _longest(stream, order, tokens, end, most):
    """The longest context before `end`, of at most `most` tokens, that a word follows: its length and range of `order`.

    All ends of a context that occurs occur too. So steps down from `most`, each twice as long as the one before, and
    then bisection find the length.
    """
    size, step, fails = most, 1, most + 1
    low, high = _range(stream, order, tokens, end - size, end)
    while low == high:
        fails, size, step = size, max(size - step, 0), 2 * step
        low, high = _range(stream, order, tokens, end - size, end)
    while fails - size > 1:
        middle = (size + fails) >> 1
        first, last = _range(stream, order, tokens, end - middle, end)
        if first < last:
            size, low, high = middle, first, last
        else:
            fails = middle
    return size, low, high


@numba.njit(cache=True)
def _range(stream, order, tokens, start, end):
    """The range of `order` where tokens[start:end] occur with a word after them; it is empty where there is none."""
    low = _place(stream, order, tokens, start, end, SEPARATOR + 1)
    return low, _place(stream, order, tokens, start, end, ABOVE)


@numba.njit(cache=True)
def _place(stream, order, tokens, start, end, last):
    """The first of all suffixes that is not below the words tokens[start:end] with the symbol `last` after them.

    No suffix is read beyond its end: the last symbol of the stream is SEPARATOR, which is no word.
    """
    low, high = 0, len(order)
    while low < high:
        middle = (low + high) >> 1
        at, i = np.int64(order[middle]), start
        while i < end and stream[at] == tokens[i] + 1:
            at, i = at + 1, i + 1
        if stream[at] < (tokens[i] + 1 if i < end else last):
            low = middle + 1
        else:
            high = middle
    return low


@numba.njit(cache=True)
def _narrowed(stream, order, low, high, offset, token):
    """The part of a range of suffixes, alike in their first `offset` symbols, whose next symbol is the token's."""
    low = _first(stream, order, low, high, offset, token + 1)
    return low, _first(stream, order, low, high, offset, token + 2)


@numba.njit(cache=True)
def _first(stream, order, low, high, offset, symbol):
    """The first of a range of suffixes, alike in their first `offset` symbols, whose next is not below `symbol`."""
    while low < high:
        middle = (low + high) >> 1
        if stream[order[middle] + offset] < symbol:
            low = middle + 1
        else:
            high = middle
    return low
