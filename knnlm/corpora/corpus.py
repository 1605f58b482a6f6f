"""Corpora: remove documents that are there twice, write and read splits."""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from knnlm.artifacts.description import check, described
from knnlm.artifacts.files import UserError
from knnlm.corpora.sources import FOLDER, Document
from knnlm.corpora.text import first_words, lead, normalise
from knnlm.settings import CorpusSettings

log = logging.getLogger("knnlm")


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a document lies in a file, and what is needed to compare it with others and to choose its split."""

    title: str
    source: str
    split: str | None
    """the split that its source puts it in, if the source has splits"""
    start: int
    """its first byte in the file"""
    bytes: int
    words: int
    lead: str
    """its opening words, normalised; "" if it has no long paragraph. Of a user's own file, a digest of its words"""


def spool(documents: Iterable[Document], file: BinaryIO) -> list[Entry]:
    """Append the text of each document to `file`, so that memory holds only what the entries list."""
    entries, start = [], 0
    for document in documents:
        text = document.text if document.split and document.text.endswith("\n") else document.text.strip() + "\n"
        size, words = file.write(text.encode()), len(text.split())
        if document.source == FOLDER:  # many files may begin alike, with a licence or a header
            opening = hashlib.sha256(" ".join(text.casefold().split()).encode()).hexdigest()
        else:
            opening = lead(text.removeprefix(document.title + "\n"))
        entries.append(Entry(document.title, document.source, document.split, start, size, words, opening))
        start += size
    return entries


def text_of(spooled: BinaryIO, entry: Entry) -> str:
    """The entry's text, from the file that it lies in."""
    spooled.seek(entry.start)
    return spooled.read(entry.bytes).decode()


def shorten(document: Document, settings: CorpusSettings) -> Document:
    """The document's first lines, up to the one that reaches the number of words that the settings allow."""
    words = settings.document_words
    if document.title in (*settings.dev_titles, *settings.test_titles):
        words = settings.held_out_document_words or words
    return document if words is None else replace(document, text=first_words(document.text, words))


def deduplicate(entries: list[Entry]) -> list[Entry]:
    """Keep the longest of the documents that share a title or an opening, both compared in normalised form.

    A user's own files may have names and openings in common: of those with the same words, one is kept. Documents of a
    source with splits of its own are all kept.
    """
    kept: list[Entry] = []
    seen: set[tuple[str, str]] = set()
    for entry in sorted(entries, key=lambda e: -e.words):
        titles = set() if entry.source == FOLDER else {("title", normalise(entry.title))}
        keys = (titles | {("lead", entry.lead)}) - {("title", ""), ("lead", "")}
        if entry.split or not keys & seen:
            kept.append(entry)
            seen |= keys
        elif entry.source == FOLDER:
            log.info("%s: left out, since another file has the same words", entry.title)
    return sorted(kept, key=lambda e: e.start)


def write_split(directory: Path, split: str, entries: list[Entry], spooled: BinaryIO) -> None:
    """Write {split}.txt and, with each document's place in it (in bytes), {split}.documents.jsonl."""
    start = 0
    with (
        (directory / f"{split}.txt").open("wb") as text,
        (directory / f"{split}.documents.jsonl").open("w", encoding="utf-8") as index,
    ):
        for entry in entries:
            spooled.seek(entry.start)
            text.write(spooled.read(entry.bytes))
            record = {"title": entry.title, "source": entry.source, "start": start, "bytes": entry.bytes}
            index.write(json.dumps(record, ensure_ascii=False) + "\n")
            start += entry.bytes


def read_index(corpus: Path, split: str) -> list[dict]:
    """The records of a split's documents, {title, source, start, bytes}; raises UserError if there are none."""
    check(Path(corpus) / f"{split}.txt")
    path = check(Path(corpus) / f"{split}.documents.jsonl")
    with path.open(encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    if not records:
        raise UserError(f"{path}: no documents; prepare the corpus again")
    return records


def read_documents(corpus: Path, split: str) -> Iterator[str]:
    """The texts of a split, one document at a time."""
    for record in read_index(corpus, split):
        yield read_document(corpus, split, record)


def read_document(corpus: Path, split: str, record: dict) -> str:
    """The text of the document that a record of `read_index` describes."""
    with (Path(corpus) / f"{split}.txt").open("rb") as file:
        file.seek(record["start"])
        return file.read(record["bytes"]).decode()


def is_pretokenized(corpus: Path) -> bool:
    """Whether the text is tokens with spaces between them."""
    return bool(described(corpus).get("pretokenized"))


def random_documents(count: int, fraction: float, seed: int) -> np.ndarray:
    """Indices of a seeded random `fraction` of `count` documents, at least one: int64, ascending."""
    chosen = np.random.default_rng(seed).permutation(count)[: max(1, round(fraction * count))]
    return np.sort(chosen)
