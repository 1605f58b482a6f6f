"""Run the GPU's tests, then measure each step that uses a GPU; write rates for workflow/plan.py, in 20 minutes at most.

    python -m benchmarks.gpu            into results/gpu
    python -m benchmarks.gpu --reduced  tiny sizes, into results/gpu-reduced; without a GPU always so

rates.json has the rates by the names of workflow/rates.yaml, measured.json all that was measured, and rates.md the same
to read. They are written again after each part. A part runs in a process of its own with a time limit, and its output
is in PART.log: if it crashes, or its GPU has too little memory, the others go on. The first GPU that
CUDA_VISIBLE_DEVICES names is used, and no other. Models and indexes of 4 GB lie in the folder for temporary files
(TMPDIR) meanwhile, made-up keys of 5 GB in memory. An error or a wrong result is reported at the end, with status 1.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.gpu import part, written
from knnlm.artifacts import files

MINUTES = 19  # for all parts together
SHORTEST = 10  # seconds: with less time left, a part is not begun


class Part(NamedTuple):
    """A function of (sizes, results, scratch folder) that measures something in a process of its own."""

    module: str
    limit: int  # seconds
    what: str


PARTS = {
    "machine": Part("first", 180, "What computed."),
    "tests": Part("first", 360, "`tests/test_gpu.py`: the GPU gives the CPU's results."),
    "training": Part(
        "models",
        240,
        "Whole updates of the `wikitext` model of config/paper.yaml on one GPU, without an all-reduce: gradients of "
        "all batches of an update, clipped, and the weights changed.",
    ),
    "extraction": Part(
        "models",
        180,
        "The model's forward pass over datastore windows, with keys as float16 in the machine's memory, and what half "
        "precision changes in keys and log-probabilities. The weights are random.",
    ),
    "pretrained": Part(
        "models", 60, "The same for the architecture of GPT-2 as `transformers` runs it, windows of 1,024 tokens."
    ),
    "indexing": Part(
        "indexes",
        240,
        "The paper's index, trained with seeds 1, 2 and 1 again, filled with made-up keys, and searched. Recall is the "
        f"share of the true neighbors that is found, which is small in {part.CENTERS:,} round clusters.",
    ),
    "reranking": Part(
        "datastores", 120, "Exact distances to 1,024 keys at random places; the keys are copied to the GPU first."
    ),
    "streaming": Part("indexes", 240, "`knnlm extract --index`, from loading the model to the written index."),
    "resuming": Part(
        "models",
        180,
        f"A deterministic training of {part.VOCAB:,} words and fewer layers by torchrun, with NCCL on a GPU: once as a "
        "whole, and once stopped by SIGTERM and resumed.",
    ),
}


def run(name: str, limit: float, out: Path, scratch: Path, reduced: bool) -> dict:
    """Run a part in a process of its own; returns what it measured, even if it did not come to its end."""
    result, began, failure = scratch / f"{name}.json", time.monotonic(), None
    (scratch / name).mkdir()
    command = [sys.executable, "-m", "benchmarks.gpu", "--part", name, "--out", str(result)]
    command += ["--scratch", str(scratch / name), *["--reduced"] * reduced]
    with (out / f"{name}.log").open("w", encoding="utf-8") as log:
        child = subprocess.Popen(command, cwd=part.ROOT, env=environment(), stdout=log, stderr=log)
        try:
            if status := child.wait(limit):
                failure = f"ended with status {status}: {last_line(log.name)} (all of its output: {log.name})"
        except subprocess.TimeoutExpired:
            failure = f"not finished after {limit:.0f} seconds"
        finally:
            end(child)
    found = files.read_json(result) if result.exists() else {}
    if failure:
        found.setdefault("failures", []).append({"what": failure})
    return found | {"seconds": time.monotonic() - began}


def last_line(path: str) -> str:
    lines = Path(path).read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "without a word")


def end(child: subprocess.Popen) -> None:
    """Kill a process that still runs, and all that it started."""
    if child.poll() is None:
        for process in (*psutil.Process(child.pid).children(recursive=True), psutil.Process(child.pid)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        child.wait()


def environment() -> dict[str, str]:
    """One GPU, and all cores unless OMP_NUM_THREADS says otherwise; no job of a workflow asked for anything."""
    kept = {name: value for name, value in os.environ.items() if name != "KNNLM_GPUS"}
    threads = kept.get("OMP_NUM_THREADS") or str(len(os.sched_getaffinity(0)))
    gpu = kept.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    python_path = os.pathsep.join(filter(None, (str(part.ROOT), kept.get("PYTHONPATH"))))
    numbers = {"OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": gpu}
    return kept | numbers | {"PYTHONPATH": python_path}


def write(out: Path, parts: dict[str, dict], reduced: bool) -> None:
    files.write_json(out / "measured.json", {"reduced": reduced, "parts": parts})
    files.write_json(out / "rates.json", written.rates(parts))
    descriptions = {name: known.what for name, known in PARTS.items()}
    folder = out.relative_to(part.ROOT) if out.is_relative_to(part.ROOT) else out
    files.write_text(out / "rates.md", written.markdown(parts, descriptions, reduced, folder))


def measure(out: Path | None, reduced: bool) -> list[str]:
    """Run all parts; returns what failed."""
    deadline, parts = time.monotonic() + 60 * MINUTES, {}
    with tempfile.TemporaryDirectory(prefix="knnlm-gpu-") as scratch:
        machine = run("machine", PARTS["machine"].limit, Path(scratch), Path(scratch), reduced)
        reduced |= announced(machine)
        out = out or part.ROOT / "results" / ("gpu-reduced" if reduced else "gpu")
        out.mkdir(parents=True, exist_ok=True)
        for name, known in PARTS.items():
            limit = min(known.limit, deadline - time.monotonic())
            if name == "machine":
                parts[name] = machine
            elif limit < SHORTEST:
                parts[name] = {"failures": [{"what": f"left out: {MINUTES} minutes are over"}]}
            else:
                print(f"{name}, {limit:.0f} seconds at most …", flush=True)
                parts[name] = run(name, limit, out, Path(scratch), reduced)
            for failure in parts[name].get("failures", []):
                print(f"  FAILED: {failure['what']}", flush=True)
            write(out, parts, reduced)
    print(f"written: {out}/rates.json, measured.json, rates.md")
    return [f"{name}: {one['what']}" for name, found in parts.items() for one in found.get("failures", [])]


def announced(machine: dict) -> bool:
    """Print which GPU will be measured; returns whether there is none, so that the sizes must be reduced."""
    if not machine.get("gpu"):
        print(f"  PyTorch sees no GPU ({machine.get('torch')}; nvidia-smi: {machine.get('driver')}).")
        print("  The parts run on the CPU in tiny sizes: that shows whether they work, not how fast.", flush=True)
        return True
    print(f"  {machine['gpu']}; {machine['driver']}")
    if not machine.get("faiss_gpus"):
        print(f"  FAISS sees no GPU ({machine.get('faiss')}): indexes are measured on the CPU.")
        print("  `make FAISS=gpu .venv/ready` installs FAISS for GPUs.", flush=True)
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for the results")
    parser.add_argument("--reduced", action="store_true", help="tiny sizes")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)  # the next two are for the processes of parts
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.part:
        sizes = part.reduced() if asked.reduced else part.full()
        function = getattr(import_module(f"benchmarks.gpu.{PARTS[asked.part].module}"), asked.part)
        function(sizes, part.Results(asked.out), asked.scratch)
    elif failures := measure(asked.out, asked.reduced):
        sys.exit("\n".join(["failed:", *failures]))


if __name__ == "__main__":
    main()
