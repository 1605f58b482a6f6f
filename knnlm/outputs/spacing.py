"""How single tokens join to running text, one by one: what `detokenize` does, for a page that shows each token."""

import re

from knnlm.corpora.wikitext import CLOSING, CONTRACTION, OPENING

NO_SPACE_BEFORE, NO_SPACE_AFTER, QUOTE, LINE_END = 1, 2, 4, 8
ENDS = ("</s>", "[SEP]")


def piece(token: str) -> tuple[str, int]:
    """A token's text and its flags. Word pieces of SentencePiece begin with ▁ or no space, BERT's with ## or one."""
    if token in ENDS:
        return "↵", LINE_END
    if token == '"':
        return token, QUOTE
    if re.fullmatch(r"@.+@", token):
        return token[1:-1], NO_SPACE_BEFORE | NO_SPACE_AFTER
    if token.startswith("##") and len(token) > 2:
        return token[2:], NO_SPACE_BEFORE
    flags = NO_SPACE_BEFORE if token[0] in CLOSING or CONTRACTION.match(token) else 0
    return token, flags | (NO_SPACE_AFTER if token in OPENING else 0)


def subword(token: str) -> tuple[str, int]:
    """The same for SentencePiece: ▁ is a space before."""
    if token in ENDS:
        return "↵", LINE_END
    return (token[1:] or "␣", 0) if token.startswith("▁") else (token, NO_SPACE_BEFORE)
