"""Downloaded archives: checked by SHA-256, read in memory, protected against decompression bombs."""

import bz2
import hashlib
import zipfile
from pathlib import Path

from knnlm.artifacts.files import UserError

MAX_RATIO = 200  # unpacked to packed size: text reaches about 5, a decompression bomb about 1000
ALWAYS_ALLOWED = 64 << 20  # bytes that may be unpacked whatever the ratio


def sha256(path: Path) -> str:
    """The SHA-256 of a whole file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(path: Path, expected: str) -> None:
    """Raise UserError when a file's SHA-256 is not the expected one, and for a folder, which has none."""
    if path.is_dir():
        raise UserError(f"{path}: found a folder, expected a file with sha256 {expected}: give none for a folder")
    if path.is_file() and (found := sha256(path)) != expected:
        raise UserError(f"{path}: found sha256 {found}, expected {expected}: not opened; delete it and fetch it again")


def read(archive: zipfile.ZipFile, name: str) -> bytes:
    """The content of a member of a zip archive; raises UserError for a decompression bomb."""
    member = archive.getinfo(name)
    if member.file_size > max(ALWAYS_ALLOWED, MAX_RATIO * member.compress_size):
        raise UserError(
            f"{archive.filename}: {name} unpacks from {member.compress_size:,} bytes to {member.file_size:,}: "
            f"not read, because the limit is {MAX_RATIO} times its size"
        )
    return archive.read(name)


class Bzip2(bz2.BZ2File):
    """A bz2 stream that raises UserError when it turns out to be a decompression bomb."""

    def __init__(self, packed) -> None:
        super().__init__(packed)
        self.packed = packed

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(-1 if size is None else size)
        if self.tell() > max(ALWAYS_ALLOWED, MAX_RATIO * self.packed.tell()):
            raise UserError(
                f"bz2: {self.packed.tell():,} bytes unpack to more than {self.tell():,}: "
                f"not read further, because the limit is {MAX_RATIO} times its size"
            )
        return content
