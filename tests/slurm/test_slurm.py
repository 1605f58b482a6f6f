"""The smoke study through the SLURM profile on a real SLURM, with faults; its tables equal a local run's.

`make test-slurm`. Skipped, with the reason, where SLURM is not installed.
"""

import filecmp
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cluster import Cluster, missing

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

    def __init__(self, results, environment=None, arguments=("--cores", "2")):
        self.results = Path(results)
        told = ("--nolock", "--configfile", "config/smoke.yaml", "--config", f"results={results}")
        self.command = [sys.executable, "-m", "snakemake", *told, *arguments]
        self.environment = dict(environment or os.environ) | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        self.log = self.results.with_suffix(".log")

    def start(self):
        with self.log.open("a") as log:
            return subprocess.Popen(
                self.command, cwd=ROOT, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def run(self):
        assert self.start().wait(PATIENCE) == 0, self.log.read_text()[-3000:]

    def told(self, pattern):
        """All that the workflow's log says of something."""
        return re.findall(pattern, self.log.read_text())

    def tables(self):
        return sorted((self.results / "smoke/tables").glob("*.csv"))


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    study = Study(tmp_path_factory.mktemp("local") / "results")
    study.run()
    return study


def until(condition, process, seconds=PATIENCE):
    """Wait for something to happen on the cluster while the workflow runs."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert process.poll() is None, "the workflow ended before the fault"
        assert time.monotonic() < end, "the fault never came about"
        time.sleep(0.3)
    return found


def test_faults_leave_the_tables_as_they_are(cluster, local, tmp_path):
    study = Study(tmp_path / "results", cluster.environment, (*PROFILE, *QUICK))
    workflow = study.start()
    job, _ = until(lambda: cluster.running("rule_prepare"), workflow)[0]
    cluster.run("scancel", job)
    job, _ = until(lambda: cluster.running("rule_train"), workflow)[0]
    cluster.run("scontrol", "update", f"jobid={job}", "EndTime=now")
    job, node = until(lambda: [found for found in cluster.running("rule_evaluate") if found[0] != job], workflow)[0]
    cluster.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    until(lambda: job not in [running for running, _ in cluster.running()], workflow, 120)
    cluster.run("scontrol", "update", f"nodename={node}", "state=resume")
    until(lambda: cluster.running("rule_search"), workflow)
    os.killpg(workflow.pid, signal.SIGKILL)
    workflow.wait()
    cluster.wait(lambda: not cluster.run("squeue", "-h"), 600)  # its jobs end without it
    study.run()
    done, (planned, *_) = study.told("Finished jobid:"), study.told(r"total +(\d+)")
    assert len(done) == int(planned)  # of two runs together: nothing that the first knew to be finished ran again
    equal_tables(study, local)
    assert workflow_is_done(study)


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


def test_no_job_is_an_array(cluster):
    profile = (ROOT / "slurm/config.yaml").read_text()
    assert "array" not in json.dumps(profile)
