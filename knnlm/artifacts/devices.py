"""The GPUs that a job asked for: whether a library sees them, and what descriptions record about them.

`workflow/launch` sets KNNLM_GPUS to the number of GPUs that the job asked for on this machine. A job that asked for
GPUs and sees none would run on the CPU for days, so it stops instead. A command typed by hand (KNNLM_GPUS is not set)
uses what there is. PyTorch and FAISS come in builds of their own, so each is asked what it sees.
"""

import os
import platform
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from knnlm.artifacts.files import UserError

ASKED = "KNNLM_GPUS"
QUERY = ("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")


def cores() -> int:
    """How many threads or processes this job may use: its rule's, which Snakemake hands down; else all cores.

    OpenMP also takes a list, whose first number is that of the outermost level.
    """
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isdigit() and int(first) else os.cpu_count() or 1


def asked() -> int | None:
    """The number of GPUs that the job asked for, or None for a command typed by hand."""
    number = os.environ.get(ASKED, "")
    return int(number) if number.isdigit() else None


def for_torch() -> str:
    """The device for PyTorch, "cuda" or "cpu"; where there can be no GPU, PyTorch is not imported.

    Raises UserError where the job asked for more GPUs than PyTorch sees.
    """
    if asked() == 0 or not (asked() or "torch" in sys.modules or shutil.which(QUERY[0])):
        return "cpu"
    import torch

    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    build = f"{torch.__version__}, built for CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    fix = "run it where there are GPUs with a driver for this CUDA, or install PyTorch for GPUs"
    return "cuda" if usable(seen, "PyTorch", build, fix) else "cpu"


def usable(seen: int, library: str, build: str, fix: str) -> int:
    """How many GPUs a library may use, of those that it sees.

    Raises UserError where the job asked for more; the message names the library's build and the driver.
    """
    wanted = asked()
    if wanted is not None and seen < wanted:
        raise UserError(
            f"the job asked for {wanted} GPU{'s' * (wanted > 1)}, {library} sees {seen or 'none'} ({library}: {build}; "
            f"nvidia-smi: {driver()}): {fix}; with KNNLM_ALLOW_CPU=1 in their environment, jobs do without"
        )
    return 0 if wanted == 0 else seen


def free_memory(device: str) -> int:
    """Bytes that a GPU has free."""
    import torch

    return torch.cuda.mem_get_info(device)[0]


@cache
def driver() -> str:
    """The GPUs and their driver, or the reason why there are none, in nvidia-smi's words."""
    try:
        run = subprocess.run(QUERY, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        return "command not found"
    except subprocess.TimeoutExpired:
        return "no answer within a minute"
    lines = dict.fromkeys(line.strip() for line in (run.stdout or run.stderr).splitlines() if line.strip())
    return "; ".join(lines) or "no answer"


@cache
def processor() -> str:
    """The processor's name and the number of its cores, as "Intel(R) Xeon(R) Processor, 2 cores"."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = dict.fromkeys(" ".join(line.partition(":")[2].split()) for line in lines if line.startswith("model name"))
    return f"{', '.join(names) or platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def builds() -> dict[str, str]:
    """What computed in this process: the builds of PyTorch and FAISS and, where one was used, the GPU and its driver.

    Only libraries that are already imported are asked.
    """
    found, torch, faiss = {}, sys.modules.get("torch"), sys.modules.get("faiss")
    if torch is not None:
        found["torch build"] = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    if faiss is not None:
        found["faiss build"] = faiss.get_compile_options().strip()
    if asked() or (torch is not None and torch.cuda.is_initialized()):
        found["GPU, driver"] = driver()
    return found
