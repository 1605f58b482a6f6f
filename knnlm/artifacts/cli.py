"""Run a verb as a command: the fields of its frozen dataclass are its command-line flags."""

import json
import logging
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import tyro
from tqdm import tqdm
from tqdm_loggable.auto import tqdm as loggable

from knnlm.artifacts.files import UserError, explained

if TYPE_CHECKING:
    from knnlm.settings import Settings

C = TypeVar("C")
S = TypeVar("S", bound="Settings")
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


def settings(model: type[S], text: str, name: str) -> S:
    """Settings from their JSON text; a wrong key or value raises UserError, whose line begins with `name`."""
    try:
        return checked(model, json.loads(text), name)
    except json.JSONDecodeError as error:
        raise UserError(f"{name}: found {text!r}, expected JSON ({error})") from None


def checked(model: type[S], value: object, name: str) -> S:
    """Settings from nested dicts and lists; raises UserError as `settings` does."""
    from pydantic import ValidationError  # a tenth of a second, which commands without settings save

    from knnlm.settings import explain

    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise UserError(f"{name}: {explain(error, model)}") from None


def progress(iterable: Iterable | None, description: str, total: int | None = None, unit: str = "it") -> tqdm:
    """Show progress as a bar in a terminal and as an occasional plain line in a log file."""
    return loggable(iterable, desc=description, total=total, unit=unit, unit_scale=True, mininterval=2, delay=2)
