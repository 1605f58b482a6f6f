"""Measure what a study of your own texts takes: the table of time and disk in docs/your-corpus.md.

    python -m benchmarks.own_corpus results/mini/corpora/*/train.txt --out results/own

For each number of words a folder of text files is made and `snakemake table1 cost` is run with config/your-corpus.yaml,
changed as the document says for that size. The texts are the lines of the files given, in a seeded order and, where
there are too few, in another one again. What they say matters to perplexities, not to time and disk. Nothing else
should run meanwhile.
"""

import argparse
import csv
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from benchmarks.__main__ import machine
from knnlm.artifacts import description, files

ROOT = Path(__file__).parent.parent
WORDS = (100_000, 1_000_000, 10_000_000)
DOCUMENT = 2000  # words
SMALL, LARGE = 200_000, 2_000_000  # words below and above which the document changes the configuration
FEWER_UPDATES = {"updates": 600, "evaluate_every": 60, "warmup": 50}
HELD_OUT = {"dev_words": 200_000, "test_words": 200_000}
HEAD = ("words", "entries", "index", "minutes", "most on disk, MB", "left on disk, MB")


def documents(lines: Sequence[str], words: int, seed: int = 1) -> Iterator[str]:
    """Texts of about 2,000 words each, until they have so many words together."""
    random_order = random.Random(seed)
    total, size, document = 0, 0, list[str]()
    while True:  # the lines in another order each time, since equal documents would be left out
        for line in random_order.sample(lines, len(lines)):
            document.append(line)
            size += len(line.split())
            if size >= DOCUMENT or total + size >= words:
                yield "\n".join(document) + "\n"
                total, document, size = total + size, [], 0
            if total >= words:
                return


def study(texts: Path, words: int) -> dict:
    """config/your-corpus.yaml with what docs/your-corpus.md changes for so many words."""
    config = yaml.safe_load((ROOT / "config/your-corpus.yaml").read_text(encoding="utf-8"))
    config |= {"study": texts.name, "results": str(texts.parent.absolute())}
    config["corpora"]["mine"]["sources"][0]["path"] = str(texts.absolute() / "texts")
    if words < SMALL:
        config["models"]["mine"]["training"] |= FEWER_UPDATES
    if words > LARGE:
        config["corpora"]["mine"] |= HELD_OUT
    return config


def measured(folder: Path, lines: Sequence[str], words: int, cores: int) -> dict[str, str]:
    """Run one study to Table 1 in `folder`, which must not be there yet; a line of the document's table."""
    (folder / "texts").mkdir(parents=True)
    for number, text in enumerate(documents(lines, words)):
        (folder / f"texts/{number:05}.txt").write_text(text, encoding="utf-8")
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(study(folder, words)), encoding="utf-8")
    command = [sys.executable, "-m", "snakemake", "table1", "cost", "--cores", str(cores)]
    began = time.perf_counter()
    subprocess.run([*command, "--configfile", str(file.absolute())], cwd=ROOT, check=True)
    minutes = (time.perf_counter() - began) / 60
    with (folder / "tables/cost.csv").open(encoding="utf-8", newline="") as lines_of_cost:
        whole = list(csv.DictReader(lines_of_cost))[-1]
    (index,) = folder.glob("indexes/mine/seed1/mine/*/auto")
    facts = description.described(index / "shard0of1.faiss")
    chosen = files.read_json(index / "trained.faiss.meta.json")["config"]["factory"]
    disk = (f"{float(whole[column]) / 1e6:,.0f}" for column in ("peak_bytes", "bytes"))
    return dict(
        zip(HEAD, (f"{words:,}", f"{facts['entries']:,}", f"`{chosen}`", f"{minutes:,.0f}", *disk), strict=True)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path, nargs="+", help="text files whose lines are used")
    parser.add_argument("--out", type=Path, required=True, help="folder of the studies")
    parser.add_argument("--words", type=int, nargs="+", default=WORDS)
    parser.add_argument("--cores", type=int, default=2)
    asked = parser.parse_args()
    lines = [line for path in asked.texts for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    print(f"{machine()}\n\n| {' | '.join(HEAD)} |\n{'|---' * len(HEAD)}|", flush=True)
    for words in asked.words:
        line = measured(asked.out / f"words{words}", lines, words, asked.cores)
        print(f"| {' | '.join(line.values())} |", flush=True)
        with (asked.out / "measured.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
