"""Encode a corpus as token ids, with the start of each document.

The train text of a large corpus can be encoded in shards, by separate jobs, which a last one joins.
"""

import logging
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from knnlm.artifacts import description, files, lineage, npy
from knnlm.artifacts.parallel import over_documents
from knnlm.corpora import vocab
from knnlm.corpora.corpus import is_pretokenized, read_document, read_index
from knnlm.corpora.vocab import SentencePieceVocab, WordVocab
from knnlm.settings import SPLITS

BLOCK = 1 << 24  # tokens that are copied at a time
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
    """number, from 0, of the one shard of train to encode"""
    shards: int = 1
    """number of shards that the documents of train are divided into"""
    parts: tuple[Path, ...] = ()
    """directories of all shards, in order; train is joined from them instead of encoded again"""


def main(config: BinarizeConfig) -> None:
    shared = lineage.agree((config.vocab, config.corpus, *config.parts), "vocab")
    lineage.differ(config.parts, "part")
    words = vocab.load(config.vocab)
    pretokenized = is_pretokenized(config.corpus)
    if isinstance(words, WordVocab):
        words.pretokenized = pretokenized
    elif pretokenized:
        raise files.UserError(
            f"{config.corpus} is tokenized into words already, but {config.vocab} is not a word vocabulary: use one"
        )
    splits = SPLITS if config.shard is None else ("train",)
    sizes: dict[str, int] = {}  # in tokens
    text: dict[str, dict[str, int]] = {}
    with files.atomic(config.out, directory=True, joined=config.parts) as tmp:
        for split in splits:
            if split == "train" and config.parts:
                join(config.parts, tmp)
                counted = (description.described(part)["text"][split] for part in config.parts)
                text[split] = dict(sum(map(Counter, counted), Counter()))
            else:
                text[split] = dict(encode_split(words, config, split, tmp))
            sizes[split] = int(np.load(tmp / f"{split}.npy", mmap_mode="r").size)
        inputs = {"vocab": config.vocab, "corpus": config.corpus} | {p.name: p for p in config.parts}
        flags = {"shard": config.shard, "shards": config.shards}
        role = None if config.shard is None else "part"
        description.write_meta(tmp, "binarize", flags, inputs, shared, role, tokens=sizes, text=text)
    log.info("%s: tokens: %s", config.out, ", ".join(f"{split} {size:,}" for split, size in sizes.items()))


def encode_split(words: vocab.Vocab, config: BinarizeConfig, split: str, out: Path) -> Counter[str]:
    """Write {split}.npy [N], the ids, and {split}.documents.npy [D], the position of each document's first token.

    Ids are uint16, or uint32 if the vocabulary is larger than 65,536; positions are int64.
    Returns the words (between white space) and UTF-8 bytes of the text, for perplexity per word and bits per byte.
    """
    dtype = np.uint16 if words.size <= 1 << 16 else np.uint32
    records, shard = read_index(config.corpus, split), config.shard or 0
    first, last = (i * len(records) // config.shards for i in (shard, shard + 1))
    if first == last:
        raise files.UserError(
            f"{config.corpus}: {len(records)} documents do not fill {config.shards} shards: ask for fewer"
        )
    size: Counter[str] = Counter()
    texts = measured((read_document(config.corpus, split, record) for record in records[first:last]), size)
    with tempfile.TemporaryFile(dir=out) as spooled:  # because the array's length is known only at the end
        lengths = [spooled.write(ids.data) // ids.itemsize for ids in encoded(words, dtype, texts)]
        tokens = npy.create_array(out / f"{split}.npy", (sum(lengths),), np.dtype(dtype).name)  # [N]
        spooled.seek(0)
        for start in range(0, len(tokens), BLOCK):
            stop = min(start + BLOCK, len(tokens))
            tokens[start:stop] = np.frombuffer(spooled.read((stop - start) * tokens.itemsize), dtype)
    npy.save_array(out / f"{split}.documents.npy", np.cumsum([0, *lengths[:-1]], dtype=np.int64))  # [D]
    return size


def measured(texts: Iterable[str], size: Counter[str]) -> Iterator[str]:
    """The same texts, while their words and bytes are added to `size`."""
    for text in texts:
        size.update(words=len(text.split()), bytes=len(text.encode()))
        yield text


def join(parts: tuple[Path, ...], out: Path) -> None:
    """Write train.npy [N] and train.documents.npy [D] of the whole, the shards' one after another."""
    shards = [npy.open_array(part / "train.npy", "integer", 1) for part in parts]
    ends = np.cumsum([len(shard) for shard in shards])
    tokens = npy.create_array(out / "train.npy", (int(ends[-1]),), shards[0].dtype.name)  # [N]
    for shard, end in zip(shards, ends, strict=True):
        tokens[end - len(shard) : end] = shard
    starts = [npy.open_array(part / "train.documents.npy", "int64", 1) for part in parts]
    moved = [start + end - len(shard) for start, shard, end in zip(starts, shards, ends, strict=True)]
    npy.save_array(out / "train.documents.npy", np.concatenate(moved))  # [D]


def encoded(words: vocab.Vocab, dtype: type, texts: Iterable[str]) -> Iterator[np.ndarray]:
    """The ids of each document [N], made on all cores: by the vocabulary's own threads if it has any."""
    own = isinstance(words, SentencePieceVocab)
    return (ids.astype(dtype) for ids in (words.encode_all(texts) if own else over_documents(words.encode, texts)))
