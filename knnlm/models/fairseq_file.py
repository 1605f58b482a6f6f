"""Open the .pt file of a published checkpoint, which a stranger may have made: checked first, and no code in it is run.

torch's own reader compares no checksums and gives a pickle the memory that it asks for.
"""

import argparse
import pickle
import pickletools
import re
import reprlib
import warnings
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from knnlm.artifacts.files import UserError

ZIP = b"PK\x03\x04"  # how a zip archive begins; torch before 1.6 wrote pickles, one after another, and then the numbers
OLDER_PICKLES = 5  # of them
PICKLE, PER_TENSOR = (
    4 << 20,
    1 << 10,
)  # bytes that pickles may have, and further ones for each tensor (200 as published)
UNPACKED = 2  # times a file's size that its members may have: weights pack to nine tenths, if they are packed at all
LONGEST = 200  # characters of a name or value in a message
AGAIN = "fetch it again, and compare its digest with the published one"
PLAIN = (
    "with fairseq, run torch.save({'args': argparse.Namespace(**OmegaConf.to_container(state['cfg'])['model']), "
    "'model': state['model']}, 'plain.pt') and import plain.pt"
)


class Skipped:
    """Takes the place of what a checkpoint holds beside its weights and arguments, and what is not used."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


SKIPPED = (
    *(f"fairseq.meters.{name}" for name in ("AverageMeter", "TimeMeter", "StopwatchMeter")),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *("numpy.ndarray", "numpy.dtype"),
)


class _Short(reprlib.Repr):
    def repr_instance(self, x: Any, level: int) -> str:
        return repr(x) if x is None or isinstance(x, bool | float) else f"a {type(x).__name__}"


_short = _Short()
_short.maxstring = _short.maxother = 60


def shown(value: object) -> str:
    """A value as a message shows it: short and in one line, however large or deeply nested it is."""
    text = _short.repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def named(name: str) -> str:
    """A name as a message shows it: as it stands, unless it is long or has a line's end in it."""
    return name if name.isprintable() and len(name) <= LONGEST else shown(name)


def load(path: Path) -> Any:
    """The content of a .pt file, in torch's present or older format, with its tensors on the CPU.

    Raises UserError for a file that is damaged, asks for code, or is larger within than its tensors explain.
    """
    try:
        with path.open("rb") as file:
            if zipped := file.read(len(ZIP)) == ZIP:
                _check_archive(path)
            else:
                file.seek(0)
                _check_older(path, file)
                file.seek(0)
            stand_ins = [argparse.Namespace, *((Skipped, name) for name in SKIPPED)]
            with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's advice for programmers
                content = torch.load(path if zipped else file, map_location="cpu", weights_only=True)
            if not zipped and (further := path.stat().st_size - file.tell()):
                raise UserError(f"{path}: found {further:,} bytes after its last weight, expected none: {AGAIN}")
            return content
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except PermissionError:
        raise UserError(f"{path}: no permission to read it") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, expected a .pt file") from None
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: {_unpickled(str(error))}") from None
    except Exception as error:  # torch, zipfile and what they call raise errors of every kind
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: not a whole published checkpoint ({named(reason[:LONGEST])}): {AGAIN}") from None


def _unpickled(error: str) -> str:
    """What torch's reader of pickles refused."""
    if not (asked := re.search(r"(?:GLOBAL|global) (\S+)", error)):
        return f"not a published checkpoint (damaged, or of another fairseq): {AGAIN}"
    if asked[1].startswith("omegaconf."):
        return f"the layout of a newer fairseq, whose configuration is an object of omegaconf: {PLAIN}"
    return _asks(asked[1])


def _asks(name: str) -> str:
    return f"not a published checkpoint (it asks for {named(name)}, which is not run): save its args and model alone"


def _check_archive(path: Path) -> None:
    """Refuse an archive by its directory, then by its members' checksums, then by what its pickle asks for."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        tensors = sum("/data/" in member.filename for member in members)
        for member in members:
            if "/data/" not in member.filename and member.file_size > (most := PICKLE + PER_TENSOR * tensors):
                raise UserError(
                    f"{path}: {named(member.filename)} has {member.file_size:,} bytes, {tensors:,} tensors explain "
                    f"at most {most:,}: {AGAIN}"
                )
        size, unpacked = path.stat().st_size, sum(member.file_size for member in members)
        if unpacked > (most := UNPACKED * size + PICKLE):
            raise UserError(f"{path}: its members unpack to {unpacked:,} bytes, expected at most {most:,}: {AGAIN}")
        seen: set[str] = set()
        for member in members:
            if member.filename in seen:
                raise UserError(f"{path}: {named(member.filename)} occurs twice, expected each member once: {AGAIN}")
            seen.add(member.filename)
        if damaged := archive.testzip():  # reads block by block
            raise UserError(
                f"{path}: {named(damaged)} does not have the checksum that the archive gives: damaged; {AGAIN}"
            )
        for name in seen:
            if name.endswith("data.pkl"):
                with archive.open(name) as file:
                    _check_pickle(path, _Explained(path, file, tensors))


def _check_older(path: Path, file: BinaryIO) -> None:
    explained = _Explained(path, file, 0)
    for _ in range(OLDER_PICKLES):
        _check_pickle(path, explained)


def _check_pickle(path: Path, file: "_Explained") -> None:
    """Refuse a pickle that asks for memory without content."""
    for operation, argument, _ in pickletools.genops(file):  # type: ignore[arg-type]
        file.tensors += operation.name == "BINPERSID"
        if operation.name == "GLOBAL" and str(argument).endswith(" bytearray"):
            raise UserError(f"{path}: {_asks('bytearray')}")


class _Explained:
    """Pickles of a file, of which no more is read than the file's tensors explain."""

    def __init__(self, path: Path, file: Any, tensors: int) -> None:
        self.path, self.file, self.tensors, self.tell = path, file, tensors, file.tell

    def read(self, size: int) -> bytes:
        if self.tell() + size > (most := PICKLE + PER_TENSOR * self.tensors):
            raise UserError(
                f"{self.path}: its pickle has more bytes than the {most:,} that its tensors explain: {AGAIN}"
            )
        return self.file.read(size)

    def readline(self) -> bytes:
        return self.file.readline(PICKLE)
