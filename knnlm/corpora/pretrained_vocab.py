"""The tokenizer of a pretrained model: kept as its tokenizer.json, which needs only the library `tokenizers`."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, normalizers
from tokenizers import pre_tokenizers as pre

from knnlm.artifacts import huggingface
from knnlm.artifacts.description import check
from knnlm.artifacts.files import UserError, read_json

BETWEEN_DOCUMENTS = ("<|endoftext|>", "<|end_of_text|>")  # in place of the end of a turn that chat models have as EOS
PART = "\ufffd"  # what a decoder gives for a part of a character
GPT4_LIKE = (  # how Llama 3 (up to 3 digits a token) and Qwen (one digit) cut text before its bytes are paired
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def _gpt4_like(digits: str) -> Any:
    regex = Regex(GPT4_LIKE.replace("DIGITS", digits))
    return pre.Sequence([pre.Split(regex, "isolated"), pre.ByteLevel(add_prefix_space=False, use_regex=False)])


def _smollm() -> Any:
    return pre.Sequence([pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)])


CUTS: dict[str, Callable[[], Any]] = {  # a GGUF file only names how its tokenizer cuts text
    "gpt-2": lambda: pre.ByteLevel(add_prefix_space=False),
    "smollm": _smollm,
    "llama-bpe": lambda: _gpt4_like("{1,3}"),
    "qwen2": lambda: _gpt4_like(""),
}


def _byte_letters() -> dict[str, int]:
    """The byte that each letter of a byte-level token stands for: itself where it is printable, else numbered on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    rest = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(rest)}


BYTES = _byte_letters()


class PretrainedVocab:
    """The model's own tokens; `eos`, the model's token between documents, ends every document.

    `bos` is the token that the model reads before every text, or None where it was trained without one: it is no part
    of the text, and the model puts it there itself. Names of special tokens inside a text stay text.
    """

    def __init__(self, tokenizer: Tokenizer, eos: int, bos: int | None) -> None:
        self.tokenizer, self.eos, self.bos = tokenizer, eos, bos
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True  # as ordinary text
        self.special: set[int] = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        ordinary = max(i for i in tokenizer.get_vocab(with_added_tokens=True).values() if i not in self.special)
        self.size = 1 + max(ordinary, eos, eos if bos is None else bos)
        unknown = getattr(tokenizer.model, "unk_token", None)
        self.forbidden = np.array(sorted(self.special - {unknown and tokenizer.token_to_id(unknown)}), np.uint32)
        self.has_bytes = isinstance(tokenizer.decoder, decoders.ByteLevel)

    @classmethod
    def load(cls, directory: Path) -> "PretrainedVocab":
        stated = facts(directory)
        path = check(Path(directory) / "tokenizer.json")
        with huggingface.whole(path):
            return cls(Tokenizer.from_file(str(path)), stated["eos"], stated["bos"])

    @classmethod
    def read(cls, archive: Path, member: str = "", eos: str = "", bos: str = "") -> "PretrainedVocab":
        """From a published model; `eos` and `bos` name the tokens where the model does not, or is wrong."""
        with huggingface.opened(archive, member) as source:
            tokenizer, stated = _from_gguf(source) if source.is_file() else _from_folder(source)
        if not (name := eos or _between_documents(tokenizer, stated)):
            raise UserError(f"{archive}: names no token that ends a text: give it by the vocabulary's key eos")
        begin = _id(tokenizer, bos, archive) if bos else _first(tokenizer)
        return cls(tokenizer, _id(tokenizer, name, archive), begin)

    def save(self, directory: Path) -> None:
        self.tokenizer.save(str(directory / "tokenizer.json"))

    def encode(self, text: str) -> np.ndarray:
        ids = np.array([*self.tokenizer.encode(text, add_special_tokens=False).ids, self.eos], np.uint32)  # [N]
        if np.isin(ids[:-1], self.forbidden).any():
            name = self.tokenizer.id_to_token(int(ids[:-1][np.isin(ids[:-1], self.forbidden)][0]))
            raise UserError(f"a document holds {name!r}, which this tokenizer reads as a special token: take it out")
        return ids

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """As SentencePiece prints tokens: ▁ for a space before, `</s>` for the end of a document.

        A token that is a part of a character is printed byte by byte: `<0xE2><0x80>`.
        """
        return [self._printed(int(i)) for i in ids]

    def detokenize(self, ids: Iterable[int]) -> str:
        documents: list[list[int]] = [[]]
        for i in ids:
            if i == self.eos:
                documents.append([])
            else:
                documents[-1].append(int(i))
        return "\n".join(self.tokenizer.decode(part, skip_special_tokens=False) for part in documents)

    def _printed(self, number: int) -> str:
        if number == self.eos:
            return "</s>"
        token = self.tokenizer.id_to_token(number)
        if token is None:
            return f"<{number}>"  # a row of the model that no token uses
        if self.has_bytes and number not in self.special:
            text = self.tokenizer.decoder.decode([token])
            if PART in text and all(letter in BYTES for letter in token):
                return "".join(f"<0x{BYTES[letter]:02X}>" for letter in token)
            token = f"▁{text[1:]}" if text.startswith(" ") else text
        return token.replace("\n", "↵")


def facts(directory: Path) -> dict:
    """The vocab.json of a vocabulary of this type, with keys size, eos and bos; UserError for another type."""
    stated = read_json(check(Path(directory) / "vocab.json"))
    if stated.get("type") != "pretrained":
        raise UserError(
            f"{directory}: found a vocabulary of type {stated.get('type')!r}, expected type pretrained, "
            "made from the model's archive"
        )
    return stated


def _id(tokenizer: Tokenizer, name: str, archive: Path) -> int:
    number = tokenizer.token_to_id(name)
    if number is None:
        raise UserError(f"{archive}: its tokenizer has no token {name!r}: give one that it has")
    return number


def _between_documents(tokenizer: Tokenizer, stated: dict) -> str | None:
    """The token that ends a document: the one between the documents of pretraining, else the tokenizer's own EOS."""
    known = (name for name in BETWEEN_DOCUMENTS if tokenizer.token_to_id(name) is not None)
    return next(known, None) or _text(stated.get("eos_token"))


def _first(tokenizer: Tokenizer) -> int | None:
    """The token that the tokenizer itself puts before a text."""
    plain, whole = (tokenizer.encode("a", add_special_tokens=special).ids for special in (False, True))
    return whole[0] if whole[:1] != plain[:1] else None


def _from_folder(folder: Path) -> tuple[Tokenizer, dict]:
    path, config = folder / "tokenizer.json", folder / "tokenizer_config.json"
    if path.is_file():
        with huggingface.whole(path):
            return Tokenizer.from_file(str(path)), read_json(config) if config.is_file() else {}
    library = huggingface.transformers()
    try:
        with huggingface.whole(folder):
            made = library.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            return made.backend_tokenizer, {"eos_token": made.eos_token}
    except UserError as error:
        raise UserError(f"{folder}: found no tokenizer.json, save the model's tokenizer there too ({error})") from None


def _from_gguf(path: Path) -> tuple[Tokenizer, dict]:
    stated = huggingface.gguf_fields(path, "tokenizer.ggml.model", "tokenizer.ggml.pre")
    model, cuts = (str(stated.get(f"tokenizer.ggml.{name}")) for name in ("model", "pre"))
    if model == "gpt2" and cuts not in CUTS:
        raise UserError(
            f"{path.name}: its tokenizer cuts text by {cuts!r}, expected one of {', '.join(CUTS)}: "
            "use the model's folder with tokenizer.json"
        )
    library = huggingface.transformers()
    with huggingface.whole(path):
        made = library.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    if model == "gpt2":
        made.backend_tokenizer.pre_tokenizer = CUTS[cuts]()
        made.backend_tokenizer.normalizer = normalizers.NFC() if cuts == "qwen2" else None
    return made.backend_tokenizer, {"eos_token": made.eos_token}


def _text(token: Any) -> str | None:
    """A special token's text, which tokenizer_config.json gives alone or with properties."""
    return token.get("content") if isinstance(token, dict) else token
