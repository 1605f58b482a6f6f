"""Run a verb as a command: the fields of its frozen dataclass are its command-line flags."""

import dataclasses
import json
import logging
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import tyro
from tqdm import tqdm
from tqdm_loggable.auto import tqdm as loggable

from knnlm.artifacts.files import UserError, explained

C = TypeVar("C")
log = logging.getLogger("knnlm")


def run(main: Callable[[C], None], config_type: type[C], verb: str, arguments: Sequence[str]) -> None:
    """Parse `arguments` into `config_type` and run `main`; a UserError is shown as one line, with exit code 1."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    try:
        prog, options = f"knnlm {verb}", (tyro.conf.FlagCreatePairsOff,)
        config, began = tyro.cli(config_type, prog=prog, args=arguments, config=options), time.perf_counter()
        with explained(Path.cwd()):
            main(config)
        log.info("took %.2f s", time.perf_counter() - began)
    except UserError as error:
        sys.exit(f"error: {error}")


def settings(config_type: type[C], text: str, name: str) -> C:
    """A settings dataclass from its JSON text; an unknown key or a wrong value raises UserError."""
    try:
        values = json.loads(text)
        known = {field.name for field in dataclasses.fields(config_type)}  # type: ignore[arg-type]
        if unknown := set(values) - known:
            raise UserError(f"{name}: unknown key {min(unknown)!r}; allowed: {', '.join(sorted(known))}")
        return config_type(**values)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: {error}") from None


def progress(iterable: Iterable | None, description: str, total: int | None = None, unit: str = "it") -> tqdm:
    """Show progress as a bar in a terminal and as an occasional plain line in a log file."""
    return loggable(iterable, desc=description, total=total, unit=unit, unit_scale=True, mininterval=2, delay=2)
