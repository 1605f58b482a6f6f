"""What the rest of a study will cost: `python workflow/plan.py --configfile config/paper.yaml`.

Nothing is run: the jobs are those of Snakemake's dry run, whose other arguments may follow (`--forceall` for the cost
from nothing). Hours and sizes are the estimates of workflow/resources.py at the rates of workflow/rates.yaml; a job's
time limit is longer. `--gpus N` says on how many GPUs the study will run, `--rates FILE` replaces the rates.
"""

import argparse
import heapq
import itertools
import math
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
STAGES = {
    "corpora": (
        "fetch",
        "fetch_dataset",
        "prepare",
        "subset",
        "vocab",
        "pretrained_vocab",
        "binarize_shard",
        "binarize",
    ),
    "models": ("import_fairseq", "import_pretrained", "import_initial", "train", "finetune", "evaluate"),
    "datastores": ("extract", "sample_keys", "train_index", "stream", "add", "search", "merge", "rerank"),
    "scores": ("score_knn", "score_cache", "score_ngram", "score_infinigram", "interpolate"),
}
STAGE = {rule: stage for stage, rules in STAGES.items() for rule in rules}
COLUMNS = ("jobs", "gpu_hours", "gpu_limit", "cpu_hours", "longest", "memory", "disk")
CORES = 1024  # so that a job's threads are its formula's, whatever this machine has
HEADS = ("stage", "rule", "jobs", "GPU-hours", "limit", "CPU-hours", "longest, h", "memory, GB", "written, GB")


@dataclass
class Job:
    """One job of a dry run."""

    rule: str
    cpus: int = 1
    priority: int = 0
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    resources: dict[str, float] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    """temporary files that the dry run would remove after this job"""

    @property
    def hours(self) -> float:
        """The estimate of its duration; without one, its time limit."""
        return self.resources.get("estimate_min", self.resources.get("runtime", 0)) / 60

    @property
    def limit(self) -> float:
        """Its time limit, in hours."""
        return self.resources.get("runtime", 0) / 60

    @property
    def gpus(self) -> int:
        return int(self.resources.get("gpu", 0))

    @property
    def gigabytes(self) -> float:
        """What it writes."""
        return self.resources.get("disk_mb", 0) / 1000

    @property
    def scratch(self) -> float:
        """The part of it, in GB, that goes when the job ends."""
        return self.resources.get("scratch_mb", 0) / 1000


def jobs(lines: Iterable[str]) -> list[Job]:
    """The jobs of a dry run's text, each after those whose files it reads."""
    found: list[Job] = []
    for line in lines:
        line = line.strip()  # the jobs of a group are indented
        if match := re.match(r"(?:local)?(?:rule|checkpoint) ([\w-]+):", line):
            found.append(Job(match[1]))
        elif not found:
            continue
        elif match := re.match(r"threads: (\d+)", line):
            found[-1].cpus = int(match[1])
        elif match := re.match(r"priority: (\d+)", line):
            found[-1].priority = int(match[1])
        elif match := re.match(r"(input|output): (.*)", line):
            getattr(found[-1], f"{match[1]}s").extend(match[2].split(", "))
        elif line.startswith("resources: "):
            found[-1].resources.update({key: float(n) for key, n in re.findall(r"(\w+)=([\d.]+)(?=,|$)", line)})
        elif match := re.match(r"Would remove temporary output (.*)", line):
            found[-1].removed.append(match[1])
    return found


def costs(planned: list[Job]) -> dict[tuple[str, str], dict[str, float]]:
    """For each stage and rule: jobs, hours of GPUs and cores, the longest job, the largest memory all disk (GB)."""
    found: dict[tuple[str, str], dict[str, float]] = defaultdict(lambda: dict.fromkeys(COLUMNS, 0.0))
    for job in planned:
        rule = re.sub(r"^(stream)_.*|^(\w+?)(_(keytypes|seed|passing|quantized|dev|\d+))+$", r"\1\2", job.rule)
        cost = found[STAGE.get(rule, "outputs"), rule if rule in STAGE else "tables, figures"]
        cost["jobs"] += 1
        cost["gpu_hours"] += job.hours * job.gpus
        cost["gpu_limit"] += job.limit * job.gpus
        cost["cpu_hours"] += job.hours * job.cpus
        cost["longest"] = max(cost["longest"], job.hours)
        cost["memory"] = max(cost["memory"], job.resources.get("mem_mb", 0) / 1000)
        cost["disk"] += job.gigabytes
    return found


def schedule(planned: list[Job], gpus: int, cores: float = math.inf) -> list[tuple[float, float]]:
    """When each job starts and ends (hours) with so many GPUs and cores.

    A job starts as soon as its files, GPUs and cores are there, that of the highest priority first, then the longest.
    One that wants more GPUs than there are takes all, and longer.
    """
    maker = {path: number for number, job in enumerate(planned) for path in job.outputs}
    waits = [{maker[path] for path in job.inputs if path in maker} - {number} for number, job in enumerate(planned)]
    needed_by: dict[int, list[int]] = defaultdict(list)
    for number, needed in enumerate(waits):
        for other in needed:
            needed_by[other].append(number)
    ready = [number for number, needed in enumerate(waits) if not needed]
    times = [(0.0, 0.0)] * len(planned)
    running: list[tuple[float, int]] = []
    free, idle, now = gpus, cores, 0.0
    while ready or running:
        for number in sorted(ready, key=lambda n: (-planned[n].priority, -planned[n].hours)):
            asked = min(planned[number].gpus, gpus)
            if asked <= free and min(planned[number].cpus, cores) <= idle:
                free -= asked
                idle -= min(planned[number].cpus, cores)
                ready.remove(number)
                slower = planned[number].gpus / asked if asked else 1
                times[number] = now, now + planned[number].hours * slower
                heapq.heappush(running, (times[number][1], number))
        now, ended = heapq.heappop(running)
        free += min(planned[ended].gpus, gpus)
        idle += min(planned[ended].cpus, cores)
        for number in needed_by[ended]:
            waits[number].discard(ended)
            if not waits[number]:
                ready.append(number)
    return times


def peak_disk(planned: list[Job], times: list[tuple[float, float]]) -> float:
    """The most that lies on disk at once (GB), when the jobs run at these times."""
    return max(disk(planned, times), default=0.0)


def disk(planned: list[Job], times: list[tuple[float, float]]) -> list[float]:
    """What lies on disk (GB) after each change, when the jobs run at these times; at the end, what is left.

    What a job writes counts from its start: its outputs in equal parts for their folders, and within a folder for its
    files but the description. A temporary file goes when the last job that reads it ends, the rest with the job itself.
    Downloads are not counted.
    """
    temporary = {path for job in planned for path in job.removed}
    last = {path: end for job, (_, end) in zip(planned, times, strict=True) for path in job.outputs}
    for job, (_, end) in zip(planned, times, strict=True):
        last.update({path: max(last[path], end) for path in job.inputs if path in last})
    changes = []
    for job, (start, end) in zip(planned, times, strict=True):
        changes += [(start, job.scratch), (end, -job.scratch)]
        folders: dict[str, list[str]] = defaultdict(list)
        data = [path for path in job.outputs if not path.endswith("meta.json")]
        for path in data or job.outputs:
            folders[os.path.dirname(path)].append(path)
        for paths in folders.values():
            size = (job.gigabytes - job.scratch) / len(folders) / len(paths)
            changes += [(start, size) for _ in paths]
            changes += [(last[path], -size) for path in paths if path in temporary]
    # At one moment, files are removed before others are begun.
    return list(itertools.accumulate(change for _, change in sorted(changes)))


def count(number: int, name: str) -> str:
    """As in "1 GPU" and "8 GPUs"."""
    return f"{number} {name}{'' if number == 1 else 's'}"


def table(planned: list[Job], gpus: int, cores: float = math.inf) -> str:
    """The costs by rule, and below them what the whole needs."""
    found = costs(planned)
    lines = [("{:<12}{:<18}" + "{:>11}" * 4 + "{:>12}" + "{:>13}" * 2).format(*HEADS)]
    row = "{:<12}{:<18}" + "{:>11,.0f}" * 4 + "{:>12,.1f}" + "{:>13,.0f}" * 2
    order = [*STAGES, "outputs"]
    for stage, rule in sorted(found, key=lambda key: order.index(key[0])):
        lines.append(row.format(stage, rule, *(found[stage, rule][column] for column in COLUMNS)))
    whole = [(max if column in ("longest", "memory") else sum)(c[column] for c in found.values()) for column in COLUMNS]
    longest, times = max(planned, key=lambda job: job.hours), schedule(planned, gpus, cores)
    there = disk(planned, times)
    wall, many = max(end for _, end in times), count(gpus, "GPU")
    return "\n".join(
        [
            *lines,
            row.format("all", "", *whole),
            f"peak disk with {many}: {max(there):,.0f} GB, left: {there[-1]:,.0f} GB",
            f"longest job: {longest.rule}, {longest.hours:,.1f} h on "
            f"{count(longest.gpus, 'GPU') if longest.gpus else count(longest.cpus, 'core')}",
            f"wall time with {many}: {wall:,.0f} h, or {wall / 24:,.1f} days",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, default=8, help="GPUs that the study may use at once")
    parser.add_argument("--cores", type=int, help="cores that it may use at once; by default as many as jobs ask for")
    parser.add_argument("--rates", help="a JSON or YAML file of measured rates, in place of workflow/rates.yaml")
    options, snakemake = parser.parse_known_args()
    environment = os.environ | ({"KNNLM_RATES": os.path.abspath(options.rates)} if options.rates else {})
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--cores", str(options.cores or CORES), *snakemake]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if run.returncode:
        sys.exit(run.stderr)
    planned = [job for job in jobs((run.stdout + run.stderr).splitlines()) if job.rule != "all"]
    print(table(planned, options.gpus, options.cores or math.inf) if planned else "Nothing to be done.")


if __name__ == "__main__":
    main()
