"""Readers of sources and the cleaning of text, on tiny archives made here."""

import bz2
import json
import re
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knnlm.artifacts.files import UserError
from knnlm.corpora import sources, text, wikipedia

PROSE = "word " * 100


def archive(path: Path, **members: str | bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def page(title: str, markup: str, namespace: int = 0, redirect: str = "") -> str:
    return (
        f"<page><title>{title}</title><ns>{namespace}</ns><id>1</id>{redirect}"
        f"<revision><id>1</id><timestamp>2016-01-01T00:00:00Z</timestamp><text>{markup}</text></revision></page>"
    )


def dump(*pages: str) -> bytes:
    schema = 'xmlns="http://www.mediawiki.org/xml/export-0.10/" version="0.10"'
    return bz2.compress(f"<mediawiki {schema}><siteinfo></siteinfo>{''.join(pages)}</mediawiki>".encode())


def test_markup_becomes_prose() -> None:
    markup = (
        "{{Infobox|a={{b|c}}}}'''Ants''' are [[insect|insects]]<ref>x</ref> of {{convert|2|to|25|mm|in}}.<!-- no -->\n"
        "[[File:a.jpg|thumb|An [[ant]] here]]\n{| class=x\n| cell {| nested |}\n|}\n"
        "== Nests ==\nThey ''dig'' (; {{IPA|x}}).\n== References ==\nlist\n=== Books ===\nmore\n"
        "== Food ==\n* Honey dew&nbsp;too\n[[Category:Ants]]"
    )
    assert wikipedia.plain_text(markup) == "Ants are insects of 2 to 25 mm.\nNests.\nThey dig.\nFood.\nHoney dew too"


def test_only_articles_of_a_dump_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "dump.bz2"
    path.write_bytes(
        dump(
            page("Ant", PROSE),
            page("Talk:Ant", PROSE, namespace=1),
            page("Ants", PROSE, redirect='<redirect title="Ant" />'),
            page("Ant (disambiguation)", PROSE),
            page("Aunt", "{{disambig}}" + PROSE),
            page("Stub", "short"),
        )
    )
    found = list(sources.read({"kind": "wikipedia_dump", "path": str(path)}, {}))
    assert [document.title for document in found] == ["Ant"]
    assert found[0].text.split() == ["Ant", *PROSE.split()]


def test_a_dump_inside_a_wheel_is_the_same(tmp_path: Path) -> None:
    wheel = archive(tmp_path / "a.whl", **{"x/small.bz2": dump(page("Ant", PROSE))})
    source = {"kind": "wikipedia_dump", "archive": "a", "member": r"small\.bz2"}
    assert [document.title for document in sources.read(source, {"a": wheel})] == ["Ant"]


def test_wrapped_lines_become_paragraphs() -> None:
    wrapped = "Produced by A.\n\n\nA red-\nskinned man en-\ncouraged\nher.[12]\n\n[1] A note.\n\nWe encouraged =_him_.="
    assert text.paragraphs(wrapped) == "A red-skinned man encouraged her.\nWe encouraged him."


def test_bytes_of_any_age_are_decoded() -> None:
    assert text.decode(b"a\r\r\nb\rc&nbsp;d") == "a\nb\nc d"
    assert text.decode("caf\u00e9".encode("cp1252")) == "café"
    assert text.decode("A LADY\u00e2\u20ac\u2122S".encode()) == "A LADY’S"


def test_only_the_damaged_lines_of_a_text_are_repaired() -> None:
    sound = ["Ça va – l’été à Ärö, “naïve” ½ €5", ""]
    damaged = [line.encode().decode("latin-1") for line in ("déjà vu, the café – closed", "£5 or 5 €")]
    lines = text.decode("\n".join([*sound, *damaged]).encode()).split("\n")
    assert lines == [*sound, "déjà vu, the café – closed", "£5 or 5 €"]


@given(st.text(alphabet=st.characters(codec="ascii", exclude_characters="\r&")))
def test_decoding_leaves_plain_text_alone(plain: str) -> None:
    assert text.decode(plain.encode()) == plain


def test_titles_and_leads_are_compared_without_case_accents_punctuation() -> None:
    assert text.normalise("  Élan, (Vital)!") == "elan vital"
    words = [f"w{i}" for i in range(30)]
    assert text.lead("Fellow citizens:\n" + " ".join(words)) == " ".join(words[:12])
    assert text.lead("too short") == ""


def test_leads_that_are_short_or_ambiguous_are_left_out(tmp_path: Path) -> None:
    extracts = {"A": PROSE, "B": "short", "C": "C may refer to " + PROSE}
    entries = {title: {"title": title, "extract": extract} for title, extract in extracts.items()}
    wheel = archive(tmp_path / "a.whl", **{"ovos/data/summaries_en-us.json": json.dumps(entries)})
    found = list(sources.read({"kind": "vital_leads", "archive": "a"}, {"a": wheel}))
    assert [document.title for document in found] == ["A"]


def test_factbook_keeps_prose_that_is_not_boilerplate(tmp_path: Path) -> None:
    def country(name: str) -> str:
        return json.dumps(
            {
                "Introduction": {"Background": {"text": f"<b>{name}</b> is a land of many hills &amp; of few rivers"}},
                "People": {"Note": {"text": "the same eight words or more in every country"}, "Age": {"text": "12"}},
                "Government": {"Country name": {"conventional short form": {"text": name}}},
            }
        )

    wheel = archive(tmp_path / "a.whl", **{f"x/data/europe/a{n}.json": country(f"Land{n}") for n in "abc"})
    found = list(sources.read({"kind": "factbook", "archive": "a"}, {"a": wheel}))
    assert [document.title for document in found] == [f"Land{n} (World Factbook)" for n in "abc"]
    assert found[0].text.split("\n")[1:] == ["Background: Landa is a land of many hills & of few rivers"]


@pytest.mark.parametrize("ending", ["tokens", "raw"])
def test_wikitext_is_kept_to_the_byte(tmp_path: Path, ending: str) -> None:
    token_file = " \n = One = \n \n text of @-@ one \n = = Part = = \n \n more \n \n = Two = \n \n two \n"
    members = {f"wikitext-103/wiki.{split}.{ending}": token_file for split in ("train", "valid", "test")}
    path = archive(tmp_path / "wikitext.zip", **members)
    found = list(sources.read({"kind": "wikitext103", "path": str(path)}, {}))
    assert [(d.title, d.split) for d in found[:2]] == [("One", "train"), ("Two", "train")]
    assert {d.split for d in found} == {"train", "dev", "test"}
    assert "".join(d.text for d in found if d.split == "dev") == token_file


def test_a_folder_may_bring_its_own_splits(tmp_path: Path) -> None:
    for split in ("train", "dev", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / f"{split}-file.txt").write_text("line one\n\n  line  two\n")
    found = list(sources.read({"kind": "folder", "path": str(tmp_path)}, {}))
    assert [(d.title, d.split, d.text) for d in found][1] == ("dev-file", "dev", "line one\nline two")


def test_a_folder_of_mixed_files_and_encodings_says_what_it_read_and_skipped(tmp_path: Path, caplog) -> None:
    caplog.set_level("INFO", "knnlm")
    texts = {"a.txt": "utf-8", "b.md": "cp1252", "c.TXT": "utf-16", "sub/d.md": "utf-8-sig", "sub/e.txt": "cp1252"}
    for name, encoding in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(f"café “{name}”\r\n\r\nend".encode(encoding))
    for name in ("x.docx", "y.docx", "z.pdf", "README", ".hidden.txt", ".git/one.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"PK\0\0")
    found = list(sources.read({"kind": "folder", "path": str(tmp_path)}, {}))
    assert [document.text for document in found] == [f"café “{name}”\nend" for name in texts]
    assert caplog.messages == [
        f"{tmp_path}: 5 files read (.txt and .md), skipped: 2 .docx, 1 without an ending, 1 .pdf",
        f"{tmp_path}: read as cp1252, since not in UTF-8 (2): b.md, e.txt",
        f"{tmp_path}: read as utf-16, since not in UTF-8 (1): c.TXT",
    ]


@pytest.mark.parametrize("kind", ["folder", "books_folder"])
@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "looked for .txt and .md files, found an empty folder; put texts there, one document a file"),
        ({".DS_Store": "x"}, "found an empty folder; put"),
        ({"a.docx": "x", "b.docx": "x", "c/d.pdf": "x"}, "found 2 .docx, 1 .pdf; save them as plain text"),
        ({"a.txt": "a text\0"}, "a.txt: found bytes of 0, expected text; delete it or save it as text in UTF-8"),
    ],
)
def test_a_folder_without_texts_says_what_is_there(kind: str, files: dict, message: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        list(sources.read({"kind": kind, "path": str(tmp_path)}, {}))
    assert str(raised.value).startswith(str(tmp_path)) and "\n" not in str(raised.value)


def test_verbatim_texts_are_utf_8(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("café".encode("cp1252"))
    with pytest.raises(UserError, match="not UTF-8; `verbatim` takes texts as they are"):
        list(sources.read({"kind": "folder", "path": str(tmp_path), "verbatim": True}, {}))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"kind": "nonsense", "path": "x"}, "unknown kind 'nonsense'"),
        ({"kind": "sotu"}, "needs `archive`"),
        ({"kind": "sotu", "archive": "b"}, "needs the archive 'b'; archives given: a"),
        ({"kind": "folder", "path": "/nonexistent"}, "no such file or folder"),
        ({"kind": "sotu", "archive": "a"}, "no documents of kind sotu"),
        ({"kind": "sotu", "archive": "a", "nonsense": 1}, "nonsense"),
    ],
)
def test_mistakes_are_one_line(source: dict, message: str, tmp_path: Path) -> None:
    wheel = archive(tmp_path / "a.whl", empty="")
    with pytest.raises(UserError, match=message) as raised:
        list(sources.read(source, {"a": wheel}))
    assert "\n" not in str(raised.value)


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(UserError, match=r"empty\.txt: empty"):
        list(sources.read({"kind": "folder", "path": str(tmp_path)}, {}))


@pytest.mark.parametrize(("words", "lines"), [(0, 1), (2, 1), (3, 3), (5, 4), (99, 4)])
def test_a_text_is_cut_after_the_line_that_reaches_the_number_of_words(words: int, lines: int) -> None:
    texts = ["one two", "", "three four", "five"]
    assert text.first_words("\n".join(texts), words) == "\n".join(texts[:lines])
