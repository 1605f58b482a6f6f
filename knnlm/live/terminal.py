"""What query and generate share: prompts from a flag or line by line, answers as JSON, and the number of threads."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator

import numba
import numpy as np
import torch

from knnlm.datastores import ann

SMALL = 50_000_000  # parameters


def prompts(given: str | None) -> Iterator[str]:
    """The prompt of the flag; without it, or for "-", each line of standard input that is not empty.

    Someone who types gets a sign for each line, on standard error, so that answers can be redirected.
    """
    if given not in (None, "-"):
        yield given
        return
    typed = sys.stdin.isatty()
    if typed:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  -- input() then has a history and editing
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            if typed:
                print("> ", end="", file=sys.stderr, flush=True)
            if line := input().strip():
                yield line


def one_thread_if_small(lm: torch.nn.Module) -> None:
    """Compute with one thread where the model is small, unless OMP_NUM_THREADS says how many.

    A word costs a few hundred products of a matrix and one vector. In a small model each takes microseconds, less than
    threads need to meet after it; and where another program has one of the cores, all wait each time until it is given
    back: a text of 60 words took 17 s with two threads and 1.9 s with one. Larger models gain from every core.
    """
    if "OMP_NUM_THREADS" in os.environ or sum(weight.numel() for weight in lm.parameters()) > SMALL:
        return
    torch.set_num_threads(1)
    ann.use_threads(1)
    numba.set_num_threads(1)


def show_json(answer: dict) -> None:
    """One line of JSON on standard output, at once."""
    print(json.dumps(answer, ensure_ascii=False, allow_nan=False), flush=True)


def nats(probability: float) -> float | None:
    """A natural-log probability for JSON, which has no minus infinity: null for probability 0."""
    return float(np.log(probability)) if probability > 0 else None
