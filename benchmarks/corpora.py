"""Cases of text to tokens."""

import json
import os
from pathlib import Path

import numpy as np

from benchmarks import inputs
from benchmarks.harness import Sides, case
from knnlm.artifacts import description
from knnlm.corpora import binarize, build_vocab, vocab

CORES = len(os.sched_getaffinity(0))


def corpus(folder: Path, documents: list[str]) -> Path:
    folder.mkdir()
    for split, part in (("train", documents), ("dev", documents[:2]), ("test", documents[:2])):
        starts = np.cumsum([0, *(len(text) for text in part)])  # letters and spaces: a byte each
        facts = [
            {"title": f"{i}", "source": "made up", "start": int(start), "bytes": len(text)}
            for i, (start, text) in enumerate(zip(starts, part, strict=False))
        ]
        (folder / f"{split}.txt").write_text("".join(part))
        (folder / f"{split}.documents.jsonl").write_text("".join(json.dumps(fact) + "\n" for fact in facts))
    description.write_meta(folder, "prepare", {}, {}, pretokenized=False)
    return folder


def encoding(folder: Path, scale: float, kind: str) -> Sides:
    documents = inputs.text(int(2_000_000 * scale))
    words = folder / kind
    if not (folder / "corpus").exists():
        corpus(folder / "corpus", documents)
    if not words.exists():
        listed = sorted({word for text in documents for word in text.split()} | set(inputs.SYLLABLES))
        (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *listed]) + "\n")
        more = {"file": str(folder / "vocab.txt")} if kind == "bert" else {"sample_words": 100_000}
        build_vocab.main(build_vocab.BuildVocabConfig((folder / "corpus",), words, json.dumps({"type": kind} | more)))
    loaded, out = vocab.load(words), folder / "tokens"
    lines = [text.replace("\n", " ") for text in documents]

    def library() -> list[list[int]]:
        if kind == "bert":
            return [found.ids for found in loaded.model.encode_batch(documents, add_special_tokens=False)]
        return loaded.model.encode(lines, out_type=int, num_threads=CORES)

    def same(_: None, expected: list[list[int]]) -> None:
        found = np.load(out / "train.npy")
        np.testing.assert_array_equal(found, [i for ids in expected for i in (*ids, loaded.eos)])

    def ours() -> None:
        binarize.main(binarize.BinarizeConfig(words, folder / "corpus", out))

    return Sides(ours, library, same, int(2_000_000 * scale), "words", repeats=3, overhead=True)


@case(
    "encode-sentencepiece",
    "`knnlm binarize`: 2M words in documents from disk to token ids on disk",
    "SentencePiece's `encode` of a list in memory, all cores",
    "≤ +20%",
)
def encode_sentencepiece(folder: Path, scale: float) -> Sides:
    return encoding(folder, scale, "sentencepiece")


@case("encode-bert", "the same with BERT's word pieces", "`tokenizers`' `encode_batch`, all cores", "≤ +20%")
def encode_bert(folder: Path, scale: float) -> Sides:
    return encoding(folder, scale, "bert")
