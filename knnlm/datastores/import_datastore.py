"""Import a datastore that the published code saved, in place of extraction (equation 1)."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from knnlm.artifacts import description, files, npy
from knnlm.artifacts.cli import progress
from knnlm.artifacts.files import UserError
from knnlm.models import fairseq, features
from knnlm.settings import KEY_BYTES, KeyPrecision

log = logging.getLogger("knnlm")
CHUNK = 1 << 24  # key components converted at a time
ZEROS = 1 << 12  # entries looked at together for zeros, from the end


@dataclass(frozen=True)
class ImportDatastoreConfig:
    """Turn a published pair of raw memory maps into a datastore shard directory, over which any index can be built."""

    keys: Path
    """the keys' memory map (…_keys.npy, which in spite of its name is not in the .npy format)"""
    values: Path
    """the values' memory map (…_vals.npy): 64-bit, or 16-bit if the vocabulary has at most 65,536 words"""
    size: int
    """number of entries N"""
    dim: int
    """components of a key D"""
    vocab_size: int
    """words in the model's dictionary, the four special ones included"""
    out: Path
    """datastore shard directory"""
    dtype: Literal["float16", "float32"] = "float16"
    """of the keys in the file"""
    key_precision: KeyPrecision = "float16"
    """of the keys that are kept"""
    keep_zeros: bool = False
    """keep entries at the end whose key and value are all zero: the published code skips a last window that is not
    whole, and leaves their place as it was; needed with an index that was built of them too"""
    first: int = 0
    """position of the first value in the training stream: 1536 for WikiText-103, whose first window has no keys"""


def main(config: ImportDatastoreConfig) -> None:
    keys, values = fairseq.open_datastore(
        config.keys, config.values, config.size, config.dim, config.dtype, config.vocab_size
    )
    size = config.size if config.keep_zeros else written(keys, values)
    if size < config.size:
        log.info("%s: the last %s entries are all zero and are left out", config.keys, f"{config.size - size:,}")
    if not size:
        raise UserError(f"{config.keys}: found zeros only, expected keys: are --size, --dim and --dtype right?")
    files.check_room(config.out, size * (KEY_BYTES[config.key_precision] * config.dim + 12))
    with files.atomic(config.out, directory=True) as tmp:
        kept = npy.create_array(tmp / "keys.npy", (size, config.dim), config.key_precision)
        words = npy.create_array(tmp / "values.npy", (size,), "uint32")
        step = max(1, CHUNK // config.dim)
        for start in progress(range(0, size, step), "import", unit="block"):
            rows = slice(start, min(start + step, size))
            kept[rows] = fitting(keys[rows], config)
            words[rows] = checked(values[rows], config.values, config.vocab_size)
        npy.save_array(tmp / "ids.npy", np.arange(config.first, config.first + size, dtype=np.int64))
        inputs = {"keys": config.keys, "values": config.values}
        facts: dict[str, Any] = {"entries": size, "dim": config.dim, "vocab_size": config.vocab_size}
        description.write_meta(tmp, "import_datastore", config, inputs, role="keys", **facts)


def written(keys: np.ndarray, values: np.ndarray) -> int:
    """How many entries there are before those at the end whose key [D] and value are all zero."""
    end = len(values)
    while end:
        block = slice(max(0, end - ZEROS), end)
        filled = np.flatnonzero((values[block] != 0) | keys[block].any(1))
        if len(filled):
            return block.start + int(filled[-1]) + 1
        end = block.start
    return 0


def fitting(keys: np.ndarray, config: ImportDatastoreConfig) -> np.ndarray:
    """Keys [n, D] in the precision that is kept; raises UserError for a component that is no number or too large."""
    if config.key_precision == "float16":
        return features.half(keys, str(config.keys), "is --dtype right?")
    if not np.isfinite(keys).all():
        raise UserError(f"{config.keys}: found a key component that is no finite number: is --dtype right?")
    return keys.astype(np.float32)


def checked(values: np.ndarray, path: Path, vocab_size: int) -> np.ndarray:
    """Values [n] as uint32 [n]; raises UserError for one outside the vocabulary."""
    for value in (values.min(initial=0), values.max(initial=0)):
        if not 0 <= value < vocab_size:
            raise UserError(f"{path}: value {value} is outside the vocabulary's {vocab_size:,} words")
    return values.astype(np.uint32)
