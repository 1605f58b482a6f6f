"""The smoke study through the SLURM profile on a real SLURM, with faults; its tables equal a local run's.

`make test-slurm`. Skipped, with the reason, where SLURM is not installed.
"""

import filecmp
import functools
import json
import os
import re
import shlex
import signal
import statistics
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import yaml
from cluster import Cluster, missing
from test_distributed import TORCHRUN, command, corpus, start  # noqa: F401

from knnlm.artifacts import description, npy
from knnlm.datastores import add, extract, search, train_index
from knnlm.models import model
from knnlm.settings import ModelConfig

ROOT = Path(__file__).parents[2]
PROFILE = ("--profile", "slurm", "--slurm-no-account", "--slurm-status-command", "squeue", "--jobs", "6")
QUICK = ("--slurm-init-seconds-before-status-checks", "7", "--latency-wait", "20")
PATIENCE = 3600  # seconds for a whole study

absent = missing()
pytestmark = pytest.mark.skipif(bool(absent), reason=f"SLURM IS NOT TESTED: {', '.join(absent)} not installed")


@pytest.fixture(scope="module")
def cluster():
    with Cluster() as running:
        yield running


class Study:
    """A smoke study with its own results, on a cluster or locally."""

    def __init__(self, results, environment=None, arguments=("--cores", "2"), target="all", config="config/smoke.yaml"):
        self.results = Path(results)
        options = ("--nolock", "--configfile", str(config), "--config", f"results={results}")
        self.command = [sys.executable, "-m", "snakemake", target, *options, *arguments]
        self.environment = dict(environment or os.environ) | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        self.environment |= {"KNNLM_ALLOW_CPU": "1"}  # the cluster's GPUs are files
        self.log = self.results.with_suffix(".log")

    def start(self):
        with self.log.open("a") as log:
            return subprocess.Popen(
                self.command, cwd=ROOT, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def run(self):
        assert self.start().wait(PATIENCE) == 0, self.log.read_text()[-3000:]

    def finished(self):
        """{benchmark of a job: when it was written}"""
        return {path: path.stat().st_mtime_ns for path in (self.results / "smoke/benchmarks").rglob("*.jsonl")}

    def tables(self):
        return sorted((self.results / "smoke/tables").glob("*.csv"))


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """Of a target, in one process at a time; each is made once."""

    @functools.cache
    def made(target="all"):
        study = Study(tmp_path_factory.mktemp("local") / "results", arguments=("--cores", "1"), target=target)
        study.run()
        return study

    return made


def until(condition, process, seconds=PATIENCE):
    """Wait for something to happen on the cluster while the workflow runs."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert process.poll() is None, "the workflow ended before the fault"
        assert time.monotonic() < end, "the fault never came about"
        time.sleep(0.3)
    return found


def test_one_process_and_many_make_the_same_tables(local, tmp_path):
    study = Study(tmp_path / "results", arguments=("--cores", "2"))
    study.run()
    equal_tables(study, local())


@pytest.mark.parametrize("target", ["table3", "all"])
def test_faults_leave_the_tables_as_they_are(cluster, local, tmp_path, capsys, target):
    study, began = Study(tmp_path / "results", cluster.environment, (*PROFILE, *QUICK), target), datetime.now()
    workflow = study.start()
    job, _ = until(lambda: cluster.running("rule_prepare"), workflow)[0]
    cluster.run("scancel", job)
    job, _ = until(lambda: cluster.running("rule_train"), workflow)[0]
    cluster.run("scontrol", "update", f"jobid={job}", "EndTime=now")
    job, node = until(lambda: [found for found in cluster.running("rule_evaluate") if found[0] != job], workflow)[0]
    cluster.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    until(lambda: job not in [running for running, _ in cluster.running()], workflow, 120)
    cluster.run("scontrol", "update", f"nodename={node}", "state=resume")
    until(lambda: cluster.running("_shard"), workflow)  # the group of adding to a shard's index and searching it
    before = study.finished()
    os.killpg(workflow.pid, signal.SIGKILL)
    workflow.wait()
    cluster.wait(lambda: not cluster.run("squeue", "-h"), 600)  # its jobs end without it
    study.run()
    after = study.finished()
    assert before and not [path for path, when in before.items() if after[path] != when]  # nothing ran twice
    equal_tables(study, local(target))
    assert workflow_is_done(study)
    with capsys.disabled():
        print(overhead(cluster, study, began))


def overhead(cluster, study, began):
    """What a job took beyond the seconds of its rules: the numbers in the profile's README."""
    ended = [dict(re.findall(r"(\w+)=(\S+)", line)) for line in (cluster.at / "jobs.txt").read_text().splitlines()]
    ended = [job for job in ended if job["JobState"] == "COMPLETED" and moment(job["StartTime"]) >= began]
    seconds = sum((moment(job["EndTime"]) - moment(job["StartTime"])).total_seconds() for job in ended)
    waited = [(moment(job["StartTime"]) - moment(job["SubmitTime"])).total_seconds() for job in ended]
    rules = sum(json.loads(path.read_text())["s"] for path in (study.results / "smoke/benchmarks").rglob("*.jsonl"))
    mean = (seconds - rules) / len(ended)
    return f"\n{len(ended)} jobs: {mean:.1f} s each beyond their rules', {statistics.median(waited):.0f} s to start"


def moment(text):
    return datetime.fromisoformat(text)


def equal_tables(study, local):
    names = [path.name for path in local.tables() if path.stem != "cost"]
    assert names == [path.name for path in study.tables() if path.stem != "cost"]
    _, different, wrong = filecmp.cmpfiles(
        study.results / "smoke/tables", local.results / "smoke/tables", names, shallow=False
    )
    assert not different and not wrong


def workflow_is_done(study):
    dry = subprocess.run([*study.command, "-n"], cwd=ROOT, env=study.environment, capture_output=True, text=True)
    return "Nothing to be done" in dry.stdout + dry.stderr


def test_two_nodes_train_as_two_processes_of_one(cluster, corpus, tmp_path):  # noqa: F811
    run = start(corpus, tmp_path / "one", TORCHRUN, updates=20)
    job = ["sbatch", "--wait", "--partition=gpu", "--nodes=2", "--ntasks=2", "--mem=4000", f"--output={tmp_path}/log"]
    wrapped = shlex.join(["workflow/launch", "2/2", *command(corpus, tmp_path / "two", updates=20)[1:]])
    environment = cluster.environment | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "KNNLM_ALLOW_CPU": "1"}
    assert subprocess.run([*job, "--wrap", wrapped], env=environment, cwd=ROOT, timeout=300).returncode == 0, (
        tmp_path / "log"
    ).read_text()
    assert run.wait(300) == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]


def test_a_datastore_without_stored_keys_goes_to_the_gpus_and_its_files_go_when_they_are_searched(cluster, tmp_path):
    config = yaml.safe_load((ROOT / "config/smoke.yaml").read_text()) | {"keep": "needed"}
    config["datastores"]["wiki"] |= {"store_keys": False, "distance": "quantized"}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(config))
    study = Study(
        tmp_path / "results", cluster.environment, (*PROFILE, *QUICK), "table3", config=tmp_path / "study.yaml"
    )
    study.run()
    chosen = re.findall(r"Auto-selected partition '(\w+)' for job (\w+)", study.log.read_text())
    partitions = {(job, partition) for partition, job in chosen}
    on_gpus = ("train", "evaluate", "sample_keys", "stream_wiki")
    assert {(job, "gpu") for job in on_gpus} <= partitions and not {(job, "cpu") for job in on_gpus} & partitions
    assert {("prepare", "cpu"), ("train_index", "cpu")} <= partitions
    assert (study.results / "smoke/tables/table3.md").exists()
    left = [path for path in (study.results / "smoke").rglob("*") if path.suffix in (".faiss", ".npy")]
    assert not [path for path in left if "shard" in path.name or "sample" in path.parts]


def test_a_gpu_job_that_sees_no_gpu_stops_with_one_line(cluster, corpus, tmp_path):  # noqa: F811
    job = ["sbatch", "--wait", "--partition=gpu", "--gpus=1", "--mem=4000", f"--output={tmp_path}/log"]
    wrapped = shlex.join(["workflow/launch", "1", *command(corpus, tmp_path / "model", updates=20)[1:]])
    environment = cluster.environment | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    assert subprocess.run([*job, "--wrap", wrapped], env=environment, cwd=ROOT, timeout=300).returncode != 0
    lines = [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "asked for 1 GPU, PyTorch sees none" in lines[0]
    assert not (tmp_path / "model").exists()


def stopped_at_its_limit(cluster, tmp_path, words, begun):
    """Run a command as a job, stop it as its time limit would once it has `begun`, and see it end in the same job."""
    words = ["srun", "--ntasks=1", "workflow/launch", "1", *words]
    job = ["sbatch", "--parsable", "--requeue", "--partition=gpu", "--time=10", "--mem=4000"]
    job += [f"--output={tmp_path}/log", "--open-mode=append", "--wrap", shlex.join(map(str, words))]
    environment = cluster.environment | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "KNNLM_ALLOW_CPU": "1"}
    job = subprocess.run(job, env=environment, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    cluster.wait(begun, 120)
    cluster.run("scancel", "--signal=TERM", job)  # what --signal=TERM@120 sends near the end of the limit
    states = []

    def ended():
        states.append(cluster.run("squeue", "-h", "--states=all", "-j", job, "-o", "%T"))
        return states[-1] in ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED")

    cluster.wait(ended, 300)
    assert states[-1] == "COMPLETED" and "PENDING" in states, (tmp_path / "log").read_text()
    assert "Restarts=1 " in cluster.run("scontrol", "show", "job", job)


def test_a_training_at_its_time_limit_goes_on_in_the_same_job(cluster, corpus, tmp_path):  # noqa: F811
    whole = start(corpus, tmp_path / "whole")
    words = command(corpus, tmp_path / "model", save_every=1e-9)[1:]
    stopped_at_its_limit(cluster, tmp_path, words, (tmp_path / ".model.resume/state.pt").exists)
    assert whole.wait(300) == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "model")]
    assert weights[0] == weights[1]


def flags(config):
    """A verb's settings as it is given them."""
    given = {name.replace("_", "-"): value for name, value in vars(config).items() if value not in (None, ())}
    words = [f"--{name}={value}" for name, value in given.items() if not isinstance(value, tuple)]
    return words + [word for name, value in given.items() if isinstance(value, tuple) for word in (f"--{name}", *value)]


def a_step_of(out):
    """Whether unfinished work on a folder has finished a step."""
    steps = out.with_name(f".{out.name}.resume") / "steps.jsonl"
    return lambda: steps.exists() and steps.read_text().count("\n") > 1


@pytest.mark.parametrize("where", ["disk", "indexes"])
def test_an_extraction_at_its_time_limit_goes_on_in_the_same_job(cluster, tmp_path, where):
    lm = model.LanguageModel(ModelConfig(vocab_size=64, layers=1, dim=16, ffn_dim=32, heads=2))
    (tmp_path / "lm").mkdir()
    model.save(lm, tmp_path / "lm")
    description.write_meta(tmp_path / "lm", "train", {}, {}, role="model")
    npy.save_array(tmp_path / "train.npy", np.random.default_rng(0).integers(2, 60, 120_000).astype(np.uint16))
    given, sizes = (tmp_path / "lm", tmp_path / "train.npy", ("ffn_input_ln",)), '{"new": 16, "context": 16}'
    sample, trained = tmp_path / "sample", tmp_path / "trained.faiss"
    extract.main(extract.ExtractConfig(*given, (sample,), sizes, entries=500))
    train_index.main(train_index.TrainIndexConfig((sample,), trained, '{"factory": "IVF8,PQ4x4", "sample": 400}'))

    def asked(name):
        pair = {"trained": (trained,), "index": (tmp_path / f"{name}.faiss",)} if where == "indexes" else {}
        rare = {"batch_tokens": 96, "block_tokens": 48, "save_every": 1.0}
        return extract.ExtractConfig(*given, (tmp_path / name,), sizes, **rare, **pair)

    extract.main(asked("whole"))
    stopped_at_its_limit(cluster, tmp_path, ["extract", *flags(asked("keys"))], a_step_of(tmp_path / "keys"))
    log = (tmp_path / "log").read_text()
    assert re.search(r"stopped by SIGTERM after [\d,]+ of 119,984 entries: SLURM will run this job again", log)
    assert re.search(r"\d+ steps were finished before", log)
    names = ["keys.faiss"] if where == "indexes" else ["keys/keys.npy"]
    for name in (*names, "keys/values.npy", "keys/ids.npy"):
        assert (tmp_path / name).read_bytes() == (tmp_path / name.replace("keys", "whole", 1)).read_bytes()


def test_a_search_at_its_time_limit_goes_on_in_the_same_job(cluster, tmp_path):
    rng, (entries, queries, dim) = np.random.default_rng(0), (30_000, 24 * search.BLOCK - 100, 64)
    shard, asked = tmp_path / "shard", [tmp_path / split for split in ("dev", "test")]
    for folder, rows, dtype in ((shard, entries, "float16"), (asked[0], 10, "float32"), (asked[1], queries, "float32")):
        folder.mkdir()
        npy.save_array(folder / "keys.npy", rng.standard_normal((rows, dim)).astype(dtype))
        npy.save_array(folder / "ids.npy", rng.permutation(rows))
        description.write_meta(folder, "extract", {}, {}, entries_total=rows)
    trained, index = tmp_path / "trained.faiss", tmp_path / "index.faiss"
    train_index.main(train_index.TrainIndexConfig((shard,), trained, '{"factory": "Flat", "sample": 400}'))
    add.main(add.AddConfig(trained, shard, index))

    def searched(name):
        return search.SearchConfig(
            index, shard, tuple(asked), 32, (tmp_path / f"{name}-dev", tmp_path / f"{name}-test")
        )

    search.main(searched("whole"))
    stopped_at_its_limit(cluster, tmp_path, ["search", *flags(searched("found"))], a_step_of(tmp_path / "found-test"))
    log = (tmp_path / "log").read_text()
    assert re.search(rf"stopped by SIGTERM after [\d,]+ of {queries:,} queries: SLURM will run this job again", log)
    assert "found-dev: already made" in log and re.search(r"\d+ steps were finished before", log)
    for name in ("dev/rows", "dev/distances", "test/rows", "test/distances"):
        whole, found = (tmp_path / f"{which}-{name}.npy" for which in ("whole", "found"))
        assert whole.read_bytes() == found.read_bytes()


def test_no_job_is_an_array(cluster):
    profile = (ROOT / "slurm/config.yaml").read_text()
    assert "array" not in json.dumps(profile)
