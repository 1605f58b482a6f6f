"""How artifacts are opened, written whole or not at all, and described in meta.json."""

import contextlib
import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import xxhash

from knnlm.artifacts import disk

log = logging.getLogger("knnlm")


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
    write_text(out, json.dumps(value, indent=1, sort_keys=True, default=jsonable) + "\n")


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


def open_array(path: Path, dtype: str | None = None, ndim: int | None = None, whole: bool = True) -> np.ndarray:
    """Memory-map a .npy file read-only; its shape and dtype come from the file, its content is checked (`check`).

    `dtype` is a NumPy kind or name ("float16", "integer", "floating"); a mismatch raises UserError.
    """
    check(path, whole)
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
    """XXH3 (128 bits) of a whole file, block by block."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()


def description(path: Path) -> Path:
    """Where an artifact is described: in its directory's meta.json or, if it is one file, in FILE.meta.json."""
    path = Path(path)
    beside = path.with_name(f"{path.name}.meta.json")
    return path / "meta.json" if path.is_dir() else beside if beside.exists() else path.parent / "meta.json"


def described(path: Path) -> dict:
    """The description of an artifact or of a file in one; raises UserError where it is missing, damaged or edited."""
    if not Path(path).exists():
        raise UserError(f"{path}: no such file; run the stage that makes it")
    where = description(path)
    state = where.stat() if where.exists() else None
    return _described(where, state and (state.st_mtime_ns, state.st_ino, state.st_size))


@lru_cache(maxsize=4096)
def _described(where: Path, version: tuple | None) -> dict:
    meta = read_json(where)
    if not isinstance(meta, dict) or "digest" not in meta:
        raise UserError(f"{where}: has no digest of itself: edited, or made by an older version; run its stage again")
    if meta.pop("digest") != digest_json(meta):
        raise UserError(f"{where}: damaged or edited since it was written: run its stage again")
    return meta


def check(path: Path, whole: bool = True) -> Path:
    """The same path, after comparing the file (of a directory, each of its files) with its description.

    Raises UserError naming a file that is missing, not described, of another size or (`whole`) of other content.
    A file without any description near it is one's own, as a published index: it is taken as it is.
    """
    path = Path(path)
    if path.is_dir():
        for name in described(path)["outputs"]:
            check(path / name, whole)
        return path
    if not path.is_file():
        raise UserError(f"{path}: no such file; run the stage that makes it")
    if not (where := description(path)).exists():
        log.debug("%s: not described, taken as it is", path)
        return path
    expected, state = described(path)["outputs"].get(path.name), path.stat()
    if expected is None:
        raise UserError(f"{path}: {where} does not describe it: run its stage again")
    if state.st_size != expected["bytes"]:
        raise UserError(
            f"{path}: found {state.st_size:,} bytes, {where} says {expected['bytes']:,}: "
            "delete it and run its stage again"
        )
    if whole and _digest_of_version(path, state.st_mtime_ns, state.st_ino) != expected["digest"]:
        raise UserError(f"{path}: its content is not what {where} says: delete it and run its stage again")
    return path


@lru_cache(maxsize=4096)
def _digest_of_version(path: Path, time: int, inode: int) -> str:
    return digest(path)


def identity(path: Path) -> str:
    """What an artifact, or a file of one, is recognised by: the digest of its content, as it is described."""
    path = Path(path)
    outputs = described(path)["outputs"]
    if not path.is_dir():
        return outputs[path.name]["digest"] if path.name in outputs else digest(path)
    return content(outputs)


def content(outputs: dict) -> str:
    """The identity of an artifact with these described files."""
    return digest_json({name: entry["digest"] for name, entry in outputs.items()})


def digest_json(value: dict) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(value, sort_keys=True).encode())


def jsonable(value: object) -> object:
    """For json.dumps: settings, paths and numbers of NumPy."""
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
