"""Run a verb as a command: the fields of its frozen dataclass are its command-line flags."""

import json
import logging
import os
import select
import sys
import time
from collections.abc import Callable, Iterable, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import tyro
from tqdm import tqdm

from knnlm.artifacts.files import UserError, explained

if TYPE_CHECKING:
    from knnlm.settings import Settings

C = TypeVar("C")
S = TypeVar("S", bound="Settings")
log = logging.getLogger("knnlm")
KINDS: dict[type, str] = {dict: "an object of JSON, {…}", list: "a list of JSON, […]"}


def run(main: Callable[[C], None], config_type: type[C], verb: str, arguments: Sequence[str]) -> None:
    """Parse `arguments` into `config_type` and run `main`; a UserError is shown as one line, with exit code 1."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    try:
        prog, options = f"knnlm {verb}", (tyro.conf.FlagCreatePairsOff,)
        config, began = tyro.cli(config_type, prog=prog, args=arguments, config=options), time.perf_counter()
        if (seed := getattr(config, "seed", None) or 0) < 0:
            raise UserError(f"--seed: found {seed}, expected a number from 0")
        with explained(Path.cwd()):
            main(config)
            sys.stdout.flush()
        log.info("took %.2f s", time.perf_counter() - began)
    except UserError as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:
        if not _is_unread():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)  # as a shell reports it
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)  # as a shell reports an end by Ctrl-C


def _is_unread() -> bool:
    """Whether what reads standard output has read enough, as `head`."""
    pipe = select.poll()
    pipe.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in pipe.poll(0))


def settings(model: type[S], text: str, name: str) -> S:
    """Settings from their JSON text; a wrong key or value raises UserError, whose line begins with `name`."""
    return checked(model, parsed(text, name, object), name)


def parsed(text: str, name: str, kind: type = dict) -> Any:
    """A value of a kind from its JSON text; anything else raises UserError, whose line begins with `name`."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name}: found {text!r}, expected JSON ({error})") from None
    if not isinstance(value, kind):
        raise UserError(f"{name}: found {text!r}, expected {KINDS[kind]}")
    return value


def checked(model: type[S], value: object, name: str) -> S:
    """Settings from nested dicts and lists; raises UserError as `settings` does."""
    from pydantic import ValidationError  # a tenth of a second, which commands without settings save

    from knnlm.settings import explain

    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise UserError(f"{name}: {explain(error, model)}") from None


class Lines(tqdm):
    """Progress for a log file: a line every ten seconds, and one at the end of what took more than two."""

    EVERY, SHORT = 10, 2  # seconds
    disable: bool

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        if self.n != self.total:  # the last line says it
            log.info("%s", line(self.format_dict))

    def close(self) -> None:
        if not self.disable and self.format_dict["elapsed"] > self.SHORT:
            log.info("%s", line(self.format_dict, ended=True))
        self.disable = True


def line(state: dict, ended: bool = False) -> str:
    """One line about a tqdm's `format_dict`: "keys of shard 0: 854k of 2.37M tokens (36%), 30.9k/s, 00:49 left"."""
    done, total, elapsed, unit = state["n"], state["total"], state["elapsed"], state["unit"].strip()
    whole = f" of {_short(total)}" if total and (done != total or not ended) else ""
    part = f" ({done / total:.0%})" if whole else ""
    parts = [f"{state['prefix']}: {_short(done)}{whole} {unit}{'s' * (done != 1 or bool(whole))}{part}"]
    rate = (done - state["initial"]) / elapsed if ended and elapsed else state["rate"]
    if ended:
        parts[0] += f" in {tqdm.format_interval(elapsed)}"
    if rate:
        parts.append(f"{_short(rate)}/s" if rate >= 1 else f"{1 / rate:.3g} s a {unit}")
    if rate and total and not ended:
        parts.append(f"{tqdm.format_interval(max(0, total - done) / rate)} left")
    return ", ".join(filter(None, (*parts, state["postfix"])))


def _short(number: float) -> str:
    """A count with a prefix, as in 412k; below a thousand as it is, with a digit where it is a small rate."""
    if number < 1000:
        return f"{number:.1f}" if number < 10 and number != int(number) else f"{number:.0f}"
    return tqdm.format_sizeof(number)


def progress(
    iterable: Iterable | None, description: str, total: int | None = None, unit: str = "step", done: int = 0
) -> tqdm:
    """Show progress as a bar in a terminal, and in a log file as a line now and then; `done` were done before."""
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    shown = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    bar, every = (tqdm, 2) if shown else (Lines, Lines.EVERY)
    scaled = total is None or total >= 1000
    shape = {"unit": f" {unit}", "unit_scale": scaled}
    return bar(iterable, description, total, initial=done, mininterval=every, miniters=1, delay=2, **shape)
