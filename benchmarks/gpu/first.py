"""The first parts: which machine this is, and the tests that compare a GPU's results with a CPU's."""

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import psutil
import torch

from benchmarks.gpu.part import ROOT, Results, Sizes, on_gpu
from knnlm.artifacts import devices


def machine(sizes: Sizes, results: Results, scratch: Path) -> None:
    """The GPU, its driver, and the builds of PyTorch and FAISS."""
    results.put("driver", devices.driver())
    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    results.put("torch", f"{torch.__version__}, {cuda}")
    results.put("gpu", torch.cuda.get_device_name(0) if on_gpu() else None)
    if on_gpu():
        results.put("gpu_memory_gb", torch.cuda.get_device_properties(0).total_memory / 1e9)
    results.put("cores", int(os.environ["OMP_NUM_THREADS"]))
    results.put("memory_gb", psutil.virtual_memory().total / 1e9)
    try:
        from knnlm.datastores import ann
    except ImportError as error:
        results.put("faiss", f"cannot be imported: {error}")
        results.put("faiss_gpus", 0)
        return
    results.put("faiss", f"{ann.faiss.__version__}, {ann.faiss.get_compile_options().strip()}")
    results.put("faiss_gpus", ann.gpus(needed=False))


def tests(sizes: Sizes, results: Results, scratch: Path) -> None:
    """tests/test_gpu.py; each test is counted when it ends."""
    command = [sys.executable, "-m", "pytest", "-vv", "-rfEs", "--color=no", "tests/test_gpu.py"]
    run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    counts: Counter[str] = Counter()
    for line in run.stdout or ():
        print(line, end="", flush=True)
        if match := re.match(r"(tests/\S+::.*) (PASSED|FAILED|ERROR|SKIPPED)\b", line):
            name, outcome = match.groups()
            counts[outcome.lower()] += 1
            results.put("counts", counts)
            if outcome in ("FAILED", "ERROR"):
                results.fail(name)
    if run.wait() and not results.found.get("failures"):
        results.fail(f"pytest ended with status {run.returncode}")
