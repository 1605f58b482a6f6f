"""The ∞-gram language model (Liu et al. 2024): next words after the longest end of the context that stands in a text.

    p(y | x) = count(s y) / count(s),   s the longest end of x with count(s) > 0

The text is one stream, as the LM's windows read it; a context ends at the beginning of its document. Ends are found in
a suffix array of the text read backwards, in which all occurrences of an end are neighbors.
"""

from typing import NamedTuple

import numba
import numpy as np
import pydivsufsort


class Scored(NamedTuple):
    """Of each of N targets."""

    logprob: np.ndarray  # [N] float32 nats; -inf where the target never followed
    length: np.ndarray  # [N] int32, tokens of the longest end that was found; 0: the text's words by frequency
    sparse: np.ndarray  # [N] bool, whether only one word ever followed


def suffix_array(tokens: np.ndarray) -> np.ndarray:
    """The ends of tokens [n] (integers from 0 below 2^32) in lexical order: [n] int64.

    The library sorts bytes. Tokens become four bytes each, the most significant first, so that the ends which begin
    with a token keep their order among all ends.
    """
    found = pydivsufsort.divsufsort(tokens.astype(">u4").view(np.uint8))
    return (found[found % 4 == 0] // 4).astype(np.int64)


def score(train: np.ndarray, tokens: np.ndarray, documents: np.ndarray) -> Scored:
    """Score `tokens` [N], whose documents begin at `documents` [D], with the text `train` [n]."""
    backwards = np.ascontiguousarray(train[::-1], dtype=np.uint32)
    tokens = np.ascontiguousarray(tokens, dtype=np.uint32)
    begins = np.repeat(documents, np.diff([*documents, len(tokens)])).astype(np.int64)  # [N]
    size = 1 + max(int(backwards.max()), int(tokens.max()))
    hits, total = np.empty(len(tokens), np.int64), np.empty(len(tokens), np.int64)
    length, sparse = np.empty(len(tokens), np.int32), np.empty(len(tokens), np.bool_)
    words = np.bincount(backwards, minlength=size)
    _score(backwards, suffix_array(backwards), words, tokens, begins, hits, total, length, sparse)
    with np.errstate(divide="ignore"):
        return Scored((np.log(hits) - np.log(total)).astype(np.float32), length, sparse)


@numba.njit(parallel=True, cache=True)
def _score(text, order, words, tokens, begins, hits, total, length, sparse):
    for i in numba.prange(len(tokens)):
        most = i - begins[i]
        place = _first(text, order, tokens, i, most, False)
        longest = 0
        for near in (place - 1, place):
            if 0 <= near < len(order):
                longest = max(longest, _common(text, order[near], tokens, i, most))
        found, same, distinct = 0, 0, False
        while longest and not found:  # an end that stands only at the end of the text has no next word
            first = _first(text, order, tokens, i, longest, False)
            last = _first(text, order, tokens, i, longest, True)
            one = -1
            for near in range(first, last):
                if order[near]:
                    word = text[order[near] - 1]
                    distinct |= found > 0 and word != one
                    one, found, same = word, found + 1, same + (word == tokens[i])
            longest -= 0 if found else 1
        if not longest:
            found, same, distinct = len(text), words[tokens[i]], True
        hits[i], total[i], length[i], sparse[i] = same, found, longest, not distinct


@numba.njit(cache=True)
def _common(text, start, tokens, i, most):
    """How many tokens before i agree with the text from `start` on, `most` at most."""
    count = 0
    while count < most and start + count < len(text) and text[start + count] == tokens[i - 1 - count]:
        count += 1
    return count


@numba.njit(cache=True)
def _first(text, order, tokens, i, most, after):
    """The first end of the text that is not below the `most` tokens before i; `after`: nor begins with them."""
    low, high = 0, len(order)
    while low < high:
        middle = (low + high) >> 1
        start = order[middle]
        count = _common(text, start, tokens, i, most)
        if count == most:
            below = after
        elif start + count == len(text):
            below = True
        else:
            below = text[start + count] < tokens[i - 1 - count]
        if below:
            low = middle + 1
        else:
            high = middle
    return low
