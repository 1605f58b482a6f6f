"""Score the targets of held-out splits by the ∞-gram of a text (Liu et al. 2024)."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from knnlm.artifacts import description, files, lineage, npy
from knnlm.beyond import infinigram


@dataclass(frozen=True)
class ScoreInfinigramConfig:
    """Score targets by what follows the longest end of their context in a text.

    Writes logprob.npy, length.npy and sparse.npy for each split.
    """

    train: Path
    """token ids of the text"""
    train_documents: Path
    """where its documents start"""
    tokens: tuple[Path, ...]
    """token ids to score: one file a split"""
    documents: tuple[Path, ...]
    """where their documents start, in the same order"""
    vocab: Path
    """vocabs/{vocab} directory, of which all these tokens are"""
    out: tuple[Path, ...]
    """directories, one a split, in the same order"""

    def __post_init__(self) -> None:
        if not len(self.tokens) == len(self.documents) == len(self.out):
            raise files.UserError(
                f"--tokens names {len(self.tokens)} files, --documents {len(self.documents)} and --out "
                f"{len(self.out)}: give one of each for each split"
            )


def main(config: ScoreInfinigramConfig) -> None:
    vocab = config.vocab / "vocab.json"
    lineage.agree((config.train, config.train_documents, vocab), "vocab", "text")
    splits = list(zip(config.tokens, config.documents, strict=True))
    shared = [lineage.agree(split, "text") | lineage.agree((vocab, *split), "vocab") for split in splits]
    size = files.read_json(description.check(vocab))["size"]
    train, *held_out = [open_stream(*paths, size) for paths in ((config.train, config.train_documents), *splits)]
    text = infinigram.index(*train)
    with ExitStack() as stack:
        for paths, streams, out, agreed in zip(splits, held_out, config.out, shared, strict=True):
            folder = stack.enter_context(files.atomic(out, directory=True))
            for name, array in infinigram.scored(infinigram.search(text, *streams))._asdict().items():
                npy.save_array(folder / f"{name}.npy", array)
            inputs = {"train": config.train, "tokens": paths[0], "documents": paths[1], "vocab": vocab}
            description.write_meta(folder, "score_infinigram", {}, inputs, agreed)


def open_stream(tokens: Path, documents: Path, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids [N] and document starts [D]; raises UserError for an id that a vocabulary of `size` words lacks."""
    stream, starts = npy.open_stream(tokens, documents)
    if (largest := int(stream.max())) >= size:
        raise files.UserError(f"{tokens}: found token {largest}, --vocab has {size:,} words: give the vocabulary's own")
    return stream, starts
