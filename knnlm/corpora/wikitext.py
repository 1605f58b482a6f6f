"""WikiText's conventions of spacing: ` @-@ `, ` @,@ ` and ` @.@ ` inside words, marks of punctuation apart."""

import re
from collections.abc import Iterable

NUMBER = re.compile(r"(?<=\d)([,.])(?=\d)")
OPENING, CLOSING = set("([{£$€#“‘"), set(".,;:!?)]}%…")
CONTRACTION = re.compile(r"['’](s|t|re|ve|ll|d|m|S)$")


def separate_numbers(tokens: Iterable[str]) -> list[str]:
    """["3,500.5"] to ["3", "@,@", "500", "@.@", "5"]: separators between digits become tokens."""
    separated = []
    for token in tokens:
        separated += NUMBER.sub(r" @\1@ ", token).split() if token[:1].isdigit() or token[-1:].isdigit() else [token]
    return separated


def detokenize(tokens: Iterable[str]) -> str:
    """Tokens as a reader would print them: separators undone, punctuation attached, `</s>` a line's end."""
    text, glue, quoted = "", True, False
    for token in tokens:
        if token == "</s>":
            text, glue, quoted = text + "\n", True, False
        elif re.fullmatch(r"@.+@", token):
            text, glue = text + token[1:-1], True
        else:
            closing_quote = token == '"' and quoted
            if not (glue or closing_quote or token[0] in CLOSING or CONTRACTION.match(token)):
                text += " "
            text += token
            glue = token in OPENING or (token == '"' and not quoted)
            quoted ^= token == '"'
    return text
