"""A corpus to token ids with the start of each document; a large train split in shards, joined afterwards."""

import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from knnlm.artifacts import description, files, lineage, npy
from knnlm.artifacts.parallel import over_documents
from knnlm.corpora import vocab
from knnlm.corpora.corpus import is_pretokenized, read_document, read_index
from knnlm.corpora.sources import SPLITS
from knnlm.corpora.vocab import WordVocab

COPIED = 1 << 24  # tokens at a time
log = logging.getLogger("knnlm")


@dataclass(frozen=True)
class BinarizeConfig:
    """Encode train, dev and test of a corpus with a vocabulary, or one shard of train."""

    vocab: Path
    """vocabs/{vocab} directory"""
    corpus: Path
    """corpora/{corpus} directory"""
    out: Path
    """tokens/{vocab}/{corpus} directory to write"""
    shard: int | None = None
    """encode only this one of `shards` runs of train's documents"""
    shards: int = 1
    parts: tuple[Path, ...] = ()
    """all shards' directories in their order: train is joined from them and not encoded again"""


def main(config: BinarizeConfig) -> None:
    shared = lineage.agree((config.vocab, config.corpus, *config.parts), "vocab")
    lineage.differ(config.parts, "part")
    words = vocab.load(config.vocab)
    pretokenized = is_pretokenized(config.corpus)
    if isinstance(words, WordVocab):
        words.pretokenized = pretokenized
    elif pretokenized:
        raise files.UserError(f"{config.corpus}: already word tokens, {config.vocab} is not a word vocabulary: use one")
    splits = SPLITS if config.shard is None else ("train",)
    facts: dict[str, int] = {}
    sizes: dict[str, dict[str, int]] = {}
    with files.atomic(config.out, directory=True) as tmp:
        for split in splits:
            if split == "train" and config.parts:
                join(config.parts, tmp)
                counted = (description.described(part)["text"]["train"] for part in config.parts)
                sizes[split] = dict(sum(map(Counter, counted), Counter()))
            else:
                sizes[split] = dict(encode_split(words, config, split, tmp))
            facts[split] = int(np.load(tmp / f"{split}.npy", mmap_mode="r").size)
        inputs = {"vocab": config.vocab, "corpus": config.corpus} | {p.name: p for p in config.parts}
        told = {"shard": config.shard, "shards": config.shards}
        role = None if config.shard is None else "part"
        description.write_meta(tmp, "binarize", told, inputs, shared, role, tokens=facts, text=sizes)
    log.info("%s: %s tokens", config.out, facts)


def encode_split(words: vocab.Vocab, config: BinarizeConfig, split: str, out: Path) -> Counter[str]:
    """{split}.npy [N] and {split}.documents.npy int64 [D], the documents' first positions.

    Returns the words (between white space) and UTF-8 bytes of the text, for perplexity per word and bits per byte.
    """
    dtype = np.uint16 if words.size <= 1 << 16 else np.uint32
    records, shard = read_index(config.corpus, split), config.shard or 0
    first, last = (i * len(records) // config.shards for i in (shard, shard + 1))
    if first == last:
        raise files.UserError(f"{config.corpus}: {len(records)} documents in {config.shards} shards: ask for fewer")
    size: Counter[str] = Counter()
    texts = measured((read_document(config.corpus, split, record) for record in records[first:last]), size)
    encode: Callable[[str], np.ndarray] = partial(encode_document, words, dtype)
    with tempfile.TemporaryFile(dir=out) as spooled:  # the length is known only at the end
        lengths = [spooled.write(ids.data) // ids.itemsize for ids in over_documents(encode, texts)]
        tokens = npy.create_array(out / f"{split}.npy", (sum(lengths),), np.dtype(dtype).name)  # [N]
        spooled.seek(0)
        for start in range(0, len(tokens), COPIED):
            stop = min(start + COPIED, len(tokens))
            tokens[start:stop] = np.frombuffer(spooled.read((stop - start) * tokens.itemsize), dtype)
    npy.save_array(out / f"{split}.documents.npy", np.cumsum([0, *lengths[:-1]], dtype=np.int64))  # [D]
    return size


def measured(texts: Iterable[str], size: Counter[str]) -> Iterator[str]:
    """The same texts, while their words and bytes are added to `size`."""
    for text in texts:
        size.update(words=len(text.split()), bytes=len(text.encode()))
        yield text


def join(parts: tuple[Path, ...], out: Path) -> None:
    """The shards' train.npy and train.documents.npy, one after another."""
    shards = [npy.open_array(part / "train.npy", "integer", 1) for part in parts]
    ends = np.cumsum([len(shard) for shard in shards])
    tokens = npy.create_array(out / "train.npy", (int(ends[-1]),), shards[0].dtype.name)  # [N]
    for shard, end in zip(shards, ends, strict=True):
        tokens[end - len(shard) : end] = shard
    starts = [npy.open_array(part / "train.documents.npy", "int64", 1) for part in parts]
    moved = [start + end - len(shard) for start, shard, end in zip(starts, shards, ends, strict=True)]
    npy.save_array(out / "train.documents.npy", np.concatenate(moved))  # [D]


def encode_document(words: vocab.Vocab, dtype: type, text: str) -> np.ndarray:
    return words.encode(text).astype(dtype)
