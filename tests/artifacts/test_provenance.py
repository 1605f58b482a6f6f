"""How an artifact was made, as `knnlm provenance` prints it."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from knnlm.artifacts import description, provenance
from knnlm.artifacts.files import UserError
from knnlm.corpora import binarize, build_vocab, prepare


@pytest.fixture
def tokens(tmp_path) -> Path:
    """Tokens of a corpus of three files."""
    texts = tmp_path / "texts"
    for split in ("train", "dev", "test"):
        (texts / split).mkdir(parents=True)
        (texts / split / "one.txt").write_text(f"The {split} text of a small corpus, with a second sentence.\n")
    at = tmp_path / "study"
    settings = {"sources": [{"kind": "folder", "path": str(texts)}]}
    prepare.main(prepare.PrepareConfig(at / "corpora/small", json.dumps(settings)))
    build_vocab.main(build_vocab.BuildVocabConfig((at / "corpora/small",), at / "vocabs/words", '{"type": "word"}'))
    out = at / "tokens/words/small"
    binarize.main(binarize.BinarizeConfig(at / "vocabs/words", at / "corpora/small", out))
    return out


def python(*arguments: object) -> str:
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout


def test_it_goes_back_to_the_raw_texts_digest_and_shows_each_artifact_once(tokens, tmp_path):
    lines = list(provenance.history(tokens / "dev.npy"))
    indents = [(len(line) - len(line.lstrip())) // 2 for line in lines if "$" not in line]
    assert indents == [0, 1, 2, 1, 2]
    assert lines[0].startswith(f"{tokens / 'dev.npy'}  [binarize, {description.digest(tokens / 'dev.npy')}")
    assert f"[raw, sha256 {description.sha256(tmp_path / 'texts')}]" in "\n".join(lines)
    assert lines[-1].strip() == f"small: {tmp_path / 'study/corpora/small'} (shown above)"


def test_its_commands_make_the_same_artifact_again(tokens, tmp_path):
    out = tmp_path / "study/vocabs/it's again"
    corpus = tmp_path / "study/corpora/small"
    python("-m", "knnlm", "build_vocab", "--corpora", corpus, "--out", out, "--settings", "{}")
    identity, meta = description.identity(out), (out / "meta.json").read_bytes()
    command = python("-m", "knnlm", "provenance", out).splitlines()[1].strip().removeprefix("$ ")
    assert shlex.split(command)[-1] == "{}" and shlex.split(command)[:2] == ["knnlm", "build_vocab"]
    (out / "dict.txt").unlink()
    python("-m", *shlex.split(command))
    assert description.identity(out) == identity and (out / "meta.json").read_bytes() == meta


def test_an_input_that_is_gone_or_exchanged_is_shown_as_missing(tokens, tmp_path):
    for name in ("vocabs/words", "corpora/small"):
        (tmp_path / "study" / name).rename(tmp_path / Path(name).name)
    lines = list(provenance.history(tokens))
    assert [line.split("]")[-1] for line in lines[2:]] == [" missing", " missing"]
    other = tmp_path / "study/vocabs/words"
    other.mkdir()
    description.write_meta(other, "build_vocab", {}, {})
    assert list(provenance.history(tokens))[3].endswith("missing: another artifact is in its place")


def test_a_moved_study_shows_its_new_paths(tokens, tmp_path):
    (tmp_path / "study").rename(tmp_path / "moved")
    lines = "\n".join(provenance.history(tmp_path / "moved/tokens/words/small"))
    assert "missing" not in lines and str(tmp_path / "moved/vocabs/words") in lines


def test_a_path_without_a_description_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        provenance.main(provenance.ProvenanceConfig(tmp_path / "nothing"))
    (tmp_path / "notes.txt").write_text("no part of a study")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(UserError, match="no table, figure or page of a study") as error:
            provenance.main(provenance.ProvenanceConfig(path))
        assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


SNAKEFILE = """
rule table:
    input: "study/tokens/words/small/dev.npy", "config.yaml", "knnlm/tables.py"
    output: "study/tables/table1.md", "study/tables/{long}.csv"
    log: "logs/table.log"
    shell: "cp {{input[1]}} {{output[0]}}; cp {{input[1]}} {{output[1]}} 2> {{log}}"

rule page:
    input: "study/tables/table1.md"
    output: "study/report.html"
    shell: "cat {{input}} > {{output}}"
"""


@pytest.fixture
def tables(tokens, tmp_path) -> Path:
    """A study in which Snakemake made a table, of which one file has a long name, and a page."""
    (tmp_path / "Snakefile").write_text(SNAKEFILE.format(long="n" * 210))
    (tmp_path / "config.yaml").write_text("study: small\n")
    (tmp_path / "knnlm").mkdir()
    (tmp_path / "knnlm/tables.py").write_text("")
    command = [sys.executable, "-m", "snakemake", "--quiet", "all", "--cores", "1", "study/report.html"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    return tmp_path / "study"


def test_tables_and_pages_go_back_to_the_raw_texts_by_the_workflow_s_record(tables, tmp_path, monkeypatch):
    config = f"sha256:{description.sha256(tmp_path / 'config.yaml')}"
    for name in ("report.html", "tables/table1.md", f"tables/{'n' * 210}.csv"):
        lines = [line.strip() for line in provenance.history(tables / name)]
        assert lines[0].startswith(f"{tables / name}  [workflow, rule {'page' if name == 'report.html' else 'table'}]")
        assert f"{tmp_path / 'config.yaml'}  [{config}]" in lines and "and 1 file of the software" in lines
        assert any(line.startswith(f"{tables / 'tokens/words/small/dev.npy'}  [binarize, ") for line in lines)
        assert any(f"[raw, sha256 {description.sha256(tmp_path / 'texts')}]" in line for line in lines)
        assert not any("2> " in line or "missing" in line for line in lines)
    monkeypatch.chdir(tables)
    assert next(provenance.history(Path("report.html"))).startswith("report.html  [workflow, rule page]")
    (tmp_path / "config.yaml").write_text("study: another\n")
    changed = [
        line for line in provenance.history(Path("tables/table1.md")) if "config.yaml" in line and "$" not in line
    ]
    assert changed == [f"  ../config.yaml  [{config}] missing: another file is in its place"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tables/table1.csv", ["table1"]),
        ("figures/figure2b.pdf", ["figure2"]),
        ("explorer.html", ["figure2", "table1"]),
        ("tables/claims.md", ["figure2", "table1"]),
        ("logs/table1.log", []),
        ("notes.md", []),
    ],
)
def test_without_a_record_a_table_or_page_is_of_its_study_s_experiments(tmp_path, name, expected):
    for experiment in ("table1", "figure2"):
        path = tmp_path / f"experiments/{experiment}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}")
        description.write_meta(path, "interpolate", {}, {})
    shown = tmp_path / name
    shown.parent.mkdir(exist_ok=True)
    shown.write_text("")
    assert [path.stem for path in provenance.experiments_of(shown)] == expected
    if expected:
        lines = list(provenance.history(shown))
        assert "no record of the workflow" in lines[0]
        assert [Path(line.split("  [")[0].strip()).stem for line in lines[1::2]] == expected


def test_long_settings_and_lists_are_folded_unless_asked_for(tmp_path, capsys, monkeypatch):
    values = [f"a{i}.npy" for i in range(6)]
    long, short = json.dumps({"key": "x" * 60}), '{"key": 1}'
    command = shlex.join(["knnlm", "mix", "--lm", *values, "--rows", long, "--settings", short, "--title=two words"])
    folded = f"knnlm mix --lm a0.npy a1.npy a2.npy … --rows '{{…}}' --settings '{short}' '--title=two words'"
    assert provenance.folded(f"    $ {command}") == f"    $ {folded}"
    for line in (f"{values}  [mix, 1, commit 2]", "  $ (made within another program: no command is recorded)"):
        assert provenance.folded(line) == line
    (tmp_path / "made.txt").write_text("")
    monkeypatch.setattr(description, "_command", lambda: command)
    description.write_meta(tmp_path / "made.txt", "mix", {}, {})
    for full, expected in ((False, folded), (True, command)):
        provenance.main(provenance.ProvenanceConfig(tmp_path / "made.txt", full))
        lines = capsys.readouterr().out.splitlines()
        assert lines[1] == f"  $ {expected}" and ("--full" in lines[-1]) is not full
