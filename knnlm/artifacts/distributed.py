"""Training in several processes, one for each GPU, started by torchrun; without torchrun, calls have no effect."""

import contextlib
import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

import torch
from torch import distributed

from knnlm.artifacts import devices

NEAR_ITS_END = timedelta(minutes=15)  # of a SLURM job: a signal that comes earlier is not that of its time limit
TIMEOUT = timedelta(hours=2)  # processes wait for each other during a slow evaluation, or for another training to end


def start() -> None:
    """Connect to the other processes if torchrun started this one, and choose the GPU of its local rank."""
    if "LOCAL_RANK" not in os.environ:
        return
    device = devices.for_torch()
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=TIMEOUT)


def stop() -> None:
    """Disconnect from the other processes."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def rank() -> int:
    """The number of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def processes() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def barrier() -> None:
    """Wait until every process has reached this call."""
    if distributed.is_initialized():
        distributed.barrier()


def any_of(*flags: bool) -> list[bool]:
    """For each flag, whether it is set in any process, so that all processes take the same decision."""
    if not distributed.is_initialized():
        return list(flags)
    summed = total(*map(float, flags))
    return [value > 0 for value in summed]


def total(*numbers: float) -> list[float]:
    """Each number, summed over the processes."""
    if not distributed.is_initialized():
        return list(numbers)
    where = "cuda" if torch.cuda.is_available() else "cpu"
    return summed(torch.tensor(numbers, dtype=torch.float64, device=where)).tolist()


def summed(numbers: torch.Tensor) -> torch.Tensor:
    """A tensor on this process's device, summed in place over the processes; a GPU is not waited for."""
    if distributed.is_initialized():
        distributed.all_reduce(numbers)
    return numbers


@contextlib.contextmanager
def summing_gradients(parameters: Iterable[torch.nn.Parameter]) -> Iterator[None]:
    """Sum every parameter's gradient over the processes, in place; an update's last backward pass runs in this context.

    A gradient is sent as soon as it is complete, while the backward pass still computes those of earlier layers. All
    processes send in one order, that of the parameters from the last to the first. At the end of the context all
    gradients are summed; those of a process without a batch count as zeros.
    """
    if not distributed.is_initialized():
        yield
        return
    order = list(parameters)[::-1]
    complete: set[int] = set()
    sent: list[distributed.Work] = []

    def send(parameter: torch.nn.Parameter) -> None:
        complete.add(id(parameter))
        while len(sent) < len(order) and id(order[len(sent)]) in complete:
            sent.append(distributed.all_reduce(order[len(sent)].grad, async_op=True))

    hooks = [parameter.register_post_accumulate_grad_hook(send) for parameter in order]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    for parameter in order:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        send(parameter)
    for work in sent:
        work.wait()


def gather(value: object) -> list:
    """The values of all processes, ordered by rank; every process gets them all."""
    if not distributed.is_initialized():
        return [value]
    values: list = [None] * processes()
    distributed.all_gather_object(values, value)
    return values


def requeue() -> bool:
    """Queue this process's SLURM job again if its time limit is near; returns whether this was done.

    Called by all processes, carried out by the first. Nothing is done for a job that is being cancelled, that may not
    be requeued or that has time left. To Snakemake, a requeued job is one that has not ended: no retry is used up.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if rank() or not job:
        return False
    shown = _scontrol("show", "job", job) or ""
    end = re.search(r"\bEndTime=(\d\S+)", shown)
    if not re.search(r"\bJobState=RUNNING\b", shown) or not end:
        return False
    if datetime.fromisoformat(end[1]) - datetime.now() > NEAR_ITS_END:
        return False
    return _scontrol("requeue", job) is not None


def _scontrol(*arguments: str) -> str | None:
    """What SLURM's administration tool prints; None where it fails or is missing."""
    try:
        done = subprocess.run(["scontrol", *arguments], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
