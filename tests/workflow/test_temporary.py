"""`keep: needed`: large files go once no job reads them, no job misses one, and numbers are those of `keep: all`."""

import json
import sys

import pytest
import yaml
from conftest import ROOT, snakemake

sys.path.insert(0, str(ROOT / "workflow"))
import plan

KEYTYPES = ("mhsa_input", "output_ln")
ON = {"model": "mine", "datastore": "mine"}
SHEET = {
    "table1": [
        {"name": "base", "label": "LM", "model": "mine", "seeds": "all"},
        {"name": "knn", "label": "kNN", **ON, "seeds": "all"},
    ],
    "table5": [
        {"name": "base", "label": "LM", "model": "mine"},
        *({"name": keytype, "label": keytype, **ON, "keytype": keytype} for keytype in KEYTYPES),
    ],
}


@pytest.fixture
def study(tmp_path):
    """Write a small study with two seeds, two shards and two further key types; returns its file."""

    def write(keep):
        config = yaml.safe_load((ROOT / "config/your-corpus.yaml").read_text())
        (tmp_path / "texts").mkdir(exist_ok=True)
        for number in range(12):
            words = (f"{'abcdefghij'[(number * 7 + i * i) % 10]}{(i * 3 + number) % 7}" for i in range(120))
            (tmp_path / f"texts/{number}.txt").write_text(" ".join(words))
        (tmp_path / "sheet.yaml").write_text(yaml.safe_dump(SHEET))
        config |= {"study": keep, "keep": keep, "results": str(tmp_path / "results")}
        config |= {"experiments": str(tmp_path / "sheet.yaml"), "mixture": {"resamples": 10}}
        config["corpora"]["mine"] |= {"dev_words": 150, "test_words": 150, "token_shards": 2}
        config["corpora"]["mine"]["sources"][0]["path"] = str(tmp_path / "texts")
        config["models"]["mine"]["seeds"] = [1, 2]
        config["models"]["mine"]["architecture"] |= {"layers": 2, "dim": 16, "ffn_dim": 32, "heads": 2}
        config["models"]["mine"]["training"] |= {"updates": 10, "evaluate_every": 10, "warmup": 5}
        config["datastores"] = {"mine": {"shards": 2}}
        config["retrieval"]["k"] = 32
        path = tmp_path / f"{keep}.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    return write


def test_what_is_needed_stays_and_the_numbers_are_the_same(study, tmp_path):
    for keep in ("needed", "all"):
        run = snakemake("table1", "table5", "--cores", 2, "--nolock", "--configfile", study(keep))
        assert run.returncode == 0, run.stderr[-3000:]
    needed, everything = (tmp_path / "results" / keep for keep in ("needed", "all"))
    for output in SHEET:
        rows = [json.loads((one / f"experiments/{output}.json").read_text())["rows"] for one in (needed, everything)]
        assert [[row["dev"], row["test"]] for row in rows[0]] == [[row["dev"], row["test"]] for row in rows[1]]
    left = {f"seed{path.parts[-6][4:]}/{path.parts[-3]}" for path in needed.glob("keys/mine/*/mine/train/*/*/keys.npy")}
    assert left == {"seed1/ffn_input_ln"}
    indexed = {path.relative_to(needed).parts[2:5] for path in needed.glob("indexes/mine/*/mine/*/*/*.faiss")}
    assert indexed == {("seed1", "mine", "ffn_input_ln")}
    assert not [*needed.glob("searched/**/*.npy")] and not [*needed.glob("tokens/words/mine/shard*/train.npy")]
    kept = {path.relative_to(everything) for path in everything.glob("keys/mine/*/mine/train/*/*/keys.npy")}
    assert len(kept) == 2 * (2 + 11)  # both shards of two seeds' main keys and of the other eleven types
    again = snakemake("table1", "table5", "-n", "--nolock", "--configfile", study("needed"))
    assert "Nothing to be done" in again.stdout + again.stderr


def dry_run(*arguments):
    run = snakemake("-n", "--nolock", "--forceall", *arguments)
    assert run.returncode == 0, run.stderr[-3000:]
    return plan.jobs((run.stdout + run.stderr).splitlines())


@pytest.mark.parametrize("config", ["config/paper.yaml", None], ids=["paper", "small"])
def test_a_temporary_file_has_a_reader_and_every_reader_names_it(study, config):
    """Snakemake deletes a temporary file once the jobs that name it as an input are done, whatever else they read."""
    jobs = dry_run("--configfile", config or study("needed"))
    temporary = {path for job in jobs for path in job.removed}
    read = {path for job in jobs for path in job.inputs}
    assert temporary
    assert all("/dev/" in path or "/test/" in path for path in temporary - read)  # queries of key types without a row
    for job in jobs:
        for path in job.inputs:
            if path.endswith("/meta.json"):  # an artifact is read by its folder
                files = {other for other in temporary if other.startswith(path.removesuffix("meta.json"))}
                missing = {other.rpartition("/")[2] for other in files - set(job.inputs)}
                assert missing <= READS_WITHOUT.get(job.rule.split("_")[0], set()), (job.rule, path, missing)


READS_WITHOUT = {  # files of an artifact that a rule does not read
    "search": {"keys.npy", "values.npy", "ids.npy"},
    "merge": {"keys.npy", "values.npy"},
    "rerank": {"values.npy", "ids.npy"},
    "score": {"keys.npy", "ids.npy"},
    "add": {"values.npy", "ids.npy"},
    "train": {"values.npy", "ids.npy"},
}


def test_key_types_wait_for_each_other_but_pull_in_no_others(study):
    jobs = dry_run("table5", "--configfile", study("needed"))
    extracting = [job for job in jobs if job.rule == "extract_keytype"]
    first, second = ([job for job in extracting if f"/{name}/" in job.outputs[0]] for name in KEYTYPES)
    assert len(first) == len(second) == 2  # shards
    assert not any("/neighbors/" in path for job in first for path in job.inputs)
    assert all(any(f"/{KEYTYPES[0]}/exact/exact/first2of2/" in path for path in job.inputs) for job in second)
    table1 = dry_run("table1", "--configfile", study("needed"))
    assert not [job for job in table1 if job.rule == "extract_keytype"]
    everything = dry_run("table5", "--configfile", study("all"))
    assert {job.rule for job in everything if job.rule.startswith("extract")} == {"extract_keytypes"}
