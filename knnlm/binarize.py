"""A corpus to token ids with the start of each document."""

import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from knnlm import files, vocab
from knnlm.cli import run
from knnlm.corpus import is_pretokenized, read_documents
from knnlm.parallel import over_documents
from knnlm.sources import SPLITS
from knnlm.vocab import WordVocab

COPIED = 1 << 24  # tokens at a time
log = logging.getLogger("knnlm")


@dataclass(frozen=True)
class BinarizeConfig:
    """Encode train, dev and test of a corpus with a vocabulary."""

    vocab: Path
    """vocabs/{vocab} directory"""
    corpus: Path
    """corpora/{corpus} directory"""
    out: Path
    """tokens/{vocab}/{corpus} directory to write"""


def main(config: BinarizeConfig) -> None:
    words = vocab.load(config.vocab)
    pretokenized = is_pretokenized(config.corpus)
    if isinstance(words, WordVocab):
        words.pretokenized = pretokenized
    elif pretokenized:
        raise files.UserError(f"{config.corpus}: already word tokens, {config.vocab} is not a word vocabulary: use one")
    facts = {}
    with files.atomic(config.out, directory=True) as tmp:
        for split in SPLITS:
            encode_split(words, config.corpus, split, tmp)
            facts[split] = int(np.load(tmp / f"{split}.npy", mmap_mode="r").size)
        files.write_meta(tmp, "binarize", config, {"vocab": config.vocab, "corpus": config.corpus}, tokens=facts)
    log.info("%s: %s tokens", config.out, facts)


def encode_split(words: vocab.Vocab, corpus: Path, split: str, out: Path) -> None:
    """{split}.npy [N] and {split}.documents.npy int64 [D], the documents' first positions."""
    dtype = np.uint16 if words.size <= 1 << 16 else np.uint32
    encode: Callable[[str], np.ndarray] = partial(encode_document, words, dtype)
    with tempfile.TemporaryFile(dir=out) as spooled:  # the length is known only at the end
        encoded = over_documents(encode, read_documents(corpus, split))
        lengths = [spooled.write(ids.data) // ids.itemsize for ids in encoded]
        tokens = files.create_array(out / f"{split}.npy", (sum(lengths),), np.dtype(dtype).name)  # [N]
        spooled.seek(0)
        for start in range(0, len(tokens), COPIED):
            stop = min(start + COPIED, len(tokens))
            tokens[start:stop] = np.frombuffer(spooled.read((stop - start) * tokens.itemsize), dtype)
    files.save_array(out / f"{split}.documents.npy", np.cumsum([0, *lengths[:-1]], dtype=np.int64))  # [D]


def encode_document(words: vocab.Vocab, dtype: type, text: str) -> np.ndarray:
    return words.encode(text).astype(dtype)


if __name__ == "__main__":
    run(main, BinarizeConfig)
