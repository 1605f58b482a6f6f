"""Markdown: escapes that make any text show as it stands, and the HTML of a Markdown page for the report."""

import re

from markdown_it import MarkdownIt
from markupsafe import Markup

VERDICTS = {  # and their CSS classes
    "held": "held",
    "did not hold": "failed",
    "within noise": "open",
    "cannot be judged at this scale": "open",
}


def plain(text: str) -> str:
    """`text` escaped so that Markdown shows it unchanged within a line, also in a cell of a table; lines are joined."""
    text = re.sub(r"[\r\n]+", " ", text)
    return re.sub(r"[\\`*_{}\[\]<>#|~]|&(?=#?\w+;)", r"\\\g<0>", text)


def paragraph(text: str) -> str:
    """`text` escaped as by `plain`, for the start of a line: it becomes no list, underlined heading or code block."""
    return re.sub(r"^(\d*)([-+=.)])", r"\1\\\2", plain(text.strip()))


def html(markdown: str, trusted: bool = False) -> Markup:
    """Markdown as HTML for the report: headings two levels lower, wide tables scrollable, verdicts as badges.

    HTML tags within the text are shown as text, unless the text is `trusted`.
    """
    reader = MarkdownIt("commonmark", {"html": trusted}).enable("table")
    tokens = reader.parse(markdown)
    for token in tokens:
        if token.type.startswith("heading_"):
            token.tag = f"h{min(6, int(token.tag[1:]) + 2)}"
    page = reader.renderer.render(tokens, reader.options, {})
    page = page.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    return Markup(re.sub(rf"(<strong>|<td[^>]*>)({'|'.join(VERDICTS)})\b", _badge, page))


def _badge(match: re.Match) -> str:
    before, verdict = match.groups()
    return f'{before}<b class="{VERDICTS[verdict]}">{verdict}</b>'
