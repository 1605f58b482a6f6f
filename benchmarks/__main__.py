"""Measure all cases, or those whose names begin with a prefix, and write their lines into benchmarks/README.md."""

import argparse
import os
import platform
import re
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import psutil

from benchmarks.harness import Case, Row, load_cases, measure

README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- written by make bench -->", "<!-- end -->"
HEAD = "| case | what | beside | ours | other | ratio (least to most) | wanted | peak memory, ours / other | note |"
VERSIONED = ("torch", "numpy", "numba", "faiss-cpu", "faiss-gpu", "sentencepiece", "tokenizers", "snakemake")


def machine() -> str:
    """The processor, its cores, the memory, and the versions of the packages measured."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    installed = {package.name.lower(): package.version for package in metadata.distributions()}
    versions = ", ".join(f"{name} {installed[name]}" for name in VERSIONED if name in installed)
    cores, memory = len(os.sched_getaffinity(0)), psutil.virtual_memory().total / 2**30
    name = cpu.group(1) if cpu else platform.machine()
    return f"{name}, {cores} cores, {memory:.0f} GiB; Python {platform.python_version()}, {versions}."


def write(cases: Mapping[str, Case], rows: Mapping[str, Row]) -> None:
    """Replace the lines of the cases just measured; lines that another machine measured are dropped."""
    before, rest = README.read_text(encoding="utf-8").split(BEGIN)
    old, after = rest.split(END)
    lines = dict(re.findall(r"^\| `([\w-]+)` (\|.*)$", old, re.MULTILINE)) if machine() in old else {}
    for name, row in rows.items():
        case = cases[name]
        cells = (case.what, case.beside, row.ours, row.other, row.ratio, case.wanted, row.memory, row.note)
        lines[name] = f"| {' | '.join(cells)} |"
    table = [HEAD, "|" + "---|" * HEAD.count(" |"), *(f"| `{name}` {lines[name]}" for name in cases if name in lines)]
    text = "\n".join([BEGIN, "", machine(), "", *table, "", END])
    README.write_text(before + text + after, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prefix", nargs="?", default="", help="of the cases' names")
    parser.add_argument("--scale", type=float, default=1.0, help="of the sizes; below 1 nothing is written")
    asked = parser.parse_args()
    cases, rows = load_cases(), {}
    with tempfile.TemporaryDirectory(prefix="knnlm-bench-") as scratch:
        for name in (name for name in cases if name.startswith(asked.prefix)):
            rows[name] = measure(name, asked.scale, Path(scratch))
            print(name, *vars(rows[name]).values(), sep=" | ", flush=True)
            if asked.scale == 1:
                write(cases, rows)


if __name__ == "__main__":
    main()
