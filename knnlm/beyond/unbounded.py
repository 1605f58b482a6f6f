"""Mixers with the ∞-gram: two λ, one where a single word ever followed the end of the context, and one elsewhere."""

from knnlm.artifacts.files import UserError
from knnlm.beyond import infinigram as unbounded_ngram
from knnlm.beyond.infinigram import Scored
from knnlm.beyond.mixers import Mixed, mixer
from knnlm.beyond.signals import Signals


@mixer
def infinigram(dev: Signals, test: Signals) -> Mixed:
    """∞-gram and LM (Liu et al. 2024)."""
    return mixed(dev, test, with_knn=False)


@mixer
def infinigram_knn(dev: Signals, test: Signals) -> Mixed:
    """∞-gram, kNN and LM."""
    return mixed(dev, test, with_knn=True)


def mixed(dev: Signals, test: Signals, with_knn: bool) -> Mixed:
    others = [(dev.knn, test.knn)] if with_knn else []
    found = unbounded_ngram.mixed(given(dev), given(test), dev.lm, test.lm, others)
    facts = {}
    for weights, name in zip(found.weights, ("several words", "one word"), strict=True):
        facts[f"weights where {name} followed"] = ", ".join(f"{weight:.3g}" for weight in weights)
    return Mixed(
        found.dev, found.test, facts | {"share of test where one word followed": float(given(test).sparse.mean())}
    )


def given(split: Signals) -> Scored:
    if split.infinigram is None:
        raise UserError("this mixer needs the ∞-gram's scores: --infinigram, the folders of dev and of test")
    return split.infinigram
