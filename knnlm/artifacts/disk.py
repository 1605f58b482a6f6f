"""Temporaries beside an output that outlive no writer, and what a full or failing disk means to the user."""

import contextlib
import errno
import fcntl
import logging
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from glob import escape
from itertools import count
from pathlib import Path
from typing import IO

log = logging.getLogger("knnlm")
TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
FULL = (errno.ENOSPC, errno.EDQUOT)
SAID = (*map(os.strerror, FULL), "unexpected pos")  # the last is torch.save's word for a file that did not grow
BROKEN = {
    errno.EROFS: "the file system is read-only: choose another folder, or mount it writable",
    errno.EACCES: "no permission: choose another folder, or change its owner or mode",
    errno.EPERM: "no permission: choose another folder, or change its owner or mode",
    errno.EIO: "an input/output error of the disk: check it, then run again",
    errno.EFBIG: "larger than the file system or `ulimit -f` allows: raise the limit, or use more shards",
}
_held: set[int] = set()  # descriptors of this process's locks


@contextlib.contextmanager
def temporary(out: Path) -> Iterator[Path]:
    """A new folder beside `out`, removed at the end; what killed writers of `out` left behind goes at the beginning.

    Its lock is the sign of life: the system gives it back when the writer ends, in whatever way.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    _sweep(out)
    folder, lock = _claim_new(out)
    _held.add(lock)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _held.discard(lock)
        os.close(lock)


def _claim_new(out: Path) -> tuple[Path, int]:
    while True:  # until no sweeper has come between making the folder and locking it
        folder = out.parent / f".{out.name}.{uuid.uuid4().hex[:8]}.tmp"
        folder.mkdir()
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            return folder, _lock(folder, unsupported_is_fine=True)


def _lock(folder: Path, unsupported_is_fine: bool) -> int:
    """The descriptor of the folder's lock, held; raises BlockingIOError or FileNotFoundError where it is another's."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:  # a file system without locks: nothing tells a dead writer's temporaries, so they stay
            if not unsupported_is_fine:
                raise
        if not os.fstat(lock).st_nlink:
            raise FileNotFoundError(folder)
    except OSError:
        os.close(lock)
        raise
    return lock


def _sweep(out: Path) -> None:
    for folder in out.parent.glob(f".{escape(out.name)}.*.tmp"):
        with contextlib.suppress(OSError):
            lock = _lock(folder, unsupported_is_fine=False)
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def only_one(folder: Path) -> IO[str]:
    """The lock of a folder that resumed work keeps its state in: waits for its holder, held until it is closed."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = (folder / "lock").open("w")
        except FileNotFoundError:  # the holder before has just removed the folder
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s: another process is at the same: waiting for its end", folder)
            fcntl.flock(lock, fcntl.LOCK_EX)
        if os.fstat(lock.fileno()).st_nlink:
            return lock
        lock.close()  # that of a folder which was removed: the next process would not see it


def remove(folder: Path) -> None:
    """Leave nothing of finished work; called by the holder of the lock."""
    shutil.rmtree(folder, ignore_errors=True)


def _forget_locks() -> None:
    """A forked process holds its parent's locks too: without this, a killed parent would seem to live on in it."""
    for lock in _held:
        os.close(lock)
    _held.clear()


os.register_at_fork(after_in_child=_forget_locks)


def replace(tmp: Path, out: Path) -> None:
    """Move `tmp` to `out`, which at every moment is whole or absent: an old folder is moved aside, not emptied."""
    for attempt in count():
        if out.is_dir():
            with contextlib.suppress(FileNotFoundError):
                out.rename(tmp.parent / f"before{attempt}")
        try:
            os.replace(tmp, out)
            return
        except OSError as error:  # another writer of `out` was faster
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


def final(path: Path) -> Path:
    """The name that a file in a temporary folder will have."""
    return Path(*(part for part in Path(path).parts if not TEMPORARY.fullmatch(part)))


def free(path: Path) -> int:
    """Bytes that may be written where `path` is or will be."""
    there = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    return shutil.disk_usage(there).free


def size(path: Path) -> int:
    """Bytes on the disk of a file or of all files in a folder."""
    return sum(512 * p.stat().st_blocks for p in (path, *path.rglob("*")) if p.is_file())


def reserve(path: Path) -> None:
    """Claim the blocks of a file of holes; raises OSError: a write through a memory map could only kill the process."""
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno in FULL:
                raise


def too_small(path: Path, needed: int) -> str:
    return (
        f"{final(path)}: needs {needed:,} bytes, {free(path):,} are free on its disk: "
        "free space or raise the quota, then run again"
    )


def explain(error: Exception, out: Path, tmp: Path | None = None) -> str | None:
    """One line for an error of the disk while `out` was written, so far into `tmp`; None for another error.

    Libraries written in C++ or Rust report a full disk by errors of their own, with the system's words in them.
    """
    number = getattr(error, "errno", None)
    if number in FULL or any(words in str(error) for words in SAID):
        had = free(out) + (size(tmp) if tmp else 0)
        return too_small(out, had).replace("needs", "needs more than")
    if isinstance(error, OSError) and number in BROKEN:
        named = final(error.filename or out).absolute()
        beside = out.absolute().parent in (named, named.parent)  # a temporary or lock of `out`
        return f"{out if beside else named}: {BROKEN[number]}"
    return None
