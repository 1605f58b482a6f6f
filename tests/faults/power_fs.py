"""A file system (FUSE) that loses its power: what nobody waited for with `fsync` may be missing on its disk.

    python power_fs.py DISK MOUNTPOINT --left FOLDER [--cut 7] [--way names] [--seed 1] [--moments FOLDER]

The files of DISK appear at MOUNTPOINT, in memory. The power fails before rename number `--cut`, or when the extended
attribute `user.cut` of MOUNTPOINT is set: every access fails from then on, and FOLDER holds one of the disks that may
be left: with nothing that nobody waited for (`--way least`), with all names, or with some of it. An orderly unmount
leaves everything there. `--moments` keeps a running system and writes, before each change of a name and after each
`fsync`, the disks that a loss of power at that moment could leave, each once.

POSIX, ext4 and XFS promise this much and no more:

- The content of a file is on the disk once the file was waited for. Until then it may be missing, be there in part, or
  be there as zeros, although the file has its name. A file that nobody ever waited for may be empty.
- A name (made, changed or removed) is on the disk once its folder was waited for. Until then it may be missing,
  although later ones are there: only changes of one name, or of one file, keep their order. A rename happens wholly or
  not at all.
"""

import argparse
import errno
import hashlib
import os
import shutil
import stat
import time
from itertools import count
from pathlib import Path
from random import Random

import mfusepy

PAGE = 4096  # bytes that reach the disk together
NOW, OMIT = (1 << 30) - 1, (1 << 30) - 2  # UTIME_NOW and UTIME_OMIT, as nanoseconds
WAYS = ("least", "names", "some")  # which of what nobody waited for is on the disk: nothing, all names, a random part


class Node:
    """A file, a folder or a symbolic link: what processes see, and what is surely on the disk."""

    def __init__(self, mode: int, content: bytearray | dict | str, modified: int | None = None) -> None:
        self.mode, self.content = mode, content
        self.modified = modified or time.time_ns()
        self.stored: bytes | dict | str = content if isinstance(content, str) else type(content)()
        self.is_stored = False  # whether all of the content is on the disk

    def store(self) -> None:
        """The content of a file reaches the disk."""
        self.stored, self.is_stored = bytes(self.content), True

    def left(self, way: str, random: Random) -> bytes:
        """The content of a file after a loss of power."""
        old, new = self.stored, bytes(self.content)
        kind = random.choice(["old", "zeros", "pages"]) if way == "some" else "old"
        if self.is_stored or kind == "old":
            return old
        old = old[: len(new)].ljust(len(new), b"\0")
        if kind == "zeros":
            return old
        pages = range(0, len(new), PAGE)
        return b"".join((new if random.random() < 0.5 else old)[start : start + PAGE] for start in pages)


Change = list[tuple[Node, str, Node | None]]  # names that reach the disk together: folder, name, and what it names


def touched(change: Change) -> set:
    """What a later change must have in common with this one to follow it: a name, or what has the name."""
    return {(folder, name) for folder, name, _ in change} | {node for _, _, node in change if node}


class Disk:
    """All files, and the changes of names that nobody has waited for, in their order."""

    def __init__(self, source: Path) -> None:
        self.root, self.waiting = read(source), []

    def find(self, path: str) -> Node:
        node = self.root
        for name in path.strip("/").split("/") if path != "/" else ():
            if not isinstance(node.content, dict):
                raise OSError(errno.ENOTDIR, path)
            if name not in node.content:
                raise OSError(errno.ENOENT, path)
            node = node.content[name]
        return node

    def change(self, *names: tuple[Node, str, Node | None]) -> None:
        for folder, name, node in names:
            put(folder.content, name, node)
            folder.modified = time.time_ns()
        self.waiting.append(list(names))

    def store_names(self, folder: Node) -> None:
        """The names in a folder reach the disk, with everything that they follow."""
        self._store([any(of is folder for of, _, _ in change) for change in self.waiting])

    def _store(self, wanted: list[bool]) -> None:
        chosen = self._with_earlier(wanted)
        for change in (change for change, is_chosen in zip(self.waiting, chosen, strict=True) if is_chosen):
            for folder, name, node in change:
                put(folder.stored, name, node)
        self.waiting = [change for change, is_chosen in zip(self.waiting, chosen, strict=True) if not is_chosen]

    def _with_earlier(self, wanted: list[bool]) -> list[bool]:
        """The wanted changes, and all earlier ones of the same names and files."""
        chosen, needed = list(wanted), set()
        for i in reversed(range(len(chosen))):
            chosen[i] = chosen[i] or bool(touched(self.waiting[i]) & needed)
            if chosen[i]:
                needed |= touched(self.waiting[i])
        return chosen

    def left(self, way: str, random: Random) -> dict[str, tuple[Node, object]]:
        """What a loss of power leaves: {path: (node, content)}, folders before what is in them."""
        share = {"least": 0.0, "names": 1.0, "some": 0.5}[way]
        chosen = self._with_earlier([random.random() < share for _ in self.waiting])
        names: dict[Node, dict] = {}
        for change in (change for change, is_chosen in zip(self.waiting, chosen, strict=True) if is_chosen):
            for folder, name, node in change:
                put(names.setdefault(folder, dict(folder.stored)), name, node)
        found, folders = {}, [("", self.root)]
        for path, folder in folders:
            for name, node in sorted(names.get(folder, folder.stored).items()):
                inner = f"{path}/{name}".lstrip("/")
                if isinstance(node.content, bytearray):
                    found[inner] = node, node.left(way, random)
                else:
                    found[inner] = node, node.content if isinstance(node.content, str) else None
                    folders += [(inner, node)] if isinstance(node.content, dict) else []
        return found

    def store_all(self) -> None:
        self._store([True] * len(self.waiting))
        nodes = [self.root]
        for node in nodes:
            if isinstance(node.content, dict):
                nodes += node.content.values()
            elif isinstance(node.content, bytearray):
                node.store()


def put(names: dict, name: str, node: Node | None) -> None:
    if node:
        names[name] = node
    else:
        names.pop(name, None)


def read(source: Path) -> Node:
    """A folder of the real file system with everything in it; all of it is on the disk."""
    state = source.lstat()
    if source.is_symlink():
        return Node(state.st_mode, os.readlink(source), state.st_mtime_ns)
    if not source.is_dir():
        node = Node(state.st_mode, bytearray(source.read_bytes()), state.st_mtime_ns)
        node.store()
        return node
    node = Node(state.st_mode, {path.name: read(path) for path in source.iterdir()}, state.st_mtime_ns)
    node.stored = dict(node.content)
    return node


def write(found: dict[str, tuple[Node, object]], folder: Path) -> None:
    """Write what a loss of power leaves to a new folder of the real file system."""
    folder.mkdir(parents=True)
    for name, (node, content) in found.items():
        path = folder / name
        if isinstance(content, str):
            path.symlink_to(content)
        elif content is None:
            path.mkdir()
        else:
            path.write_bytes(content)
            path.chmod(stat.S_IMODE(node.mode))
    for name, (node, _) in reversed(found.items()):
        os.utime(folder / name, ns=(node.modified, node.modified), follow_symlinks=False)


class PowerFS(mfusepy.Operations):
    """The operations of the file system; one at a time."""

    use_ns = True
    flag_nullpath_ok = True  # a file that was removed while it is open has no path

    def __init__(self, disk: Disk, options: argparse.Namespace) -> None:
        self.disk, self.folder, self.moments = disk, options.left, options.moments
        self.cut_at, self.way, self.random = options.cut, options.way, Random(options.seed)
        self.handles: dict[int, Node] = {}
        self.numbers, self.renames, self.seen = count(1), 0, set()

    def cut(self) -> None:
        """The power fails: one of the possible disks is left, and nothing answers any more."""
        write(self.disk.left(self.way, self.random), self.folder)
        print(f"the power failed at rename {self.renames}; on the disk: {self.way}", flush=True)
        os._exit(0)

    def moment(self) -> None:
        """Write the disks that a loss of power at this moment could leave, where none before was the same."""
        for way in WAYS if self.moments else ():
            found = self.disk.left(way, self.random)
            digest = hashlib.sha256()
            for name, (_, content) in sorted(found.items()):
                digest.update(f"{name} {type(content)} ".encode())
                digest.update(content.encode() if isinstance(content, str) else hashlib.sha256(content or b"").digest())
            if digest.digest() not in self.seen:
                self.seen.add(digest.digest())
                write(found, self.moments / f"{len(self.seen):04d}-{way}")

    def change(self, *names: tuple[Node, str, Node | None]) -> None:
        self.moment()
        self.disk.change(*names)

    def at(self, path: str) -> tuple[Node, str]:
        """The folder of a path, and its name in there."""
        head, _, name = path.rpartition("/")
        return self.disk.find(head or "/"), name

    def opened(self, node: Node) -> int:
        self.handles[number := next(self.numbers)] = node
        return number

    # What FUSE calls.

    def destroy(self, path: str) -> None:
        self.moment()
        self.disk.store_all()
        write(self.disk.left("least", self.random), self.folder)
        print(f"unmounted after {self.renames} renames", flush=True)

    def setxattr(self, path: str, name: str, value: bytes, options: int, position: int = 0) -> int:
        if name == "user.cut":
            self.cut()
        raise OSError(errno.ENOTSUP, path)

    def getattr(self, path: str, fh: int | None = None) -> dict:
        node = self.handles[fh] if fh else self.disk.find(path)
        size = len(node.content)
        times = dict.fromkeys(("st_atime", "st_mtime", "st_ctime"), node.modified)
        owner = {"st_uid": os.getuid(), "st_gid": os.getgid(), "st_nlink": 1}
        return times | owner | {"st_mode": node.mode, "st_size": size, "st_blocks": -(-size // PAGE) * 8}

    def statfs(self, path: str) -> dict:
        blocks = dict.fromkeys(("f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_favail"), 1 << 20)
        return {"f_bsize": PAGE, "f_frsize": PAGE, "f_namemax": 255} | blocks

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *self.handles[fh].content]

    def opendir(self, path: str) -> int:
        return self.opened(self.disk.find(path))

    def readlink(self, path: str) -> str:
        return self.disk.find(path).content

    def create(self, path: str, mode: int, flags: int) -> int:
        folder, name = self.at(path)
        self.change((folder, name, node := Node(stat.S_IFREG | mode, bytearray())))
        return self.opened(node)

    def mkdir(self, path: str, mode: int) -> None:
        folder, name = self.at(path)
        self.change((folder, name, Node(stat.S_IFDIR | mode, {})))

    def symlink(self, target: str, source: str) -> None:
        folder, name = self.at(target)
        self.change((folder, name, Node(stat.S_IFLNK | 0o777, source)))

    def unlink(self, path: str) -> None:
        folder, name = self.at(path)
        self.change((folder, name, None))

    def rmdir(self, path: str) -> None:
        if self.disk.find(path).content:
            raise OSError(errno.ENOTEMPTY, path)
        self.unlink(path)

    def rename(self, old: str, new: str) -> None:
        (source, name), (target, new_name) = self.at(old), self.at(new)
        node, replaced = source.content[name], target.content.get(new_name)
        if replaced and isinstance(replaced.content, dict) and replaced.content:
            raise OSError(errno.ENOTEMPTY, new)
        self.renames += 1
        if self.renames == self.cut_at:
            self.cut()
        self.change((source, name, None), (target, new_name, node))

    def open(self, path: str, flags: int) -> int:
        node = self.disk.find(path)
        if flags & os.O_TRUNC and flags & os.O_ACCMODE != os.O_RDONLY:
            self._write(node, bytearray())
        return self.opened(node)

    def read(self, path: str | None, size: int, offset: int, fh: int) -> bytes:
        return bytes(self.handles[fh].content[offset : offset + size])

    def write(self, path: str | None, data: bytes, offset: int, fh: int) -> int:
        node = self.handles[fh]
        if len(node.content) < offset:
            node.content.extend(bytes(offset - len(node.content)))
        node.content[offset : offset + len(data)] = data
        self._write(node, node.content)
        return len(data)

    def truncate(self, path: str | None, length: int, fh: int | None = None) -> None:
        node = self.handles[fh] if fh else self.disk.find(path)
        self._write(node, node.content[:length].ljust(length, b"\0"))

    def _write(self, node: Node, content: bytearray) -> None:
        node.content, node.is_stored, node.modified = content, False, time.time_ns()

    def fsync(self, path: str | None, datasync: int, fh: int) -> None:
        self.handles[fh].store()
        self.moment()

    def fsyncdir(self, path: str | None, datasync: int, fh: int) -> None:
        self.disk.store_names(self.handles[fh])
        self.moment()

    def release(self, path: str | None, fh: int) -> None:
        del self.handles[fh]

    def releasedir(self, path: str | None, fh: int) -> None:
        del self.handles[fh]

    def chmod(self, path: str, mode: int) -> None:
        node = self.disk.find(path)
        node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        """Every file belongs to who mounted the file system."""

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> None:
        node, modified = self.disk.find(path), times[1] if times else NOW
        if modified != OMIT:
            node.modified = time.time_ns() if modified == NOW else modified


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("disk", type=Path)
    parser.add_argument("mountpoint", type=Path)
    parser.add_argument("--left", type=Path, required=True)
    parser.add_argument("--cut", type=int, default=0)
    parser.add_argument("--way", choices=WAYS, default="least")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--moments", type=Path)
    options = parser.parse_args()
    shutil.rmtree(options.left, ignore_errors=True)
    fs = PowerFS(Disk(options.disk), options)
    mfusepy.FUSE(fs, str(options.mountpoint), foreground=True, nothreads=True, hard_remove=True)


if __name__ == "__main__":
    main()
