"""Make a smaller corpus from a random part of another's train documents.

Dev and test stay the same. The paper's Wiki-100M is such a part of Wiki-3B (Section 3).
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from knnlm.artifacts import description, files, lineage
from knnlm.corpora.corpus import Entry, is_pretokenized, random_documents, read_index, write_split


@dataclass(frozen=True)
class SubsetConfig:
    """Keep a seeded random fraction of the train documents of a corpus."""

    corpus: Path
    """corpora/{corpus} directory of the whole corpus"""
    out: Path
    """corpora/{corpus} directory to write"""
    fraction: float
    """share of the train documents, above 0 and at most 1"""
    seed: int = 1


def main(config: SubsetConfig) -> None:
    if not 0 < config.fraction <= 1:
        raise files.UserError(f"fraction: found {config.fraction}, expected above 0 and at most 1")
    lineage.agree((config.corpus,))
    records = read_index(config.corpus, "train")
    chosen = [records[i] for i in random_documents(len(records), config.fraction, config.seed)]
    entries = [Entry(r["title"], r["source"], None, r["start"], r["bytes"], 0, "") for r in chosen]
    with files.atomic(config.out, directory=True) as tmp, (config.corpus / "train.txt").open("rb") as whole:
        write_split(tmp, "train", entries, whole)
        for split in ("dev", "test"):
            for name in (f"{split}.txt", f"{split}.documents.jsonl"):
                shutil.copyfile(description.check(config.corpus / name), tmp / name)
        inputs, documents = {"corpus": config.corpus}, {"train": len(entries)}
        pretokenized = is_pretokenized(config.corpus)
        description.write_meta(tmp, "subset", config, inputs, pretokenized=pretokenized, documents=documents)
