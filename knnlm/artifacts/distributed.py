"""Training in several processes, one for each GPU, started by torchrun; without torchrun, calls have no effect."""

import contextlib
import os
from collections.abc import Iterable, Iterator
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
        nccl = distributed.get_backend() == "nccl"
        distributed.barrier(device_ids=[torch.cuda.current_device()] if nccl else None)


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
