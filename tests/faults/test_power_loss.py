"""The power fails at any moment: what then has its final name and a description is whole, and the work goes on.

The files lie on `power_fs.py`, a file system that loses what nobody waited for. `tests/artifacts/test_power.py` looks
at the calls alone and needs no such file system.
"""

import contextlib
import hashlib
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from tinyrun import configured, log_of, run, start, tables, workspace
from victims import COMMANDS, TIMEOUT

from knnlm.artifacts import description, files

SEED = 20261128
QUICK = ["binarize"]
OTHERS = shlex.split(
    "add build_vocab crate extract extract:stream fetch import_datastore import_fairseq import_pretrained interpolate "
    "merge plot prepare rerank score_knn search subset tabulate train train:initial train_index"
)
CONTINUED = 3  # disks of each verb on which it is run again
MOUNTS = "fusermount3", "fusermount"
CARELESS = """
import sys
from knnlm.artifacts import disk
flush = disk.flush
disk.flush = lambda path: {}
from knnlm.__main__ import main
sys.argv[0] = "knnlm"
main()
"""


def missing() -> str:
    """Why no file system of this kind can be mounted here; empty if one can."""
    try:
        import mfusepy  # noqa: F401
    except ImportError:
        return "mfusepy is not installed (pip install mfusepy)"
    except OSError:
        return "mfusepy does not find libfuse (apt-get install fuse3 libfuse2)"
    if not any(map(shutil.which, MOUNTS)):
        return "fusermount is not installed (apt-get install fuse3)"
    return "" if os.access("/dev/fuse", os.R_OK | os.W_OK) else "/dev/fuse cannot be opened: run as root"


pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "FUSE can be mounted")


@contextlib.contextmanager
def mounted(disk: Path, mountpoint: Path, left: Path, **flags: object) -> Iterator[subprocess.Popen]:
    """The files of `disk` at `mountpoint`; in the end `left` has what is on the disk."""
    mountpoint.mkdir(parents=True, exist_ok=True)
    disk.mkdir(parents=True, exist_ok=True)
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    command = [sys.executable, ROOT / "tests/faults/power_fs.py", disk, mountpoint, "--left", left, *words]
    text = left.with_suffix(".txt")
    with text.open("w") as out, subprocess.Popen([*map(str, command)], stdout=out, stderr=out) as server:
        while not mountpoint.is_mount():
            if server.poll() is not None:
                reason = text.read_text()
                if "not permitted" in reason:
                    pytest.skip("mounting is not allowed here: run as root")
                raise AssertionError(reason)
            time.sleep(0.05)
        try:
            yield server
        finally:
            program = next(filter(None, map(shutil.which, MOUNTS)))
            lazily = ["-z"] if server.poll() is not None else []
            subprocess.run([program, "-u", *lazily, str(mountpoint)], check=True)
    assert server.returncode == 0, text.read_text()
    print(text.read_text(), end="")


def cut(mountpoint: Path) -> None:
    """Let the power fail now."""
    with contextlib.suppress(OSError):  # nothing answers
        os.setxattr(mountpoint, "user.cut", b"")


def shown(folder: Path) -> list[Path]:
    """All files in a folder but those with a temporary name, or in a folder with one."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def check_described(folder: Path) -> int:
    """Every artifact with a description has the digests in it; returns how many there are."""
    metas = [path for path in shown(folder) if path.name.endswith("meta.json")]
    for path in metas:
        name = path.name.removesuffix("meta.json").removesuffix(".")
        description.check(path.with_name(name) if name else path.parent)
    return len(metas)


def check_left(folder: Path, whole: dict[str, str], out: str = "out") -> None:
    """Every file that has its final name has the content that an undisturbed run gives it."""
    check_described(folder)
    for path in shown(folder):
        name = f"{out}/{path.relative_to(folder)}"
        assert hashlib.sha256(path.read_bytes()).hexdigest() == whole[name], f"{path} is not whole"


def check_verb(victims, tmp_path: Path, verb: str) -> None:
    """Any of the disks that a loss of power at any moment could leave is sound, and the verb goes on from some."""
    victims.clear()
    assert victims.run(verb).code == 0
    whole, out, moments = victims.outputs(), victims.folder / "out", tmp_path / "moments"
    victims.clear()
    with mounted(tmp_path / "disk", out, tmp_path / "left", moments=moments):
        ended = victims.run(verb)
        assert ended.code == 0, ended.text
        assert victims.outputs() == whole
    left = sorted(moments.iterdir())
    for folder in left:
        check_left(folder, whole)
    assert any(len(shown(folder)) < len(whole) for folder in left)
    for folder in random.Random(f"{SEED} {verb}").sample(left, CONTINUED):
        print(f"{verb}: goes on from {folder.name} of {len(left)}")
        victims.clear()
        shutil.copytree(folder, out)
        ended = victims.run(verb)
        assert ended.code == 0, ended.text
        assert victims.outputs() == whole


@pytest.mark.parametrize("verb", QUICK)
def test_the_power_fails_at_any_moment_of_a_verb(victims, tmp_path, verb):
    check_verb(victims, tmp_path, verb)


@pytest.mark.slow
@pytest.mark.parametrize("verb", OTHERS)
def test_the_power_fails_at_any_moment_of_other_verbs(victims, tmp_path, verb):
    check_verb(victims, tmp_path, verb)


@pytest.mark.parametrize(
    ("waiting", "noticed"),
    [("None", "not valid JSON"), ("flush(path) if path.name == 'meta.json' else None", "found 0 bytes")],
)
def test_a_verb_that_does_not_wait_for_the_disk_is_noticed(victims, tmp_path, waiting, noticed):
    victims.clear()
    moments = tmp_path / "moments"
    with mounted(tmp_path / "disk", victims.folder / "out", tmp_path / "left", moments=moments):
        command = [sys.executable, "-c", CARELESS.format(waiting), "binarize", *COMMANDS["binarize"]]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run(command, cwd=victims.folder, env=environment, check=True, timeout=TIMEOUT)
    seen = []
    for folder in moments.iterdir():
        try:
            check_described(folder)
        except files.UserError as error:
            seen.append(str(error))
    assert any(noticed in text for text in seen), seen


def test_only_what_was_waited_for_is_on_the_disk(tmp_path):
    here = tmp_path / "mounted"
    with mounted(tmp_path / "disk", here, tmp_path / "left", moments=tmp_path / "moments"):
        for name in ("waited", "unwaited"):
            (here / f"{name}.tmp").write_text(name)
        for path in (here / "waited.tmp", here):
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        for name in ("unwaited", "waited"):
            (here / f"{name}.tmp").rename(here / name)
        cut(here)
        with pytest.raises(OSError, match=r"not connected|abort"):
            (here / "waited").read_text()
    moments = [{path.name: path.read_text() for path in one.iterdir()} for one in (tmp_path / "moments").iterdir()]
    assert {"waited.tmp": "waited", "unwaited.tmp": ""} in moments  # neither rename is on the disk
    assert {"waited.tmp": "waited", "unwaited": ""} in moments  # a name without its content
    for names in moments:  # a rename is wholly on the disk or not at all
        assert not {"waited", "waited.tmp"} <= names.keys() and not {"unwaited", "unwaited.tmp"} <= names.keys()
        assert names.get("waited", "waited") == "waited"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The files of a small study that was never interrupted, and the number of renames on its disk."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with mounted(workspace(folder / "disk"), folder / "work", folder / "left"):
        run(folder / "work", configured(folder, keep="all"))
    return folder / "left", int(folder.joinpath("left.txt").read_text().split()[-2])


@pytest.mark.slow
def test_a_study_goes_on_after_losses_of_power(undisturbed, tmp_path):
    expected, renames = undisturbed
    work, disk, config = tmp_path / "work", workspace(tmp_path / "disk"), configured(tmp_path, keep="all")
    generator = random.Random(SEED)
    for way in ("names", "some", "least"):
        left = tmp_path / way
        with mounted(disk, work, left, cut=generator.randrange(1, renames // 2), way=way) as server:
            run(work, config, "--unlock")
            began = start(work, config)
            while server.poll() is None:
                assert began.poll() is None, log_of(config).read_text()[-3000:]
                time.sleep(0.1)
            os.killpg(began.pid, signal.SIGKILL)
            began.wait()
        print(f"{check_described(left / 'results')} artifacts have a description and are whole")
        disk = left
    with mounted(disk, work, tmp_path / "end"):
        run(work, config, "--unlock")
        run(work, config)
    assert tables(tmp_path / "end") == tables(expected)
    assert check_described(tmp_path / "end/results") == check_described(expected / "results")
