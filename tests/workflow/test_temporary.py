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
        config["retrieval"] = {"k": 32}
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
        measured = [[{split: row.get(split) for split in ("dev", "test")} for row in one] for one in rows]
        assert measured[0] == measured[1]
        assert all((row["test"] is None) == (output == "table5") for row in measured[0])
    left = {f"seed{path.parts[-6][4:]}/{path.parts[-3]}" for path in needed.glob("keys/mine/*/mine/train/*/*/keys.npy")}
    assert left == {"seed1/ffn_input_ln"}
    indexed = {path.relative_to(needed).parts[2:5] for path in needed.glob("indexes/mine/*/mine/*/*/*.faiss")}
    assert indexed == {("seed1", "mine", "ffn_input_ln")}
    assert not [*needed.glob("searched/**/*.npy")] and not [*needed.glob("tokens/words/mine/shard*/train.npy")]
    kept = {path.relative_to(everything) for path in everything.glob("keys/mine/*/mine/train/*/*/keys.npy")}
    assert len(kept) == 2 * (2 + 2)  # both shards of two seeds' main keys and of the two other types
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
    unread = {tuple(path.split("/")[-4::3]) for path in temporary - read}
    assert unread <= {("dev", "ids.npy"), ("test", "ids.npy")}  # of queries
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
    "extract": {"rows.npy", "distances.npy", "exact.npy"},  # it waits for them
    "interpolate": {"rows.npy", "distances.npy", "exact.npy"},  # it reads their description
}


def test_key_types_are_extracted_together_while_their_keys_are_small(study):
    for keep in ("needed", "all"):
        jobs = dry_run("table5", "--configfile", study(keep))
        extracting = [job for job in jobs if job.rule.startswith("extract_keytypes")]
        assert len(extracting) == 2  # shards
        for job in extracting:
            assert {path.split("/")[-3] for path in job.outputs} == set(KEYTYPES)
        assert not [job for job in jobs if job.rule == "extract" and keep == "all"]
        table1 = dry_run("table1", "--configfile", study(keep))
        assert not [job for job in table1 if job.rule.startswith("extract_keytypes")]


def test_large_key_types_wait_for_each_other():
    """The paper's, of 211 GB each."""
    jobs = dry_run("table5", "--configfile", "config/paper.yaml")
    extracting = {job.rule: job for job in jobs if job.rule.startswith("extract_keytypes")}
    assert len(extracting) == 11
    before = []
    for number in range(11):
        job = extracting[f"extract_keytypes_{number}"]
        (keytype,) = {path.split("/")[-3] for path in job.outputs}
        assert sorted({path.split("/")[-5] for path in job.inputs if "/neighbors/" in path}) == sorted(before)
        before.append(keytype)
