"""Arrays in .npy files: memory-mapped, checked when they are opened, their disk space reserved when they are made."""

from pathlib import Path

import numpy as np

from knnlm.artifacts import description, disk, files
from knnlm.artifacts.files import UserError


def save_array(out: Path, array: np.ndarray) -> None:
    """Write an array, completely or not at all."""
    with files.atomic(out) as tmp:
        create_array(tmp, array.shape, array.dtype.name)[...] = array


def open_array(path: Path, dtype: str | None = None, ndim: int | None = None, whole: bool = True) -> np.ndarray:
    """Memory-map a .npy file read-only; shape and dtype come from the file.

    The file is first compared with its description (see `description.check`; with `whole=False` only its size is).
    `dtype` is a NumPy kind or name ("float16", "integer", "floating"). Raises UserError for a missing or damaged file,
    another dtype, or another number of dimensions.
    """
    description.check(path, whole)
    try:
        with np.errstate(over="ignore"):  # in the product of an absurd shape
            array = np.lib.format.open_memmap(path, mode="r")  # refuses pickles
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the stage that makes it") from None
    except Exception as error:  # a header's text can end in errors of every kind
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{path}: not a whole .npy array ({reason}); delete it and run its stage again") from None
    if dtype and not np.issubdtype(array.dtype, getattr(np, dtype)):
        raise UserError(f"{path}: found {array.dtype}, expected {dtype}")
    if ndim is not None and array.ndim != ndim:
        raise UserError(f"{path}: found shape {array.shape}, expected {ndim} dimensions")
    return array


def open_stream(tokens: Path, documents: Path) -> tuple[np.ndarray, np.ndarray]:
    """Token ids [N] and document starts [D], memory-mapped; raises UserError when they are of different splits."""
    stream, starts = open_array(tokens, "integer", 1), open_array(documents, "integer", 1)
    if len(starts) == 0 or starts[-1] >= len(stream):
        raise UserError(f"{documents} does not fit the {len(stream):,} tokens of {tokens}: tokenize the split again")
    return stream, starts


def create_array(path: Path, shape: tuple[int, ...], dtype: str) -> np.memmap:
    """A new memory-mapped .npy file with its disk space reserved; raises UserError when the disk cannot hold it."""
    path, needed = Path(path), int(np.prod(shape)) * np.dtype(dtype).itemsize
    files.check_room(path, needed)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    try:
        disk.reserve(path)
    except OSError:
        raise UserError(disk.too_small(path, needed)) from None
    return array
