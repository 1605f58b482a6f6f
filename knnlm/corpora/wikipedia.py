"""Read Wikipedia's articles as plain text: from XML dumps, WikiExtractor's output, and parquet files."""

import html
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import mwparserfromhell
import mwxml

from knnlm.artifacts.archives import Bzip2
from knnlm.artifacts.parallel import over_documents
from knnlm.corpora.text import one_line

BACK_MATTER = {
    "references", "external links", "see also", "further reading", "notes", "footnotes", "bibliography", "sources",
    "notes and references", "citations", "literature", "works cited", "gallery", "external sources",
}  # fmt: skip
DISAMBIGUATION = re.compile(r"\{\{\s*(disambig\w*|hndis|geodis|surname|given name)\s*[|}]", re.I)
NOT_PROSE = re.compile(  # comments, references, and elements whose content is not prose
    r"<!--.*?-->|<ref\b[^>]*/>|<ref\b.*?</ref\s*>|<(math|gallery|timeline|imagemap|pre|score)\b.*?</\1\s*>",
    re.S | re.I,
)
CONVERT = re.compile(
    r"\{\{\s*(?:convert|cvt)\s*\|([^|{}]*)\|(?:(to|and|or|-|–|x|by)\|([^|{}]*)\|)?([^|{}]*)[^{}]*\}\}", re.I
)
WORDS = re.compile(r"\{\{\s*(?:lang|transl|transliteration|nowrap)\s*\|(?:[^|{}]*\|)*([^|{}=]*)\}\}", re.I)
HEADING = re.compile(r"(?m)^(={1,6})\s*(.*?)\s*=+\s*$")
MARKED_HEADING = re.compile(
    r"\x02(=+)(.*)"
)  # how a heading is marked, which keeps it apart from prose until _prose reads it
FILE_LINK = re.compile(r"\[\[\s*(file|image|category|[a-z]{2,3}(-[a-z]+)*)\s*:", re.I)
MARK = re.compile(r"'{2,}|__[A-Z]+__|</?[a-zA-Z][^<>]*>|\[?https?:\S+\]?|\[\[|\]\]|\[\s*\]")
EMPTY = re.compile(r"\(\s*[,;:/\s]*\)")
PROSE = re.compile(r"\w.*\w")


def read_dump(file: IO[bytes]) -> Iterator[tuple[str, str]]:
    """(title, text) of each article of a .bz2 or plain XML dump, in order; memory does not grow with the dump."""
    compressed = file.read(3) == b"BZh"
    file.seek(0)
    pages = _articles(Bzip2(file) if compressed else file)
    return filter(None, over_documents(_clean_page, pages))


def _articles(file: IO[bytes]) -> Iterator[tuple[str, str]]:
    """(title, markup) of the pages that are articles: no redirects, talk pages or disambiguation pages."""
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
    """The prose and headings of an article, one paragraph on each line.

    Tables, templates, references and back matter (sections such as "External links") are left out.
    """
    markup = NOT_PROSE.sub("", markup)
    markup = WORDS.sub(r"\1", CONVERT.sub(_converted, markup))
    markup = _without_files(_without_tables(markup))
    code = mwparserfromhell.parse(HEADING.sub("\x02\\1\\2", markup), skip_style_tags=True)
    lines = code.strip_code(normalize=True, collapse=True, keep_template_params=False).split("\n")
    return "\n".join(_prose(lines))


def _converted(match: re.Match[str]) -> str:
    """Text of a conversion between units: "5 to 10 km" for {{convert|5|to|10|km|mi}}."""
    return " ".join(filter(None, match.groups()))


def _prose(lines: Iterable[str]) -> Iterator[str]:
    """The lines without back matter and its subsections, without headings of empty sections and leftover markup."""
    pending, skipped_level = None, None
    for line in lines:
        if match := MARKED_HEADING.match(line):
            level, heading = len(match.group(1)), one_line(MARK.sub("", match.group(2)))
            if skipped_level is None or level <= skipped_level:
                skipped_level = level if heading.lower() in BACK_MATTER else None
            pending = heading
        elif skipped_level is None and (line := _tidy(line)):
            if pending:
                yield f"{pending}."
                pending = None
            yield line


def _tidy(line: str) -> str:
    """One line of text without leftover markup; "" if no prose is left."""
    line = MARK.sub("", html.unescape(line)).replace("\xa0", " ")
    line = re.sub(r"\((\s*[,;:/])+\s*", "(", EMPTY.sub("", line))
    line = re.sub(r"[\s,;]+\)", ")", re.sub(r"\s+([,.;:])(?=\s|$)", r"\1", line))
    line = one_line(line).lstrip("*#:; ")
    return line if PROSE.search(line) and "{{" not in line and not line.startswith(("|", "!", "{", "}")) else ""


def _without_tables(text: str) -> str:
    """`text` without its tables, {| … |}, which may be nested; a table without an end is kept."""
    kept, depth, start = [], 0, 0
    for match in re.finditer(r"\{\||\|\}(?!\})", text):
        if match.group() == "{|":
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
    """`text` without links to files, categories and other languages; captions may contain links, so count brackets."""
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
    """(title, text) of WikiExtractor's <doc> elements, whose first line repeats the title and is left out."""
    for title, body in WIKIEXTRACTOR.findall(text):
        title = html.unescape(title)
        lines = list(_prose(html.unescape(body).split("\n")))
        yield title, "\n".join(lines[1:] if lines and lines[0] == title else lines)


def read_parquet(folder: Path) -> Iterator[tuple[str, str]]:
    """(title, text) of the rows of a folder of parquet files, as in the dataset wikimedia/wikipedia."""
    import pyarrow.parquet as parquet

    for shard in sorted(folder.rglob("*.parquet")):
        for batch in parquet.ParquetFile(shard).iter_batches(1000, columns=["title", "text"]):
            for row in batch.to_pylist():
                lines = row["text"].split("\n")
                marked = ("\x02==" + line if line.strip().lower() in BACK_MATTER else line for line in lines)
                yield row["title"], "\n".join(_prose(marked))
