"""Exact distances between queries and the stored keys of their neighbors, in place of an index's quantized ones."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from knnlm.artifacts import devices

GATHERED = 1 << 26  # floats of keys that a GPU compares at a time
FREE_SHARE = 0.7  # of a GPU's free memory, for keys; the rest is for comparing them
COPIED = 1 << 28  # bytes of keys sent to a GPU at a time
SPARSE = 8  # a piece of the keys is read whole if at least one row in so many may be asked for
PARTS = 4096  # parts of the keys, read one after another
TOGETHER = 1 << 22  # pairs compared part by part at a time: enough for each part, and little memory
AHEAD = 8  # pairs whose keys are on their way from memory while one is compared
LINE = 64  # bytes that a processor reads from memory at a time


def distances(keys: np.ndarray, queries: np.ndarray, rows: np.ndarray, inner_product: bool = False) -> np.ndarray:
    """Squared L2 (or negated inner product) between each query and its neighbors' keys, in float32.

    keys [n, d] float16 or float32, which may be memory-mapped: only the rows asked for are read, roughly in ascending
    order; queries [Q, d]; rows [Q, K] int64, -1 where missing. Returns [Q, K] float32, inf where missing.
    """
    out = np.full(rows.shape, np.inf, np.float32)  # [Q, K]
    flat = rows.ravel()
    order = _reading_order(flat, len(keys))
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    _fused(_bits(keys), queries, flat[order], order, rows.shape[1], inner_product, out.ravel())
    return out


def rerank(
    shards: Sequence[np.ndarray],
    queries: np.ndarray,
    rows: np.ndarray,
    memory: int | None = None,
    device: str = "cpu",
    inner_product: bool = False,
) -> np.ndarray:
    """The same as `distances`, for many queries and shards: each key that is asked for is read once, in file order.

    shards: keys [n, d] each, all float16 or all float32; queries [Q, d]; rows [Q, K] int64 into the shards laid end to
    end, -1 where missing. Keys are held in pieces of at most `memory` bytes (whole shards where they fit) in the
    device's memory; None means most of what a GPU has free. Returns [Q, K] float32, inf where missing.

    Bytes read for each query are at most b d n / Q, with n keys of b bytes a component, and about b d K if that is much
    less. Besides the pieces, 24 bytes are held for each of the Q K pairs, rows and result included, 4 d for each query,
    and 0.1 GB. On "cpu" the result equals that of `distances` bit for bit whatever `memory` is. PyTorch computes on
    other devices, in float32, in another order of summation.
    """
    width, total = rows.shape[1], sum(map(len, shards))
    size = shards[0].itemsize * shards[0].shape[1]  # bytes of a key
    out, flat = np.full(rows.shape, np.inf, np.float32), rows.ravel()
    if flat.size and int(flat.max()) >= total:
        raise ValueError(f"row {int(flat.max()):,} is beyond the {total:,} keys")
    if memory is None:
        memory = total * size if device == "cpu" else int(FREE_SHARE * devices.free_memory(device))
    pieces = list(_pieces(shards, max(1, memory // size)))
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    if device == "cpu" and len(pieces) == 1 and _read_whole(pieces[0], int(np.count_nonzero(flat >= 0))):
        _part_by_part(pieces[0].keys, queries, flat, None, width, inner_product, out.ravel())
        return out
    order, ends = _by_piece(flat, np.array([piece.first for piece in pieces] + [total]))
    for piece, start, end in zip(pieces, ends, ends[1:], strict=False):
        pairs = order[start:end]
        if not len(pairs):
            continue
        local = flat[pairs]
        local -= piece.first
        keys, local = _read(piece, local)
        if device == "cpu":
            _part_by_part(keys, queries, local, pairs, width, inner_product, out.ravel())
        else:
            _compare(_on_device(keys, device), queries, local, pairs, width, inner_product, out.ravel())
    return out


def _bits(keys: np.ndarray) -> np.ndarray:
    """Keys [n, d] as `_fused` takes them: float16 by its bits."""
    return keys.view(np.uint16) if keys.dtype == np.float16 else keys


class Piece(NamedTuple):
    """Consecutive keys of one shard."""

    keys: np.ndarray  # [n, d]
    first: int  # row of the first of them, in the shards laid end to end


def _pieces(shards: Sequence[np.ndarray], limit: int) -> Iterator[Piece]:
    """The shards cut into pieces of at most `limit` keys, about equally long within a shard."""
    first = 0
    for keys in shards:
        size = -(-len(keys) // max(1, -(-len(keys) // limit)))
        for start in range(0, len(keys), size or 1):
            yield Piece(keys[start : start + size], first + start)
        first += len(keys)


def _read(piece: Piece, local: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The keys among which the rows `local` [P] of a piece are, and the rows' places among them.

    Where few are asked for, these alone are read, in ascending order.
    """
    if _read_whole(piece, len(local)):
        return piece.keys, local
    once, places = np.unique(local, return_inverse=True)
    return piece.keys[once], places


def _read_whole(piece: Piece, asked: int) -> bool:
    """Whether a piece is read whole for so many rows."""
    return asked * SPARSE >= len(piece.keys)


def _part_by_part(
    keys: np.ndarray,
    queries: np.ndarray,
    local: np.ndarray,
    pairs: np.ndarray | None,
    width: int,
    inner_product: bool,
    out: np.ndarray,
) -> None:
    """As `_fused`, for rows `local` [P] in any order, -1 where missing; without `pairs`, they are all [Q*K]."""
    keys = keys if keys.flags.owndata else np.array(keys)  # a memory map would be read again, out of order
    for start in range(0, len(local), TOGETHER):
        here = slice(start, start + TOGETHER)
        near = _reading_order(local[here], len(keys))
        which = near + start if pairs is None else pairs[here][near]
        _fused(_bits(keys), queries, local[here][near], which, width, inner_product, out)


def _on_device(keys: np.ndarray, device: str) -> Any:
    """A tensor [n, d] on a device; of memory-mapped keys, little is in this machine's memory at a time."""
    import torch

    held = torch.empty(keys.shape, dtype=getattr(torch, keys.dtype.name), device=device)
    step = max(1, COPIED // (keys.itemsize * keys.shape[1]))
    for start in range(0, len(keys), step):
        held[start : start + step] = torch.from_numpy(np.array(keys[start : start + step]))
    return held


def _compare(
    keys: Any,
    queries: np.ndarray,
    local: np.ndarray,
    pairs: np.ndarray,
    width: int,
    inner_product: bool,
    out: np.ndarray,
) -> None:
    """As `_fused`, with PyTorch on the device where the keys are, in blocks of pairs that bound its memory."""
    import torch

    step = max(1, GATHERED // keys.shape[1])
    for start in range(0, len(pairs), step):
        block = pairs[start : start + step].astype(np.int64)  # [P], ascending
        asked, which = np.unique(block // width, return_inverse=True)
        rows = torch.from_numpy(local[start : start + step]).to(keys.device)
        gathered = keys[rows].float()  # [P, d]
        sought = torch.from_numpy(queries[asked]).to(keys.device)[torch.from_numpy(which).to(keys.device)]  # [P, d]
        near = gathered.mul_(sought).sum(1).neg_() if inner_product else gathered.sub_(sought).square_().sum(1)  # [P]
        out[block] = near.cpu().numpy()


@intrinsic
def _single(_typing, _bits):
    """The float32 value of a float16 given by its bits, uint16; one instruction of the processor. A float32 is itself.

    numba cannot compute with float16 on a CPU.
    """
    if _bits == numba.float32:
        return numba.float32(numba.float32), lambda _context, _builder, _signature, arguments: arguments[0]

    def code(_context, builder, _signature, arguments):
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return numba.float32(numba.uint16), code


@intrinsic
def _fetch(_typing, _address):
    """Ask for the memory at an address, uint64, without waiting for it."""

    def code(context, builder, _signature, arguments):
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        reading, often, data = number(0), number(3), number(1)
        builder.call(function, [builder.inttoptr(arguments[0], pointer), reading, often, data])
        return context.get_dummy_value()

    return numba.void(numba.uint64), code


@numba.njit(cache=True)
def _reading_order(rows, count):
    """Positions of the rows that are not missing, grouped by part of the keys, so that a disk is read in one direction.

    This is a counting sort by part. Sorting within a part would take longer than all distances, and gain little:
    a part that was just read is in memory.
    """
    size = count // PARTS + 1  # rows in a part
    starts = np.zeros(PARTS + 1, np.int64)
    for row in rows:
        if row >= 0:
            starts[row // size + 1] += 1
    starts = np.cumsum(starts)
    order = np.empty(starts[-1], np.int64)
    for i, row in enumerate(rows):
        if row >= 0:
            order[starts[row // size]] = i
            starts[row // size] += 1
    return order


def _by_piece(rows: np.ndarray, firsts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the rows [P] that are not missing, piece by piece, and where each piece's begin: [pieces + 1].

    firsts [pieces + 1] int64: the first row of each piece, and the number of rows. Positions ascend within a piece.
    """
    starts = np.zeros(len(firsts), np.int64)
    _count(rows, firsts, starts)
    starts = np.cumsum(starts)
    order = np.empty(starts[-1], np.uint32 if len(rows) < 1 << 32 else np.int64)
    _place(rows, firsts, starts.copy(), order)
    return order, starts


@numba.njit(cache=True)
def _count(rows, firsts, counts):
    """Count the rows of piece i in counts[i + 1]."""
    for row in rows:
        if row >= 0:
            counts[np.searchsorted(firsts, row, side="right")] += 1


@numba.njit(cache=True)
def _place(rows, firsts, next_place, order):
    """The second half of a counting sort by piece."""
    for i, row in enumerate(rows):
        if row >= 0:
            piece = np.searchsorted(firsts, row, side="right") - 1
            order[next_place[piece]] = i
            next_place[piece] += 1


@numba.njit(parallel=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def _fused(keys, queries, rows, pairs, width, inner_product, out):
    """Fill `out` [Q*K] at the positions `pairs` [P], from the keys' `rows` [P], without a copy of the keys."""
    first, size = keys.ctypes.data, keys.strides[0]  # the address of the first key, and bytes from one to the next
    for i in numba.prange(len(pairs)):
        if i + AHEAD < len(rows):
            address = first + rows[i + AHEAD] * size
            for line in range(0, size, LINE):
                _fetch(np.uint64(address + line))
        pair = np.int64(pairs[i])
        key, query = keys[rows[i]], queries[pair // width]  # [d], [d]
        total = np.float32(0)
        if inner_product:
            for j in range(len(query)):
                total -= query[j] * _single(key[j])
        else:
            for j in range(len(query)):
                difference = query[j] - _single(key[j])
                total += difference * difference
        out[pair] = total
