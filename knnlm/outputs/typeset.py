"""A table as LaTeX that fits the text width of an A4 article, with any engine and whatever its text is."""

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from itertools import product
from typing import NamedTuple

import pandas as pd

PACKAGES = "array, booktabs, longtable and pdflscape"
LINES = {"portrait": 345, "landscape": 590}  # points: the text width of an article on A4, and when the page is turned
SIZES = (8, 7)  # points of the type: the larger where the table fits
GAP = 3  # points left and right of a column
READABLE = 7  # sizes of the type: a column is no narrower, unless all its cells are
LONGEST = 20  # the same: a word that is longer may be broken
WIDE, NARROW = "@%&+=<>−×→±∞…—mw", "ijltfr.,:;'|!()[]/- \u00a0"
GREEK = {
    chr(code): unicodedata.name(chr(code)).split()[-1].lower().replace("lamda", "lambda")
    for code in range(ord("α"), ord("ω") + 1)
    if chr(code) not in "ος"
}
MATH = {
    **{"−": "-", "→": r"\to", "±": r"\pm", "×": r"\times", "·": r"\cdot", "∞": r"\infty", "≤": r"\le", "≥": r"\ge"},
    **{"≈": r"\approx", "°": r"^\circ", "µ": r"\mu", "Δ": r"\Delta", "Σ": r"\Sigma"},
    **{letter: f"\\{name}" for letter, name in GREEK.items()},
}
SIGNS = {
    **{
        "–": "--",
        "—": "---",
        "…": r"\dots{}",
        "§": r"$\mathsection$",
        "“": "``",
        "”": "''",
        "‘": "`",
        "’": "'",
        "\u00a0": "~",
    },
    **{"ß": r"\ss{}", "ø": r"\o{}", "Ø": r"\O{}", "æ": r"\ae{}", "Æ": r"\AE{}", "ł": r"\l{}", "Ł": r"\L{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "_": r"\_\penalty50{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "\u200b": r"\allowbreak{}"},
    **{sign: f"\\{sign}" for sign in "&%$#{}"},
    **{sign: f"${math}$" for sign, math in MATH.items()},
}
ACCENTS = dict(
    zip("\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327", "`'^~=u.\"rHvc", strict=True)
)
RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-", strict=True))


class Layout(NamedTuple):
    """Which way a table stands, the size of its type and the widths of its columns, in points."""

    way: str
    size: int
    widths: list[float]


def latex(title: str, note: str, shown: pd.DataFrame, left: Collection[str], below: Mapping[str, Sequence[str]]) -> str:
    """A longtable with booktabs' rules, which may go on over pages; below it lines of text by heading.

    The columns of `shown`, all text, are aligned left where `left` has their name. Cells wrap; a table whose columns
    would be narrower than their longest words is turned (landscape). The document needs the packages of `PACKAGES`.
    """
    table = [list(map(kept_together, row)) for row in (list(shown), *shown.itertuples(index=False, name=None))]
    way, size, widths = layout(table)
    line = LINES[way]
    sides = ("raggedright" if name in left else "raggedleft" for name in shown)
    columns = "".join(
        f">{{\\{side}\\arraybackslash\\hspace{{0pt}}}}p{{{width:.1f}pt}}"
        for side, width in zip(sides, widths, strict=True)
    )
    head, *rows = (" & ".join(escaped(*cell, size) for cell in zip(row, widths, strict=True)) for row in table)
    parts = [
        f"% needs the packages {PACKAGES}",
        *([r"\begin{landscape}"] if way == "landscape" else []),
        rf"\begingroup\fontsize{{{size}}}{{{size + 2}}}\selectfont",
        rf"\setlength{{\tabcolsep}}{{{GAP}pt}}\setlength{{\LTcapwidth}}{{\linewidth}}",
        rf"\begin{{longtable}}{{@{{}}{columns}@{{}}}}",
        rf"\caption[{{{escaped(title, line, size)}}}]{{{escaped(f'{title}. {note}', line, size)}}}\\",
        *(rf"\toprule {head} \\ \midrule\end{end}" for end in ("firsthead", "head")),
        r"\bottomrule\endfoot",
        *(rf"{row} \\[2pt]" for row in rows),
        r"\end{longtable}",
        r"\raggedright",
        *(
            rf"\noindent {escaped(text, line, size)}" + "\n"
            for heading, lines in below.items()
            for text in (heading, *lines)
            if lines
        ),
        r"\endgroup",
        *([r"\end{landscape}"] if way == "landscape" else []),
    ]
    return "\n".join(parts) + "\n"


def layout(table: Sequence[Sequence[str]]) -> Layout:
    """How the rows of a table fit: upright in the larger type if that is enough, else smaller, else turned.

    Each column has the width of its longest word at least; what is left is shared by what more its cells would take.
    """
    columns = list(zip(*table, strict=True))
    wanted = [max(map(width, column)) for column in columns]
    words = [min(LONGEST, max(width(word) for cell in column for word in cell.split(" "))) for column in columns]
    for (way, line), size in product(LINES.items(), SIZES):
        free = (line - 2 * GAP * (len(columns) - 1)) / size  # in sizes of the type, as are the widths
        least = [max(word, min(READABLE, most)) for word, most in zip(words, wanted, strict=True)]
        more = sum(wanted) - sum(least)
        part = min(1.0, (free - sum(least)) / more) if more else 0.0
        widths = [size * (few + part * (most - few)) for few, most in zip(least, wanted, strict=True)]
        if sum(least) <= free:
            return Layout(way, size, widths)
    return Layout(way, size, [size * few * free / sum(least) for few in least])


def kept_together(cell: str) -> str:
    """A cell as one line whose intervals, as in [1.2, 3.4], no line ends within."""
    return re.sub(r"(\[\S+,) (\S+\])", "\\1\u00a0\\2", " ".join(cell.split(" ")))


def width(text: str) -> float:
    """About the width of text in Computer Modern, rather more than less, in sizes of the type."""
    return sum(map(_width, text))


def _width(sign: str) -> float:
    if sign in NARROW:
        return 0.42
    if spelled(sign).startswith("U+"):
        return 4.0
    return 1.0 if sign in WIDE or sign.isupper() else 0.57


def escaped(text: str, line: float, size: float) -> str:
    """`text` as LaTeX shows it unchanged; words wider than a line, both in points, may be broken anywhere."""
    words = (word if width(word) * size <= line else "\u200b".join(word) for word in text.split(" "))
    made = "".join(map(spelled, unicodedata.normalize("NFC", " ".join(words))))
    return re.sub(f"[{''.join(RAISED)}]+", lambda match: f"$^{{{''.join(RAISED[one] for one in match[0])}}}$", made)


def spelled(sign: str) -> str:
    """One character for LaTeX; one that its fonts lack by its number, as in U+4E2D."""
    if sign in SIGNS or sign in RAISED:
        return SIGNS.get(sign, sign)
    if not sign.isprintable():
        return " " if sign.isspace() else ""
    made = ""
    for part in unicodedata.normalize("NFKD", sign).replace("\u2044", "/"):
        if part not in ACCENTS and not part.isascii():
            return f"U+{ord(sign):04X}"
        made = f"\\{ACCENTS[part]}{{{made}}}" if part in ACCENTS else made + SIGNS.get(part, part)
    return made
