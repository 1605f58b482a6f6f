"""A crate holds a study's results and provenance, is the same each time, and says nothing of the machine."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import knnlm
from knnlm.artifacts import description
from knnlm.artifacts.files import UserError
from knnlm.outputs import crate

TEXT_SHA256 = hashlib.sha256(hashlib.sha256(b"words\n").hexdigest().encode() + b"  one.txt\n").hexdigest()
REVIEWED = Path(__file__).parents[1] / "data/crate.json"
VALIDATOR = shutil.which("rocrate-validator")


def made(folder: Path, inputs: dict[str, Path], command: list[str]) -> None:
    """An artifact of one file, described as if `knnlm command` had made it."""
    folder.mkdir(parents=True)
    (folder / "weights.bin").write_bytes(folder.name.encode())
    argv, sys.argv = sys.argv, ["knnlm", *command]
    try:
        description.write_meta(folder, command[0], {}, inputs)
    finally:
        sys.argv = argv


@pytest.fixture(params=["results", "../../../scratch/ann"], ids=["study inside", "study outside"])
def study(request, tmp_path, monkeypatch) -> Path:
    """A small finished study of the user Ann, in her repository or on another disk; runs in the repository."""
    repository, texts = tmp_path / "home/ann/code", tmp_path / "home/ann/my téxts"
    archive = tmp_path / "archive"
    for path, text in {
        repository / "Snakefile": "rule all:\n",
        repository / "workflow/rules/outputs.smk": "rule table:\n",
        repository / "workflow/__pycache__/study.pyc": "compiled",
        repository / "workflow/.cache/x": "hidden",
        repository / "config/another.yaml": f"results: {tmp_path}/scratch/ann/results\n",
        repository / "config/tiny.yaml": f"downloads: {archive}/ann\npath: {archive}/books\n",
        texts / "one.txt": "words\n",
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(repository)
    monkeypatch.setenv("HOME", str(tmp_path / "home/ann"))
    study = Path(os.path.normpath(repository / request.param / "tiny"))
    monkeypatch.setattr(description, "_commit", lambda: "abc123")
    made(study / "corpora/own", {"raw": texts}, ["prepare", "--out", str(study / "corpora/own")])
    made(study / "models/lm", {"text": study / "corpora/own"}, ["train", "--data", f"own={texts}", "--seed", "1"])
    for name, text in {
        "tables/table1.csv": "name,dev\nknn,16.06\n",
        "tables/table1.md": "# Table 1\n",
        "figures/figure4.png": "\x89PNG",
        "report.html": f"<pre>downloads: {archive}/ann</pre>, {archive}/books"
        f" and 1/2 of {study}/tables in {repository}",
        "logs/train.log": "not packed",
    }.items():
        (study / name).parent.mkdir(exist_ok=True)
        (study / name).write_text(text)
    os.utime(study / "tables/table1.csv", (1_700_000_000, 1_700_000_000))  # 14 November 2023
    os.utime(study / "tables/table1.md", (1_800_000_000, 1_800_000_000))
    return study


def pack(study: Path, out: str = "out/tiny.crate.zip", **options) -> zipfile.ZipFile:
    sources = options.pop("sources", (Path("Snakefile"), Path("workflow"), Path("config")))
    configs = (Path("config/tiny.yaml"),)
    crate.main(crate.CrateConfig(study=study, sources=sources, configs=configs, out=Path(out), **options))
    return zipfile.ZipFile(out)


def graph(packed: zipfile.ZipFile) -> dict[str, dict]:
    return {entity["@id"]: entity for entity in json.loads(packed.read("ro-crate-metadata.json"))["@graph"]}


def test_it_holds_the_workflow_the_results_and_the_descriptions_and_no_more(study):
    results = ["corpora/own/meta.json", "figures/figure4.png", "models/lm/meta.json", "report.html"]
    results += ["tables/table1.csv", "tables/table1.md"]
    sources = ["Snakefile", "config/another.yaml", "config/tiny.yaml", "workflow/rules/outputs.smk"]
    own = ["manifest-sha256.txt", "ro-crate-metadata.json"]
    names = pack(study).namelist()
    assert names == sorted(sources + own + [f"results/tiny/{name}" for name in results])


def test_it_says_nothing_of_the_machine(study, tmp_path):
    packed = pack(study)
    for name in packed.namelist():
        content = packed.read(name).decode(errors="replace")
        assert not re.search(r"\bann\b", content), name
        assert str(tmp_path) not in content and "/archive" not in content, name
    page = packed.read("results/tiny/report.html").decode()
    assert page == "<pre>downloads: …</pre>, …/books and 1/2 of results/tiny/tables in ."
    model = json.loads(packed.read("results/tiny/models/lm/meta.json"))
    assert "digest" not in model and model["outputs"]["weights.bin"]["bytes"] == 2


def test_a_description_without_a_path_of_this_machine_stays_as_it_is(study):
    made(study / "models/portable", {"text": study / "corpora/own"}, ["train", "--seed", "2"])
    packed, path = pack(study), "models/portable/meta.json"
    assert packed.read(f"results/tiny/{path}") == (study / path).read_bytes()


def test_the_same_study_gives_the_same_bytes(study, monkeypatch):
    pack(study)
    for path in (study / "report.html", Path("Snakefile")):
        os.utime(path, (1_750_000_000, 1_750_000_000))
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    pack(study, "out/again.zip")
    assert Path("out/tiny.crate.zip").read_bytes() == Path("out/again.zip").read_bytes()
    (study / "tables/table1.md").write_text("# Another\n")
    pack(study, "out/changed.zip")
    assert Path("out/tiny.crate.zip").read_bytes() != Path("out/changed.zip").read_bytes()


def test_its_metadata_is_what_was_read_and_found_right(study):
    packed = pack(study)
    entities = list(graph(packed).values())
    for entity in entities:  # without sizes and versions of this package, which other changes change
        if "contentSize" in entity:
            assert int(entity.pop("contentSize")) == packed.getinfo(entity["@id"]).file_size
        for key in ("version", "softwareVersion"):
            if entity.get(key) == knnlm.__version__:
                entity[key] = "of knnlm"
    assert entities == json.loads(REVIEWED.read_text())


@pytest.mark.parametrize(("date", "published"), [(None, "2023-11-14"), ("2026-11-27", "2026-11-27")])
def test_its_date_is_the_newest_tables_or_the_one_given(study, date, published):
    assert graph(pack(study, date=date))["./"]["datePublished"] == published


def test_its_manifest_has_the_sha256_of_each_file(study):
    packed = pack(study)
    lines = packed.read("manifest-sha256.txt").decode().splitlines()
    expected = {name: hashlib.sha256(packed.read(name)).hexdigest() for name in packed.namelist()}
    for name in ("manifest-sha256.txt", "ro-crate-metadata.json"):
        del expected[name]
    assert dict(reversed(line.split("  ")) for line in lines) == expected


def test_each_recorded_command_is_an_action_from_the_raw_text_on(study):
    entities = graph(pack(study))
    prepare, train = (entities[f"#made/results/tiny/{name}"] for name in ("corpora/own", "models/lm"))
    assert entities[prepare["object"]["@id"]]["identifier"] == f"sha256:{TEXT_SHA256}"
    assert prepare["result"] == train["object"] == {"@id": "results/tiny/corpora/own/meta.json"}
    assert train["description"].startswith("commit abc123: knnlm train --data ") and "--seed 1" in train["description"]
    assert train["instrument"] == {"@id": "#knnlm-train"}
    run = entities["#run"]
    assert run["object"] == {"@id": "config/tiny.yaml"} and run["instrument"] == {"@id": "Snakefile"}
    assert {"@id": "results/tiny/tables/table1.csv"} in run["result"]
    assert {part["@id"] for part in entities["./"]["mentions"]} == {"#run", prepare["@id"], train["@id"]}


def test_what_cannot_be_packed_is_refused_in_one_line(study, monkeypatch):
    with pytest.raises(UserError, match=r"^--sources: no Snakefile"):
        pack(study, sources=(Path("workflow"),))
    with pytest.raises(UserError, match=r"^absent: no such file or folder"):
        pack(study, sources=(Path("Snakefile"), Path("absent")))
    with pytest.raises(UserError, match=r"^--date: 'yesterday' is not a date"):
        pack(study, date="yesterday")
    meta = study / "models/lm/meta.json"
    meta.write_text(meta.read_text().replace("abc123", "def456"))
    with pytest.raises(UserError, match=r"models/lm/meta\.json: damaged or edited"):
        pack(study)
    shutil.rmtree(study / "tables")
    with pytest.raises(UserError, match=r"tiny: no tables/\*\.csv"):
        pack(study)
    monkeypatch.setitem(sys.modules, "rocrate", None)
    with pytest.raises(UserError, match=r"rocrate is not installed.*pip install -e '\.\[crate\]'$"):
        pack(study)
    assert not Path("out").exists()


@pytest.mark.skipif(VALIDATOR is None, reason="roc-validator is not installed: pipx install roc-validator")
@pytest.mark.parametrize("study", ["results"], indirect=True)
def test_the_validator_of_ro_crates_finds_nothing_that_is_required(study):
    pack(study)
    profile = ["--profile-identifier", "workflow-run-crate-0.5", "--requirement-severity", "required"]
    command = [VALIDATOR, "--no-interactive", "validate", *profile, "--no-paging", "out/tiny.crate.zip"]
    if cache := os.environ.get("ROCRATE_VALIDATOR_CACHE"):  # what `rocrate-validator cache warm` has written
        command[-1:-1] = ["--offline", "--cache-path", cache]
    run = subprocess.run(command, capture_output=True, text=True)
    if "URLError" in run.stdout + run.stderr:
        pytest.skip("roc-validator found no network, from which it reads the vocabulary of RO-Crates")
    assert run.returncode == 0, run.stdout + run.stderr
