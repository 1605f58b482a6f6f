"""The rehearsal of the paper's study through the SLURM profile: partitions, groups, retries and deleted files.

The target table3 is the part with Wikipedia and its streamed datastore of 32 shards; `all` is the whole.
"""

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
absent = missing()
pytestmark = pytest.mark.skipif(bool(absent), reason=f"SLURM IS NOT TESTED: {', '.join(absent)} not installed")


@pytest.fixture(scope="module")
def cluster():
    with Cluster() as running:
        yield running


class Watcher(threading.Thread):
    """Notes where each job of the cluster ran and what it asked for; SLURM forgets a job after five minutes."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(daemon=True)
        self.cluster, self.seen, self.ended = cluster, {}, threading.Event()

    def run(self) -> None:
        while not self.ended.wait(20):
            self.look()

    def look(self) -> None:
        for line in self.cluster.run("squeue", "-h", "-t", "all", "-O", FIELDS).splitlines():
            job, partition, nodes, asked, comment = (part.strip() for part in line.split("|", 4))
            if nodes:
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


@pytest.mark.parametrize("target", ["table3", "all"])
def test_the_rehearsal_runs_to_its_end(cluster, tmp_path, capsys, target):
    plan = rehearse(tmp_path, os.environ, target, "-n", "--forceall")
    assert plan.returncode == 0, plan.stderr[-3000:]
    on_gpus = {rule for rule, resources in jobs(plan.stdout + plan.stderr) if int(resources.get("gpu", 0))}
    watcher = Watcher(cluster)
    watcher.start()
    threading.Thread(target=cancel_a_streamed_shard, args=(cluster,), daemon=True).start()
    run = rehearse(tmp_path, cluster.environment, target)
    watcher.ended.set()
    watcher.join()
    watcher.look()
    assert run.returncode == 0, run.stderr[-5000:]
    assert len(re.findall("Trying to restart job", run.stderr)) >= 1
    assert {"train", "stream_wiki", "sample_keys", "evaluate"} <= on_gpus
    of_rules = [seen for seen in watcher.seen.values() if seen[-1].startswith("rule_")]
    assert len(of_rules) > 50
    for partition, nodes, asked, comment in of_rules:
        rule = re.match(r"rule_(\w+?)(_wildcards_|$)", comment)[1]
        where = "gpu" if rule in on_gpus else "cpu"
        assert (partition, nodes.rstrip("01"), "gpu" in asked) == (where, where, where == "gpu"), comment
    temporary = set(re.findall(r"Would remove temporary output (\S+)", plan.stdout + plan.stderr))
    assert temporary and [path for path in temporary if (ROOT / path).exists()] == []
    again = rehearse(tmp_path, os.environ, target, "-n")
    assert "Nothing to be done" in again.stdout + again.stderr
    with capsys.disabled():
        print(f"\n{target}: {len(watcher.seen)} SLURM jobs; {run.stdout.splitlines()[-1]}")


def cancel_a_streamed_shard(cluster: Cluster) -> None:
    """As a preempted job or a lost node would end: Snakemake tries again."""
    cluster.wait(lambda: cluster.running("stream_wiki"), 3600)
    cluster.run("scancel", cluster.running("stream_wiki")[0][0])
