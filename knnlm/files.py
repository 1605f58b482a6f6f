"""How artifacts are opened, written whole or not at all, and described in meta.json."""

import contextlib
import dataclasses
import hashlib
import json
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

import numpy as np

from knnlm import disk

DIGESTED_WHOLE = 64 << 20  # bytes; of a larger file only size, head, middle and tail are digested
VERSIONED = ("knnlm", "numpy", "torch", "faiss-cpu", "faiss-gpu", "numba", "sentencepiece")


class UserError(Exception):
    """A mistake that the user can mend: shown as one line, without a traceback, exit code 1."""


@contextlib.contextmanager
def atomic(out: Path, directory: bool = False) -> Iterator[Path]:
    """Yield a temporary path that becomes `out` on success and vanishes on failure, or at the next run if killed.

    Raises UserError where the disk is full, read-only or failing.
    """
    out = Path(out)
    with explained(out), disk.temporary(out) as folder, explained(out, folder):
        tmp = folder / out.name
        if directory:
            tmp.mkdir()
        yield tmp
        disk.replace(tmp, out)


@contextlib.contextmanager
def explained(out: Path, tmp: Path | None = None) -> Iterator[None]:
    """Errors of the disk while `out` is written (so far into `tmp`) become UserErrors."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # C++ and Rust libraries have their own
        if reason := disk.explain(error, Path(out), tmp):
            raise UserError(reason) from error
        raise


def write_text(out: Path, text: str) -> None:
    with atomic(out) as tmp:
        tmp.write_text(text, encoding="utf-8")


def write_json(out: Path, value: object) -> None:
    write_text(out, json.dumps(value, indent=1, sort_keys=True, default=_jsonable) + "\n")


def read_json(path: Path) -> dict:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the stage that makes it") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); delete it and run its stage again") from None


def save_array(out: Path, array: np.ndarray) -> None:
    with atomic(out) as tmp:
        create_array(tmp, array.shape, array.dtype.name)[...] = array


def open_array(path: Path, dtype: str | None = None, ndim: int | None = None) -> np.ndarray:
    """Memory-map a .npy file read-only; its shape and dtype come from the file.

    `dtype` is a NumPy kind or name ("float16", "integer", "floating"); a mismatch raises UserError.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the stage that makes it") from None
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path}: not a whole .npy array ({error}); delete it and run its stage again") from None
    if dtype and not np.issubdtype(array.dtype, getattr(np, dtype)):
        raise UserError(f"{path}: found {array.dtype}, expected {dtype}")
    if ndim is not None and array.ndim != ndim:
        raise UserError(f"{path}: found shape {array.shape}, expected {ndim} dimensions")
    return array


def create_array(path: Path, shape: tuple[int, ...], dtype: str) -> np.memmap:
    """A new memory-mapped .npy of known size, its blocks reserved; raises UserError when the disk cannot hold it."""
    path, needed = Path(path), int(np.prod(shape)) * np.dtype(dtype).itemsize
    check_room(path, needed)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    try:
        disk.reserve(path)
    except OSError:
        raise UserError(disk.too_small(path, needed)) from None
    return array


def check_room(out: Path, needed: int) -> None:
    """Raise UserError unless `needed` bytes are free where `out` will be."""
    if needed > disk.free(Path(out)):
        raise UserError(disk.too_small(Path(out), needed))


def digest(path: Path) -> str:
    """SHA-256 of a file, or for a large one of its size and three samples; of an artifact, its meta.json."""
    path = Path(path)
    if path.is_dir():
        path = path / "meta.json"
    sha, size = hashlib.sha256(), path.stat().st_size
    with path.open("rb") as file:
        if size <= DIGESTED_WHOLE:
            while block := file.read(1 << 20):
                sha.update(block)
        else:
            sha.update(str(size).encode())
            for start in (0, size // 2, size - (1 << 20)):
                file.seek(start)
                sha.update(file.read(1 << 20))
    return sha.hexdigest()


def write_meta(directory: Path, stage: str, config: object, inputs: Mapping[str, Path], **facts: object) -> None:
    """Describe an artifact directory: its stage, settings, what it was made from, its files, versions."""
    directory = Path(directory)
    outputs = {}
    for path in sorted(p for p in directory.rglob("*") if p.is_file() and p.name != "meta.json"):
        entry: dict = {"bytes": path.stat().st_size, "sha256": digest(path)}
        if path.suffix == ".npy":
            array = np.load(path, mmap_mode="r")
            entry |= {"shape": list(array.shape), "dtype": str(array.dtype)}
        outputs[str(path.relative_to(directory))] = entry
    write_json(
        directory / "meta.json",
        {
            "stage": stage,
            "config": config,
            "inputs": {name: {"path": str(path), "sha256": digest(path)} for name, path in inputs.items()},
            "outputs": outputs,
            "versions": _versions(),
            "commit": _commit(),
            **facts,
        },
    )


@cache
def _versions() -> dict[str, str]:
    found = {}
    for name in VERSIONED:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


@cache
def _commit() -> str | None:
    root = Path(__file__).parent
    try:
        run = subprocess.run(["git", "-C", root, "describe", "--always", "--dirty"], capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return run.stdout.strip() or None


def _jsonable(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (np.integer, np.floating)):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"cannot write {type(value).__name__} as JSON")
