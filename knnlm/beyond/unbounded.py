"""Mixers with the ∞-gram: two λ, one where a single word ever followed the end of the context, and one elsewhere."""

import numpy as np

from knnlm.artifacts.files import UserError
from knnlm.beyond.infinigram import Scored
from knnlm.beyond.mixers import Mixed, mixer
from knnlm.beyond.signals import Signals
from knnlm.scores import mixture


@mixer
def infinigram(dev: Signals, test: Signals) -> Mixed:
    """∞-gram and LM (Liu et al. 2024)."""
    return by_sparsity(dev, test, [], [])


@mixer
def infinigram_knn(dev: Signals, test: Signals) -> Mixed:
    """∞-gram, kNN and LM."""
    return by_sparsity(dev, test, [dev.knn], [test.knn])


def by_sparsity(dev: Signals, test: Signals, dev_others: list[np.ndarray], test_others: list[np.ndarray]) -> Mixed:
    """Mix the ∞-gram and others [M][N] with the LM, with weights for sparse and for other tokens, tuned on dev."""
    mixed, facts = [np.zeros(len(split.lm)) for split in (dev, test)], {}
    for kind, name in ((True, "one word followed"), (False, "several words followed")):
        parts = [
            ([given(split).logprob[rows], *(one[rows] for one in others)], split.lm[rows], rows)
            for split, others in ((dev, dev_others), (test, test_others))
            for rows in [given(split).sparse == kind]
        ]
        weights = mixture.tune(*parts[0][:2]) if parts[0][2].any() else np.zeros(1 + len(dev_others))
        for out, (components, lm, rows) in zip(mixed, parts, strict=True):
            out[rows] = mixture.mix(weights, components, lm)
        facts[f"weights where {name}"] = ", ".join(f"{weight:.3g}" for weight in weights)
        facts[f"share of test where {name}"] = float(parts[1][2].mean())
    return Mixed(mixed[0], mixed[1], facts)


def given(split: Signals) -> Scored:
    if split.infinigram is None:
        raise UserError("this mixer needs the ∞-gram's scores: --infinigram, the folders of dev and of test")
    return split.infinigram
