"""A loss of power at any moment: what has its final name is whole.

Only what was waited for (`fsync`) is taken to be on the disk: the content of a file, and the names in a folder. A name
may get there at any time after the rename. So all that a path holds has to be on the disk before it is renamed.
"""

import os
from pathlib import Path

import numpy as np
import pytest

from knnlm.artifacts import disk, files, npy, resume


class OnDisk:
    """What of files and folders, by inode, is surely on the disk, and each path that was renamed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.safe: dict[int, object] = {}
        self.renamed: list[Path] = []
        self.sync, self.replace = os.fsync, os.replace
        monkeypatch.setattr(disk.os, "fsync", self.wait)
        monkeypatch.setattr(disk.os, "replace", self.rename)

    @staticmethod
    def content(path: Path) -> object:
        return sorted((one.name, one.stat().st_ino) for one in path.iterdir()) if path.is_dir() else path.read_bytes()

    def wait(self, descriptor: int) -> None:
        self.sync(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        self.safe[path.stat().st_ino] = self.content(path)

    def is_safe(self, path: Path) -> bool:
        return self.safe.get(path.stat().st_ino) == self.content(path)

    def rename(self, tmp: Path, out: Path) -> None:
        for path in (Path(tmp), *Path(tmp).rglob("*")):
            assert self.is_safe(path), f"{path} is not on the disk before it is renamed"
        self.replace(tmp, out)
        self.renamed.append(Path(out))


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> OnDisk:
    return OnDisk(monkeypatch)


def write_file(out: Path) -> None:
    files.write_text(out, "a line\n" * 1000)


def write_array(out: Path) -> None:
    with files.atomic(out) as tmp:
        npy.create_array(tmp, (1000,), "float32")[:] = np.arange(1000)


def write_folder(out: Path) -> None:
    with files.atomic(out, directory=True) as tmp:
        (tmp / "file").write_bytes(b"x" * 5000)
        npy.save_array(tmp / "array.npy", np.arange(7))


def write_in_steps(out: Path) -> None:
    with resume.directory(out, "fingerprint") as work:
        array = work.array("keys", (10, 3), "float16")
        for step in range(2):
            array[5 * step : 5 * step + 5] = step
            work.done(str(step), array[5 * step : 5 * step + 5])


@pytest.mark.parametrize("write", [write_file, write_array, write_folder, write_in_steps])
def test_what_has_its_name_is_on_the_disk(tmp_path: Path, on_disk: OnDisk, write) -> None:
    for _ in range(2):  # new, and over an old one
        write(tmp_path / "results/out")
        assert on_disk.renamed[-1] == tmp_path / "results/out"
        names = dict(on_disk.safe[(tmp_path / "results").stat().st_ino])
        assert names["out"] == (tmp_path / "results/out").stat().st_ino


def test_the_test_would_see_a_file_that_is_not_on_the_disk(tmp_path: Path, on_disk: OnDisk, monkeypatch) -> None:
    monkeypatch.setattr(disk, "flush", lambda path: None)
    with pytest.raises(AssertionError, match="is not on the disk before it is renamed"):
        write_folder(tmp_path / "out")


def test_a_file_system_that_cannot_wait_is_written_to_all_the_same(tmp_path: Path, monkeypatch) -> None:
    def refuse(_descriptor: int) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(disk.os, "fsync", refuse)
    write_folder(tmp_path / "out")
    assert (tmp_path / "out/array.npy").is_file()


def test_a_disk_that_fails_when_it_is_waited_for_leaves_no_file(tmp_path: Path, monkeypatch) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(disk.os, "fsync", fail)
    with pytest.raises(files.UserError, match="an input/output error of the disk"):
        write_folder(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_gets_its_name_in_another_way() -> None:
    """`disk.replace` is the only one that moves finished work; a rename of a download stays in its temporary folder."""
    movers = ("os.replace(", "os.rename(", "shutil.move(", ".rename(out)")
    root = Path(disk.__file__).parents[1]
    found = {
        str(path.relative_to(root)) for path in root.rglob("*.py") if any(one in path.read_text() for one in movers)
    }
    assert found == {"artifacts/disk.py", "corpora/fetch.py"}
