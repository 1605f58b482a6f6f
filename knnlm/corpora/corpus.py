"""Whole documents into train, dev and test: de-duplicated first, then split by a salted hash of their titles."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from knnlm.artifacts.description import check, described
from knnlm.artifacts.files import UserError
from knnlm.corpora.sources import Document
from knnlm.corpora.text import lead, normalise
from knnlm.settings import SPLITS, CorpusSettings


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a document lies in the spool, and what it is compared by."""

    title: str
    source: str
    split: str | None
    start: int  # bytes
    bytes: int
    words: int
    lead: str


def spool(documents: Iterable[Document], file: BinaryIO) -> list[Entry]:
    """Append each document's text to `file`; only titles and leads stay in memory."""
    entries, start = [], 0
    for document in documents:
        text = document.text if document.split and document.text.endswith("\n") else document.text.strip() + "\n"
        body = text.partition("\n")[2] if text.startswith(document.title + "\n") else text
        start += file.write(data := text.encode())
        words = len(text.split())
        entry = (document.title, document.source, document.split, start - len(data), len(data), words, lead(body))
        entries.append(Entry(*entry))
    return entries


def shorten(document: Document, settings: CorpusSettings) -> Document:
    """The first lines of a document, until they hold as many words as the settings ask for."""
    words = settings.document_words
    if document.title in (*settings.dev_titles, *settings.test_titles):
        words = settings.held_out_document_words or words
    if words is None:
        return document
    lines = document.text.split("\n")
    counted = np.cumsum([len(line.split()) for line in lines])
    return replace(document, text="\n".join(lines[: int(np.searchsorted(counted, words)) + 1]))


def deduplicate(entries: list[Entry]) -> list[Entry]:
    """Of documents that share a normalised title or a lead, the longest; documents with own splits stay as they are."""
    kept: list[Entry] = []
    seen: set[tuple[str, str]] = set()
    for entry in sorted(entries, key=lambda e: -e.words):
        keys = {("title", normalise(entry.title)), ("lead", entry.lead)} - {("lead", ""), ("title", "")}
        if entry.split or not keys & seen:
            kept.append(entry)
            seen |= keys
    return sorted(kept, key=lambda e: e.start)


def split_documents(entries: list[Entry], settings: CorpusSettings) -> dict[str, list[Entry]]:
    """A partition of the documents (all but what `train_words` leaves out); raises UserError for an empty split."""
    if any(entry.split for entry in entries):
        if missing := [entry.title for entry in entries if not entry.split]:
            raise UserError(f"sources: some documents have their own split, {missing[0]!r} has none: use two corpora")
        splits = {split: [entry for entry in entries if entry.split == split] for split in SPLITS}
        splits["train"] = _take(splits["train"], settings.train_words)
    else:
        order = sorted(entries, key=lambda e: _salted(e.title, settings.seed))
        named = {title for split in ("dev", "test") for title in getattr(settings, f"{split}_titles")}
        free = [entry for entry in order if entry.title not in named]
        splits = {}
        for split in ("test", "dev"):
            if titles := getattr(settings, f"{split}_titles"):
                splits[split] = [_titled(order, title) for title in titles]
            else:
                splits[split] = _fill(free, getattr(settings, f"{split}_words"), split)
            taken = set(splits[split])
            free = [entry for entry in free if entry not in taken]
        splits["train"] = _take(free, settings.train_words)
    for split in SPLITS:
        if not splits[split]:
            raise UserError(f"{split}: no documents are left for it; lower the other splits' sizes or add sources")
    return splits


def _salted(title: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\t{title}".encode()).digest()


def _titled(entries: list[Entry], title: str) -> Entry:
    for entry in entries:
        if entry.title == title:
            return entry
    raise UserError(f"no document titled {title!r}; titles are e.g. {', '.join(repr(e.title) for e in entries[:5])}")


def _fill(entries: list[Entry], words: int, split: str) -> list[Entry]:
    """Documents in order until `words` are reached; one that would overshoot by a tenth is passed over."""
    if words < 1:
        raise UserError(f"{split}: no documents asked for; set {split}_words or {split}_titles")
    taken, total = [], 0
    for entry in entries:
        if total < words and total + entry.words <= 1.1 * words:
            taken.append(entry)
            total += entry.words
    if not taken:
        shortest = min((entry.words for entry in entries), default=0)
        raise UserError(f"{split}_words: {words}, but the shortest document has {shortest} words: raise it")
    return taken


def _take(entries: list[Entry], words: int | None) -> list[Entry]:
    if words is None:
        return entries
    return _fill(entries, words, "train")


def write_split(directory: Path, split: str, entries: list[Entry], spooled: BinaryIO) -> None:
    """{split}.txt and {split}.documents.jsonl with the byte offsets of each document."""
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
    """The documents of a split: {title, source, start, bytes}; UserError when there are none."""
    check(Path(corpus) / f"{split}.txt")
    path = check(Path(corpus) / f"{split}.documents.jsonl")
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if not records:
        raise UserError(f"{path}: no documents; prepare the corpus again")
    return records


def read_documents(corpus: Path, split: str) -> Iterator[str]:
    """The texts of a split, one document at a time."""
    for record in read_index(corpus, split):
        yield read_document(corpus, split, record)


def read_document(corpus: Path, split: str, record: dict) -> str:
    """The text of one entry of `read_index`."""
    with (Path(corpus) / f"{split}.txt").open("rb") as file:
        file.seek(record["start"])
        return file.read(record["bytes"]).decode()


def is_pretokenized(corpus: Path) -> bool:
    return bool(described(corpus).get("pretokenized"))


def random_documents(count: int, fraction: float, seed: int) -> np.ndarray:
    """Ascending indices of a seeded random `fraction` of `count` documents, at least one."""
    chosen = np.random.default_rng(seed).permutation(count)[: max(1, round(fraction * count))]
    return np.sort(chosen)
