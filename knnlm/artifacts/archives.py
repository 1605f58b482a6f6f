"""Archives from elsewhere: checked before they are opened, read in memory, and never unpacked beyond reason."""

import bz2
import hashlib
import zipfile
from pathlib import Path

from knnlm.artifacts.files import UserError

MOST = 200  # times its packed size that a member may unpack to; text packs to a fifth, a bomb to a thousandth
HARMLESS = 64 << 20  # bytes that may always be unpacked


def sha256(path: Path) -> str:
    """Of the whole file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(path: Path, expected: str) -> None:
    """Raises UserError when a file's SHA-256 is not the pinned one."""
    if path.is_file() and (found := sha256(path)) != expected:
        raise UserError(f"{path}: found sha256 {found}, expected {expected}: not opened; delete it and fetch it again")


def read(archive: zipfile.ZipFile, name: str) -> bytes:
    """A member's content; UserError for one that unpacks to far more than it should."""
    member = archive.getinfo(name)
    if member.file_size > max(HARMLESS, MOST * member.compress_size):
        raise UserError(
            f"{archive.filename}: {name} unpacks from {member.compress_size:,} bytes to {member.file_size:,}: not read"
        )
    return archive.read(name)


class Bzip2(bz2.BZ2File):
    """A bz2 stream that ends in a UserError where it unpacks to far more than it should."""

    def __init__(self, packed) -> None:
        super().__init__(packed)
        self.packed = packed

    def read(self, size: int = -1) -> bytes:
        content = super().read(size)
        if self.tell() > max(HARMLESS, MOST * self.packed.tell()):
            raise UserError(f"bz2: {self.packed.tell():,} bytes unpack to more than {self.tell():,}: not read on")
        return content
