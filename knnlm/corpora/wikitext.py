"""Word tokens in WikiText's style, and text from them again.

Punctuation marks are tokens of their own; hyphens within words and separators within numbers are ` @-@ `, ` @,@ ` and
` @.@ `.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sacremoses import MosesTokenizer

NUMERIC = re.compile(r"\d|<unk>")
NUMBER = re.compile(r"(?<=\d)([,.])(?=\d)")
OPENING, CLOSING = set("([{£$€#“‘"), set(".,;:!?)]}%…")
CONTRACTION = re.compile(r"['’](s|t|re|ve|ll|d|m|S)$")


def tokenize_lines(text: str, pretokenized: bool) -> Iterator[list[str]]:
    """The tokens of each line; text that is `pretokenized` is only split at its spaces."""
    lines = text.removesuffix("\n").split("\n")
    if pretokenized:
        yield from (line.split() for line in lines)
        return
    moses = _moses()
    for line in lines:
        yield separate_numbers(moses.tokenize(line, aggressive_dash_splits=True, escape=False))


@cache
def _moses() -> "MosesTokenizer":
    from sacremoses import MosesTokenizer

    return MosesTokenizer("en")


def count_words(document: tuple[str, bool]) -> Counter[str]:
    """How often each token occurs in one document, given as (text, pretokenized)."""
    return Counter(word for line in tokenize_lines(*document) for word in line)


def separate_numbers(tokens: Iterable[str]) -> list[str]:
    """Make the separators between digits tokens: ["3,500.5"] becomes ["3", "@,@", "500", "@.@", "5"]."""
    separated: list[str] = []
    for token in tokens:
        separated += NUMBER.sub(r" @\1@ ", token).split() if token[:1].isdigit() or token[-1:].isdigit() else [token]
    return separated


def detokenize(tokens: Iterable[str]) -> str:
    """Readable text: words and numbers are joined again, punctuation is attached, and `</s>` ends a line.

    `@,@` and `@.@` join only numbers (and unknown words, which may be numbers), `@-@` only what follows a word: a
    language model writes them elsewhere.
    """
    text, attached, quoted = "", True, False  # attached: no space before the next token; quoted: within "…"
    before, separated = "0", False  # the token before, at first a number's; separated: a separator after no number
    for token in tokens:
        if token in ("@,@", "@.@"):
            separated = not NUMERIC.search(before)
        elif before in ("@,@", "@.@") and (separated or not NUMERIC.search(token)):
            attached = False
        last, before = before, token
        if token == "</s>":
            text, attached, quoted = text + "\n", True, False
        elif re.fullmatch(r"@.+@", token):
            joins = token in ("@,@", "@.@") or bool(re.search(r"\w", last))
            text, attached = text + ("" if joins or attached else " ") + token[1:-1], joins
        else:
            closing_quote = token == '"' and quoted
            if not (attached or closing_quote or token[0] in CLOSING or CONTRACTION.match(token)):
                text += " "
            text += token
            attached = token in OPENING or (token == '"' and not quoted)
            quoted ^= token == '"'
    return text
