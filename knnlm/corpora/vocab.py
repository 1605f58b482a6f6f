"""Text to token ids and back: words as WikiText's, SentencePiece pieces, BERT's word pieces, or a model's own."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from knnlm.artifacts.description import check
from knnlm.artifacts.files import UserError, read_json, write_json
from knnlm.corpora.pretrained_vocab import PretrainedVocab
from knnlm.corpora.wikitext import detokenize, separate_numbers

if TYPE_CHECKING:
    from sacremoses import MosesTokenizer

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")  # ids 0 to 3 of a word vocabulary
PADDED_TO = 8  # a word vocabulary's size is a multiple of this


@dataclass(frozen=True)
class VocabSettings:
    """How a vocabulary is made from train text."""

    type: str = "word"
    """word | sentencepiece | bert | pretrained"""
    size: int = 8000
    """sentencepiece: number of pieces"""
    sample_words: int = 2_000_000
    """sentencepiece: words of train, in random whole documents, that the pieces are learned from"""
    seed: int = 1
    """sentencepiece: of that sample"""
    byte_fallback: bool = True
    """sentencepiece: unknown characters become bytes (256 more pieces within `size`), else <unk>"""
    min_count: int = 1
    """word: rarer words become <unk>"""
    max_size: int | None = None
    """word: at most so many words beside the special ones"""
    file: str | None = None
    """word: a published dict.txt; bert: vocab.txt (needed); pretrained: a model's archive, file or folder (needed)"""
    member: str = ""
    """pretrained: regular expression of the model's name, where there are several in the archive"""
    eos: str = ""
    """pretrained: the token between documents, by default the model's own"""
    bos: str = ""
    """pretrained: the token that begins every text, by default what the model's tokenizer puts there"""

    def __post_init__(self) -> None:
        if self.type not in TYPES:
            raise UserError(f"type: found {self.type!r}, expected one of {', '.join(TYPES)}")
        if self.type == "bert" and not self.file:
            raise UserError("file: a bert vocabulary needs the path of its vocab.txt")
        if self.type == "pretrained" and not self.file:
            raise UserError("file: a pretrained vocabulary needs the path of its model")
        if self.file and not (Path(self.file).exists() if self.type == "pretrained" else Path(self.file).is_file()):
            raise UserError(f"file: {self.file}: no such file")


class Vocab(Protocol):
    """What every kind of vocabulary can do."""

    size: int
    eos: int

    def encode(self, text: str) -> np.ndarray:
        """The ids of one whole document, uint32 [N]; ends with `eos`."""

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The printed form of each id."""

    def detokenize(self, ids: Iterable[int]) -> str:
        """Readable text."""

    def save(self, directory: Path) -> None: ...


class WordVocab:
    """Words in dictionary order; `</s>` ends every line."""

    def __init__(self, counts: Sequence[tuple[str, int]]) -> None:
        self.counts = list(counts)
        self.words = [*SPECIAL, *(word for word, _ in self.counts)]
        self.ids = {word: i for i, word in enumerate(self.words)}
        self.size, self.eos, self.unk = len(self.words), SPECIAL.index("</s>"), SPECIAL.index("<unk>")
        self.pretokenized = False
        if len(self.ids) != self.size:
            raise UserError("dict.txt: a word occurs twice")

    @classmethod
    def build(cls, counts: Counter[str], settings: VocabSettings) -> "WordVocab":
        """By falling count, ties in alphabetical order; padded with words that never occur."""
        kept = [(w, c) for w, c in counts.items() if c >= settings.min_count and w not in SPECIAL]
        kept = sorted(kept, key=lambda pair: (-pair[1], pair[0]))[: settings.max_size]
        missing = -(len(SPECIAL) + len(kept)) % PADDED_TO
        return cls(kept + [(f"madeupword{i:04d}", 0) for i in range(missing)])

    @classmethod
    def load(cls, directory: Path) -> "WordVocab":
        return cls.read(directory / "dict.txt")

    @classmethod
    def read(cls, path: Path) -> "WordVocab":
        """From a dictionary file: a word, a space, its count on each line."""
        lines = path.read_text(encoding="utf-8").split("\n")
        pairs = [line.rpartition(" ") for line in lines if line]
        if not pairs or not all(word and count.isdigit() for word, _, count in pairs):
            raise UserError(f"{path}: expected lines `word count`")
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
        """Learn the pieces from lines of `texts` into `path`; the same texts give the same bytes."""
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
                    bos_id=0,  # the ids of a word vocabulary's special tokens
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
        return np.append(self.model.encode_as_numpy(text.replace("\n", " ")), self.eos).astype(np.uint32)  # [N]

    def tokens(self, ids: Iterable[int]) -> list[str]:
        return [self.model.id_to_piece(int(i)) for i in ids]

    def detokenize(self, ids: Iterable[int]) -> str:
        parts = _split_at(list(map(int, ids)), self.eos)
        return "\n".join(self.model.decode(part) for part in parts)


class BertVocab:
    """BERT's cased word pieces from its vocab.txt; `[SEP]` ends every document."""

    def __init__(self, path: Path) -> None:
        from tokenizers import BertWordPieceTokenizer

        self.path = path
        self.model = BertWordPieceTokenizer(str(path), lowercase=False, strip_accents=False)
        self.size, self.eos = self.model.get_vocab_size(), self.model.token_to_id("[SEP]")
        if self.eos is None:
            raise UserError(f"{path}: no [SEP] in it; expected BERT's vocab.txt")

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
        parts = _split_at(list(map(int, ids)), self.eos)
        return "\n".join(detokenize(self.model.decode(part, skip_special_tokens=False).split(" ")) for part in parts)


TYPES: dict[str, type[WordVocab | SentencePieceVocab | BertVocab | PretrainedVocab]] = {
    "word": WordVocab,
    "sentencepiece": SentencePieceVocab,
    "bert": BertVocab,
    "pretrained": PretrainedVocab,
}


def load(directory: Path) -> Vocab:
    """The vocabulary in `directory`; raises UserError when there is none."""
    return TYPES[read_json(check(directory) / "vocab.json")["type"]].load(Path(directory))


def save(vocab: Vocab, directory: Path) -> None:
    """Write the vocabulary's own file and vocab.json."""
    vocab.save(directory)
    kind = next(name for name, cls in TYPES.items() if isinstance(vocab, cls))
    begins = {"bos": vocab.bos} if isinstance(vocab, PretrainedVocab) else {}
    write_json(directory / "vocab.json", {"type": kind, "size": vocab.size, "eos": vocab.eos} | begins)


def tokenize_lines(text: str, pretokenized: bool) -> Iterator[list[str]]:
    """The words of each line, by WikiText's conventions or, of text already tokenized, by white space."""
    lines = text.removesuffix("\n").split("\n")
    if pretokenized:
        yield from (line.split() for line in lines)
        return
    moses = _moses()
    for line in lines:
        yield separate_numbers(moses.tokenize(line, aggressive_dash_splits=True, escape=False))


def count_words(document: tuple[str, bool]) -> Counter[str]:
    """Of one (text, pretokenized) document."""
    return Counter(word for line in tokenize_lines(*document) for word in line)


@cache
def _moses() -> "MosesTokenizer":
    from sacremoses import MosesTokenizer

    return MosesTokenizer("en")


def _split_at(ids: list[int], eos: int) -> list[list[int]]:
    parts: list[list[int]] = [[]]
    for i in ids:
        if i == eos:
            parts.append([])
        else:
            parts[-1].append(i)
    return parts
