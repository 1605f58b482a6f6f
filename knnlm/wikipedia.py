"""Wikipedia's XML dump to plain text: pages stream in, whole articles without markup come out."""

import bz2
import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import mwparserfromhell
import mwxml

from knnlm.parallel import over_documents
from knnlm.text import one_line

BACK_MATTER = {
    "references", "external links", "see also", "further reading", "notes", "footnotes", "bibliography", "sources",
    "notes and references", "citations", "literature", "works cited", "gallery", "external sources",
}  # fmt: skip
DISAMBIGUATION = re.compile(r"\{\{\s*(disambig\w*|hndis|geodis|surname|given name)\s*[|}]", re.I)
UNREAD = re.compile(  # comments, references, and elements whose content is no prose
    r"<!--.*?-->|<ref\b[^>]*/>|<ref\b.*?</ref\s*>|<(math|gallery|timeline|imagemap|pre|score)\b.*?</\1\s*>", re.S | re.I
)
CONVERT = re.compile(r"\{\{\s*(?:convert|cvt)\s*\|([^|{}]*)\|([^|{}]*)(?:\|[^{}]*)?\}\}", re.I)
RANGE = re.compile(
    r"\{\{\s*(?:convert|cvt)\s*\|([^|{}]*)\|(to|and|or|-|–|x|by)\|([^|{}]*)\|([^|{}]*)(?:\|[^{}]*)?\}\}", re.I
)
WORDS = re.compile(
    r"\{\{\s*(?:lang|transl|transliteration)\s*\|(?:[^|{}]*\|)+?([^|{}=]*)\}\}|\{\{\s*nowrap\s*\|([^{}]*)\}\}", re.I
)
MARK = re.compile(r"'{2,}|__[A-Z]+__|</?[a-zA-Z][^<>]*>|\[https?:\S+\]")
EMPTY = re.compile(r"\(\s*[,;:/\s]*\)|\[\s*\]")
FILE_LINK = re.compile(r"\[\[\s*(file|image|category|[a-z]{2,3}(-[a-z]+)*)\s*:", re.I)
HEADING = re.compile(r"^=+\s*(.*?)\s*=+$")
PROSE = re.compile(r"\w.*\w")


def read_dump(file: BinaryIO) -> Iterator[tuple[str, str]]:
    """(title, text) of each article of a .bz2 dump, in order; memory does not grow with the dump."""
    pages = _articles(bz2.open(file) if _is_bz2(file) else file)
    yield from filter(None, over_documents(_clean_page, pages))


def _is_bz2(file: BinaryIO) -> bool:
    magic = file.read(3)
    file.seek(0)
    return magic == b"BZh"


def _articles(file: BinaryIO) -> Iterator[tuple[str, str]]:
    for page in mwxml.Dump.from_file(file):
        if page.namespace == 0 and not page.redirect:
            text = next((revision.text for revision in page), None) or ""
            if not DISAMBIGUATION.search(text) and not page.title.endswith("(disambiguation)"):
                yield page.title, text


def _clean_page(page: tuple[str, str]) -> tuple[str, str] | None:
    title, markup = page
    text = plain_text(markup)
    return (title, text) if text else None


def plain_text(markup: str) -> str:
    """Prose and headings of an article, one paragraph a line; no tables, templates, references or back matter."""
    markup = UNREAD.sub("", markup)
    markup = CONVERT.sub(r"\1 \2", RANGE.sub(r"\1 \2 \3 \4", markup))
    markup = WORDS.sub(lambda match: match.group(1) or match.group(2) or "", markup)
    markup = _without_files(_without_nested(markup, "{|", "|}"))
    code = mwparserfromhell.parse(markup, skip_style_tags=True)
    lines = code.strip_code(normalize=True, collapse=True, keep_template_params=False).split("\n")
    return "\n".join(_prose(lines))


def _prose(lines: list[str]) -> Iterator[str]:
    """Drop back matter, list bullets, empty headings and what markup leaves behind."""
    heading = None
    for line in lines:
        line = one_line(EMPTY.sub("", MARK.sub("", html.unescape(line)).replace("\xa0", " ")))
        line = re.sub(r"\s+([,.;:)])|(\()\s+", r"\1\2", line.lstrip("*#:; "))
        if match := HEADING.match(line):
            heading = match.group(1)
        elif heading is not None and heading.lower() in BACK_MATTER:
            continue
        elif PROSE.search(line) and not line.startswith(("|", "!", "{", "}")):
            if heading:
                yield heading + "."
                heading = ""
            yield line


def _without_nested(text: str, opening: str, closing: str) -> str:
    """`text` without the stretches between balanced marks; an unclosed one is kept."""
    kept, depth, start = [], 0, 0
    for match in re.finditer(f"{re.escape(opening)}|{re.escape(closing)}", text):
        if match.group() == opening:
            if depth == 0:
                kept.append(text[start : match.start()])
                start = match.start()
            depth += 1
        elif depth:
            depth -= 1
            if depth == 0:
                start = match.end()
    return "".join(kept) + text[start:]


def _without_files(text: str) -> str:
    """Pictures, categories and language links may hold links in their captions: brackets are counted."""
    kept, position = [], 0
    while match := FILE_LINK.search(text, position):
        kept.append(text[position : match.start()])
        depth, end = 0, match.start()
        for bracket in re.compile(r"\[\[|\]\]").finditer(text, match.start()):
            depth += 1 if bracket.group() == "[[" else -1
            end = bracket.end()
            if depth == 0:
                break
        position = max(end, match.end())
    return "".join(kept) + text[position:]


WIKIEXTRACTOR = re.compile(r'<doc id="[^"]*" url="[^"]*" title="([^"]*)">\n(.*?)\n</doc>', re.S)


def read_wikiextractor(text: str) -> Iterator[tuple[str, str]]:
    """(title, text) of WikiExtractor's <doc> elements; the title that it repeats as the first line is left out."""
    for title, body in WIKIEXTRACTOR.findall(text):
        title = html.unescape(title)
        lines = [one_line(line) for line in html.unescape(body).split("\n")]
        lines = [MARK.sub("", line) for line in lines if PROSE.search(line)]
        yield title, "\n".join(lines[1:] if lines and lines[0] == title else lines)


def read_parquet(folder: Path) -> Iterator[tuple[str, str]]:
    """(title, text) of the rows of a folder of parquet shards (wikimedia/wikipedia)."""
    import pyarrow.parquet as parquet

    for shard in sorted(folder.rglob("*.parquet")):
        for batch in parquet.ParquetFile(shard).iter_batches(1000, columns=["title", "text"]):
            for row in batch.to_pylist():
                yield row["title"], "\n".join(_prose(row["text"].split("\n")))
