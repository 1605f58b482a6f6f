"""What the rest of a study costs: `python workflow/plan.py --configfile config/paper.yaml`.

Arguments are Snakemake's (`--forceall` for the cost from nothing); nothing is run. Hours are limits, twice the
estimates of workflow/resources.py.
"""

import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

RETRIEVAL = ("search", "search_quantized", "merge", "merge_quantized", "rerank")
STAGES = {
    "corpora": ("fetch", "prepare", "subset", "vocab", "binarize_shard", "binarize"),
    "models": ("train", "import_fairseq", "evaluate", "evaluate_keytypes"),
    "datastores": ("extract", "extract_keytypes", "sample_keys", "train_index", "stream", "add", *RETRIEVAL),
    "scores": ("score_knn", "score_cache", "score_ngram", "interpolate"),
}


class Job(NamedTuple):
    rule: str
    cpus: int
    resources: dict[str, float]


def jobs(lines: Iterable[str]) -> list[Job]:
    """The jobs of a dry run's text."""
    found: list[Job] = []
    for line in lines:
        if match := re.match(r"(?:local)?rule (\w+):", line):
            found.append(Job(match[1], 1, {}))
        elif match := re.match(r"    threads: (\d+)", line):
            found[-1] = found[-1]._replace(cpus=int(match[1]))
        elif line.startswith("    resources: "):
            found[-1].resources.update({key: float(n) for key, n in re.findall(r"(\w+)=([\d.]+)(?=,|$)", line)})
    return found


def costs(planned: list[Job]) -> dict[tuple[str, str], dict[str, float]]:
    """For each stage and rule: jobs, hours of a GPU and of a core, the largest memory and all disk (GB)."""
    stage_of = {rule: stage for stage, rules in STAGES.items() for rule in rules}
    found: dict[tuple[str, str], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for rule, cpus, resources in planned:
        hours, gpus = resources.get("runtime", 0) / 60, resources.get("gpu", 0)
        rule = "stream" if rule.startswith("stream_") else rule
        cost = found[stage_of.get(rule, "outputs"), rule if rule in stage_of else "tables, figures"]
        cost["jobs"] += 1
        cost["gpu_hours"] += hours * gpus
        cost["cpu_hours"] += hours * cpus
        cost["memory"] = max(cost["memory"], resources.get("mem_mb", 0) / 1000)
        cost["disk"] += resources.get("disk_mb", 0) / 1000
        cost["longest"] = max(cost["longest"], hours)
    return found


def table(found: dict[tuple[str, str], dict[str, float]]) -> str:
    columns = ("jobs", "gpu_hours", "cpu_hours", "longest", "memory", "disk")
    row = "{:<12}{:<20}" + "{:>11,.0f}" * 3 + "{:>12,.1f}" + "{:>13,.0f}" * 2
    heads = ("stage", "rule", "jobs", "GPU-hours", "CPU-hours", "longest, h", "memory, GB", "disk, GB")
    lines = [("{:<12}{:<20}" + "{:>11}" * 3 + "{:>12}" + "{:>13}" * 2).format(*heads)]
    order = [*STAGES, "outputs"]
    for stage, rule in sorted(found, key=lambda key: order.index(key[0])):
        lines.append(row.format(stage, rule, *(found[stage, rule][column] for column in columns)))
    whole = [(max if column in ("longest", "memory") else sum)(c[column] for c in found.values()) for column in columns]
    return "\n".join([*lines, row.format("all", "", *whole)])


if __name__ == "__main__":
    command = [sys.executable, "-m", "snakemake", "--dry-run", *sys.argv[1:]]
    run = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True)
    if run.returncode:
        sys.exit(run.stderr)
    planned = jobs((run.stdout + run.stderr).splitlines())
    print(table(costs([job for job in planned if job.rule != "all"])) if planned else "Nothing to be done.")
