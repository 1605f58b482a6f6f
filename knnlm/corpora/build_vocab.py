"""Make a vocabulary from the train text of one or several corpora.

Dev and test are never read, so that their words cannot influence it.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from knnlm.artifacts import archives, description, files, lineage
from knnlm.artifacts.cli import settings
from knnlm.artifacts.parallel import over_documents
from knnlm.corpora import vocab
from knnlm.corpora.corpus import is_pretokenized, read_document, read_documents, read_index
from knnlm.corpora.pretrained_vocab import PretrainedVocab
from knnlm.corpora.text import first_words
from knnlm.corpora.vocab import BertVocab, SentencePieceVocab, Vocab, WordVocab
from knnlm.corpora.wikitext import count_words
from knnlm.settings import VocabSettings

log = logging.getLogger("knnlm")


@dataclass(frozen=True)
class BuildVocabConfig:
    """Make a vocabulary from the train documents of one or several corpora."""

    corpora: tuple[Path, ...]
    """corpora/{corpus} directories; only train is read (none for a pretrained model's vocabulary)"""
    out: Path
    """vocabs/{vocab} directory to write"""
    settings: str = "{}"
    """VocabSettings as JSON"""
    sha256: str = ""
    """expected digest of a pretrained model's archive, checked before it is opened"""


def main(config: BuildVocabConfig) -> None:
    asked = settings(VocabSettings, config.settings, "vocab")
    if asked.file and asked.type != "pretrained" and not Path(asked.file).is_file():
        raise files.UserError(f"vocab: file: {asked.file}: no such file")
    if config.sha256 and asked.file:
        archives.check(Path(asked.file), config.sha256)
    lineage.agree(config.corpora)
    with files.atomic(config.out, directory=True) as tmp:
        made = build(config.corpora, asked, tmp)
        vocab.save(made, tmp)
        inputs = {path.name: path for path in config.corpora} | ({"file": Path(asked.file)} if asked.file else {})
        description.write_meta(tmp, "build_vocab", asked, inputs, role="vocab")
    log.info("%s: %d tokens", config.out, made.size)


def build(corpora: tuple[Path, ...], asked: VocabSettings, directory: Path) -> Vocab:
    """The vocabulary that `asked` describes; a SentencePiece model is written to `directory`."""
    if asked.type == "bert":
        return BertVocab(Path(asked.file or ""))
    if asked.type == "pretrained":
        return PretrainedVocab.read(Path(asked.file or ""), asked.member, asked.eos, asked.bos)
    if asked.type == "word":
        return WordVocab.read(Path(asked.file)) if asked.file else WordVocab.build(count(corpora), asked)
    return SentencePieceVocab.build(sample(corpora, asked), asked, directory / "spm.model")


def count(corpora: tuple[Path, ...]) -> Counter[str]:
    """How often each word occurs in the train text of the corpora together."""
    counts: Counter[str] = Counter()
    for corpus in corpora:
        pretokenized = is_pretokenized(corpus)
        documents = ((text, pretokenized) for text in read_documents(corpus, "train"))
        for counts_of_document in over_documents(count_words, documents):
            counts.update(counts_of_document)
    return counts


def sample(corpora: tuple[Path, ...], asked: VocabSettings) -> Iterator[str]:
    """Train documents in a seeded random order, up to `sample_words` words; the last one is cut after a line."""
    records = [(corpus, record) for corpus in corpora for record in read_index(corpus, "train")]
    left = asked.sample_words
    for i in np.random.default_rng(asked.seed).permutation(len(records)):
        if left <= 0:
            return
        corpus, record = records[i]
        text = read_document(corpus, "train", record)
        yield first_words(text, left)
        left -= len(text.split())
