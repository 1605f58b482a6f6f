"""Full, read-only and failing disks: one clear line, no incomplete output, no temporary file left."""

import errno
import os
import re
import resource
import subprocess

import numpy as np
import pytest
from victims import COMMANDS

from knnlm.artifacts import disk, files, npy
from knnlm.datastores import ann
from knnlm.settings import IndexSettings

QUICK = ["extract", "train", "fetch"]
RESUMED = ("out/.model.resume/", "out/.text.")  # state from which training and downloads go on
PAGE = os.sysconf("SC_PAGE_SIZE")
FULL = re.compile(r"error: \S*/?out\S*: needs (more than )?[\d,]+ bytes, [\d,]+ are free on its disk: free space\b.*")


@pytest.fixture
def mounted(tmp_path):
    """A function that mounts a file system of a given size on a folder; skips the test where that is not allowed."""
    folders = []

    def mount(folder, size, *options):
        folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}", *options]), "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting is not allowed here: run as root")
        folders.append(folder)

    yield mount
    for folder in folders:
        subprocess.run(["umount", str(folder)], check=True)


def last_line(ended):
    return [line for line in ended.text.splitlines() if "error" in line][-1]


def check_full_disk(victims, mounted, verb):
    """With half the space that the outputs need, a verb is refused, and every file under a final name is complete."""
    victims.clear()
    assert victims.run(verb).code == 0
    whole, out = victims.outputs(), victims.folder / "out"
    needed = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    victims.clear()
    mounted(out, size := max(1, needed // 2 // PAGE) * PAGE)
    if needed < 2 * PAGE:  # a file smaller than a page would still fit: fill the disk
        (out / ".filler").write_bytes(bytes(size))
    ended = victims.run(verb)
    (out / ".filler").unlink(missing_ok=True)
    assert ended.code == 1 and "Traceback" not in ended.text, ended.text
    print(f"{verb}: {last_line(ended)}")
    assert FULL.fullmatch(last_line(ended)), ended.text
    left = {name: digest for name, digest in victims.outputs().items() if digest and not name.startswith(RESUMED)}
    assert left.items() <= whole.items() and len(left) < len(whole)


def check_read_only(victims, mounted, verb):
    victims.clear()
    mounted(victims.folder / "out", 256 * PAGE, "ro")
    ended = victims.run(verb)
    assert ended.code == 1 and "Traceback" not in ended.text, ended.text
    print(f"{verb}: {last_line(ended)}")
    assert re.fullmatch(r"error: \S*out\S*: the file system is read-only: choose .*", last_line(ended)), ended.text


@pytest.mark.parametrize("verb", QUICK)
def test_a_full_disk(victims, mounted, verb):
    check_full_disk(victims, mounted, verb)


@pytest.mark.parametrize("verb", QUICK)
def test_a_read_only_disk(victims, mounted, verb):
    check_read_only(victims, mounted, verb)


@pytest.mark.slow
@pytest.mark.parametrize("verb", [verb for verb in COMMANDS if verb not in QUICK])
def test_a_full_disk_for_every_verb(victims, mounted, verb):
    check_full_disk(victims, mounted, verb)


@pytest.mark.slow
@pytest.mark.parametrize("verb", [verb for verb in COMMANDS if verb not in QUICK])
def test_a_read_only_disk_for_every_verb(victims, mounted, verb):
    check_read_only(victims, mounted, verb)


@pytest.mark.parametrize("verb", ["extract", "search", "extract:stream", "import_datastore"])
def test_room_is_checked_before_work_starts(victims, mounted, verb):
    victims.clear()
    mounted(victims.folder / "out", PAGE)
    ended = victims.run(verb)
    assert FULL.fullmatch(last_line(ended)), ended.text
    assert "needs more than" not in ended.text and not ended.changes


def test_an_array_that_would_fit_alone_but_not_beside_another_is_refused_and_does_not_kill(tmp_path, mounted):
    mounted(tmp_path / "small", 64 * PAGE)
    first = npy.create_array(tmp_path / "small/first.npy", (40 * PAGE,), "uint8")
    assert os.stat(tmp_path / "small/first.npy").st_blocks * 512 >= 40 * PAGE  # its blocks are allocated
    with pytest.raises(files.UserError, match=r"second.npy: needs 163,840 bytes, [\d,]+ are free"):
        npy.create_array(tmp_path / "small/second.npy", (40 * PAGE,), "uint8")
    first[:] = 1


def test_an_index_without_room_for_its_last_block_is_refused(tmp_path, mounted):
    mounted(tmp_path / "small", PAGE)
    (tmp_path / "small/filler").write_bytes(bytes(PAGE))
    index = ann.train(np.zeros((0, 4), np.float32), IndexSettings(factory="Flat"))
    with pytest.raises(files.UserError, match=r"x.faiss: needs more than 0 bytes, 0 are free"):
        ann.save(index, tmp_path / "small/x.faiss")
    assert os.listdir(tmp_path / "small") == ["filler"]


def test_a_folder_that_may_not_be_changed(tmp_path):
    if os.geteuid():
        tmp_path.chmod(0o500)
    elif subprocess.run(["chattr", "+i", str(tmp_path)], capture_output=True).returncode:
        pytest.skip("this file system has no immutable folders")
    try:
        with pytest.raises(files.UserError, match=r"x.npy: no permission: choose another folder"):
            npy.save_array(tmp_path / "x.npy", np.zeros(3))
    finally:
        subprocess.run(["chattr", "-i", str(tmp_path)], capture_output=True)
        tmp_path.chmod(0o700)


def test_a_limit_on_the_size_of_files(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (PAGE, before[1]))
    try:
        with pytest.raises(files.UserError, match=r"x.npy: larger than .* `ulimit -f`"):
            npy.save_array(tmp_path / "x.npy", np.zeros(PAGE))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_a_used_up_quota_and_a_failing_disk_are_explained_in_one_line(tmp_path):
    quota = OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
    assert "raise the quota" in disk.explain(quota, tmp_path / "x")
    broken = OSError(errno.EIO, os.strerror(errno.EIO), str(tmp_path / "input/x"))
    assert disk.explain(broken, tmp_path / "y").startswith(f"{tmp_path}/input/x: an input/output error of the disk")
    assert disk.explain(ValueError("x"), tmp_path) is None


@pytest.fixture(params=disk.NO_LOCKS)
def no_locks(request, monkeypatch, caplog):
    """A file system whose flock fails; returns what was logged."""

    def flock(*_):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr("fcntl.flock", flock)
    disk._warn_of_no_locks.cache_clear()
    return caplog


def test_a_file_system_without_locks_can_be_written_to(tmp_path, no_locks):
    for text in ("first", "second"):
        files.write_text(tmp_path / "x", text)
        assert (tmp_path / "x").read_text() == text and os.listdir(tmp_path) == ["x"]
    assert no_locks.text.count("has no file locks") == 1


def test_work_that_keeps_its_state_goes_on_without_locks(tmp_path, no_locks):
    for _ in range(2):
        with disk.only_one(tmp_path / "resume"):
            assert (tmp_path / "resume").is_dir()
    assert no_locks.text.count("has no file locks") == 1


@pytest.mark.parametrize("number", disk.NO_FALLOCATE)
def test_a_file_system_that_cannot_allocate_blocks_is_measured_and_not_written_to(tmp_path, monkeypatch, number):
    def emulated(*_):
        raise AssertionError("posix_fallocate writes to every block where the file system has no fallocate")

    monkeypatch.setattr("os.posix_fallocate", emulated)
    monkeypatch.setattr(disk, "_fallocate", lambda *_: number)
    npy.create_array(tmp_path / "fits.npy", (40 * PAGE,), "uint8")
    assert os.stat(tmp_path / "fits.npy").st_blocks * 512 < 40 * PAGE
    monkeypatch.setattr(disk, "free", lambda _: PAGE)
    with pytest.raises(OSError, match="No space left"):
        disk.reserve(tmp_path / "fits.npy")
