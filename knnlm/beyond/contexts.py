"""What the network of He et al. (2021) sees of a context beside its vector."""

import numpy as np
import torch

from knnlm.artifacts import npy
from knnlm.artifacts.files import UserError
from knnlm.beyond.signals import Signals
from knnlm.live import distributions

ORDERS = (1, 2, 3, 4)  # of the n-grams at a context's end
BATCH_TOKENS = 4096
MIXED = np.uint64(0x9E3779B97F4A7C15)  # an odd number: n-grams are numbered by a polynomial modulo 2^64


def inputs(split: Signals) -> np.ndarray:
    """Of each context [N, 10] float32: log counts of its last n-grams, of their successors, LM entropy and maximum.

    Nats; a count of zero has log 0.5.
    """
    if split.source is None:
        raise UserError("a mixer asked for the language model of signals that come from no study")
    store = split.source.store
    train = np.asarray(npy.open_array(split.source.tokens(store["corpus"], "train"), "integer", 1))
    columns = [column for order in ORDERS for column in counted(train, np.asarray(split.tokens), order)]
    return np.column_stack([np.log(np.maximum(np.column_stack(columns), 0.5)), entropy(split)]).astype(np.float32)


def counted(train: np.ndarray, tokens: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray]:
    """How often the `order` tokens before each of `tokens` [N] stand in `train`, and how many different follow them."""
    numbers, asked = ngrams(train, order), ngrams(tokens, order)  # of the tokens before each position
    grams, counts = np.unique(numbers, return_counts=True)
    pairs = np.unique(np.column_stack([numbers, train.astype(np.uint64)]), axis=0)[:, 0]
    fertility = np.searchsorted(pairs, grams, side="right") - np.searchsorted(pairs, grams)
    place = np.minimum(np.searchsorted(grams, asked), len(grams) - 1)
    there = grams[place] == asked
    return np.where(there, counts[place], 0), np.where(there, fertility[place], 0)


def ngrams(tokens: np.ndarray, order: int) -> np.ndarray:
    """A number for the `order` tokens before each position [N] uint64; before the first token stands none."""
    padded = np.concatenate([np.zeros(order, np.uint64), tokens.astype(np.uint64) + np.uint64(1)])
    found = np.zeros(len(tokens), np.uint64)
    for back in range(order):
        found = found * MIXED + padded[back : back + len(tokens)]
    return found


def entropy(split: Signals) -> np.ndarray:
    """Entropy and largest log-probability of the LM's distribution at each token: [N, 2] float32 nats."""
    assert split.source is not None
    found = np.zeros((len(split.tokens), 2), np.float32)
    for ids, logprob in distributions.blocks(split.source, np.asarray(split.tokens), len(split.tokens), BATCH_TOKENS):
        found[ids, 0] = torch.special.entr(logprob.exp()).sum(1).numpy()
        found[ids, 1] = logprob.max(1).values.numpy()
    return found
