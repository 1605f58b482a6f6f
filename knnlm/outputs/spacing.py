"""How tokens join to running text: `detokenize` for a page that shows every token by itself.

Each token becomes its text and flags, with which the page decides where spaces go.
"""

import re

from knnlm.corpora.wikitext import CLOSING, CONTRACTION, OPENING

NO_SPACE_BEFORE, NO_SPACE_AFTER, QUOTE, LINE_END = 1, 2, 4, 8
ENDS = ("</s>", "[SEP]")  # the end of a line in the vocabularies that this project reads


def piece(token: str) -> tuple[str, int]:
    """Text and flags of a word (WikiText's conventions) or of a BERT word piece, which ## joins to the one before."""
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
    """Text and flags of a SentencePiece token, in which ▁ stands for a space before it."""
    if token in ENDS:
        return "↵", LINE_END
    return (token[1:] or "␣", 0) if token.startswith("▁") else (token, NO_SPACE_BEFORE)
