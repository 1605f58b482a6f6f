"""Wrong studies are refused before any job starts, by one line: the key, what was found, and what is allowed."""

import contextlib
import copy
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, snakemake

sys.path.insert(0, str(ROOT / "workflow"))
import study as workflow_study
from checking import StudyError, read

from knnlm.datastores import ann
from knnlm.settings import OUTPUTS, Factory

CASES = yaml.safe_load((Path(__file__).parent / "bad_configs.yaml").read_text())
SHEET, CATALOGUE = "config/experiments/paper.yaml", "config/archives.yaml"


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def cases(section):
    return [pytest.param(case, id=name) for name, case in CASES[section].items()]


def changed(tree, case):
    """A copy of nested keys with the `set` and `without` of a case applied."""
    tree = copy.deepcopy(tree)
    for path, value in [*case.get("set", {}).items(), *((path, None) for path in case.get("without", []))]:
        *way, last = (int(part) if part.isdigit() else part for part in path.split("/"))
        part = tree
        for key in way:
            part = part[key]
        if path in case.get("without", []):
            del part[last]
        else:
            part[last] = value
    return tree


def refusal(study, configfiles=()):
    with pytest.raises(StudyError) as caught:
        workflow_study.load(study, configfiles)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize("case", cases("study"))
def test_a_wrong_study_is_refused(smoke_config, case):
    assert re.sub(r"^study .*?: ", "", refusal(changed(smoke_config, case))).startswith(case["line"])


@pytest.mark.parametrize("case", cases("sheet"))
def test_a_wrong_sheet_is_refused(smoke_config, tmp_path, case):
    path = tmp_path / "sheet.yaml"
    path.write_text(yaml.safe_dump(changed(yaml.safe_load(Path(SHEET).read_text()), case)))
    line = refusal(copy.deepcopy(smoke_config) | {"experiments": str(path)})
    assert line.replace(str(path), "SHEET").startswith(case["line"])


@pytest.mark.parametrize("case", cases("catalogue"))
def test_a_wrong_catalogue_is_refused(smoke_config, tmp_path, case):
    path = tmp_path / "archives.yaml"
    path.write_text(yaml.safe_dump(changed(yaml.safe_load(Path(CATALOGUE).read_text()), case)))
    line = refusal(copy.deepcopy(smoke_config) | {"archives": str(path)})
    assert line.replace(str(path), "CATALOGUE").startswith(case["line"])


FILES = {
    "broken": (b"study: [smoke\n", "line 2: expected ',' or ']', but got '<stream end>'"),
    "empty": (b"", "found None, expected a mapping of keys"),
    "a list": (b"- study\n- corpora\n", "found ['study', 'corpora'], expected a mapping of keys"),
    "a key twice": (b"study: smoke\ncorpora: {}\nstudy: mini\n", "line 3: key 'study' occurs twice"),
    "a nested key twice": (b"models:\n  wiki: {seeds: [1],\n    seeds: [2]}\n", "line 3: key 'seeds' occurs twice"),
    "a tab": (b"study: smoke\nmodels:\n\twiki: {}\n", r"line 3: found character '\t'"),
    "Latin-1": (b"study: caf\xe9\n", "byte 11 is not UTF-8; save the file as UTF-8"),
    "a Python object": (
        b"study: !!python/object/apply:os.system [exit]\n",
        "line 1: could not determine a constructor",
    ),
    "an unknown anchor": (b"study: *smoke\n", "line 1: found undefined alias 'smoke'"),
    "a list for a key": (b"[a, b]: 1\n", "line 1: found unhashable key"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["study", "experiments", "archives"])
def test_a_file_that_is_no_mapping_is_refused(smoke_config, tmp_path, kind, name):
    content, reason = FILES[name]
    path = tmp_path / "file.yaml"
    path.write_bytes(content)
    study = copy.deepcopy(smoke_config)
    if kind == "study":
        assert refusal(study, [path]).startswith(f"{path}: {reason}")
    else:
        assert refusal(study | {kind: str(path)}).startswith(f"{kind}: {path}: {reason}")


LIST = "\n".join(["a0: &a0 [x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30))])
MERGED = "\n".join(
    ["a0: &a0 {x: 1}", *(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 30))]
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (LIST, "its anchors make more than 100,000 values"),
        (MERGED, "its anchors make more than 100,000 values"),
        (LIST.replace("\na", "\n- &a").replace("a0: ", "- ", 1), ""),
        ("a: &a [*a]", "its anchors make more than 100,000 values"),
        ("a: " + "[" * 2000, "lists in lists without end"),
    ],
    ids=["lists", "merged", "no mapping", "itself", "deep"],
)
def test_a_billion_laughs_are_one_line(tmp_path, text, reason):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(StudyError, match=f"study.yaml: {reason}") as caught:
        read(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_merged_anchors_are_no_repeated_keys(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("a: &a {x: 1}\nb: {<<: *a, x: 2}\n")
    assert read(path) == {"a": {"x": 1}, "b": {"x": 2}}


@contextlib.contextmanager
def as_nobody():
    """Give up root's permission to write everywhere."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("key", ["results", "downloads"])
def test_a_folder_that_cannot_be_written_is_refused(smoke_config, tmp_path, key):
    for folder in (tmp_path, *tmp_path.parents[:-2]):  # but not /tmp and /
        folder.chmod(0o755)
    (tmp_path / "elsewhere").mkdir(mode=0o777)
    (tmp_path / "elsewhere").chmod(0o777)
    (tmp_path / "locked").mkdir(mode=0o555)
    folders = {name: str(tmp_path / "elsewhere") for name in ("results", "downloads")}
    with as_nobody():
        line = refusal(smoke_config | folders | {key: str(tmp_path / "locked")})
    lacks = " and lacks exllamav2" if key == "downloads" else ""
    assert line == f"{key}: {tmp_path}/locked cannot be written{lacks}; name a folder that can"


# The same through Snakemake, one test for each kind of mistake.


def assert_refused(run, line):
    assert run.returncode == 1
    assert [found for found in run.stderr.splitlines() if found.startswith("error: ")] == [f"error: {line}"]
    assert "Traceback" not in run.stderr and "localrule" not in run.stdout + run.stderr


def test_no_job_of_a_wrong_study_starts(smoke_config, configured, tmp_path):
    study = changed(
        smoke_config,
        {"set": {"models/books/architecture": {"dim": 64, "heads": 3}, "results": str(tmp_path / "results")}},
    )
    run = snakemake("--cores", 1, "--nolock", "--configfile", configured(study))
    assert_refused(run, "models.books.architecture.heads: found 3, dim is 64; allowed: a divisor of dim")
    assert not (tmp_path / "results").exists()


def test_a_repeated_key_is_refused_though_snakemake_reads_it(tmp_path):
    path = tmp_path / "study.yaml"
    text = Path("config/smoke.yaml").read_text() + "retrieval: {k: 4}\n"
    path.write_text(text)
    run = snakemake("-n", "--configfile", path)
    assert run.returncode == 1
    assert (
        f"error: {path}: line {text.count(chr(10))}: key 'retrieval' occurs twice; expected YAML with every key once"
        in run.stderr
    )


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("study=a b", "study a b: study: found 'a b'; allowed: names of at most 80 letters"),
        ("retrieval={k: 0}", "study smoke: retrieval.k: found '0', expected a whole number; write it without quotes"),
        ("seed=-1", "study smoke: seed: found -1; allowed: at least 0, at most 2147483647"),
    ],
)
def test_an_override_is_checked_like_the_file(override, line):
    run = snakemake("-n", "--configfile", "config/smoke.yaml", "--config", override)
    assert run.returncode == 1
    assert any(found.startswith(f"error: {line}") for found in run.stderr.splitlines())


def test_text_that_is_not_there_stops_a_run_before_its_jobs_but_not_its_plan(smoke_config, configured, tmp_path):
    books = {"sources": [{"kind": "books_folder", "path": "my-books"}], "dev_words": 100, "test_words": 100}
    path = configured(smoke_config | {"corpora": smoke_config["corpora"] | {"books": books}, "results": str(tmp_path)})
    assert snakemake("-n", "--quiet", "--nolock", "--configfile", path).returncode == 0
    run = snakemake("table2", "--cores", 1, "--nolock", "--configfile", path)
    assert_refused(run, "corpora.books.sources[0].path: my-books is not there; fill it or name another")
    assert not (tmp_path / "smoke").exists()


def test_a_file_that_snakemake_cannot_read_is_explained_by_the_check_alone(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("study: [smoke\n")
    assert snakemake("-n", "--configfile", path).returncode == 1
    run = subprocess.run([sys.executable, "workflow/study.py", path], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith(f"error: {path}: line 2: expected ',' or ']'") and run.stderr.count("\n") == 1


# The settings agree with what else is in the repository.


def test_outputs_of_a_sheet_are_among_the_papers_numbers():
    described = yaml.safe_load(Path("config/paper_numbers.yaml").read_text())
    assert set(OUTPUTS) <= set(described)
    assert set(yaml.safe_load(Path(SHEET).read_text())) == set(OUTPUTS)


SINGLE = ["Flat", "SQfp16", "SQ8", "PQ8", "HNSW8", "HNSW8,Flat", "PCAR16,PQ8", "RR32,Flat", "RaBitQ", "RaBitQfs2"]
LISTS = ["IVF4,Flat", "IVF4,SQfp16", "IVF4,SQbf16", "IVF4,PQ8x8", "IVF4,PQ8x4fs", "OPQ8_32,IVF4,PQ8x4"]
LISTS += ["PCA32,IVF4,Flat", "IVF4_HNSW8,Flat", "IVF4,PQ8x4fsr", "RR64,IVF4,RaBitQ", "IVF4,RaBitQfs", "IVF4,RaBitQfs3"]


@pytest.mark.parametrize("factory", SINGLE + LISTS)
def test_factory_strings_that_pass_are_read_by_faiss(smoke_config, factory):
    index = {"factory": factory, "nprobe": 4, "sample": 1000}
    workflow_study.load(changed(smoke_config, {"set": {"indexes/fast": index}}))
    assert ann.faiss.index_factory(64, factory).d == 64


def test_sizes_of_a_factory():
    def of(name, *factories):
        return [getattr(Factory.parse(factory), name) for factory in factories]

    assert of("lists", "IVF4096,PQ64x8", "OPQ16_64,IVF256_HNSW32,PQ16", "Flat") == [4096, 256, 0]
    assert of("parts", "IVF64,PQ16x4fs", "OPQ16,PQ8", "SQ8") == [16, 8, 0]
    assert of("bits", "IVF64,PQ16x4fs", "OPQ16,PQ8", "PQ8x5", "SQ8", "SQfp16", "Flat") == [4, 8, 5, 8, 16, 32]
    assert of("bits", "RaBitQ", "IVF64,RaBitQ4", "IVF64,RaBitQfs", "IVF64,RaBitQfs8") == [1, 4, 1, 8]
    reduced = "OPQ16_32,PQ16", "OPQ16,PQ16", "PCAR48,Flat", "RR16,Flat"
    assert [Factory.parse(factory).dimension(64) for factory in reduced] == [32, 64, 48, 16]


CODES = ["Flat", "SQfp16", "SQ6", "PQ8x8", "PQ8x4", "SQ4", "RaBitQ", "RaBitQ2", "RaBitQ9", "RaBitQfs", "RaBitQfs4"]


@pytest.mark.parametrize("factory", [f"IVF4,{code}" for code in CODES])
def test_bytes_of_an_entry_are_those_of_faiss(factory):
    assert Factory.parse(factory).entry_bytes(64) == ann.entry_bytes(ann.faiss.index_factory(64, factory))
