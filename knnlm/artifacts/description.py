"""meta.json, the description of an artifact: how it was made, and a digest of each of its files.

A directory is described by the meta.json in it, a single file by FILE.meta.json beside it. Files are compared with
their description whenever they are opened, so that a damaged or exchanged file is noticed before it is used.
"""

import contextlib
import hashlib
import json
import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from importlib import metadata
from pathlib import Path

import numpy as np
import xxhash

from knnlm.artifacts import archives, devices, disk, files
from knnlm.artifacts.files import UserError

log = logging.getLogger("knnlm")
VERSIONED = ("knnlm", "numpy", "torch", "faiss-cpu", "faiss-gpu", "numba", "sentencepiece")


def write_meta(
    artifact: Path,
    stage: str,
    config: object,
    inputs: Mapping[str, Path | tuple[Path, dict]],
    lineage: Mapping[str, str] | None = None,
    role: str | None = None,
    **facts: object,
) -> None:
    """Describe an artifact by its stage, settings, command, inputs, files, software versions and further `facts`.

    `lineage` holds {role: digest} of what other artifacts must share with this one to be used together with it; `role`
    is the role that this artifact has in the lineage of others (see lineage.py). An input may be given as another
    description names it (`lineage.sources`); it need not exist any more.
    """
    artifact = Path(artifact)
    folder = disk.final(artifact if artifact.is_dir() else artifact.parent)
    outputs = _outputs(artifact)
    meta = {
        "stage": stage,
        "config": config,
        "command": _command(),
        "inputs": {name: _input(source, folder) for name, source in inputs.items()},
        "outputs": outputs,
        "lineage": dict(lineage or {}) | ({role: _combined(outputs)} if role else {}),
        "versions": versions() | {"processor": devices.processor()} | devices.builds(),
        "commit": _commit(),
        **facts,
    }
    meta = json.loads(json.dumps(meta, default=files.jsonable))
    out = artifact / "meta.json" if artifact.is_dir() else artifact.with_name(f"{artifact.name}.meta.json")
    files.write_json(out, meta | {"digest": _digest_json(meta)})


def meta_path(path: Path) -> Path:
    """The meta.json of an artifact or of a file in one; a single file's own FILE.meta.json where it has one."""
    path = Path(path)
    if path.is_dir():
        return path / "meta.json"
    own = path.with_name(f"{path.name}.meta.json")
    return own if own.exists() else path.parent / "meta.json"


def is_described(path: Path) -> bool:
    """Whether a path is an artifact or a file in one, as opposed to a raw or published file."""
    meta = meta_path(path)
    return meta.exists() and _is_ours(meta, _version(meta))


def described(path: Path) -> dict:
    """The description of an artifact or of a file in one; raises UserError where it is missing, damaged or edited."""
    if not Path(path).exists():
        raise UserError(f"{path}: no such file; run the stage that makes it")
    meta = meta_path(path)
    return _read(meta, _version(meta) if meta.exists() else None)


def _version(path: Path) -> tuple[int, ...]:
    """What changes with a file."""
    state = path.stat()
    return state.st_mtime_ns, state.st_ino, state.st_size


@lru_cache(maxsize=4096)
def _is_ours(meta: Path, version: tuple[int, ...]) -> bool:
    """Whether a meta.json is a description, whole or damaged; others give the name to files of their own."""
    try:
        found = json.loads(meta.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return True
    return isinstance(found, dict) and not found.keys().isdisjoint(("digest", "stage", "outputs"))


@lru_cache(maxsize=4096)
def _read(path: Path, version: tuple | None) -> dict:
    """A description; `version` changes with the file, so that the cache never returns an old one."""
    meta = files.read_json(path)
    if not isinstance(meta, dict) or "digest" not in meta:
        raise UserError(f"{path}: lacks its own digest: edited, or made by an older version; run its stage again")
    if meta.pop("digest") != _digest_json(meta):
        raise UserError(f"{path}: damaged or edited since it was written: run its stage again")
    return meta


def check(path: Path, whole: bool = True) -> Path:
    """Compare a file, or each file of a directory, with its description; returns the path.

    Raises UserError naming a file that is missing, not in its description, of another size or (`whole`) of other
    content. A file that has no description at all, as a published index, is accepted as it is.
    """
    path = Path(path)
    if path.is_dir():
        for name in described(path)["outputs"]:
            check(path / name, whole)
    elif not path.is_file():
        raise UserError(f"{path}: no such file; run the stage that makes it")
    elif is_described(path):
        _check_file(path, whole)
    else:
        log.debug("%s: has no description, so it is not checked", path)
    return path


def _check_file(path: Path, whole: bool) -> None:
    meta, state = meta_path(path), path.stat()
    expected = described(path)["outputs"].get(path.name)
    if expected is None:
        raise UserError(f"{path}: not among the files described in {meta}: run its stage again")
    if state.st_size != expected["bytes"]:
        raise UserError(
            f"{path}: found {state.st_size:,} bytes, {meta} says {expected['bytes']:,}: "
            "delete it and run its stage again"
        )
    if whole and _digest_of_version(path, state.st_mtime_ns, state.st_ino) != expected["digest"]:
        raise UserError(
            f"{path}: its content does not have the digest given in {meta}: delete it and run its stage again"
        )


def identity(path: Path) -> str:
    """The digest of the content of an artifact, or of a file in one, as its description gives it."""
    path = Path(path)
    outputs = described(path)["outputs"]
    if path.is_dir():
        return _combined(outputs)
    return outputs[path.name]["digest"] if path.name in outputs else digest(path)


def digest(path: Path) -> str:
    """The 128-bit XXH3 of a whole file, in hexadecimal; the file is read block by block."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()


def sha256(path: Path) -> str:
    """The SHA-256 of a raw file; of a folder, that of a list of its files' names and SHA-256s, without hidden files."""
    path = Path(path)
    if not path.is_dir():
        return archives.sha256(path)
    inside = sorted((p.relative_to(path), p) for p in path.rglob("*") if p.is_file())
    shown = [(name, p) for name, p in inside if not any(part.startswith(".") for part in name.parts)]
    lines = (f"{sha256(p)}  {name}\n" for name, p in shown)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@lru_cache(maxsize=4096)
def _digest_of_version(path: Path, time: int, inode: int) -> str:
    return digest(path)


def _digest_json(value: dict) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(value, sort_keys=True).encode())


def _combined(outputs: dict) -> str:
    """One digest for all files of an artifact, from their entries in its description."""
    return _digest_json({name: entry["digest"] for name, entry in outputs.items()})


def _outputs(artifact: Path) -> dict[str, dict]:
    """An entry for every file of an artifact: {name: {bytes, digest, …}}."""
    paths = sorted(artifact.iterdir()) if artifact.is_dir() else [artifact]
    paths = [path for path in paths if path.is_file() and path.name != "meta.json"]
    with ThreadPoolExecutor(devices.cores()) as pool:  # NumPy reads headers with a parser that is not safe in threads
        return {path.name: _output(path, value) for path, value in zip(paths, pool.map(digest, paths), strict=True)}


def _output(path: Path, digest: str) -> dict:
    entry: dict = {"bytes": path.stat().st_size, "digest": digest}
    if path.suffix == ".npy":
        array = np.load(path, mmap_mode="r")
        entry |= {"shape": list(array.shape), "dtype": str(array.dtype)}
    return entry


def content(path: Path) -> str:
    """A digest of an input's content, whether it has a description or not."""
    return identity(path) if is_described(path) else sha256(path) if path.is_dir() else digest(path)


def _input(source: Path | tuple[Path, dict], folder: Path) -> dict:
    """Where an input is, relative to the artifact's folder so that a study can be moved, and its digest or SHA-256."""
    path, recorded = source if isinstance(source, tuple) else (Path(source), {})
    entry = recorded | {"path": os.path.relpath(path, folder)}
    if recorded:
        return entry
    if is_described(path):
        return entry | {"digest": identity(path)}
    return entry | {"sha256": sha256(path)}


def _command() -> str | None:
    """The command line of the running verb; None within another program."""
    program = Path(sys.argv[0])
    is_ours = program.name == "knnlm" or program.parts[-2:] == ("knnlm", "__main__.py")
    return shlex.join(["knnlm", *sys.argv[1:]]) if is_ours else None


@cache
def versions() -> dict[str, str]:
    versions = {}
    for name in VERSIONED:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


@cache
def _commit() -> str | None:
    root = Path(__file__).parents[1]
    try:
        run = subprocess.run(["git", "-C", root, "describe", "--always", "--dirty"], capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return run.stdout.strip() or None
