"""workflow/launch: which GPUs a job takes, and what it tells its verb about them."""

import json
import os
import select
import subprocess
import sys

import pytest
from conftest import ROOT

VERB = """import json, os, pathlib, sys, time
seen_by = {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "KNNLM_GPUS", "LOCAL_WORLD_SIZE")}
os.write(1, (json.dumps(seen_by) + "\\n").encode())  # at once: processes share the pipe
while not pathlib.Path("end").exists():
    time.sleep(0.05)
"""
SLURM = {"SLURM_JOB_ID": "7", "SLURM_JOB_GPUS": "0"}
GPU_VARIABLES = ("CUDA_VISIBLE_DEVICES", "KNNLM_", "SLURM_")


@pytest.fixture
def machine(tmp_path):
    """An environment where nvidia-smi lists so many GPUs, and a verb that prints what it got and waits for `end`."""

    def with_gpus(count, **more):
        smi = tmp_path / "nvidia-smi"
        smi.write_text("#!/bin/sh\n" + "".join(f"echo 'GPU {i}: A100 (UUID: GPU-{i})'\n" for i in range(count)))
        smi.chmod(0o755)
        (tmp_path / "knnlm").mkdir(exist_ok=True)
        (tmp_path / "knnlm/__main__.py").write_text(VERB)
        environment = {key: value for key, value in os.environ.items() if not key.startswith(GPU_VARIABLES)}
        environment |= {"PATH": f"{tmp_path}:{os.path.dirname(sys.executable)}:{os.environ['PATH']}"}
        return environment | {"PYTHONPATH": str(tmp_path), "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"} | more

    return with_gpus


def start(environment, gpus):
    command = [ROOT / "workflow/launch", str(gpus), "search"]
    return subprocess.Popen(command, env=environment, cwd=environment["TMPDIR"], stdout=subprocess.PIPE, text=True)


def seen_by(environment, gpus, tmp_path):
    """What each process of a job finds in its environment: (CUDA_VISIBLE_DEVICES, KNNLM_GPUS)."""
    (tmp_path / "end").touch()
    lines = start(environment, gpus).communicate(timeout=120)[0].splitlines()
    found = [json.loads(line) for line in lines]
    return [(one["CUDA_VISIBLE_DEVICES"], one["KNNLM_GPUS"]) for one in found]


def test_a_job_takes_one_free_gpu_and_waits_while_there_is_none(machine, tmp_path):
    first, second = (start(machine(2), 1) for _ in range(2))
    taken = [json.loads(job.stdout.readline())["CUDA_VISIBLE_DEVICES"] for job in (first, second)]
    assert sorted(taken) == ["0", "1"]
    third = start(machine(2), 1)
    assert not select.select([third.stdout], [], [], 1)[0]
    (tmp_path / "end").touch()
    assert json.loads(third.communicate(timeout=120)[0])["CUDA_VISIBLE_DEVICES"] in taken
    assert [job.wait(120) for job in (first, second)] == [0, 0]


def test_jobs_share_out_the_gpus_that_a_user_named(machine, tmp_path):
    first, second = (start(machine(4, CUDA_VISIBLE_DEVICES="1,3"), 1) for _ in range(2))
    taken = [json.loads(job.stdout.readline())["CUDA_VISIBLE_DEVICES"] for job in (first, second)]
    (tmp_path / "end").touch()
    assert sorted(taken) == ["1", "3"] and [job.wait(120) for job in (first, second)] == [0, 0]


def test_a_job_that_asks_for_no_gpu_sees_none(machine, tmp_path):
    assert seen_by(machine(2), 0, tmp_path) == [("", "0")]
    assert seen_by(machine(2, **SLURM, CUDA_VISIBLE_DEVICES="1"), 0, tmp_path) == [("", "0")]


def test_on_one_machine_fewer_gpus_and_none_are_taken_silently(machine, tmp_path):
    assert seen_by(machine(1), 8, tmp_path) == [("0", "1")]
    assert seen_by(machine(0), 8, tmp_path) == [(None, None)]
    assert seen_by(machine(0, SLURM_JOB_ID="7"), 8, tmp_path) == [(None, None)]  # an allocation without GPUs


@pytest.mark.parametrize("variable", ["SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "SLURM_GPUS_ON_NODE", "SLURM_GPUS"])
def test_a_gpu_job_of_a_cluster_must_see_all_that_it_asked_for(machine, tmp_path, variable):
    job = {"SLURM_JOB_ID": "7", variable: "1", "CUDA_VISIBLE_DEVICES": "0"}
    assert seen_by(machine(0, **job), 8, tmp_path) == [("0", "8")]  # the verb stops with one line
    assert seen_by(machine(1, **job), 1, tmp_path) == [("0", "1")]
    assert seen_by(machine(0, KNNLM_ALLOW_CPU="1", **job), 8, tmp_path) == [("0", None)]


def test_two_gpu_jobs_of_one_node_do_not_wait_for_each_other(machine, tmp_path):
    """A cluster that shows a job only its own GPUs calls the first of them 0 in each job."""
    jobs = [start(machine(1, **SLURM | {"SLURM_JOB_ID": number}, CUDA_VISIBLE_DEVICES="0"), 1) for number in "12"]
    assert [json.loads(job.stdout.readline())["CUDA_VISIBLE_DEVICES"] for job in jobs] == ["0", "0"]
    (tmp_path / "end").touch()
    assert [job.wait(120) for job in jobs] == [0, 0]


def test_several_gpus_get_a_process_each(machine, tmp_path):
    assert seen_by(machine(2), 2, tmp_path) == [("0,1", "2")] * 2


def test_every_rule_whose_verb_may_use_a_gpu_is_launched():
    text = "".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
    for verb in ("train", "evaluate", "extract", "train_index", "add", "search", "explore"):
        assert f'"knnlm {verb}"' not in text, verb
