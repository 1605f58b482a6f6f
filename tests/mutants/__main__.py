"""Put deliberate errors into a room of knnlm, one at a time: do its tests notice?

    python tests/mutants --room scores [--count 150 | --all] [--module knn] [--seconds 1800]

cosmic-ray names the errors; a seeded random sample of them is tried in a copy of the repository. Each is tried in a
fork of a process that has the slow libraries loaded, the tests of the error's own module first, until a test fails.
Results are kept in .mutants/: a second run tries only errors that are new, or that no test has noticed yet.
"""

import argparse
import ast
import contextlib
import difflib
import hashlib
import importlib
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from cosmic_ray.commands import init
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_db import WorkDB, use_db
from scipy.stats import binomtest

ROOT = Path(__file__).parents[2]
KEPT = ROOT / ".mutants"
TESTS = {  # of each room, beside tests/ROOM
    "scores": ["tests/outputs/test_protocol.py"],
    "datastores": ["tests/models/test_fairseq.py"],
    "models": [],
    "outputs": [],
}
SKIPPED = ("test_memory.py",)  # takes minutes
SLOW = 30  # seconds: a file of tests that takes longer is run for the modules that it names only
# Before a fork; none of them starts a thread.
LOADED = ("faiss", "hypothesis", "matplotlib.pyplot", "numba", "scipy.optimize", "tokenizers", "torch")
MEMORY = 12 << 30  # bytes that a fork may map beyond what it has

# Errors that are none, or that fail with whatever they are given: operations on bits in place of arithmetic and others
# in place of unions; `is` for `==`, which are the same for small numbers and for words.
OPERATORS = re.compile(
    r"core/(ReplaceBinaryOperator_\w+_(BitAnd|BitOr|BitXor|LShift|RShift)|ReplaceBinaryOperator_BitOr_\w+"
    r"|ReplaceComparisonOperator_(Eq_Is|NotEq_IsNot|Is_Eq|IsNot_NotEq))$"
)
DECORATORS = ("dataclass", "njit", "cache", "lru_cache")  # that are there for speed, or to keep others from changing


class Error(NamedTuple):
    """One deliberate error: where it is, and the line before and after."""

    module: str
    line: int
    operator: str
    occurrence: int
    digest: str  # of the module without it

    @property
    def key(self) -> str:
        return f"{self.module} {self.digest} {self.operator} {self.occurrence}"

    def put(self, source: str) -> str:
        return mutate_code(source, get_operator(self.operator)(), self.occurrence)


def ranges(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Begin and end (line, column) of what is no behaviour: messages, logs, annotations and some decorators."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Raise):
            found.append(node)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            function = node.value.func
            if isinstance(function, ast.Attribute) and getattr(function.value, "id", "") == "log":
                found.append(node)
        elif isinstance(node, ast.arg | ast.AnnAssign) and node.annotation:
            found.append(node.annotation)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found += [node.returns] if getattr(node, "returns", None) else []
            found += [one for one in node.decorator_list if any(name in ast.unparse(one) for name in DECORATORS)]
    return [((node.lineno, node.col_offset - 1), (node.end_lineno, node.end_col_offset)) for node in found]


def errors(room: str, only: str | None) -> list[Error]:
    """All errors of a room's modules, or of one of them, that a test could notice."""
    paths = [path for path in sorted((ROOT / "knnlm" / room).glob("*.py")) if only in (None, path.stem)]
    with tempfile.TemporaryDirectory() as folder, use_db(f"{folder}/errors.sqlite", WorkDB.Mode.create) as database:
        init(paths, database, {})
        items = [item.mutations[0] for item in database.work_items]
    found = []
    for path in paths:
        source = path.read_text()
        apart, digest = ranges(source), hashlib.sha256(source.encode()).hexdigest()[:12]
        for item in items:
            at = item.start_pos
            if item.module_path != path or OPERATORS.match(item.operator_name):
                continue
            if not any(begin <= at <= end for begin, end in apart):
                module = str(path.relative_to(ROOT))
                found.append(Error(module, at[0], item.operator_name, item.occurrence, digest))
    return sorted(found)


class Seconds:
    """A plugin of pytest: the CPU time that the tests of each file take."""

    def __init__(self) -> None:
        self.of: dict[str, float] = defaultdict(float)
        self.before = sum(os.times()[:4])

    def pytest_runtest_logfinish(self, location: tuple[str, int | None, str]) -> None:
        now = sum(os.times()[:4])
        self.of[location[0]] += now - self.before
        self.before = now


def fork(work: Callable[[], int], cpu: float) -> tuple[int, float]:
    """The exit status of a function in a process of its own that is killed after so much CPU time, and that time.

    CPU time in place of a clock's, since the machine may have other work; ten times as long by the clock ends it too.
    """
    child = os.fork()
    if not child:
        os.setsid()
        try:
            mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY, mapped + MEMORY))
            resource.setrlimit(resource.RLIMIT_CPU, (int(cpu), int(cpu) + 1))
            os._exit(work())
        finally:
            os._exit(70)
    end = time.monotonic() + 10 * cpu + 60
    while True:
        done, status, used = os.wait4(child, os.WNOHANG)
        if done or time.monotonic() > end:
            kill(child)
            if not done:
                _, status, used = os.wait4(child, 0)
            return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime
        time.sleep(0.02)


def kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def run_tests(files: list[str], log: Path, *plugins) -> int:
    with log.open("w") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
        sys.path[:0] = [str(Path.cwd())]
        return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *files], plugins))


def ordered(module: str, seconds: dict[str, float]) -> list[str]:
    """The test files: the module's own first, then those that name it, then the others that are not slow."""
    name = Path(module).stem

    def rank(path: str) -> tuple[int, float]:
        if Path(path).stem == f"test_{name}":
            return 0, 0.0
        return 1 + (not re.search(rf"\b{name}\b", Path(path).read_text())), seconds[path]

    return [path for path in sorted(seconds, key=rank) if rank(path)[0] < 2 or seconds[path] < SLOW]


def measure(room: str, log: Path) -> tuple[dict[str, float], float]:
    """Seconds of each test file of the room, and CPU time of all; the tests must pass without an error."""
    files = [path for path in sorted(Path(f"tests/{room}").glob("test_*.py")) if path.name not in SKIPPED]
    files += [Path(path) for path in TESTS[room]]
    result = Path("seconds.json").absolute()

    def work() -> int:
        plugin = Seconds()
        status = run_tests([str(path) for path in files], log, plugin)
        result.write_text(json.dumps(plugin.of))
        return status

    status, cpu = fork(work, 3600)
    if status:
        sys.exit(f"the tests fail without an error: {log.read_text()[-3000:]}")
    return {str(path): json.loads(result.read_text()).get(str(path), 0.0) for path in files}, cpu


def changed(source: str, other: str) -> list[str]:
    """The lines that differ, as in a difference."""
    lines = difflib.unified_diff(source.splitlines(), other.splitlines(), lineterm="", n=0)
    return [line for line in lines if line[:1] in "-+" and line[:3] not in ("---", "+++")]


def attempt(error: Error, seconds: dict[str, float], cpu: float, log: Path) -> str:
    """noticed, survived or late (which counts as noticed), with the error in the copy meanwhile."""
    path = Path(error.module)
    source = path.read_text()
    files = ordered(error.module, seconds)
    try:
        path.write_text(error.put(source))
        status, _ = fork(lambda: run_tests(files, log), 30 + 3 * cpu)
    finally:
        path.write_text(source)
    return "late" if status < 0 else "noticed" if status else "survived"


def share(noticed: int, count: int) -> str:
    """As in "165 of 169 noticed, 98% (94% to 99%)": with Wilson's 95% interval."""
    if not count:
        return "none tried"
    interval = binomtest(noticed, count).proportion_ci(method="wilson")
    return f"{noticed} of {count} noticed, {noticed / count:.0%} ({interval.low:.0%} to {interval.high:.0%})"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python tests/mutants", description=__doc__.split("\n")[0])
    parser.add_argument("--room", choices=TESTS, default="scores")
    parser.add_argument("--module", help="only this one of the room, as knn")
    parser.add_argument("--count", type=int, default=150, help="errors in the sample (150)")
    parser.add_argument("--all", action="store_true", help="all errors in place of a sample: hours")
    parser.add_argument("--seed", type=int, default=1, help="of the sample (1)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no further error after so long")
    chosen = parser.parse_args()
    end = time.monotonic() + chosen.seconds

    every = errors(chosen.room, chosen.module)
    sample = random.Random(chosen.seed).sample(every, len(every) if chosen.all else min(chosen.count, len(every)))
    KEPT.mkdir(exist_ok=True)
    record = KEPT / f"{chosen.room}.jsonl"
    known = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    results = {one["key"]: one for one in known}

    os.environ.update(PYTHONDONTWRITEBYTECODE="1", OMP_NUM_THREADS="1")
    for name in LOADED:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
        pack = subprocess.run(
            ["tar", "--create", "--null", "--files-from", "-"], cwd=ROOT, input=names, check=True, capture_output=True
        )
        subprocess.run(["tar", "--extract", "--directory", folder], input=pack.stdout, check=True)
        os.chdir(folder)
        os.environ["PYTHONPATH"] = folder
        log = Path(folder) / "tests.log"
        seconds, cpu = measure(chosen.room, log)
        print(f"{len(sample)} of {len(every)} errors; the tests take {cpu:.0f} s", flush=True)
        for number, error in enumerate(sample):
            if results.get(error.key, {"result": "survived"})["result"] != "survived" or time.monotonic() > end:
                continue
            begin, source = time.monotonic(), Path(error.module).read_text()
            result = attempt(error, seconds, cpu, log)
            lines = changed(source, error.put(source))
            results[error.key] = {"key": error.key, "line": error.line, "result": result, "change": lines}
            with record.open("a") as file:
                file.write(json.dumps(results[error.key], ensure_ascii=False) + "\n")
            print(f"{number} {result} {time.monotonic() - begin:.0f} s {error.module}:{error.line}", flush=True)

    tried = [error for error in sample if error.key in results]
    of_module = defaultdict(list)
    for error in tried:
        of_module[error.module].append(results[error.key]["result"] != "survived")
        if not of_module[error.module][-1]:
            print(f"\n{error.module}:{error.line} ({error.operator.removeprefix('core/')})")
            print("\n".join(results[error.key]["change"]))
    print()
    for module, noticed in sorted(of_module.items()):
        print(f"{module}: {share(sum(noticed), len(noticed))}")
    print(f"{chosen.room}: {share(sum(map(sum, of_module.values())), len(tried))}")


if __name__ == "__main__":
    main()
