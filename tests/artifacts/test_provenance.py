"""What an artifact tells of how it was made."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from knnlm.artifacts import files, lineage, provenance
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


def test_it_goes_back_to_the_raw_texts_digest_and_tells_each_artifact_once(tokens, tmp_path):
    told = list(provenance.tell(tokens / "dev.npy"))
    indents = [(len(line) - len(line.lstrip())) // 2 for line in told if "$" not in line]
    assert indents == [0, 1, 2, 1, 2]
    assert told[0].startswith(f"{tokens / 'dev.npy'}  [binarize, {files.digest(tokens / 'dev.npy')}")
    assert f"[raw, sha256 {lineage.sha256(tmp_path / 'texts')}]" in "\n".join(told)
    assert told[-1].strip() == f"small: {tmp_path / 'study/corpora/small'} (told above)"


def test_its_commands_make_the_same_artifact_again(tokens, tmp_path):
    out = tmp_path / "study/vocabs/it's again"
    python(
        "-m",
        "knnlm",
        "build_vocab",
        "--corpora",
        tmp_path / "study/corpora/small",
        "--out",
        out,
        "--settings",
        "{}",
    )
    identity, meta = files.identity(out), (out / "meta.json").read_bytes()
    command = python("-m", "knnlm", "provenance", out).splitlines()[1].strip().removeprefix("$ ")
    assert shlex.split(command)[-1] == "{}" and shlex.split(command)[:2] == ["knnlm", "build_vocab"]
    (out / "dict.txt").unlink()
    python("-m", *shlex.split(command))
    assert files.identity(out) == identity and (out / "meta.json").read_bytes() == meta


def test_what_is_gone_or_exchanged_is_told_to_be_missing(tokens, tmp_path):
    for name in ("vocabs/words", "corpora/small"):
        (tmp_path / "study" / name).rename(tmp_path / Path(name).name)
    told = list(provenance.tell(tokens))
    assert [line.split("]")[-1] for line in told[2:]] == [" missing", " missing"]
    other = tmp_path / "study/vocabs/words"
    other.mkdir()
    lineage.write_meta(other, "build_vocab", {}, {})
    assert list(provenance.tell(tokens))[3].endswith("missing: another artifact lies there now")


def test_a_moved_study_tells_of_its_new_place(tokens, tmp_path):
    (tmp_path / "study").rename(tmp_path / "moved")
    told = "\n".join(provenance.tell(tmp_path / "moved/tokens/words/small"))
    assert "missing" not in told and str(tmp_path / "moved/vocabs/words") in told


def test_a_path_without_a_description_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        provenance.main(provenance.ProvenanceConfig(tmp_path / "nothing"))
    with pytest.raises(UserError, match=r"experiments/OUTPUT.json"):
        provenance.main(provenance.ProvenanceConfig(tmp_path))
