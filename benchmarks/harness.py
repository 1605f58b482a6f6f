"""Measure one case: compare both answers, then time both sides alternately, then take each side's peak memory.

A case function builds its inputs under a scratch folder and returns its `Sides`, or measures by itself and returns a
`Row`. Every case runs in its own process. Each side's peak memory is measured in one more process that runs only it.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path

import psutil

GROUPS = ("datastores", "scores", "models", "corpora", "workflow", "artifacts")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
REPEATS = 5
SAMPLED = 0.003  # seconds between two readings of a process's memory


@dataclass(frozen=True)
class Row:
    """One line of the table, as text."""

    ours: str
    other: str
    ratio: str
    memory: str
    note: str = ""


@dataclass(frozen=True)
class Sides:
    """Two ways to compute one answer."""

    ours: Callable[[], object]
    other: Callable[[], object]
    same: Callable[[object, object], str | None]
    """raises an error unless both answers agree; may return a note for the table"""
    work: float
    unit: str
    """what each run processes: `work` of these (an empty unit: seconds are printed, not a rate)"""
    repeats: int = REPEATS
    overhead: bool = False
    """the ratio is our extra time relative to the other's, instead of the other's time divided by ours"""


@dataclass(frozen=True)
class Case:
    what: str
    beside: str
    wanted: str
    make: Callable[[Path, float], Sides | Row]


CASES: dict[str, Case] = {}


def case(name: str, what: str, beside: str, wanted: str) -> Callable:
    """Register a function of (scratch folder, scale ≤ 1 of the sizes) under `name`."""

    def register(make: Callable[[Path, float], Sides | Row]) -> Callable:
        CASES[name] = Case(what, beside, wanted, make)
        return make

    return register


def load_cases() -> dict[str, Case]:
    for group in GROUPS:
        import_module(f"benchmarks.{group}")
    return CASES


def seconds(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def timed(sides: Sides) -> dict[str, str]:
    """Columns `ours`, `other`, `ratio` and `note`; both sides have run once, for their answers, before any is timed."""
    note = sides.same(sides.ours(), sides.other()) or ""
    pairs = [(seconds(sides.ours), seconds(sides.other)) for _ in range(sides.repeats)]
    return columns(sides, pairs) | {"note": note}


def columns(sides: Sides, pairs: Sequence[tuple[float, float]]) -> dict[str, str]:
    """Columns `ours`, `other` and `ratio` of pairs of seconds (ours, other): those of the pair with the median ratio.

    Medians of each column by itself would come from different pairs, and the rates would contradict the ratio.
    """

    def ratio(pair: tuple[float, float]) -> float:
        ours, other = pair
        return ours / other - 1 if sides.overhead else other / ours

    ordered = sorted(pairs, key=ratio)
    median = ordered[(len(ordered) - 1) // 2]
    form = "{:+.0%}" if sides.overhead else "{:.2f}×"
    middle, low, high = (form.format(ratio(pair)) for pair in (median, ordered[0], ordered[-1]))
    ours, other = (rate(sides, took) for took in median)
    return {"ours": ours, "other": other, "ratio": f"**{middle}** ({low} to {high})"}


def rate(sides: Sides, took: float) -> str:
    return f"{took:.3g} s" if not sides.unit else f"{sides.work / took:,.0f} {sides.unit}/s"


def peak(name: str, side: str, scratch: Path, scale: float) -> float:
    """Peak anonymous memory, MB above the inputs', of a fresh process (with its children) that runs one side."""
    child = subprocess.Popen(command(name, side, scratch, scale), stdout=subprocess.PIPE, text=True, env=environment())
    assert child.stdout.readline() == "ready\n", f"{name}: its {side} failed"
    before = highest = anonymous(child.pid)
    child.stdout.close()
    while child.poll() is None:
        highest = max(highest, anonymous(child.pid))
        time.sleep(SAMPLED)
    assert child.returncode == 0, f"{name}: its {side} failed"
    return (highest - before) / 1e6


def anonymous(pid: int) -> int:
    """Bytes of anonymous memory (not backed by a file) of a process and its children."""
    total = 0
    with contextlib.suppress(psutil.Error, OSError):
        for process in (parent := psutil.Process(pid), *parent.children(recursive=True)):
            status = Path(f"/proc/{process.pid}/status").read_text()
            total += 1024 * sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))
    return total


def command(name: str, side: str, scratch: Path, scale: float) -> list[str]:
    return [sys.executable, "-m", "benchmarks.harness", name, side, str(scratch), str(scale)]


def environment() -> dict[str, str]:
    """The environment of both sides: all cores, and the allocator's settings of the workflow."""
    kept = {"MALLOC_MMAP_THRESHOLD_": 1 << 32, "MALLOC_TRIM_THRESHOLD_": 1 << 32, "MALLOC_TOP_PAD_": 1 << 28}
    threads = {"OMP_NUM_THREADS": len(os.sched_getaffinity(0))}
    return os.environ | {name: str(value) for name, value in (kept | threads).items()}


def measure(name: str, scale: float, scratch: Path) -> Row:
    """The case's line. Its inputs stay in the scratch folder, so that later cases of its group can use them."""
    asked = command(name, "time", scratch, scale)
    run = subprocess.run(asked, stdout=subprocess.PIPE, text=True, env=environment(), check=True)
    columns = json.loads(run.stdout.splitlines()[-1])
    if "memory" not in columns:
        ours, other = (peak(name, side, scratch, scale) for side in ("ours", "other"))
        columns["memory"] = f"{ours:,.0f} / {other:,.0f} MB"
    return Row(**columns)


def main() -> None:
    """Run in a case's own process: time both sides, or print `ready` once the inputs exist and run one side."""
    parser = argparse.ArgumentParser()
    for name, kind in (("name", str), ("side", str), ("scratch", Path), ("scale", float)):
        parser.add_argument(name, type=kind)
    asked = parser.parse_args()
    made = load_cases()[asked.name].make(asked.scratch, asked.scale)
    if asked.side == "time":
        print(json.dumps(asdict(made) if isinstance(made, Row) else timed(made)))
    else:
        print("ready", flush=True)
        getattr(made, asked.side)()


if __name__ == "__main__":
    from benchmarks import harness  # the module that the cases register with, which is not __main__

    harness.main()
