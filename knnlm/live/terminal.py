"""What query and generate share: prompts from a flag or line by line, answers as JSON, color, the number of threads."""

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator

import numba
import numpy as np
import torch

from knnlm.artifacts.files import UserError
from knnlm.datastores import ann

SMALL = 50_000_000  # parameters
STYLES = {"bold": "1", "faint": "2", "lm": "36", "knn": "33"}  # of a terminal: cyan for the LM, yellow for kNN
SIGN = "> "


def prompts(given: str | None, flag: str) -> Iterator[str]:
    """The prompt of the flag; without it, or for "-", each line of standard input that is not empty.

    Someone who types gets a sign for each line, with a history of the lines and editing where Python has readline.
    Raises UserError where there is nothing but white space, or no UTF-8.
    """
    if given not in (None, "-"):
        if not given.strip():
            raise UserError(f"{flag}: empty; give the beginning of a text, or leave {flag} out to type or pipe lines")
        yield _readable(given, flag)
        return
    count, typed = 0, sys.stdin.isatty()
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # `_readable` says what is wrong
    for line in _typed(flag) if typed else sys.stdin:
        if line := _readable(line.strip(), "standard input"):
            count += 1
            yield line
    if not count and not typed:
        raise UserError(f"standard input: no line with text; give {flag} or pipe lines")


def _typed(flag: str) -> Iterator[str]:
    """Lines that someone types, until Ctrl-D or Ctrl-C."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  -- input() then has a history and editing
    print(f"Type a {flag.strip('-')} and Enter; Ctrl-D ends.", file=sys.stderr)
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            if sys.stdout.isatty():
                yield input(SIGN)
            else:  # answers are redirected
                print(SIGN, end="", file=sys.stderr, flush=True)
                yield input()
    print(file=sys.stderr)


def _readable(text: str, place: str) -> str:
    """The text; raises UserError where bytes in it are not UTF-8, which Python reads as lone surrogates."""
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise UserError(f"{place}: {text!r} is not UTF-8; save it as UTF-8")
    return text


def check_threads(asked: int | None) -> None:
    """Raise UserError for a number of threads below one."""
    if asked is not None and asked < 1:
        raise UserError(f"--threads {asked}: expected a number from 1")


def choose_threads(lm: torch.nn.Module, asked: int | None = None) -> None:
    """Compute with as many threads as are `asked` for, else as OMP_NUM_THREADS says, else with one for a small model.

    A word costs a few hundred products of a matrix and one vector. In a small model each takes microseconds, less than
    threads need to meet after it; and where another program has one of the cores, all wait each time until it is given
    back. Larger models gain from every core.
    """
    given = os.environ.get("OMP_NUM_THREADS", "")
    if asked is None and given.isdecimal():
        asked = int(given)
    if asked is None and not given and sum(weight.numel() for weight in lm.parameters()) <= SMALL:
        asked = 1
    if asked:
        torch.set_num_threads(asked)
        ann.use_threads(asked)
        numba.set_num_threads(min(asked, numba.config.NUMBA_NUM_THREADS))


def show_json(answer: dict) -> None:
    """One line of JSON on standard output, at once."""
    print(json.dumps(answer, ensure_ascii=False, allow_nan=False), flush=True)


def show_unknown(words: list[str]) -> None:
    """Say on standard error which words of a prompt are not in the vocabulary; nothing where all are."""
    if words:
        print(f"not in the vocabulary, read as unknown: {' '.join(words)}", file=sys.stderr)


def painted(text: str, style: str) -> str:
    """The text in one of `STYLES` where standard output is a terminal with color and NO_COLOR is not set."""
    colored = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb" and not os.environ.get("NO_COLOR")
    return f"\033[{STYLES[style]}m{text}\033[0m" if colored and text else text


def nats(probability: float) -> float | None:
    """A natural-log probability for JSON, which has no minus infinity: null for probability 0."""
    return float(np.log(probability)) if probability > 0 else None
