"""Training in several processes, one for each GPU, started by torchrun; without torchrun, calls have no effect."""

import os
from collections.abc import Iterable
from datetime import timedelta

import torch
from torch import distributed

from knnlm.artifacts import devices

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
    summed = torch.tensor(numbers, dtype=torch.float64, device=where)
    distributed.all_reduce(summed)
    return summed.tolist()


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Sum every parameter's gradient over the processes, in place."""
    if not distributed.is_initialized():
        return
    pending = []
    for parameter in parameters:
        if parameter.grad is None:  # this process had no batch in this update
            parameter.grad = torch.zeros_like(parameter)
        pending.append(distributed.all_reduce(parameter.grad, async_op=True))
    for work in pending:
        work.wait()


def gather(value: object) -> list:
    """The values of all processes, ordered by rank; every process gets them all."""
    if not distributed.is_initialized():
        return [value]
    values: list = [None] * processes()
    distributed.all_gather_object(values, value)
    return values
