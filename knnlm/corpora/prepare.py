"""Read, clean and de-duplicate text and divide it into train, dev and test."""

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

from knnlm.artifacts import description, disk, files
from knnlm.artifacts.archives import check
from knnlm.artifacts.cli import settings
from knnlm.corpora.corpus import Entry, deduplicate, shorten, spool, text_of, write_split
from knnlm.corpora.sources import read
from knnlm.corpora.splits import overlaps, split_documents, without_near_duplicates
from knnlm.settings import SPLITS, CorpusSettings

log = logging.getLogger("knnlm")


@dataclass(frozen=True)
class PrepareConfig:
    """Read, clean, de-duplicate and split the documents of a corpus."""

    out: Path
    """corpora/{corpus} directory to write"""
    settings: str = "{}"
    """CorpusSettings as JSON"""
    archives: tuple[str, ...] = ()
    """NAME=PATH of each archive that the sources name"""
    sha256: tuple[str, ...] = ()
    """NAME=SHA256 of each archive with a known digest, checked before it is opened"""


def main(config: PrepareConfig) -> None:
    asked = settings(CorpusSettings, config.settings, "corpus")
    archives = parse_archives(config.archives)
    for name, expected in parse_pairs(config.sha256, "--sha256", "NAME=SHA256").items():
        check(archives[name], expected)
    sources = [source.model_dump() for source in asked.sources]
    with (
        files.explained(config.out),
        disk.temporary(config.out) as scratch,
        tempfile.TemporaryFile(dir=scratch) as spooled,
    ):
        documents = (document for source in sources for document in read(source, archives))
        entries = spool((shorten(document, asked) for document in documents), spooled)
        unique = deduplicate(entries)

        def read_text(entry: Entry) -> str:
            return text_of(spooled, entry)

        if asked.near_duplicates is not None:
            unique = without_near_duplicates(unique, asked.near_duplicates, asked.seed, read_text)
        splits = split_documents(unique, asked, read_text)
        files.check_room(config.out, sum(entry.bytes for split in SPLITS for entry in splits[split]))
        with files.atomic(config.out, directory=True) as tmp:
            for split in SPLITS:
                write_split(tmp, split, splits[split], spooled)
            words = {split: sum(entry.words for entry in splits[split]) for split in SPLITS}
            description.write_meta(
                tmp,
                "prepare",
                asked,
                archives | {source["path"]: Path(source["path"]) for source in sources if source.get("path")},
                pretokenized=asked.pretokenized or any(entry.source == "wikitext103" for entry in unique),
                words=words,
                documents={split: len(splits[split]) for split in SPLITS},
                duplicates=len(entries) - len(unique),
                overlap=overlaps(splits, read_text),
            )
    sizes = ", ".join(f"{split} {size:,}" for split, size in words.items())
    log.info("%s: words: %s; %d duplicate documents left out", config.out, sizes, len(entries) - len(unique))


def parse_archives(pairs: tuple[str, ...]) -> dict[str, Path]:
    """The archives' names and files, from arguments such as "gensim=downloads/gensim"."""
    return {name: Path(path) for name, path in parse_pairs(pairs, "--archives", "NAME=PATH").items()}


def parse_pairs(pairs: tuple[str, ...], flag: str, expected: str) -> dict[str, str]:
    """The names and values of a flag's arguments; raises UserError for one without `=`."""
    for pair in pairs:
        if "=" not in pair:
            raise files.UserError(f"{flag}: found {pair!r}, expected {expected}")
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}
