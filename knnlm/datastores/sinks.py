"""Where the keys of a datastore shard go, block by block, so that a job that is stopped can go on: disk or indexes."""

import logging
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from knnlm.artifacts import description, disk, files, lineage, resume
from knnlm.datastores import ann
from knnlm.settings import KEY_BYTES, KeyPrecision

log = logging.getLogger("knnlm")
SAVING = 0.02  # the largest part of the time that is spent on saving unfinished indexes


class Sink(Protocol):
    """Where the keys of a shard go, block by block."""

    stage: str  # the stage that the descriptions name
    entry_bytes: int  # the most that the keys or codes of one entry take on disk

    def begin(self, works: dict[str, resume.Work], blocks: list[slice]) -> list[int]:
        """Called with the unfinished directory of each key type and the rows of all blocks.

        Returns the numbers of the blocks that are still to be done.
        """

    def add(self, rows: slice, keys: dict[str, np.ndarray]) -> None:
        """The keys of these rows, a part of a block: {key type: [n, D]}; rows come in ascending order."""

    def finish(self, block: slice) -> None:
        """Called after the last `add` of a block."""

    def keep(self, block: slice) -> None:
        """Called before the job is stopped after this block."""

    def save(self, shared: dict[str, str]) -> None:
        """Called when the shard's directories are complete; `shared` is their lineage."""


class ToDisk:
    """Writes keys.npy, [n, D] of the precision asked for, into the directory of each key type."""

    stage = "extract"

    def __init__(self, keytypes: int, dim: int, precision: KeyPrecision) -> None:
        self.dim, self.precision, self.entry_bytes = dim, precision, keytypes * KEY_BYTES[precision] * dim
        self.arrays: list[tuple[str, resume.Work, np.ndarray]] = []

    def begin(self, works: dict[str, resume.Work], blocks: list[slice]) -> list[int]:
        shape = blocks[-1].stop, self.dim
        self.arrays = [(name, work, work.array("keys", shape, self.precision)) for name, work in works.items()]
        return [
            number
            for number, block in enumerate(blocks)
            if not all(work.is_done(str(block.start), array[block]) for _, work, array in self.arrays)
        ]

    def add(self, rows: slice, keys: dict[str, np.ndarray]) -> None:
        for name, _, array in self.arrays:
            array[rows] = keys[name]

    def finish(self, block: slice) -> None:
        for _, work, array in self.arrays:
            work.done(str(block.start), array[block])

    def keep(self, block: slice) -> None:
        """Nothing is left to do: each block is kept when it is finished."""

    def save(self, shared: dict[str, str]) -> None:
        """Nothing is left to do: the keys lie in the shard's directories."""


class IntoIndexes:
    """Adds the keys of one key type to copies of trained indexes.

    Unfinished indexes are saved at the end of a block, and the last state is removed once the next one is complete.
    Large ones, which take long, are saved less often than every `save_every` seconds.
    """

    stage = "stream"

    def __init__(self, trained: tuple[Path, ...], index: tuple[Path, ...], keys: Path, save_every: float) -> None:
        self.trained, self.index, self.keys, self.save_every = trained, index, keys, save_every
        self.indexes = [ann.load(path) for path in trained]
        self.entry_bytes = 2 * sum(map(ann.entry_bytes, self.indexes))  # an index is written beside its last state
        self.waiting: list[np.ndarray] = []  # [n, D] each, as a stored datastore would hold them
        self.kept, self.next_save = 0, time.monotonic() + save_every  # entries of the last state; when to save again

    def begin(self, works: dict[str, resume.Work], blocks: list[slice]) -> list[int]:
        (self.work,) = works.values()
        done = next((n for n in range(len(blocks), 0, -1) if self._is_kept(blocks[n - 1])), 0)
        if done:
            folder = self._state(blocks[done - 1])
            self.indexes = [ann.load(folder / f"{number}.faiss") for number in range(len(self.indexes))]
            log.info("going on after %s entries", f"{blocks[done - 1].stop:,}")
        self.indexes = [ann.on_gpu(index, needed=False) for index in self.indexes]
        return list(range(done, len(blocks)))

    def add(self, rows: slice, keys: dict[str, np.ndarray]) -> None:
        self.waiting += keys.values()

    def finish(self, block: slice) -> None:
        keys = np.concatenate(self.waiting)  # [n, D]
        for index in self.indexes:
            ann.add(index, keys)
        self.waiting.clear()
        if (began := time.monotonic()) > self.next_save:
            self.keep(block)
            ended = time.monotonic()
            self.next_save = ended + max(self.save_every, (ended - began) / SAVING)

    def keep(self, block: slice) -> None:
        if self.kept == block.stop:
            return
        state = self._state(block)
        with files.atomic(state, directory=True) as tmp:
            for number, index in enumerate(self.indexes):
                ann.save(index, tmp / f"{number}.faiss")
        self.work.done(state.name, _digests(state))
        for other in self.work.scratch.iterdir():
            if other != state:
                disk.remove(other)
        self.kept = block.stop

    def _state(self, block: slice) -> Path:
        """The folder of the indexes with all entries up to the end of a block."""
        return self.work.scratch / str(block.stop)

    def _is_kept(self, block: slice) -> bool:
        state = self._state(block)
        return state.is_dir() and self.work.is_done(state.name, _digests(state))

    def save(self, shared: dict[str, str]) -> None:
        folder = self.work.folder
        keys = self.keys, {"digest": description.identity(folder)}
        for index, trained, path in zip(self.indexes, self.trained, self.index, strict=True):
            ann.save(index, path)
            inputs: dict[str, Path | tuple[Path, dict]] = {"trained": trained, "keys": keys}
            roles = lineage.agree((trained, folder), *shared, "index", "keys")
            facts: dict[str, Any] = {"entries": index.ntotal, "fingerprint": self.work.fingerprint}
            description.write_meta(path, self.stage, {}, inputs, roles, **facts)


def _digests(folder: Path) -> np.ndarray:
    """The digests of a folder's files, as bytes."""
    return np.frombuffer("".join(map(description.digest, sorted(folder.iterdir()))).encode(), np.uint8)
