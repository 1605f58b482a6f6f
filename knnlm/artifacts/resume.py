"""Work on the arrays of a folder that goes on where it was stopped: finished steps are kept beside the output.

While a folder NAME is made, its files are in `.NAME.resume` beside it, with a digest of what each finished step wrote.
A job that was killed, at its time limit for example, finds them there: steps whose content still has its digest are
not done again, and the result is the same as without the kill. At the end the resume folder is gone.
"""

import contextlib
import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import xxhash

from knnlm.artifacts import description, disk, files, npy
from knnlm.artifacts.files import UserError

log = logging.getLogger("knnlm")


class Work:
    """The unfinished files of one output, and the steps that are done."""

    def __init__(self, place: Path, name: str, fingerprint: str) -> None:
        self.folder, self.fingerprint = place / name, fingerprint
        """the files, under the names that they will have in the output"""
        self._steps = place / "steps.jsonl"
        self._digests = _read(self._steps, fingerprint)
        self.scratch = place / "scratch"
        """what is needed to go on, and is not part of the output"""
        if not self._digests:  # nothing is done, or it was done with other settings or inputs
            disk.remove(self.folder)
            disk.remove(self.scratch)
            files.write_text(self._steps, json.dumps(fingerprint) + "\n")
        self.folder.mkdir(exist_ok=True)
        self.scratch.mkdir(exist_ok=True)

    def __bool__(self) -> bool:
        """Whether a step is done."""
        return bool(self._digests)

    def array(self, name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """A memory-mapped array of the output, with what finished steps wrote."""
        path = self.folder / f"{name}.npy"
        if self._digests:
            with contextlib.suppress(ValueError, EOFError, OSError):
                kept = np.load(path, mmap_mode="r+", allow_pickle=False)
                if kept.shape == shape and kept.dtype == dtype:
                    return kept
        return npy.create_array(path, shape, dtype)

    def is_done(self, step: str, *parts: np.ndarray) -> bool:
        """Whether a step is finished and `parts`, which it wrote, are still what it wrote."""
        if step not in self._digests:
            return False
        whole = self._digests[step] == _digest(parts)
        if not whole:
            log.warning("%s: what step %s wrote is damaged: doing it again", self.folder.parent, step)
        return whole

    def done(self, step: str, *parts: np.ndarray) -> None:
        """Record a step as finished, with the digest of what it wrote."""
        self._digests[step] = _digest(parts)
        with self._steps.open("a", encoding="utf-8") as file:
            file.write(json.dumps([step, self._digests[step]]) + "\n")


@contextlib.contextmanager
def directory(out: Path, fingerprint: str, *beside: Path) -> Iterator[Work | None]:
    """Yield the work on a folder, which becomes `out` on success; None where it has been made from the same.

    What finished steps wrote is kept after a kill, a signal, Ctrl-C or a failing disk, and removed after any other
    UserError. The description of `out` must contain the fingerprint, and so must those of the files `beside` it that
    are written together with it.
    """
    out = files.place(out, directory=True)
    place = _place(out)
    with files.explained(out, place), disk.only_one(place):
        if all(
            _is_made(path, fingerprint) for path in (out, *beside)
        ):  # by the process whose lock this one has waited for
            log.info("%s: already made", out)
            yield None
        else:
            work = None
            try:
                work = Work(place, out.name, fingerprint)
                yield work
            except BaseException as error:
                hopeless = isinstance(error, UserError) and not isinstance(error, files.Unfinished)
                if hopeless or not work:
                    disk.remove(place)
                raise
            files.replace(work.folder, out)
        disk.remove(place)


def fingerprint(settings: object, inputs: Iterable[Path]) -> str:
    """A digest of settings, the content of inputs, and software versions: with the same ones, work can go on."""
    contents = [description.content(Path(path)) for path in inputs]
    text = json.dumps([settings, contents, description.versions()], default=files.jsonable, sort_keys=True)
    return xxhash.xxh3_128_hexdigest(text.encode())


def kept(outs: Iterable[Path]) -> int:
    """Bytes on disk that unfinished work on these folders occupies already."""
    return sum(disk.size(_place(files.place(out, directory=True))) for out in outs)


def _place(out: Path) -> Path:
    return out.parent / f".{out.name}.resume"


def _read(path: Path, fingerprint: str) -> dict[str, str]:
    """The digest of each finished step; none where the work had another fingerprint."""
    if not path.exists():
        return {}
    first, *lines = path.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
    if first != json.dumps(fingerprint):
        log.info("%s: of other settings or inputs: starting anew", path.parent)
        return {}
    digests = {}
    for line in lines:
        with contextlib.suppress(ValueError, TypeError):  # a line that was cut short: its step is done again
            step, digest = json.loads(line)
            digests[step] = digest
    log.info("%s: %d steps were finished before", path.parent, len(digests))
    return digests


def _digest(parts: Iterable[np.ndarray]) -> str:
    digest = xxhash.xxh3_128()
    for part in parts:
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def _is_made(out: Path, fingerprint: str) -> bool:
    """Whether `out` is whole and was made from the same settings and inputs."""
    if not out.exists():
        return False
    try:
        return description.described(description.check(out)).get("fingerprint") == fingerprint
    except UserError:
        return False
