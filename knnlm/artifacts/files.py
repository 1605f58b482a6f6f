"""Writing files and folders completely or not at all; text and JSON files."""

import contextlib
import dataclasses
import json
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import numpy as np

from knnlm.artifacts import disk

MARK = ".snakemake_timestamp"  # which Snakemake puts into a folder that is an output


class UserError(Exception):
    """A mistake that the user can correct: shown as one line, without a traceback, with exit code 1."""


class Unfinished(UserError):
    """Work that ended early, at a signal or on a failing disk: what it has kept is of use when it is run again."""


@contextlib.contextmanager
def atomic(out: Path, directory: bool = False, joined: Iterable[Path] = ()) -> Iterator[Path]:
    """Yield a temporary path that becomes `out` on success and is removed on failure.

    Folders inside `out` whose content is `joined` in the new one go with the old one. If the process is killed, the
    next writer of `out` removes what it left. Raises UserError where the disk is full, read-only or failing, and where
    `out` is something else than an earlier version of itself.
    """
    parts = {Path(path).name for path in joined}
    out = place(out, directory, parts)
    with explained(out), disk.temporary(out) as folder, explained(out, folder):
        tmp = folder / out.name
        if directory:
            tmp.mkdir()
        yield tmp
        replace(tmp, out, parts)


def place(out: Path, directory: bool, parts: Collection[str] = ()) -> Path:
    """Where an output will be: its path, or the folder that a link at this path points to.

    Raises UserError for a folder where a file will be, a file where a folder will be, and a folder that has folders in
    it, other than `parts`: no output has any.
    """
    out = Path(out)
    with explained(out):
        if directory and out.is_symlink():
            out = out.resolve()
        if out.exists() and out.is_dir() != directory:
            found, expected = ("a file", "a folder") if directory else ("a folder", "a file")
            raise UserError(f"{out}: found {found}, expected {expected} or nothing there: write elsewhere")
        if directory and out.exists():
            _refuse(out, (path.name for path in out.iterdir() if path.is_dir() and path.name not in parts))
    return out


def replace(tmp: Path, out: Path, parts: Collection[str] = ()) -> None:
    """Move what was made to `out`, in place of what an earlier run made there.

    Raises UserError where that folder has a file that is neither named in its description nor made anew. Arrays are no
    reason: their names depend on settings, and Snakemake deletes a description before it runs a job again.
    """
    if out.is_dir():
        names = {path.name for path in tmp.iterdir()} | {"meta.json", MARK, *parts}
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            names |= json.loads((out / "meta.json").read_text(encoding="utf-8"))["outputs"].keys()
        _refuse(out, (path.name for path in out.iterdir() if path.name not in names and path.suffix != ".npy"))
    disk.replace(tmp, out)


def _refuse(out: Path, others: Iterable[str]) -> None:
    if other := min(others, default=None):
        raise UserError(
            f"{out}: found {other} in it, which is not of this output and would be lost: write elsewhere, or move it"
        )


@contextlib.contextmanager
def explained(out: Path, tmp: Path | None = None) -> Iterator[None]:
    """Turn disk errors that occur while `out` is written (through `tmp`, if given) into UserErrors of one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # libraries in C++ and Rust raise exceptions of their own for a full disk
        if reason := disk.explain(error, Path(out), tmp):
            raise Unfinished(reason) from error
        raise


def check_room(out: Path, needed: int) -> None:
    """Raise UserError unless `needed` bytes are free on the disk where `out` will be written."""
    if needed > disk.free(Path(out)):
        raise UserError(disk.too_small(Path(out), needed))


def write_text(out: Path, text: str) -> None:
    """Write UTF-8 text, completely or not at all."""
    with atomic(out) as tmp:
        tmp.write_text(text, encoding="utf-8")


def write_json(out: Path, value: object) -> None:
    """Write JSON with sorted keys, completely or not at all; see `jsonable` for the types it accepts."""
    write_text(out, json.dumps(value, indent=1, sort_keys=True, default=jsonable) + "\n")


def read_json(path: Path) -> dict:
    """The content of a JSON file; raises UserError if it is missing or not valid."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the stage that makes it") from None
    except IsADirectoryError:
        raise UserError(f"{path}: found a folder, expected a JSON file") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error}); delete it and run its stage again") from None


def jsonable(value: object) -> object:
    """The `default` of json.dumps for dataclasses, paths, and NumPy numbers and arrays."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if hasattr(value, "model_dump"):  # pydantic's, which is imported by commands with settings only
        return value.model_dump(mode="json")
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (np.integer, np.floating)):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"cannot write {type(value).__name__} as JSON")
