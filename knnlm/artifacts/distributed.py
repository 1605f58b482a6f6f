"""The processes that torchrun starts, one a GPU; without torchrun there is one and nothing here does anything."""

import os
from collections.abc import Iterable
from datetime import timedelta

import torch
from torch import distributed

from knnlm.artifacts import devices

PATIENCE = timedelta(hours=2)  # for another training of the same model to end, or a slow evaluation


def start() -> None:
    """Join the other processes, if torchrun started this one; each process takes the GPU of its local rank."""
    if "LOCAL_RANK" not in os.environ:
        return
    device = devices.for_torch()
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=PATIENCE)


def stop() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def processes() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def barrier() -> None:
    if distributed.is_initialized():
        distributed.barrier()


def any_of(*flags: bool) -> list[bool]:
    """Whether a flag is set in any process: all processes then do the same."""
    if not distributed.is_initialized():
        return list(flags)
    summed = total(*map(float, flags))
    return [value > 0 for value in summed]


def total(*numbers: float) -> list[float]:
    """Each number summed over the processes."""
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
        if parameter.grad is None:  # this process had no batch
            parameter.grad = torch.zeros_like(parameter)
        pending.append(distributed.all_reduce(parameter.grad, async_op=True))
    for work in pending:
        work.wait()


def gather(value: object) -> list:
    """Every process's value, in the order of ranks, in each process."""
    if not distributed.is_initialized():
        return [value]
    found: list = [None] * processes()
    distributed.all_gather_object(found, value)
    return found
