"""What a study costs, by hand-computed examples."""

import re
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "workflow"))
import plan

DRY_RUN = """
rule train:
    output: models/a/meta.json, models/a/model.safetensors
    resources: tmpdir=/tmp, mem_mb=4000, mem=4 GB, disk_mb=1000, runtime=300, estimate_min=120, gpu=2, gpu_model=a100
[Tue Nov 24 17:15:56 2026]
rule extract:
    input: models/a/meta.json
    output: keys/one/meta.json, keys/one/keys.npy, keys/two/meta.json, keys/two/keys.npy
    threads: 4
    resources: mem_mb=8000, runtime=180, disk_mb=8000, estimate_min=60, gpu=1

rule add:
    input: keys/one/meta.json
    output: index/one.faiss
    resources: mem_mb=2000, runtime=30, disk_mb=500, estimate_min=30, gpu=0
Would remove temporary output keys/one/keys.npy
Would remove temporary output keys/one/meta.json

rule search:
    input: index/one.faiss, keys/two/meta.json
    output: neighbors/meta.json
    resources: mem_mb=2000, disk_mb=4000, runtime=60
localrule table:
    input: neighbors/meta.json
    output: table.md
"""


@pytest.fixture
def planned():
    return plan.jobs(DRY_RUN.splitlines())


def test_a_dry_run_is_read_job_by_job(planned):
    assert [job.rule for job in planned] == ["train", "extract", "add", "search", "table"]
    assert planned[1].inputs == ["models/a/meta.json"] and len(planned[1].outputs) == 4
    assert (planned[1].cpus, planned[1].gpus, planned[1].hours, planned[1].limit) == (4, 1, 1, 3)
    assert planned[3].hours == 1  # without an estimate, its limit
    assert planned[2].removed == ["keys/one/keys.npy", "keys/one/meta.json"]


def test_costs_add_up_by_rule(planned):
    train = plan.costs(planned)["models", "train"]
    assert (train["gpu_hours"], train["gpu_limit"], train["cpu_hours"], train["disk"]) == (4, 10, 2, 1)
    extract = plan.costs(planned)["datastores", "extract"]
    assert (extract["jobs"], extract["cpu_hours"], extract["memory"], extract["longest"]) == (1, 4, 8, 1)
    assert plan.costs(planned)["outputs", "tables, figures"]["jobs"] == 1


def test_the_peak_counts_what_lies_on_disk_at_once(planned):
    # 1 + 8 + 0.5, less the 4 of the first key type's folder, + 4 of the neighbors: 9.5 both times
    times = plan.schedule(planned, 2)
    assert plan.peak_disk(planned, times) == pytest.approx(9.5)
    for job in planned:
        job.removed = []
    assert plan.peak_disk(planned, times) == pytest.approx(13.5)


def test_what_goes_with_a_job_counts_while_it_runs():
    resources = {"estimate_min": 60, "gpu": 1, "disk_mb": 1000, "scratch_mb": 400}
    jobs = [plan.Job("stream", resources=resources, outputs=[f"keys{n}/a", f"keys{n}/meta.json"]) for n in range(3)]
    assert plan.peak_disk(jobs, plan.schedule(jobs, 1)) == pytest.approx(3 * 0.6 + 0.4)
    assert plan.peak_disk(jobs, plan.schedule(jobs, 3)) == pytest.approx(3)


def test_the_papers_study_fits_what_was_asked_for(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["plan.py", "--forceall", "--configfile", "config/paper.yaml", "--nolock"])
    plan.main()
    text = capsys.readouterr().out
    hours, limits = (float(word.replace(",", "")) for word in re.search(r"(?m)^all .*", text)[0].split()[2:4])
    peak = float(re.search(r"peak disk with 8 GPUs: ([\d,]+) GB", text)[1].replace(",", ""))
    assert hours <= 750 and peak <= 1600
    said = " ".join((ROOT / "config/paper.yaml").read_text().split("study:")[0].replace("#", " ").split())
    assert f"estimates {hours:.0f} A100-hours (time limits sum to {limits:,.0f};" in said
    assert f"a peak of {peak / 1000:.1f} TB on disk" in said


def test_the_wall_time_waits_for_files_and_for_free_gpus(planned):
    assert plan.schedule(planned, 2)[-1][1] == pytest.approx(2 + 1 + 0.5 + 1)
    assert plan.schedule(planned, 1)[-1][1] == pytest.approx(4 + 1 + 0.5 + 1)  # training takes twice as long
    twins = [plan.Job("evaluate", resources={"estimate_min": 60, "gpu": 1}, outputs=[str(n)]) for n in range(3)]
    assert plan.schedule(twins, 2) == [(0, 1), (0, 1), (1, 2)] and plan.schedule(twins, 3) == [(0, 1)] * 3


def test_jobs_that_run_at_once_count_at_once():
    writing = {"estimate_min": 60, "gpu": 1, "disk_mb": 1000}
    makers = [plan.Job("extract", resources=writing, outputs=[f"keys{n}/a"]) for n in range(3)]
    readers = [plan.Job("add", inputs=[f"keys{n}/a"], removed=[f"keys{n}/a"]) for n in range(3)]
    assert plan.peak_disk(makers + readers, plan.schedule(makers + readers, 1)) == pytest.approx(1)
    assert plan.peak_disk(makers + readers, plan.schedule(makers + readers, 3)) == pytest.approx(3)


def test_the_table_ends_with_the_whole(planned):
    lines = plan.table(planned, 2).splitlines()
    whole = next(line for line in lines if line.startswith("all")).split()
    assert whole == ["all", "5", "5", "13", "8", "2.0", "8", "14"]
    assert lines[-2] == "longest job: train, 2.0 h on 2 GPUs"
    assert lines[-1].startswith("wall time with 2 GPUs: 4 h")


def test_jobs_wait_for_cores_and_the_highest_priority_comes_first():
    hours = {"estimate_min": 60, "gpu": 0}
    jobs = [plan.Job("add", cpus=2, resources=hours, outputs=[str(n)]) for n in range(3)]
    assert plan.schedule(jobs, 0, cores=4) == [(0, 1), (0, 1), (1, 2)]
    assert plan.schedule(jobs, 0) == [(0, 1)] * 3
    assert plan.schedule(jobs, 0, cores=1) == [(0, 1), (1, 2), (2, 3)]  # one that asks for more takes all
    short = plan.Job("merge", cpus=2, priority=5, resources={"estimate_min": 30, "gpu": 0}, outputs=["short"])
    assert plan.schedule([*jobs, short], 0, cores=2)[-1] == (0, 0.5)
