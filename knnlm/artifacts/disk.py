"""Temporary folders next to an output, cleaned up even after their writer was killed; errors of full or failing disks.

Every temporary folder holds a lock file. The operating system releases a process's locks however the process ends, so
a folder whose lock is free was abandoned, and the next writer of the same output removes it.
"""

import contextlib
import ctypes
import errno
import logging
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from functools import cache
from glob import escape
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger("knnlm")
TEMPORARY = re.compile(r"\..+\.([0-9a-f]{8}\.tmp|resume)")
NO_FALLOCATE = (errno.EOPNOTSUPP, errno.ENOSYS)
NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # some network file systems cannot lock files
NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)  # and cannot be waited for
FULL = (errno.ENOSPC, errno.EDQUOT)
FULL_TEXTS = (*map(os.strerror, FULL), "unexpected pos")  # the last is torch.save's, for a file that did not grow
REMEDIES = {
    errno.EROFS: "the file system is read-only: choose another folder, or mount it writable",
    errno.EACCES: "no permission: choose another folder, or change its owner or mode",
    errno.EPERM: "no permission: choose another folder, or change its owner or mode",
    errno.ENOTDIR: "a file stands where a folder is needed: write elsewhere",
    errno.EEXIST: "a file stands where a folder is needed: write elsewhere",
    errno.EIO: "an input/output error of the disk: check it, then run again",
    errno.EFBIG: "larger than the file system or `ulimit -f` allows: raise the limit, or use more shards",
}


@contextlib.contextmanager
def temporary(out: Path) -> Iterator[Path]:
    """A new folder beside `out`, removed at the end; removes those of killed writers of `out` first."""
    out.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(out)
    folder, lock = _new_folder(out)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def _lock_of(folder: Path) -> FileLock:
    """The lock file in `folder`, not yet acquired. A process that is forked later does not inherit it."""
    return FileLock(folder / "lock", fallback_to_soft=False)


def _new_folder(out: Path) -> tuple[Path, FileLock]:
    while True:
        folder = out.parent / f".{out.name}.{uuid.uuid4().hex[:8]}.tmp"
        folder.mkdir()
        lock = _lock_of(folder)
        try:
            lock.acquire(blocking=False)
        except (FileNotFoundError, Timeout):
            continue  # another writer took the folder for an abandoned one before it was locked
        except OSError as error:
            if error.errno not in NO_LOCKS:  # without locks the folder is used all the same, and stays after a kill
                shutil.rmtree(folder, ignore_errors=True)
                raise
            _warn_of_no_locks()
        return folder, lock


@cache
def _warn_of_no_locks() -> None:
    """Called for each lock that cannot be taken; the warning appears once in a process."""
    log.warning(
        "the file system of the outputs has no file locks (a Lustre without `-o flock`, some NFS): going on without "
        "them; do not start the same command twice at the same time"
    )


def _remove_abandoned(out: Path) -> None:
    for folder in out.parent.glob(f".{escape(out.name)}.{'[0-9a-f]' * 8}.tmp"):
        lock = _lock_of(folder)
        with contextlib.suppress(OSError):  # its writer is alive, or locks do not work here: the folder stays
            lock.acquire(blocking=False)
            shutil.rmtree(folder, ignore_errors=True)
            lock.release()


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder in which interrupted work keeps its state; waits while another process holds it.

    On a file system that cannot lock files there is only a warning.
    """
    lock = _lock_of(folder)
    while not lock.is_locked:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with contextlib.suppress(FileNotFoundError):  # the previous holder finished and removed the folder
                try:
                    lock.acquire(blocking=False)
                except Timeout:
                    log.info("%s: another process is doing the same work; waiting for it to finish", folder)
                    lock.acquire()
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            _warn_of_no_locks()
            break
    try:
        yield
    finally:
        lock.release()


def remove(folder: Path) -> None:
    """Remove a folder of finished work with everything in it; to be called while its lock is held."""
    shutil.rmtree(folder, ignore_errors=True)


def replace(tmp: Path, out: Path) -> None:
    """Move `tmp` to `out`, which is complete or absent at every moment: an old folder is moved aside, not emptied.

    What is in it is on the disk before it has its name, and the name before this returns: no loss of power leaves a
    file that looks finished and is not.
    """
    flush(tmp)
    for attempt in count():
        if out.is_dir():
            with contextlib.suppress(FileNotFoundError):
                out.rename(tmp.parent / f"before{attempt}")
        try:
            os.replace(tmp, out)
            break
        except OSError as error:  # another writer of `out` was faster: move its folder aside
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    _sync(out.parent)


def flush(path: Path) -> None:
    """Wait until a file, or a folder with all that is in it, is on the disk."""
    for folder, _, names in os.walk(path):
        for name in names:
            _sync(os.path.join(folder, name))
        _sync(folder)
    if not path.is_dir():
        _sync(path)


def _sync(path: str | Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise
    finally:
        os.close(descriptor)


def final(path: Path) -> Path:
    """The path that a file in a temporary folder will have in the end."""
    return Path(*(part for part in Path(path).parts if not TEMPORARY.fullmatch(part)))


def free(path: Path) -> int:
    """Bytes that can still be written to the disk of `path`, which need not exist yet."""
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    return shutil.disk_usage(existing).free


def size(path: Path) -> int:
    """Bytes that a file, or all files in a folder, occupy on the disk."""
    return sum(512 * p.stat().st_blocks for p in (path, *path.rglob("*")) if p.is_file())


def reserve(path: Path) -> None:
    """Allocate the blocks of a sparse file, raising OSError if the disk is full.

    Without this, a write through a memory map to a full disk would kill the process. Where the file system cannot
    allocate blocks, the free space is measured: posix_fallocate would write to every block of the file instead.
    """
    with path.open("r+b") as file:
        state = os.fstat(file.fileno())
        number = _fallocate(file.fileno(), state.st_size)
    if number in NO_FALLOCATE and state.st_size - 512 * state.st_blocks > free(path):
        number = errno.ENOSPC
    if number in FULL:
        raise OSError(number, os.strerror(number), str(path))


def _fallocate(descriptor: int, size: int) -> int:
    """The system call fallocate(2), which Python does not offer; returns its error number, 0 for success."""
    try:
        call = ctypes.CDLL(None, use_errno=True).fallocate
    except AttributeError:  # not Linux
        return errno.EOPNOTSUPP
    while call(descriptor, 0, ctypes.c_long(0), ctypes.c_long(size)):
        if ctypes.get_errno() != errno.EINTR:
            return ctypes.get_errno()
    return 0


def too_small(path: Path, needed: int) -> str:
    """The error message for an output of `needed` bytes that does not fit on its disk."""
    return (
        f"{final(path)}: needs {needed:,} bytes, {free(path):,} are free on its disk: "
        "free space or raise the quota, then run again"
    )


def explain(error: Exception, out: Path, tmp: Path | None = None) -> str | None:
    """One line for a disk error raised while `out` was written, through `tmp` if given; None for any other error.

    Libraries written in C++ or Rust report a full disk by exceptions of their own that quote the system's message.
    """
    number = getattr(error, "errno", None)
    if number in FULL or any(text in str(error) for text in FULL_TEXTS):
        available = free(out) + (size(tmp) if tmp else 0)
        return too_small(out, available).replace("needs", "needs more than")
    if isinstance(error, OSError) and number in REMEDIES:
        path = final(error.filename or out).absolute()
        is_of_out = out.absolute().parent in (path, path.parent)  # a temporary folder of `out`, or a lock
        return f"{out if is_of_out else path}: {REMEDIES[number]}"
    return None
