"""Cleaning shared by all sources: decode bytes, join wrapped lines, reduce titles and openings to comparable keys."""

import codecs
import html
import re
import unicodedata
from bisect import bisect_left
from itertools import accumulate

CREDIT = re.compile(r"^(Produced by|E-text prepared by|This etext was prepared by)\b")
DROPPED = re.compile(r"^\s*(\[\d+\]|\[Illustration|\[Transcriber|FOOTNOTES?:?\s*$|[|+].*[|+]\s*$)")
LEAD_WORDS = 12  # words of a document's opening that identify it
LEAD_PARAGRAPH = 20  # words; a shorter paragraph is a salutation or a heading, not an opening


def encoding(data: bytes) -> str:
    """The encoding of a text: UTF-16 if it begins with that mark, UTF-8 or, where that fails, cp1252."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    try:
        data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8-sig"


def decode(data: bytes) -> str:
    """Text from bytes in the encoding that `encoding` finds, with `\\n` for every line break and without HTML entities.

    Lines of UTF-8 that were once read in another encoding ("â€™" for "’") are repaired.
    """
    import ftfy

    text = data.decode(encoding(data), errors="replace")
    text = re.sub(r"\r*\n|\r", "\n", text)
    if not text.isascii():  # line by line, because ftfy repairs a text only if all of it is damaged in the same way
        text = "\n".join(line if line.isascii() else ftfy.fix_encoding(line) for line in text.split("\n"))
    return html.unescape(text).replace("\xa0", " ")


def one_line(text: str) -> str:
    """`text` with each run of spaces, tabs and line breaks as one space, and none at its ends."""
    return " ".join(text.split())


def first_words(text: str, words: int) -> str:
    """The first lines of `text`, up to the line in which its first `words` words end."""
    lines = text.split("\n")
    counts = list(accumulate(len(line.split()) for line in lines))  # words up to the end of each line
    return "\n".join(lines[: bisect_left(counts, words) + 1])


def paragraphs(text: str) -> str:
    """Text wrapped at a fixed width, with one paragraph on each line and no blank lines.

    A word that a hyphen divides at the end of a line is joined without the hyphen if the text has that word elsewhere.
    Footnotes, pictures and drawn tables are left out, and so are the signs that mark italics and footnotes.
    """
    words = set(re.findall(r"[^\W\d_]+", text.lower()))

    def join(match: re.Match[str]) -> str:
        head, tail = match.groups()
        return head + tail if (head + tail).lower() in words else f"{head}-{tail}"

    lines = []
    for block in re.split(r"\n\s*\n", text):
        if DROPPED.match(block) or CREDIT.match(block) or block.count("|") > 2:
            continue
        block = re.sub(r"([^\W\d_]+)-\n\s*([^\W\d_]+)", join, block)
        block = re.sub(r"\s?\[\d+\]|\[Illustration[^]]*\]", "", block)
        for mark in "_=":
            block = re.sub(rf"(?<!\w){mark}(\S[^{mark}]*){mark}(?!\w)", r"\1", block)
        if block := one_line(block):
            lines.append(block)
    return "\n".join(lines)


def normalise(text: str) -> str:
    """`text` in lower case, without accents and punctuation: the form in which titles and openings are compared."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(c))
    return " ".join(re.findall(r"\w+", plain))


def lead(text: str) -> str:
    """The first words of the first real paragraph, normalised; "" if no paragraph is long enough."""
    for line in text.split("\n"):
        words = normalise(line[:2000]).split()
        if len(words) >= LEAD_PARAGRAPH:
            return " ".join(words[:LEAD_WORDS])
    return ""
