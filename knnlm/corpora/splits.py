"""Divide documents into train, dev and test; what of dev and test stands in train.

Splits consist of whole documents, as in the paper (Section 3).
"""

import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from knnlm.artifacts.files import UserError
from knnlm.corpora import overlap
from knnlm.corpora.corpus import Entry
from knnlm.corpora.text import first_words
from knnlm.settings import HELD_OUT, SPLITS, CorpusSettings

TENTH = 10  # of all words, in dev and in test, where the settings say nothing
log = logging.getLogger("knnlm")


def without_near_duplicates(
    entries: list[Entry], similarity: float, seed: int, read: Callable[[Entry], str]
) -> list[Entry]:
    """Of documents that share that much of their text, keep the longest; `read` gives an entry's text."""
    longest_first = sorted(entries, key=lambda e: -e.words)
    found = overlap.near_duplicates(map(read, longest_first), similarity, seed)
    kept = [entry for position, entry in enumerate(longest_first) if position not in found]
    return sorted(kept, key=lambda e: e.start)


def split_documents(
    entries: list[Entry], settings: CorpusSettings, read: Callable[[Entry], str] | None = None
) -> dict[str, list[Entry]]:
    """The documents of train, dev and test; no document is in two splits, and `train_words` may leave some out.

    Splits that come with the sources are kept; otherwise they are drawn. `read` gives an entry's text; it is needed
    where held-out documents are cut or limited in what they share with others. Raises UserError for an impossible or
    empty split.
    """
    have_splits = any(entry.split for entry in entries)
    splits = _splits_of_sources(entries) if have_splits else _drawn_splits(entries, settings, read)
    if settings.train_words is not None:
        splits["train"] = _fill(splits["train"], settings.train_words, "train")
    for split in SPLITS:
        if not splits[split]:
            raise UserError(f"{split}: no documents are left for it; lower the other splits' sizes or add sources")
    return splits


def _splits_of_sources(entries: list[Entry]) -> dict[str, list[Entry]]:
    for entry in entries:
        if not entry.split:
            raise UserError(
                f"sources: some have splits of their own, but {entry.source}, with {entry.title!r}, has none: "
                "make two corpora of them"
            )
    return {split: [entry for entry in entries if entry.split == split] for split in SPLITS}


def _drawn_splits(
    entries: list[Entry], settings: CorpusSettings, read: Callable[[Entry], str] | None
) -> dict[str, list[Entry]]:
    """Dev and test by titles or by size, by default a tenth of all words, and all other documents as train.

    Documents are drawn in the order of a hash of the seed and their titles, so that the order of the sources does not
    matter and most held-out documents stay the same when a source grows. Where all are longer than a split may be, it
    is the beginning of the shortest one; the rest of that document is in no split.
    """
    order = sorted(entries, key=lambda entry: _salted_hash(entry.title, settings.seed))
    titles = {"dev": settings.dev_titles, "test": settings.test_titles}
    tenth = max(1, sum(entry.words for entry in entries) // TENTH)
    words = {"dev": settings.dev_words or tenth, "test": settings.test_words or tenth}
    left = [entry for entry in order if entry.title not in {*titles["dev"], *titles["test"]}]
    drawable = left
    if read is not None and (settings.held_out_overlap, settings.held_out_document_words) != (None, None):
        asked = sum(words[split] for split in HELD_OUT if not titles[split])
        drawable = _drawable(left, asked, settings, read)
    splits, taken = {}, set()
    for split in ("test", "dev"):
        if titles[split]:
            splits[split] = [_titled(order, title) for title in titles[split]]
        else:
            splits[split] = _fill(drawable, words[split], split, read)
            taken |= {(entry.title, entry.start) for entry in splits[split]}
            drawable = [entry for entry in drawable if (entry.title, entry.start) not in taken]
    return splits | {"train": [entry for entry in left if (entry.title, entry.start) not in taken]}


def _drawable(entries: list[Entry], words: int, settings: CorpusSettings, read: Callable[[Entry], str]) -> list[Entry]:
    """The documents, in their order, that dev and test may have: cut, and with little text that others have too.

    Only the first documents are looked at, as many as are enough for `words` words.
    """
    most, limit = settings.held_out_overlap, settings.held_out_document_words
    looked_at = words
    while words:
        looked_at *= 2
        pool = list(_first(entries, looked_at, limit, read))
        if most is None:
            return pool
        grams = [overlap.ngrams(read(entry)) for entry in pool]
        shares = overlap.shares(grams, (overlap.ngrams(read(entry)) for entry in entries), least=2)
        fitting = [entry for entry, share in zip(pool, shares, strict=True) if share <= most]
        found = sum(entry.words for entry in fitting)
        if found > 1.2 * words:
            return fitting
        if len(pool) == len(entries):
            if found < words:
                raise UserError(
                    f"held_out_overlap: {most} leaves documents of {found:,} words to draw from, dev and test ask for "
                    f"{words:,}: raise it or lower dev_words and test_words"
                )
            return fitting
    return entries


def _first(entries: list[Entry], words: int, limit: int | None, read: Callable[[Entry], str]) -> Iterator[Entry]:
    """The first entries, cut to their first lines with `limit` words, until they have `words` words together."""
    total = 0
    for entry in entries:
        if total >= words:
            return
        if limit is not None and entry.words > limit:
            entry = _cut(entry, limit, read)
        total += entry.words
        yield entry


def _cut(entry: Entry, words: int, read: Callable[[Entry], str]) -> Entry:
    """The entry's first lines, up to the one in which its first `words` words end."""
    text = first_words(read(entry), words).rstrip("\n") + "\n"
    return replace(entry, bytes=len(text.encode()), words=len(text.split()))


def overlaps(splits: dict[str, list[Entry]], read: Callable[[Entry], str]) -> dict[str, dict]:
    """How much of dev and of test stands in train, in all and by source."""

    def grams(entries: list[Entry]) -> list[np.ndarray]:
        return [overlap.ngrams(read(entry)) for entry in entries]

    held_out = {split: grams(splits[split]) for split in HELD_OUT}
    of_each = overlap.shares(
        [hashes for split in HELD_OUT for hashes in held_out[split]],
        (overlap.ngrams(read(entry)) for entry in splits["train"]),
    )
    facts, first = {}, 0
    for split in HELD_OUT:
        sizes = np.array([len(hashes) for hashes in held_out[split]])
        shares = np.array(of_each[first : first + len(sizes)])
        sources = np.array([entry.source for entry in splits[split]])
        facts[split] = _overlap(shares, sizes) | {
            "sources": {name: _overlap(shares[sources == name], sizes[sources == name]) for name in sorted({*sources})}
        }
        first += len(sizes)
    return facts


def _overlap(shares: np.ndarray, sizes: np.ndarray) -> dict[str, float]:
    """The share of all 8-grams that stand in train, and that of the documents that have one."""
    return {"ngrams": float(shares @ sizes / max(1, sizes.sum())), "documents": float((shares > 0).mean())}


def _salted_hash(title: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\t{title}".encode()).digest()


def _titled(entries: list[Entry], title: str) -> Entry:
    for entry in entries:
        if entry.title == title:
            return entry
    examples = ", ".join(repr(entry.title) for entry in entries[:5])
    raise UserError(f"no document has the title {title!r}; some titles are {examples}")


def _fill(entries: list[Entry], words: int, split: str, read: Callable[[Entry], str] | None = None) -> list[Entry]:
    """Documents in their order until they have `words` words; one that would exceed this by a tenth is left out.

    Where all would, the shortest is cut, if `read` gives its text; otherwise raises UserError.
    """
    taken, total = [], 0
    for entry in entries:
        if total < words and total + entry.words <= 1.1 * words:
            taken.append(entry)
            total += entry.words
    if entries and not taken:
        shortest = min(entries, key=lambda entry: entry.words)
        if read is None:
            raise UserError(f"{split}_words: {words}, but the shortest document has {shortest.words} words: raise it")
        taken = [_cut(shortest, words, read)]
        log.info(
            "%s: all documents are longer than %d words: it is the first %d of %d words of %r; no split has the rest",
            *(split, words, taken[0].words, shortest.words, shortest.title),
        )
    return taken
