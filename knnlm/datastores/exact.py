"""Exact distances between queries and the stored keys of their neighbors, in place of an index's quantized ones."""

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

GATHERED = 1 << 28  # floats of keys gathered on a GPU at a time
PARTS = 4096  # parts of the keys, read one after another


def distances(keys: np.ndarray, queries: np.ndarray, rows: np.ndarray, inner_product: bool = False) -> np.ndarray:
    """Squared L2 (or negated inner product) between each query and its neighbors' keys, in float32.

    keys [n, d] float16, which may be memory-mapped: only the rows asked for are read, in roughly ascending order;
    queries [Q, d]; rows [Q, K] int64, -1 where missing. Returns [Q, K] float32, inf where missing.
    """
    out = np.full(rows.shape, np.inf, np.float32)  # [Q, K]
    order = _reading_order(rows.ravel(), len(keys))
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    _fused(keys.view(np.uint16), queries, rows.ravel(), order, rows.shape[1], inner_product, out.ravel())
    return out


def distances_on(
    device: str, keys: np.ndarray, queries: np.ndarray, rows: np.ndarray, inner_product: bool = False
) -> np.ndarray:
    """The same as `distances`, computed by torch on a device ("cuda"), in blocks of queries that bound its memory."""
    import torch

    out = np.full(rows.shape, np.inf, np.float32)  # [Q, K]
    step = max(1, GATHERED // (rows.shape[1] * keys.shape[1]))
    for start in range(0, len(rows), step):
        asked = rows[start : start + step]  # [B, K]
        once, where = np.unique(asked, return_inverse=True)  # each key is read once, in ascending order
        candidates = torch.from_numpy(keys[np.maximum(once, 0)]).to(device)  # [U, d] float16
        gathered = candidates[torch.from_numpy(where.reshape(asked.shape)).to(device)].float()  # [B, K, d]
        block = torch.from_numpy(np.ascontiguousarray(queries[start : start + step], np.float32)).to(device)[:, None]
        near = -(gathered * block).sum(-1) if inner_product else (gathered - block).square_().sum(-1)  # [B, K]
        out[start : start + step] = np.where(asked < 0, np.inf, near.cpu().numpy())
    return out


@intrinsic
def _single(_typing, _bits):
    """The float32 value of a float16 given by its bits, uint16; one instruction of the processor.

    numba cannot compute with float16 on a CPU.
    """

    def code(_context, builder, _signature, arguments):
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return numba.float32(numba.uint16), code


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


@numba.njit(parallel=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def _fused(keys, queries, rows, order, width, inner_product, out):
    """Fill `out` [Q*K] at the positions in `order`, pair by pair, without a copy of the keys."""
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
