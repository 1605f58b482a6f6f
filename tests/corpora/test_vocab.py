"""Vocabularies: text to ids and back, the same ones every time, and made from train alone."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knnlm.artifacts import description
from knnlm.artifacts.files import UserError
from knnlm.artifacts.npy import open_array
from knnlm.corpora import binarize, build_vocab, vocab
from knnlm.corpora.prepare import PrepareConfig
from knnlm.corpora.prepare import main as prepare
from knnlm.corpora.vocab import WordVocab
from knnlm.corpora.wikitext import detokenize, separate_numbers, tokenize_lines
from knnlm.settings import VocabSettings

TEXT = "The well-known (U.S.) firm didn't pay $3,500.50 in 2004–05, \"it's fine\" said Dr. Smith."
SPACED = (
    "The well @-@ known ( U.S. ) firm didn 't pay $ 3 @,@ 500 @.@ 50 in 2004 – 05 , \" it 's fine \" said Dr. Smith ."
)
TOKENS = SPACED.split()


def corpus(tmp_path: Path, name: str = "corpus", pretokenized: bool = False) -> Path:
    folder = tmp_path / f"{name}-texts"
    folder.mkdir()
    for i in range(12):
        lines = [f"Article {i} says hello to the world number {i} again and again.", "A second line of it."]
        (folder / f"{i:02d}.txt").write_text("\n".join(lines * 3))
    settings = {"sources": [{"kind": "folder", "path": str(folder)}], "dev_words": 110, "test_words": 110}
    prepare(PrepareConfig(tmp_path / name, json.dumps(settings | {"pretokenized": pretokenized})))
    return tmp_path / name


def build(corpora: Path, out: Path, **settings: object) -> vocab.Vocab:
    build_vocab.main(build_vocab.BuildVocabConfig((corpora,), out, json.dumps(settings)))
    return vocab.load(out)


def test_words_follow_wikitext() -> None:
    assert list(tokenize_lines(TEXT + "\n", pretokenized=False)) == [TOKENS]


def test_tokenized_text_is_split_at_spaces_and_blank_lines_count() -> None:
    lines = list(tokenize_lines(" \n = A = \n \n b @-@ c \n", pretokenized=True))
    assert lines == [[], ["=", "A", "="], [], ["b", "@-@", "c"]]


def test_only_separators_between_digits_become_tokens() -> None:
    assert separate_numbers(["1,000", "U.S.", "a,b", "3."]) == ["1", "@,@", "000", "U.S.", "a,b", "3."]


def test_tokens_read_as_text_again() -> None:
    assert detokenize([*TOKENS, "</s>", "Next"]) == TEXT.replace("2004–05", "2004 – 05") + "\nNext"


@pytest.mark.parametrize(
    "tokens, text",
    [
        ("about 3 @,@ 500 @.@ 25 of", "about 3,500.25 of"),
        ("@,@ 500 men", ",500 men"),
        ("3 @,@ <unk> men , <unk> @.@ 5", "3,<unk> men, <unk>.5"),
        ("began @,@ creating", "began, creating"),
        ("in 2004 @,@ creating @,@ 500 @,@ ( all ) @.@", "in 2004, creating, 500, (all)."),
        ("3 @,@ @,@ the @-@ end", "3,, the-end"),
        ("they , @-@ they ( @-@ 5 @-@ x )", "they, - they (- 5-x)"),
        ("a @.@ </s> The", "a.\nThe"),
    ],
)
def test_separators_of_numbers_join_nothing_else(tokens: str, text: str) -> None:
    assert detokenize(tokens.split()) == text


def test_dictionary_is_ordered_by_count_and_padded_to_eights() -> None:
    words = WordVocab.build(Counter({"b": 2, "a": 2, "c": 3, "<unk>": 9, "rare": 1}), VocabSettings(min_count=2))
    assert words.words[:8] == ["<s>", "<pad>", "</s>", "<unk>", "c", "a", "b", "madeupword0000"]
    words.pretokenized = True
    assert words.size == 8 and words.encode("c b\nrare <unk>\n").tolist() == [4, 6, 2, 3, 3, 2]
    assert WordVocab.build(Counter("abc"), VocabSettings(max_size=1)).words[4:6] == ["a", "madeupword0000"]


def test_a_published_dictionary_keeps_its_order(tmp_path: Path) -> None:
    (tmp_path / "dict.txt").write_text("the 10\n, 9\nmadeupword0000 0\nof 0\n")
    words = WordVocab.load(tmp_path)
    assert words.ids["the"] == 4 and words.ids["of"] == 7 and words.size == 8
    (tmp_path / "dict.txt").write_text("the\n")
    with pytest.raises(UserError, match="expected lines `word count`"):
        WordVocab.load(tmp_path)
    (tmp_path / "dict.txt").write_text("the 2\nof 1\nthe 1\n")
    with pytest.raises(UserError, match="the word 'the' occurs twice"):
        WordVocab.load(tmp_path)


@given(st.lists(st.integers(0, 15)))
def test_printed_tokens_give_their_ids_back(ids: list[int]) -> None:
    words = WordVocab.build(Counter("abcdefghijkl"), VocabSettings())
    assert [words.ids[token] for token in words.tokens(ids)] == ids


@given(st.lists(st.text(alphabet="abc,.-'\" ", max_size=20), max_size=5))
def test_any_word_text_encodes_to_one_end_per_line(lines: list[str]) -> None:
    words = WordVocab.build(Counter("abc"), VocabSettings())
    text = "\n".join(lines) + "\n"
    assert np.count_nonzero(words.encode(text) == words.eos) == max(1, len(lines))


@pytest.mark.parametrize("kind", ["word", "sentencepiece"])
def test_ids_documents_and_text_agree(kind: str, tmp_path: Path) -> None:
    source = corpus(tmp_path)
    settings = {"type": kind} | ({"size": 330} if kind == "sentencepiece" else {})
    words = build(source, tmp_path / "vocab", **settings)
    binarize.main(binarize.BinarizeConfig(tmp_path / "vocab", source, tmp_path / "tokens"))
    ids = open_array(tmp_path / "tokens/train.npy", ndim=1)  # [N]
    starts = open_array(tmp_path / "tokens/train.documents.npy", "int64", 1)  # [D]
    assert ids.dtype == np.uint16 and ids.max() < words.size
    assert starts[0] == 0 and np.all(ids[starts[1:] - 1] == words.eos) and ids[-1] == words.eos
    text = words.detokenize(ids).split()
    assert text == (source / "train.txt").read_text().split()


@pytest.mark.parametrize("seed", [1, 2])
def test_sentencepiece_is_deterministic_and_without_unknowns(seed: int, tmp_path: Path) -> None:
    source, asked = corpus(tmp_path), {"type": "sentencepiece", "size": 330, "sample_words": 200, "seed": seed}
    one = build(source, tmp_path / "one", **asked)
    build(source, tmp_path / "two", **asked)
    assert (tmp_path / "one/spm.model").read_bytes() == (tmp_path / "two/spm.model").read_bytes()
    assert one.detokenize(one.encode("Ж unseen 漢")).strip() == "Ж unseen 漢"
    with pytest.raises(UserError, match="change size"):
        build(source, tmp_path / "three", type="sentencepiece", size=9000)


def test_bert_pieces(tmp_path: Path) -> None:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Hello", "wor", "##ld", ","]
    (tmp_path / "bert.txt").write_text("\n".join(pieces) + "\n")
    words = build(corpus(tmp_path), tmp_path / "vocab", type="bert", file=str(tmp_path / "bert.txt"))
    assert words.encode("Hello, world").tolist() == [5, 8, 6, 7, 3]
    assert words.detokenize([5, 8, 6, 7, 3]).strip() == "Hello, world" and words.size == len(pieces)


def test_a_vocabulary_is_made_from_train_alone(tmp_path: Path) -> None:
    source = corpus(tmp_path)
    before = build(source, tmp_path / "before").counts
    for split in ("dev", "test"):
        (source / f"{split}.txt").unlink()
    assert build(source, tmp_path / "after").counts == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"type": "nonsense"}, "type: found 'nonsense'"),
        ({"type": "bert"}, "vocab: key 'file' is missing"),
        ({"type": "word", "file": "/nonexistent"}, "no such file"),
        ({"sise": 3}, "unknown key 'sise'"),
    ],
)
def test_mistakes_are_one_line(settings: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        build(tmp_path, tmp_path / "vocab", **settings)


def test_word_tokens_need_a_word_vocabulary(tmp_path: Path) -> None:
    source = corpus(tmp_path, pretokenized=True)
    build(source, tmp_path / "vocab", type="sentencepiece", size=330)
    with pytest.raises(UserError, match="not a word vocabulary"):
        binarize.main(binarize.BinarizeConfig(tmp_path / "vocab", source, tmp_path / "tokens"))


def test_a_split_without_documents_is_named(tmp_path: Path) -> None:
    source = corpus(tmp_path)
    (source / "dev.documents.jsonl").write_text("")
    description.write_meta(source, "prepare", {}, {})
    build(source, tmp_path / "vocab")
    with pytest.raises(UserError, match=r"dev\.documents\.jsonl: no documents"):
        binarize.main(binarize.BinarizeConfig(tmp_path / "vocab", source, tmp_path / "tokens"))


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_train_joined_from_shards_equals_train_encoded_at_once(shards: int, tmp_path: Path) -> None:
    source, words = corpus(tmp_path), tmp_path / "vocab"
    build(source, words, type="word")
    binarize.main(binarize.BinarizeConfig(words, source, tmp_path / "whole"))
    parts = tuple(tmp_path / f"shard{shard}" for shard in range(shards))
    for shard, part in enumerate(parts):
        binarize.main(binarize.BinarizeConfig(words, source, part, shard, shards))
    binarize.main(binarize.BinarizeConfig(words, source, tmp_path / "joined", parts=parts))
    for name in ("train.npy", "train.documents.npy", "dev.npy", "test.documents.npy"):
        assert np.array_equal(open_array(tmp_path / "joined" / name), open_array(tmp_path / "whole" / name))
    sizes = [description.described(tmp_path / name)["text"] for name in ("whole", "joined")]
    documents = [(source / f"{split}.txt").read_text(encoding="utf-8") for split in ("train", "dev", "test")]
    assert sizes[0] == sizes[1]
    assert [sizes[0][split]["words"] for split in ("train", "dev", "test")] == [len(text.split()) for text in documents]
    assert 0.9 < sizes[0]["train"]["bytes"] / len(documents[0].encode()) <= 1


def test_more_shards_than_documents_are_refused(tmp_path: Path) -> None:
    source = corpus(tmp_path)
    build(source, tmp_path / "vocab", type="word")
    with pytest.raises(UserError, match="documents do not fill 100 shards: ask for fewer"):
        binarize.main(binarize.BinarizeConfig(tmp_path / "vocab", source, tmp_path / "part", shard=0, shards=100))


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("words", [1, 90, 10_000])
def test_a_sample_is_of_train_in_the_order_of_the_seed(seed: int, words: int, tmp_path: Path) -> None:
    source = corpus(tmp_path)
    records = [json.loads(line) for line in (source / "train.documents.jsonl").read_text().splitlines()]
    train = (source / "train.txt").read_bytes()
    texts = [train[one["start"] : one["start"] + one["bytes"]].decode() for one in records]
    expected, left = [], words
    for i in np.random.default_rng(seed).permutation(len(texts)):
        if left > 0:
            lines = texts[i].split("\n")
            sizes = np.cumsum([len(line.split()) for line in lines])
            expected.append("\n".join(lines[: int(np.argmax(sizes >= left)) + 1] if sizes[-1] >= left else lines))
            left -= sizes[-1]
    asked = VocabSettings(type="sentencepiece", size=330, sample_words=words, seed=seed)
    assert list(build_vocab.sample((source,), asked)) == expected
