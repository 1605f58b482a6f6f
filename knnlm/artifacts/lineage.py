"""How artifacts are described in meta.json, and which of them belong together.

A description names, by digest, what other artifacts must share with this one to be used together. Roles are vocab,
text (one split's tokens), part (of it), model, keytype, deal (how entries are dealt to shards), keys, queries, index
and datastore (the text that the keys are of).
"""

import contextlib
import hashlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import metadata
from pathlib import Path

import numpy as np

from knnlm.artifacts import archives, devices, disk, files
from knnlm.artifacts.files import UserError

VERSIONED = ("knnlm", "numpy", "torch", "faiss-cpu", "faiss-gpu", "numba", "sentencepiece")


def write_meta(
    artifact: Path,
    stage: str,
    config: object,
    inputs: Mapping[str, Path],
    lineage: Mapping[str, str] | None = None,
    role: str | None = None,
    **facts: object,
) -> None:
    """Describe an artifact: stage, settings, command, inputs, files, versions, and which others it belongs to.

    A directory is described in its meta.json, a single file in FILE.meta.json beside it. `lineage` holds the digest of
    every artifact that others must share with this one to be used together; `role` is this one's own name there.
    """
    artifact = Path(artifact)
    folder = disk.final(artifact if artifact.is_dir() else artifact.parent)
    made = sorted(artifact.iterdir()) if artifact.is_dir() else [artifact]
    made = [path for path in made if path.is_file() and path.name != "meta.json"]
    with ThreadPoolExecutor() as pool:
        outputs = {path.name: entry for path, entry in zip(made, pool.map(_facts, made), strict=True)}
    meta = {
        "stage": stage,
        "config": config,
        "command": _command(),
        "inputs": {name: _source(Path(path), folder) for name, path in inputs.items()},
        "outputs": outputs,
        "lineage": dict(lineage or {}) | ({role: files.content(outputs)} if role else {}),
        "versions": _versions() | devices.builds(),
        "commit": _commit(),
        **facts,
    }
    meta = json.loads(json.dumps(meta, default=files.jsonable))
    out = artifact / "meta.json" if artifact.is_dir() else artifact.with_name(f"{artifact.name}.meta.json")
    files.write_json(out, meta | {"digest": files.digest_json(meta)})


def is_described(path: Path) -> bool:
    """Whether this is an artifact or a file of one, and no raw or published file."""
    return files.description(path).exists()


def sha256(path: Path) -> str:
    """SHA-256 of a raw file; of a folder, of its files' names and SHA-256s (but of hidden ones)."""
    path = Path(path)
    if path.is_dir():
        inside = sorted((p.relative_to(path), p) for p in path.rglob("*") if p.is_file())
        shown = [(name, p) for name, p in inside if not any(part.startswith(".") for part in name.parts)]
        lines = (f"{sha256(p)}  {name}\n" for name, p in shown)
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    return archives.sha256(path)


def of(path: Path) -> dict[str, str]:
    """The roles of an artifact, or of a file in one: {role: digest}; none of a file that nobody described."""
    path = Path(path)
    if not path.is_dir() and not is_described(path):
        return {}
    meta = files.described(path)
    text = meta["outputs"].get(f"{path.name.split('.')[0]}.npy")  # of {split}.npy and {split}.documents.npy
    return meta["lineage"] | ({"text": text["digest"]} if meta["stage"] == "binarize" and text else {})


def agree(paths: Iterable[Path], *roles: str) -> dict[str, str]:
    """The digests of those `roles` that the artifacts have; raises UserError where two artifacts differ in one.

    Each must have been made from what lies at its inputs' places now, as far as something lies there. A file that
    nobody described is not taken together with artifacts of a vocabulary.
    """
    found: dict[str, tuple[Path, str]] = {}
    paths = [Path(path) for path in paths]
    for path in paths:
        for role, value in of(path).items():
            if role not in roles:
                continue
            first, expected = found.setdefault(role, (path, value))
            if value != expected:
                raise UserError(
                    f"{first} has {role} {expected}, {path} has {role} {value}: "
                    "they do not belong together; make one of them again"
                )
    if undescribed := [path for path in paths if "vocab" in found and not is_described(path)]:
        raise UserError(
            f"{undescribed[0]}: has no description, {found['vocab'][0]} has one: "
            "whether they belong together cannot be told; run its stage again"
        )
    for path in paths:
        _is_current(path)
    return {role: value for role, (_, value) in found.items()}


def differ(paths: Iterable[Path], role: str) -> None:
    """Raise UserError where two artifacts are the same in `role`."""
    seen: dict[str, Path] = {}
    for path in paths:
        value = of(path).get(role)
        if value in seen:
            raise UserError(f"{seen[value]} and {path} have the same {role}: give each once, or make one of them again")
        if value is not None:
            seen[value] = path


def sources(path: Path) -> dict[str, tuple[Path, dict]]:
    """What an artifact was made from: {name: (where it lies now, {path, digest or sha256} as recorded)}."""
    folder = files.description(path).parent
    return {
        name: (Path(os.path.normpath(folder / source["path"])), source)
        for name, source in files.described(path)["inputs"].items()
    }


def _is_current(path: Path) -> None:
    if not is_described(path):
        return
    for name, (place, source) in sources(path).items():
        if "digest" in source and place.exists() and files.identity(place) != source["digest"]:
            raise UserError(
                f"{path}: was made from another {name} than {place} is now: "
                "copied from elsewhere, or older; run its stage again"
            )


def _facts(path: Path) -> dict:
    entry: dict = {"bytes": path.stat().st_size, "digest": files.digest(path)}
    if path.suffix == ".npy":
        array = np.load(path, mmap_mode="r")
        entry |= {"shape": list(array.shape), "dtype": str(array.dtype)}
    return entry


def _source(path: Path, folder: Path) -> dict:
    """An input as seen from the artifact, so that a results folder can be moved; raw files by their SHA-256."""
    place = {"path": os.path.relpath(path, folder)}
    if is_described(path):
        return place | {"digest": files.identity(path)}
    return place | {"sha256": sha256(path)}


def _command() -> str | None:
    """The command line of the running verb, if it is one."""
    program = Path(sys.argv[0])
    is_ours = program.name == "knnlm" or program.parts[-2:] == ("knnlm", "__main__.py")
    return shlex.join(["knnlm", *sys.argv[1:]]) if is_ours else None


@cache
def _versions() -> dict[str, str]:
    found = {}
    for name in VERSIONED:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


@cache
def _commit() -> str | None:
    root = Path(__file__).parents[1]
    try:
        run = subprocess.run(["git", "-C", root, "describe", "--always", "--dirty"], capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return run.stdout.strip() or None
