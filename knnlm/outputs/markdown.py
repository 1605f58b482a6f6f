"""Markdown: escapes that make any text show as it stands, HTML for the report, and numbers as a reader wants them."""

import re

from markdown_it import MarkdownIt
from markupsafe import Markup

VERDICTS = {  # and their CSS classes
    "held": "held",
    "did not hold": "failed",
    "within noise": "noise",
    "cannot be judged at this scale": "open",
}
RAISED = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def plain(text: str) -> str:
    """`text` escaped so that Markdown shows it unchanged within a line, also in a cell of a table; lines are joined."""
    text = re.sub(r"[\r\n]+", " ", text)
    return re.sub(r"[\\`*_{}\[\]<>#|~]|&(?=#?\w+;)", r"\\\g<0>", text)


def paragraph(text: str) -> str:
    """`text` escaped as by `plain`, for the start of a line: it becomes no list, underlined heading or code block."""
    return re.sub(r"^(\d*)([-+=.)])", r"\1\\\2", plain(text.strip()))


def html(markdown: str, trusted: bool = False) -> Markup:
    """Markdown as HTML for the report: headings two levels lower, wide tables scrollable, verdicts as badges.

    No line ends within a number and its interval, as in 2.3 [1.2, 3.4].

    HTML tags within the text are shown as text, unless the text is `trusted`.
    """
    reader = MarkdownIt("commonmark", {"html": trusted}).enable("table")
    tokens = reader.parse(markdown)
    for token in tokens:
        if token.type.startswith("heading_"):
            token.tag = f"h{min(6, int(token.tag[1:]) + 2)}"
    page = reader.renderer.render(tokens, reader.options, {})
    page = together(page)
    page = page.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    return Markup(re.sub(rf"(<strong>|<td[^>]*>)({'|'.join(VERDICTS)})\b", _badge, page))


def together(text: str) -> str:
    """`text` with no-break spaces within intervals and between a number and its interval."""
    text = re.sub(r"(\[[−+\d.×⁰¹²³⁴-⁹]+,) (\S+\])", "\\1\u00a0\\2", text)
    return re.sub(r"([\d⁰¹²³⁴-⁹]) (\[[−+\d])", "\\1\u00a0\\2", text)


def _badge(match: re.Match) -> str:
    before, verdict = match.groups()
    return f'{before}<b class="{VERDICTS[verdict]}">{verdict}</b>'


def scientific(text: str) -> str:
    """`text` with measured numbers, which have decimals, from 10⁵ on as in 9.03×10⁷; counts stay written out."""
    return re.sub(r"(?<![\w.,])(\d{6,}|\d{3}(,\d{3})+|\d{1,2}(,\d{3}){2,})\.\d+(?![\w.])", _powers, text)


def _powers(match: re.Match) -> str:
    return powers(float(match[0].replace(",", "")), 2)


def powers(value: float, decimals: int) -> str:
    """A number in scientific notation, as 9.03×10⁷ with two decimals."""
    digits, power = f"{value:.{decimals}e}".split("e")
    return f"{digits}×10{str(int(power)).translate(RAISED)}"
