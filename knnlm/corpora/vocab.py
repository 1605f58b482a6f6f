"""Vocabularies: turn text into token ids and back, by words, SentencePiece or BERT pieces, or a pretrained model's."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

from knnlm.artifacts import devices
from knnlm.artifacts.description import check
from knnlm.artifacts.files import UserError, read_json, write_json
from knnlm.corpora.pretrained_vocab import PretrainedVocab
from knnlm.corpora.wikitext import detokenize, tokenize_lines
from knnlm.settings import PADDED_TO, SPECIAL_TOKENS, VocabSettings

TOGETHER = 256  # documents that SentencePiece encodes at a time


class Vocab(Protocol):
    """What every kind of vocabulary offers."""

    size: int
    """number of ids"""
    eos: int
    """id of the token that ends a document"""

    def encode(self, text: str) -> np.ndarray:
        """The ids of one whole document: uint32 [N], the last one `eos`."""

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The token of each id as a string."""

    def detokenize(self, ids: Iterable[int]) -> str:
        """The ids as readable text."""

    def save(self, directory: Path) -> None:
        """Write the file that `load` reads."""


class WordVocab:
    """Words in the order of a dictionary file, as fairseq's; `</s>` ends every line."""

    def __init__(self, counts: Sequence[tuple[str, int]]) -> None:
        self.counts = list(counts)
        self.words = [*SPECIAL_TOKENS, *(word for word, _ in self.counts)]
        self.ids = {word: i for i, word in enumerate(self.words)}
        self.size, self.eos, self.unk = len(self.words), SPECIAL_TOKENS.index("</s>"), SPECIAL_TOKENS.index("<unk>")
        self.pretokenized = False
        if len(self.ids) != self.size:
            twice = next(word for i, word in enumerate(self.words) if self.ids[word] != i)
            raise UserError(f"dict.txt: the word {twice!r} occurs twice; delete one of its lines")

    @classmethod
    def build(cls, counts: Counter[str], settings: VocabSettings) -> "WordVocab":
        """Words from frequent to rare, equally frequent ones in alphabetical order; padded with unused words."""
        kept = [(word, n) for word, n in counts.items() if n >= settings.min_count and word not in SPECIAL_TOKENS]
        kept = sorted(kept, key=lambda pair: (-pair[1], pair[0]))[: settings.max_size]
        missing = -(len(SPECIAL_TOKENS) + len(kept)) % PADDED_TO
        return cls(kept + [(f"madeupword{i:04d}", 0) for i in range(missing)])

    @classmethod
    def load(cls, directory: Path) -> "WordVocab":
        return cls.read(directory / "dict.txt")

    @classmethod
    def read(cls, path: Path) -> "WordVocab":
        """The vocabulary of a dictionary file, whose lines are a word, a space and its count."""
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None
        pairs = [line.rpartition(" ") for line in lines if line]
        if not pairs or not all(word and count.isdecimal() and len(count) < 19 for word, _, count in pairs):
            raise UserError(f"{path}: not a dictionary; expected lines `word count`")
        return cls([(word, int(count)) for word, _, count in pairs])

    def save(self, directory: Path) -> None:
        lines = (f"{word} {count}\n" for word, count in self.counts)
        (directory / "dict.txt").write_text("".join(lines), encoding="utf-8")

    def encode(self, text: str) -> np.ndarray:
        ids = []
        for words in tokenize_lines(text, self.pretokenized):
            ids += [self.ids.get(word, self.unk) for word in words]
            ids.append(self.eos)
        return np.array(ids, np.uint32)  # [N]

    def tokens(self, ids: Iterable[int]) -> list[str]:
        return [self.words[i] for i in ids]

    def detokenize(self, ids: Iterable[int]) -> str:
        return detokenize(self.tokens(ids))


class SentencePieceVocab:
    """Pieces learned by byte-pair encoding; `</s>` ends every document."""

    def __init__(self, path: Path) -> None:
        import sentencepiece

        self.path = path
        self.model = sentencepiece.SentencePieceProcessor(model_file=str(path))
        self.size, self.eos = self.model.get_piece_size(), self.model.eos_id()

    @classmethod
    def load(cls, directory: Path) -> "SentencePieceVocab":
        return cls(directory / "spm.model")

    @classmethod
    def build(cls, texts: Iterable[str], settings: VocabSettings, path: Path) -> "SentencePieceVocab":
        """Learn the pieces from the lines of `texts` and write the model to `path`; equal texts give equal files."""
        import sentencepiece

        with path.open("wb") as file:
            try:
                sentencepiece.SentencePieceTrainer.train(
                    sentence_iterator=(line for text in texts for line in text.split("\n") if line),
                    model_writer=file,
                    model_type="bpe",
                    vocab_size=settings.size,
                    byte_fallback=settings.byte_fallback,
                    character_coverage=0.9995,
                    input_sentence_size=0,
                    shuffle_input_sentence=False,
                    num_threads=1,
                    max_sentence_length=1 << 20,
                    bos_id=0,  # the special tokens have the same ids as in a word vocabulary
                    pad_id=1,
                    eos_id=2,
                    unk_id=3,
                    minloglevel=2,
                )
            except RuntimeError as error:
                reason = " ".join(str(error).split())
                raise UserError(f"sentencepiece, size {settings.size}: {reason[-160:]}; change size") from None
        return cls(path)

    def save(self, directory: Path) -> None:
        (directory / "spm.model").write_bytes(self.path.read_bytes())

    def encode(self, text: str) -> np.ndarray:
        return next(self.encode_all([text]))

    def encode_all(self, texts: Iterable[str]) -> Iterator[np.ndarray]:
        """The ids of each document as of `encode`, by SentencePiece's own threads: uint32 [N] each."""
        texts = iter(texts)
        while batch := [text.replace("\n", " ") for text in islice(texts, TOGETHER)]:
            for ids in self.model.encode_as_numpy(batch, num_threads=devices.cores()):
                yield np.append(ids, self.eos).astype(np.uint32)

    def tokens(self, ids: Iterable[int]) -> list[str]:
        return [self.model.id_to_piece(int(i)) for i in ids]

    def detokenize(self, ids: Iterable[int]) -> str:
        documents = _documents(map(int, ids), self.eos)
        return "\n".join(self.model.decode(document) for document in documents)


class BertVocab:
    """BERT's cased word pieces from its vocab.txt; `[SEP]` ends every document."""

    def __init__(self, path: Path) -> None:
        from tokenizers import BertWordPieceTokenizer

        self.path = path
        self.model = BertWordPieceTokenizer(str(path), lowercase=False, strip_accents=False)
        self.size, self.eos = self.model.get_vocab_size(), self.model.token_to_id("[SEP]")
        if self.eos is None:
            raise UserError(f"{path}: it has no token [SEP]; expected BERT's vocab.txt")

    @classmethod
    def load(cls, directory: Path) -> "BertVocab":
        return cls(directory / "vocab.txt")

    def save(self, directory: Path) -> None:
        (directory / "vocab.txt").write_bytes(self.path.read_bytes())

    def encode(self, text: str) -> np.ndarray:
        return np.array([*self.model.encode(text, add_special_tokens=False).ids, self.eos], np.uint32)  # [N]

    def tokens(self, ids: Iterable[int]) -> list[str]:
        return [self.model.id_to_token(int(i)) for i in ids]

    def detokenize(self, ids: Iterable[int]) -> str:
        documents = _documents(map(int, ids), self.eos)
        texts = (self.model.decode(document, skip_special_tokens=False) for document in documents)
        return "\n".join(detokenize(text.split(" ")) for text in texts)


TYPES: dict[str, type[WordVocab | SentencePieceVocab | BertVocab | PretrainedVocab]] = {
    "word": WordVocab,
    "sentencepiece": SentencePieceVocab,
    "bert": BertVocab,
    "pretrained": PretrainedVocab,
}


def load(directory: Path) -> Vocab:
    """The vocabulary in `directory`; raises UserError if there is none."""
    return TYPES[read_json(check(directory) / "vocab.json")["type"]].load(Path(directory))


def save(vocab: Vocab, directory: Path) -> None:
    """Write the vocabulary's own file, and vocab.json with its type, size and end token."""
    vocab.save(directory)
    kind = next(name for name, cls in TYPES.items() if isinstance(vocab, cls))
    begins = {"bos": vocab.bos} if isinstance(vocab, PretrainedVocab) else {}
    write_json(directory / "vocab.json", {"type": kind, "size": vocab.size, "eos": vocab.eos} | begins)


def _documents(ids: Iterable[int], eos: int) -> list[list[int]]:
    """The ids divided at each `eos`, which is left out."""
    documents: list[list[int]] = [[]]
    for i in ids:
        if i == eos:
            documents.append([])
        else:
            documents[-1].append(i)
    return documents
