"""Exact distances between queries and the stored keys of their neighbors."""

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

GATHERED = 1 << 28  # floats of keys gathered on a GPU at a time
PLACES = 4096  # parts of the keys, read one after another


def distances(keys: np.ndarray, queries: np.ndarray, rows: np.ndarray, inner_product: bool = False) -> np.ndarray:
    """Squared L2 (or negated inner product) between each query and its neighbors' keys, in float32.

    keys [n, d] float16, may be memory-mapped: only the rows asked for are read, in about ascending order;
    queries [Q, d]; rows [Q, K] int64, -1 where missing. Returns [Q, K] float32, inf where missing.
    """
    out = np.full(rows.shape, np.inf, np.float32)  # [Q, K]
    order = _by_place(rows.ravel(), len(keys))
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    _fused(keys.view(np.uint16), queries, rows.ravel(), order, rows.shape[1], inner_product, out.ravel())
    return out


def distances_on(
    device: str, keys: np.ndarray, queries: np.ndarray, rows: np.ndarray, inner_product: bool = False
) -> np.ndarray:
    """The same as `distances`, by torch on a device ("cuda"), in blocks of queries that bound its memory."""
    import torch

    out = np.full(rows.shape, np.inf, np.float32)  # [Q, K]
    step = max(1, GATHERED // (rows.shape[1] * keys.shape[1]))
    for start in range(0, len(rows), step):
        found = rows[start : start + step]  # [B, K]
        wanted, where = np.unique(found, return_inverse=True)  # ascending, each key once
        candidates = torch.from_numpy(keys[np.maximum(wanted, 0)]).to(device)  # [U, d] float16
        gathered = candidates[torch.from_numpy(where.reshape(found.shape)).to(device)].float()  # [B, K, d]
        block = torch.from_numpy(np.ascontiguousarray(queries[start : start + step], np.float32)).to(device)[:, None]
        near = -(gathered * block).sum(-1) if inner_product else (gathered - block).square_().sum(-1)  # [B, K]
        out[start : start + step] = np.where(found < 0, np.inf, near.cpu().numpy())
    return out


@intrinsic
def _single(_typing, _bits):
    """A half-precision number, given by its bits as uint16, in single precision: the processor's own conversion.

    numba has no arithmetic of float16 on a CPU.
    """

    def code(_context, builder, _signature, arguments):
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return numba.float32(numba.uint16), code


@numba.njit(cache=True)
def _by_place(rows, count):
    """Positions of the rows that are not missing, by parts of the keys: the disk is read in one direction.

    Within a part a key may be read more than once, from memory; to sort the rows would take longer than all distances.
    """
    size = count // PLACES + 1
    ends = np.zeros(PLACES + 1, np.int64)
    for row in rows:
        if row >= 0:
            ends[row // size + 1] += 1
    ends = np.cumsum(ends)
    order = np.empty(ends[-1], np.int64)
    for i, row in enumerate(rows):
        if row >= 0:
            order[ends[row // size]] = i
            ends[row // size] += 1
    return order


@numba.njit(parallel=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def _fused(keys, queries, rows, order, width, inner_product, out):
    for i in numba.prange(len(order)):
        pair = order[i]
        key, query = keys[rows[pair]], queries[pair // width]  # [d], [d]
        total = np.float32(0)
        if inner_product:
            for j in range(len(query)):
                total -= query[j] * _single(key[j])
        else:
            for j in range(len(query)):
                difference = query[j] - _single(key[j])
                total += difference * difference
        out[pair] = total
