"""The rehearsal of the paper's study through the SLURM profile: partitions, groups, retries and deleted files.

The target table3 is the part with Wikipedia and its streamed datastore of 32 shards, table1 that with WikiText-103,
and `all` the whole. Jobs ask for the memory and the time that config/paper.yaml asks for, within what the test's nodes
have; those of table1 for a GPU to search with too, so that adding without one and searching with one run as one job.
"""

import contextlib
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cluster import Cluster, missing

ROOT = Path(__file__).parents[2]
PROFILE = ("--profile", "slurm", "--slurm-no-account", "--slurm-status-command", "squeue", "--jobs", "8", "--nolock")
QUICK = ("--slurm-init-seconds-before-status-checks", "7", "--latency-wait", "20")
FIELDS = "JobID:|,Partition:|,NodeList:|,tres-per-job:|,Comment:2000"
MEMORY = 60000  # MB that a job may ask for; a node of the test has 64000
SEARCH_ON_GPUS = ("search:gpu=1", "search_quantized:gpu=1")  # a wish of the profile's README
CANCELLED = {"table3": "stream_wiki", "table1": "train", "all": "stream_wiki"}
absent = missing()
pytestmark = pytest.mark.skipif(bool(absent), reason=f"SLURM IS NOT TESTED: {', '.join(absent)} not installed")


@pytest.fixture(scope="module")
def cluster():
    with Cluster() as running:
        yield running


class Watcher(threading.Thread):
    """Notes where each job of the cluster ran and what it asked for; SLURM forgets a job after five minutes.

    The first job of a rule that it sees running is cancelled, as a preempted job or a lost node would end.
    """

    def __init__(self, cluster: Cluster, cancelled: str) -> None:
        super().__init__(daemon=True)
        self.cluster, self.cancelled, self.seen, self.ended = cluster, cancelled, {}, threading.Event()
        self.before = set(cluster.run("squeue", "-h", "-t", "all", "-o", "%A").split())  # of another test

    def run(self) -> None:
        while not self.ended.wait(5):
            with contextlib.suppress(subprocess.TimeoutExpired):  # a busy machine: the next look sees the jobs too
                self.look()
                if self.cancelled and (running := self.cluster.running(self.cancelled)):
                    self.cluster.run("scancel", running[0][0])
                    self.cancelled = ""

    def look(self) -> None:
        for line in self.cluster.run("squeue", "-h", "-t", "all", "-O", FIELDS).splitlines():
            job, partition, nodes, asked, comment = (part.strip() for part in line.split("|", 4))
            if nodes and job not in self.before:
                self.seen[job] = (partition, nodes, asked, comment)


def rehearse(results: Path, environment: dict, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "tests/rehearsal", "--results", str(results), *PROFILE, *QUICK, *arguments]
    changed = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "KNNLM_ALLOW_CPU": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment | changed, capture_output=True, text=True)


def jobs(text: str) -> list[tuple[str, dict[str, str]]]:
    """(rule, resources) of each job of a dry run."""
    return [
        (rule, dict(re.findall(r"(\w+)=([^,\n]+)", resources)))
        for rule, resources in re.findall(r"(?ms)^ *(?:local)?rule (\w+):$.*?^ *resources: (.*?)$", text)
    ]


def papers_requests() -> list[str]:
    """What the jobs of each rule of config/paper.yaml ask for at most, as `--set-resources` takes it."""
    command = [sys.executable, "-m", "snakemake", "-n", "--nolock", "--forceall", "--profile", "slurm"]
    plan = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    most: dict[str, tuple[int, int]] = {}
    for rule, resources in jobs(plan.stdout + plan.stderr):
        if "estimate_min" in resources:  # others run where Snakemake runs
            asked = (int(resources["mem_mb"]), int(resources["runtime"]))
            most[rule] = tuple(map(max, asked, most.get(rule, asked)))
    assert most["train"][0] > 50000 and most["stream_wiki"][0] > 30000  # MB
    return [
        f"{rule}:{request}"
        for rule, (memory, minutes) in most.items()
        for request in (f"mem_mb=min(attempt * {memory}, {MEMORY})", f"runtime={minutes}")
    ]


@pytest.mark.parametrize("target", [*CANCELLED])
def test_the_rehearsal_runs_to_its_end(cluster, tmp_path, capsys, target):
    wishes = SEARCH_ON_GPUS if target == "table1" else ()
    asked_for = (target, "--set-resources", *papers_requests(), *wishes)
    plan = rehearse(tmp_path, os.environ, *asked_for, "-n", "--forceall")
    assert plan.returncode == 0, plan.stderr[-3000:]
    planned = jobs(plan.stdout + plan.stderr)
    assert {resources["mem_mb"] for rule, resources in planned if rule == "train"} == {str(MEMORY)}
    on_gpus = {rule for rule, resources in planned if int(resources.get("gpu", 0))}
    rules = {rule for rule, _ in planned}
    watcher = Watcher(cluster, CANCELLED[target])
    watcher.start()
    run = rehearse(tmp_path, cluster.environment, *asked_for)
    watcher.ended.set()
    watcher.join()
    watcher.look()
    assert run.returncode == 0, run.stderr[-5000:]
    assert len(re.findall("Trying to restart job", run.stderr)) >= 1
    assert {"train", "evaluate"} <= on_gpus
    assert target == "table1" or {"stream_wiki", "sample_keys"} <= on_gpus
    of_rules = [seen for seen in watcher.seen.values() if seen[-1].startswith("rule_")]
    assert len(of_rules) > 30 and ("search" in on_gpus) == (target == "table1")
    for partition, nodes, asked, comment in of_rules:
        rule = re.match(r"rule_(\w+?)(_wildcards_|$)", comment)[1]
        members = {rule} if rule in rules else {name for name in rules if f"_{name}" in rule}  # of a group
        where = "gpu" if members & on_gpus else "cpu"
        assert members, comment
        assert (partition, nodes.rstrip("01"), "gpu" in asked) == (where, where, where == "gpu"), comment
    temporary = set(re.findall(r"Would remove temporary output (\S+)", plan.stdout + plan.stderr))
    assert temporary and [path for path in temporary if (ROOT / path).exists()] == []
    again = rehearse(tmp_path, os.environ, *asked_for, "-n")
    assert "Nothing to be done" in again.stdout + again.stderr
    with capsys.disabled():
        print(f"\n{target}: {len(watcher.seen)} SLURM jobs; {run.stdout.splitlines()[-1]}")
