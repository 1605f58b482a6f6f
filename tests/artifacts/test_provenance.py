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
    with pytest.raises(UserError, match=r"experiments/OUTPUT.json"):
        provenance.main(provenance.ProvenanceConfig(tmp_path))
