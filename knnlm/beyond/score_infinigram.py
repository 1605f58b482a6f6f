"""Score held-out text with the ∞-gram of a datastore's text."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from knnlm.artifacts import description, files, lineage, npy
from knnlm.beyond import infinigram


@dataclass(frozen=True)
class ScoreInfinigramConfig:
    """Score targets by the longest end of their context that stands in a text; writes a folder for each split."""

    train: Path
    """token ids of the text"""
    eval: tuple[Path, ...]
    """token ids to score: one file a split"""
    eval_documents: tuple[Path, ...]
    """where their documents start, in the same order"""
    out: tuple[Path, ...]
    """folders of logprob.npy, length.npy and sparse.npy, one a split, in the same order"""

    def __post_init__(self) -> None:
        if not len(self.eval) == len(self.eval_documents) == len(self.out):
            raise files.UserError(
                f"--eval names {len(self.eval)} files, --eval-documents {len(self.eval_documents)} and --out "
                f"{len(self.out)}: give one of each for each split"
            )


def main(config: ScoreInfinigramConfig) -> None:
    train = npy.open_array(config.train, "integer", 1)
    with ExitStack() as stack:
        for tokens, documents, out in zip(config.eval, config.eval_documents, config.out, strict=True):
            shared = lineage.agree((tokens, documents), "text") | lineage.agree((config.train, tokens), "vocab")
            starts = np.asarray(npy.open_array(documents, "integer", 1))
            scored = infinigram.score(np.asarray(train), npy.open_array(tokens, "integer", 1), starts)
            folder = stack.enter_context(files.atomic(out, directory=True))
            for name, array in scored._asdict().items():
                npy.save_array(folder / f"{name}.npy", array)
            inputs = {"train": config.train, "tokens": tokens, "documents": documents}
            description.write_meta(folder, "score_infinigram", {}, inputs, shared)
