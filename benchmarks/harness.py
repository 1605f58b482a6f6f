"""How a case is measured: the same answer first, then ours and the other in turn; peak memory apart, side by side.

A case function builds inputs under a scratch folder and returns its `Sides`, or measures by itself and returns a `Row`.
Every case runs in a process of its own; each side's memory is that of one more process that runs this side alone.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path

import psutil

GROUPS = ("retrieval", "scores", "lm", "pipeline", "checks")
REPEATS = 5
SAMPLED = 0.003  # seconds between two looks at a process's memory


@dataclass(frozen=True)
class Row:
    """One line of the table, in words."""

    ours: str
    other: str
    ratio: str
    memory: str
    note: str = ""


@dataclass(frozen=True)
class Sides:
    """Two ways to one answer."""

    ours: Callable[[], object]
    other: Callable[[], object]
    same: Callable[[object, object], str | None]
    """raises unless both answers agree; may return a note"""
    work: float
    unit: str
    """`work` so many of `unit` in each run"""
    repeats: int = REPEATS
    overhead: bool = False
    """told as ours' extra time, not as the other's time divided by ours"""


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
    ours, other = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratios = [mine / its - 1 if sides.overhead else its / mine for mine, its in pairs]
    form = "{:+.0%}" if sides.overhead else "{:.2f}×"
    middle, low, high = (form.format(f(ratios)) for f in (statistics.median, min, max))
    columns = {"ours": rate(sides, ours), "other": rate(sides, other)}
    return columns | {"ratio": f"**{middle}** ({low} to {high})", "note": note}


def rate(sides: Sides, took: float) -> str:
    return f"{took:.3g} s" if not sides.unit else f"{sides.work / took:,.0f} {sides.unit}/s"


def peak(name: str, side: str, scratch: Path, scale: float) -> float:
    """MB of anonymous memory that a fresh process, with its children, takes to run one side beyond its inputs."""
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
    """Bytes of a process and its children that no file stands for."""
    total = 0
    with contextlib.suppress(psutil.Error, OSError):
        for process in (parent := psutil.Process(pid), *parent.children(recursive=True)):
            status = Path(f"/proc/{process.pid}/status").read_text()
            total += 1024 * sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))
    return total


def command(name: str, side: str, scratch: Path, scale: float) -> list[str]:
    return [sys.executable, "-m", "benchmarks.harness", name, side, str(scratch), str(scale)]


def environment() -> dict[str, str]:
    """All cores, and the allocator as the workflow sets it, for both sides."""
    kept = {"MALLOC_MMAP_THRESHOLD_": 1 << 32, "MALLOC_TRIM_THRESHOLD_": 1 << 32, "MALLOC_TOP_PAD_": 1 << 28}
    threads = {"OMP_NUM_THREADS": len(os.sched_getaffinity(0))}
    return os.environ | {name: str(value) for name, value in (kept | threads).items()}


def measure(name: str, scale: float, scratch: Path) -> Row:
    """The case's line; inputs are left in the scratch folder, where the next case of its group finds them."""
    asked = command(name, "time", scratch, scale)
    found = subprocess.run(asked, stdout=subprocess.PIPE, text=True, env=environment(), check=True)
    columns = json.loads(found.stdout.splitlines()[-1])
    if "memory" not in columns:
        ours, other = (peak(name, side, scratch, scale) for side in ("ours", "other"))
        columns["memory"] = f"{ours:,.0f} / {other:,.0f} MB"
    return Row(**columns)


def main() -> None:
    """In a case's own process: time both sides, or run one of them after saying that its inputs are there."""
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
