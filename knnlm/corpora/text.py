"""Cleaning shared by all sources: bytes to text, wrapped lines to paragraphs, titles and leads to keys."""

import html
import re
import unicodedata

MOJIBAKE = re.compile("[âÃ][\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]+")  # UTF-8 once read as cp1252
CREDIT = re.compile(r"^(Produced by|E-text prepared by|This etext was prepared by)\b")
DROPPED = re.compile(r"^\s*(\[\d+\]|\[Illustration|\[Transcriber|FOOTNOTES?:?\s*$|[|+].*[|+]\s*$)")
LEAD_WORDS = 12  # words of a lead that make its fingerprint
LEAD_PARAGRAPH = 20  # words; shorter paragraphs (salutations, headings) are not a lead


def decode(data: bytes) -> str:
    """UTF-8, else cp1252; any mixture of \\r and \\n becomes \\n; doubly encoded quotes are mended."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
    text = re.sub(r"\r*\n|\r", "\n", text)
    return html.unescape(MOJIBAKE.sub(_mend, text)).replace("\xa0", " ")


def _mend(match: re.Match) -> str:
    try:
        return match.group().encode("cp1252").decode("utf-8")
    except UnicodeError:
        return match.group()


def one_line(text: str) -> str:
    """`text` without line breaks, tabs, or runs of spaces."""
    return " ".join(text.split())


def paragraphs(text: str) -> str:
    """Lines wrapped at a fixed width, re-joined: one paragraph a line, no blank lines.

    A word cut by a hyphen at a line's end is re-joined without it where the book has that word elsewhere.
    Footnotes, pictures and drawn tables are dropped, as are the marks of italics and of footnotes.
    """
    words = set(re.findall(r"[^\W\d_]+", text.lower()))

    def join(match: re.Match) -> str:
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
    """Lower case, no accents, no punctuation: the form in which titles and leads are compared."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(c))
    return " ".join(re.findall(r"\w+", plain))


def lead(text: str) -> str:
    """The first normalised words of the first real paragraph; "" when no paragraph is long enough."""
    for line in text.split("\n"):
        words = normalise(line[:2000]).split()
        if len(words) >= LEAD_PARAGRAPH:
            return " ".join(words[:LEAD_WORDS])
    return ""
