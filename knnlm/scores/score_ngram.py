"""Estimate n-gram models on one corpus and score the targets of its held-out splits."""

import logging
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from knnlm.artifacts import description, files, lineage, npy
from knnlm.scores import ngram

log = logging.getLogger("knnlm")
ORDERS = (2, 3, 4, 5, 6, 7)


@dataclass(frozen=True)
class ScoreNgramConfig:
    """Score targets by n-gram models; writes order{n}.npy for each order and split."""

    train: Path
    """token ids to estimate from"""
    train_documents: Path
    """where their documents start"""
    eval: tuple[Path, ...]
    """token ids to score: one file a split"""
    eval_documents: tuple[Path, ...]
    """where their documents start, in the same order"""
    vocab: Path
    """vocab.json: its size gives the number of words that the models have never seen"""
    out: tuple[Path, ...]
    """directories, one a split, in the same order"""
    orders: tuple[int, ...] = ORDERS
    """orders n of the models"""
    memory: str = "1G"
    """memory that lmplz may use for sorting"""
    lmplz: Path | None = None
    """KenLM's program that estimates a model; by default the one beside Python or on PATH"""

    def __post_init__(self) -> None:
        if not len(self.eval) == len(self.eval_documents) == len(self.out):
            raise files.UserError(
                f"--eval names {len(self.eval)} files, --eval-documents {len(self.eval_documents)} and --out "
                f"{len(self.out)}: give one of each for each split"
            )
        if wrong := set(self.orders) - set(ORDERS):
            raise files.UserError(f"--orders: found {min(wrong)}, expected numbers from {ORDERS[0]} to {ORDERS[-1]}")


def main(config: ScoreNgramConfig) -> None:
    lmplz = ngram.find_lmplz(config.lmplz)
    lineage.agree((config.train, config.train_documents, config.vocab), "vocab", "text")
    splits_of = [
        lineage.agree(paths, "text") | lineage.agree((config.vocab, *paths), "vocab")
        for paths in zip(config.eval, config.eval_documents, strict=True)
    ]
    size = files.read_json(description.check(config.vocab))["size"]
    train = npy.open_stream(config.train, config.train_documents)
    splits = [npy.open_stream(*paths) for paths in zip(config.eval, config.eval_documents, strict=True)]
    with ExitStack() as stack:
        outs = [stack.enter_context(files.atomic(out, directory=True)) for out in config.out]
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=outs[0])))
        for order in sorted(set(config.orders)):
            model = scratch / f"order{order}.arpa"
            log.info("estimating order %d on %s tokens", order, f"{len(train[0]):,}")
            ngram.estimate(*train, order, model, lmplz, config.memory)
            for split, out in zip(splits, outs, strict=True):
                npy.save_array(out / f"order{order}.npy", ngram.target_logprob(model, *split, size))
            model.unlink()
        orders = {"orders": sorted(set(config.orders))}
        for tokens, documents, out, shared in zip(config.eval, config.eval_documents, outs, splits_of, strict=True):
            inputs = {"train": config.train, "tokens": tokens, "documents": documents, "vocab": config.vocab}
            description.write_meta(out, "score_ngram", orders, inputs, shared)
