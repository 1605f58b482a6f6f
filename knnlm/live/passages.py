"""Stored contexts as readable text: the words around an entry, and the title of its document."""

import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from knnlm.artifacts import lineage, npy
from knnlm.corpora import vocab
from knnlm.corpora.pretrained_vocab import PART
from knnlm.corpora.wikitext import tokenize_lines
from knnlm.live.layout import KnnLM

if TYPE_CHECKING:
    from knnlm.live.retrieval import Nearest


class Passage(NamedTuple):
    before: str
    target: str
    after: str
    title: str


class Passages:
    """The datastore's training text, read by entry id; or a held-out split of the row's corpus, by position."""

    def __init__(
        self, source: KnnLM, before: int = 14, after: int = 4, held_out: str = "", line_end: str = "↵"
    ) -> None:
        corpus, split = (source.row["corpus"], held_out) if held_out else (source.store["corpus"], "train")
        self.before, self.after, self.line_end = before, after, line_end
        tokens, documents = source.tokens(corpus, split), source.documents(corpus, split)
        lineage.agree((tokens, documents, *([] if held_out else source.keys)), "text", "vocab")
        self.stream = npy.open_array(tokens, "integer", 1)
        self.documents = np.asarray(npy.open_array(documents, "integer", 1))
        self.titles = source.titles(corpus, split)
        self.vocab = vocab.load(source.vocab)

    def at(self, entry: int) -> Passage:
        document = int(np.searchsorted(self.documents, entry, side="right")) - 1
        start = max(entry - self.before, int(self.documents[document]))
        end = [*self.documents, len(self.stream)][document + 1]
        stop = min(entry + 1 + self.after, int(end))
        before, target, after = (self.text(*cut) for cut in ((start, entry), (entry, entry + 1), (entry + 1, stop)))
        return Passage(before, target or self.word(int(self.stream[entry])), after, self.titles[document])

    def word(self, token: int) -> str:
        """A token by itself, as people read it: ↵ for the end of a line, and no @ around WikiText's separators."""
        name = self.vocab.tokens([token])[0]
        return "↵" if token == self.vocab.eos else re.sub(r"^@(.+)@$", r"\1", name)

    def facts(self, near: "Nearest", count: int) -> list[dict]:
        """The `count` heaviest neighbors for JSON: weight, distance, entry, before, target, after, title."""
        return [
            {"weight": float(near.weights[i]), "distance": float(near.distances[i]), "entry": int(near.ids[i])}
            | self.at(int(near.ids[i]))._asdict()
            for i in np.argsort(-near.weights, kind="stable")[:count]
        ]

    def ends(self, step: int, near: "Nearest") -> bool:
        """Whether a text ends with the token `step`, which was drawn with these neighbors.

        In a vocabulary of words `</s>` ends every line. A text is at its end where most of the neighbors with that
        target, by weight, are the last lines of their documents.
        """
        if step != self.vocab.eos or not isinstance(self.vocab, vocab.WordVocab):
            return step == self.vocab.eos
        lines = near.values == step
        last = np.isin(near.ids + 1, [*self.documents, len(self.stream)])
        return bool(near.weights[lines & last].sum() > near.weights[lines & ~last].sum())

    def text(self, start: int, stop: int) -> str:
        """The tokens from `start` to `stop` in one line, each end of a line as `line_end`.

        A character that is cut off at an end is left out; where that leaves nothing, its bytes are shown.
        """
        tokens = self.stream[start:stop].tolist()
        text = self.vocab.detokenize(tokens).strip(PART) or "".join(self.vocab.tokens(tokens))
        return " ".join(text.replace("\n", f" {self.line_end} ").split())


UNKNOWN = {"<unk>", "[UNK]"}


def unknown(words: vocab.Vocab, text: str) -> list[str]:
    """The words of a text, each once, that the vocabulary does not have, wholly or in part."""
    if isinstance(words, vocab.WordVocab):
        found = [word for line in tokenize_lines(text, words.pretokenized) for word in line if word not in words.ids]
    else:
        found = [word for word in text.split() if UNKNOWN & set(words.tokens(words.encode(word)))]
    return list(dict.fromkeys(found))


def encode(words: vocab.Vocab, text: str) -> list[int]:
    """The tokens of a text that is to be continued: without the </s> that a whole document ends in."""
    tokens = words.encode(text.strip()).tolist() if text.strip() else []
    return tokens[:-1] if tokens and tokens[-1] == words.eos else tokens
