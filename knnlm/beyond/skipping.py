"""Perplexity against the share of searches that are left out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np

from knnlm.artifacts import npy
from knnlm.artifacts.files import UserError
from knnlm.beyond import mixers
from knnlm.beyond.signals import Signals
from knnlm.datastores import exact
from knnlm.scores import knn, mixture

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
MEMORY = 1 << 32  # bytes of keys held at a time


def at_random(count: int, share: float, seed: int) -> np.ndarray:
    """Which of `count` tokens are searched for: bool [N], the same order of tokens for every share."""
    return np.random.default_rng(seed).random(count) >= share


def masked(dev: Signals, test: Signals, searched: Sequence[np.ndarray]) -> tuple[np.ndarray, float]:
    """Log-probabilities of test [N] where only tokens that are `searched` get kNN, with the λ of dev's; and that λ."""
    mine, theirs = searched
    lmbda = float(mixture.tune([dev.knn[mine]], dev.lm[mine])[0]) if mine.any() else 0.0
    return np.where(theirs, mixture.mix([lmbda], [test.knn], test.lm), test.lm.astype(np.float64)), lmbda


@dataclass(frozen=True)
class Datastore:
    """The datastore of a row as RetoMaton walks it: entries are positions in the training stream."""

    tokens: np.ndarray  # [n] uint32, the stream: an entry's value
    rows: (
        np.ndarray
    )  # [n] int64, where the entry's key lies in the shards laid end to end; -1 where it is stored nowhere
    follows: np.ndarray  # [n] bool, whether the entry before is of the same document
    keys: list[np.ndarray]  # [m, d] of each shard


def datastore(split: Signals) -> Datastore:
    if split.source is None:
        raise UserError("RetoMaton needs the datastore of a study")
    corpus, shards = split.source.store["corpus"], split.source.keys
    tokens = np.asarray(npy.open_array(split.source.tokens(corpus, "train"), "integer", 1), np.uint32)
    starts = np.asarray(npy.open_array(split.source.documents(corpus, "train"), "integer", 1))
    ids = np.concatenate([npy.open_array(shard / "ids.npy", "int64", 1) for shard in shards])
    rows, follows = np.full(len(tokens), -1, np.int64), np.ones(len(tokens), np.bool_)
    rows[ids], follows[starts] = np.arange(len(ids)), False
    return Datastore(tokens, rows, follows, [npy.open_array(shard / "keys.npy", "floating", 2) for shard in shards])


def retomaton(split: Signals, store: Datastore, fewest: int) -> tuple[np.ndarray, np.ndarray]:
    """log p_kNN of the targets [N] float32, and which tokens were searched for [N] bool (Alon et al. 2022).

    After a token, the neighbors whose value it was point to the entries that follow them. Where `fewest` pointers or
    more are left, these entries are the next neighbors, at their real distances, and nothing is searched.
    """
    count, width = len(split.tokens), split.stored.shape[1]
    logprob, searched = np.array(split.knn), np.ones(count, np.bool_)
    queries, product = mixers.context_vectors(split), _is_product(split)
    tokens = np.ascontiguousarray(split.tokens, dtype=np.uint32)
    for first, last in groups(split.documents, count):
        inside = slice(first, last)
        begins = np.append(split.documents[(split.documents >= first) & (split.documents < last)], last) - first
        followed = np.full((last - first, width), -1, np.int64)  # the pointers of tokens not searched for
        found = np.ones(last - first, np.bool_)
        ids = np.ascontiguousarray(split.ids[inside])
        _walk(tokens[inside], begins, ids, store.tokens, store.rows, store.follows, fewest, followed, found)
        rest = np.flatnonzero(~found)
        rows = np.where(followed[rest] >= 0, store.rows[followed[rest]], -1)
        near = exact.rerank(store.keys, queries[first:last][rest], rows, MEMORY, "cpu", product)
        values = store.tokens[np.maximum(followed[rest], 0)]
        logprob[first + rest] = knn.target_logprob(near, values, tokens[inside][rest], split.temperature)
        searched[inside] = found
    return logprob, searched


def groups(documents: np.ndarray, count: int) -> list[tuple[int, int]]:
    """Whole documents together, of about `mixers.BLOCK` tokens."""
    ends, first = [], 0
    for end in [*documents[1:].tolist(), count]:
        if end - first >= mixers.BLOCK or end == count:
            ends.append((first, end))
            first = end
    return ends


def _is_product(split: Signals) -> bool:
    assert split.source is not None
    from knnlm.datastores import neighbors

    return neighbors.facts(split.source.neighbors("dev"))["metric"] == "ip"


@numba.njit(parallel=True, cache=True)
def _walk(tokens, begins, ids, stream, rows, follows, fewest, followed, searched):
    """Walk each document: fill `followed` [N, K] with the pointers and `searched` [N] of its tokens."""
    width = ids.shape[1]
    for document in numba.prange(len(begins) - 1):
        now, later = np.empty(width, np.int64), np.empty(width, np.int64)
        left = 0
        for i in range(begins[document], begins[document + 1]):
            if left >= fewest:
                searched[i] = False
                for j in range(left):
                    followed[i, j] = now[j]
            else:
                left = 0
                for j in range(width):
                    if ids[i, j] >= 0:
                        now[left] = ids[i, j]
                        left += 1
            kept = 0
            for j in range(left):
                entry = now[j]
                after = entry + 1
                if stream[entry] == tokens[i] and after < len(stream) and rows[after] >= 0 and follows[after]:
                    later[kept] = after
                    kept += 1
            left = kept
            now, later = later, now
