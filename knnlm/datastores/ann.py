"""Approximate nearest neighbors: the one module that imports FAISS.

An index holds row numbers of one datastore shard. Every shard's index shares one trained coarse quantiser and
product quantiser, so shards searched apart and merged equal one index over everything, bit for bit on a CPU.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np

from knnlm.artifacts.files import UserError, atomic, check
from knnlm.settings import IndexSettings

log = logging.getLogger("knnlm")
METRICS = {"l2": faiss.METRIC_L2, "ip": faiss.METRIC_INNER_PRODUCT}
TIES = 32  # neighbors asked for beyond k, so that equal distances at the cut can be ordered by id
GPU_WIDEST = 2048  # neighbors that FAISS returns per query on a GPU
WRITTEN = 1 << 24  # bytes handed to the file at a time
CHUNK = 1 << 22  # floats converted from half precision at a time: they stay in a cache


def train(sample: np.ndarray, settings: IndexSettings) -> faiss.Index:
    """An empty index trained on float32 `sample` [n, d]; seeded, so the same sample gives the same index.

    Raises UserError for a factory string FAISS cannot read, or a sample smaller than the number of centroids.
    """
    count, dimension = sample.shape
    try:
        index = faiss.index_factory(dimension, settings.factory, METRICS[settings.metric])
    except RuntimeError as error:
        reason = str(error).rsplit("Error:", 1)[-1].strip() or "unknown description"
        raise UserError(f"factory {settings.factory!r} does not fit {dimension}-dimensional keys: {reason}") from None
    for clustering, centroids, name in _clusterings(index):
        if centroids > count:
            raise UserError(
                f"factory {settings.factory!r} has {centroids:,} {name}, the sample {count:,} keys: "
                "ask for fewer, or for a larger sample"
            )
        clustering.seed = settings.seed
        clustering.min_points_per_centroid = 1
    _without_polysemous_codes(index)
    if not index.is_trained:
        trained = on_gpu(index)
        _with_blas(True, trained.train, np.ascontiguousarray(sample, dtype=np.float32))
        index = off_gpu(trained)
    return index


def add(index: faiss.Index, keys: np.ndarray) -> None:
    """Add `keys` [n, d] of any float type in row order; converted to float32 chunk by chunk.

    Where `_fillable` allows it, an entry's list does not depend on what is added with it.
    """
    check_dimension(index, keys, "keys")
    fillable = _fillable(index)
    for start in range(0, len(keys), step := max(1, CHUNK // index.d)):
        chunk = np.ascontiguousarray(keys[start : start + step], dtype=np.float32)
        if fillable is None:
            _with_blas(_ivf(index) is not None, index.add, chunk)
        else:
            lists = _nearest_lists(faiss.downcast_index(fillable.quantizer), chunk)  # [n]
            fillable.add_core(len(chunk), faiss.swig_ptr(chunk), None, faiss.swig_ptr(lists))
    if fillable is not None and fillable is not index:
        packed = faiss.IndexIVFPQFastScan(fillable, index.bbs)
        index.replace_invlists(packed.invlists, True)
        packed.own_invlists, index.ntotal = False, fillable.ntotal


def _fillable(index: faiss.Index) -> faiss.IndexIVF | None:
    """What takes entries together with their lists: the index itself or, before its codes are packed, a plain twin.

    None where FAISS alone can choose the lists: on a GPU, behind OPQ, with packed codes other than PQ's.
    """
    if not isinstance(index, faiss.IndexIVF) or not isinstance(faiss.downcast_index(index.quantizer), faiss.IndexFlat):
        return None
    if not isinstance(index, faiss.IndexIVFFastScan):
        return index
    if not isinstance(index, faiss.IndexIVFPQFastScan) or index.ntotal:
        return None
    pq = index.pq
    twin = faiss.IndexIVFPQ(index.quantizer, index.d, index.nlist, pq.M, pq.nbits, index.metric_type)
    twin.pq, twin.by_residual, twin.is_trained = pq, index.by_residual, True
    return twin


def _nearest_lists(quantizer: faiss.IndexFlat, keys: np.ndarray) -> np.ndarray:
    """The list of each key [n] int64: by matrix products, which round by the shape of the block, and where those
    leave two lists open, pair by pair.
    """
    near, found, beyond = _candidates(quantizer, keys, min(2, quantizer.ntotal))
    lists, open_ = np.ascontiguousarray(found[:, 0]), near[:, 0] >= beyond
    lists[open_] = _with_blas(False, quantizer.search, keys[open_], 1)[1][:, 0]
    return lists


def search(index: faiss.Index, queries: np.ndarray, k: int, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The `k` nearest entries of each query, sorted by (distance, id).

    queries [Q, d]; ids [n] int64 global id of each row, which decides between equal distances, at the cut too.
    Returns distances [Q, k] float32 (squared L2, or negated inner product; inf where missing) and rows [Q, k]
    int64 (-1 where missing: fewer than k entries in the lists visited). Raises UserError when k > n.
    """
    from knnlm.datastores.neighbors import order_ties  # numba, which training and adding do not need

    check_dimension(index, queries, "queries")
    total = index.ntotal
    widest = min(total, GPU_WIDEST) if has_gpus() else total
    if k > total:
        raise UserError(f"k is {k:,}, the index holds {total:,} entries: ask for a smaller k or use a larger datastore")
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    distances = np.full((len(queries), k), np.inf, np.float32)  # [Q, k]
    rows = np.full((len(queries), k), -1, np.int64)  # [Q, k]
    open_, width = np.arange(len(queries)), min(widest, k + TIES)
    while len(open_):
        near, found, beyond = _candidates(index, queries[open_], width)  # [q, width], [q]
        order_ties(near, found, ids)
        distances[open_], rows[open_] = near[:, :k], found[:, :k]
        unsure = (near[:, k - 1] >= beyond) & (found[:, -1] >= 0)
        open_ = open_[unsure] if width < widest else open_[:0]
        width = min(widest, 2 * width)
    return distances, rows


def _candidates(index: faiss.Index, queries: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ascending distances [q, width] and rows of the nearest; no entry left out is nearer than `beyond` [q]."""
    flat = isinstance(index, faiss.IndexFlat)
    near, found = _with_blas(flat, index.search, queries, width)
    sign = -1 if is_inner_product(index) else 1
    near *= sign
    near[found < 0] = np.inf
    if not flat:
        return near, found, near[:, -1].copy()
    # A matrix product finds them; pair by pair, their distances do not depend on what else is searched.
    beyond = near[:, -1].copy()
    pointers = (faiss.swig_ptr(array) for array in (near, found))
    index.compute_distance_subset(len(queries), faiss.swig_ptr(queries), width, *pointers)
    near *= sign
    order = np.argsort(near, axis=1)
    near, found = np.take_along_axis(near, order, 1), np.take_along_axis(found, order, 1)
    return near, found, beyond - _rounding(index, queries, near[:, -1])


def _rounding(index: faiss.IndexFlat, queries: np.ndarray, farthest: np.ndarray) -> np.ndarray:
    """The most that a matrix product's distance errs [q], for keys that are not beyond `farthest` [q]."""
    lengths = np.linalg.norm(queries, axis=1)
    if is_inner_product(index):
        keys = faiss.rev_swig_ptr(index.get_xb(), index.ntotal * index.d).reshape(-1, index.d)  # [n, d]
        terms = lengths * np.sqrt(np.einsum("nd,nd->n", keys, keys).max())
    else:
        terms = (2 * lengths + np.sqrt(farthest)) ** 2
    return np.finfo(np.float32).eps * (index.d + 4) * terms


def entry_bytes(index: faiss.Index) -> int:
    """At least so many bytes of the index's file are taken by each entry."""
    ivf = _ivf(index)
    return ivf.code_size + 8 if ivf is not None else getattr(index, "code_size", 0)


def save(index: faiss.Index, out: Path) -> None:
    with atomic(out) as tmp, tmp.open("wb") as file:  # FAISS's own writer drops the error of a last block without room
        faiss.write_index(off_gpu(index), faiss.PyCallbackIOWriter(file.write, WRITTEN))


def load(path: Path, nprobe: int | None = None) -> faiss.Index:
    """An index from its file; `nprobe` is the number of lists visited per query (ignored without lists)."""
    try:
        index = faiss.read_index(str(check(path)))
    except RuntimeError:
        raise UserError(f"{path}: not a whole FAISS index; delete it and run its stage again") from None
    ivf = _ivf(index)
    if ivf is not None and nprobe:
        ivf.nprobe = min(nprobe, ivf.nlist)
    return index


def has_gpus() -> bool:
    return hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0


def on_gpus(index: faiss.Index) -> faiss.Index:
    """A copy on every GPU to search, or itself where there is none (no GPU, or no such index for it)."""
    return _to_gpu(index, lambda options: faiss.index_cpu_to_all_gpus(index, co=options))


def on_gpu(index: faiss.Index) -> faiss.Index:
    """A copy on the first GPU to train or add to, or itself where there is none; `off_gpu` takes it back."""
    return _to_gpu(index, lambda options: faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index, options))


def off_gpu(index: faiss.Index) -> faiss.Index:
    return faiss.index_gpu_to_cpu(index) if has_gpus() else index


def _to_gpu(index: faiss.Index, copy: Callable) -> faiss.Index:
    if not has_gpus():
        return index
    options = faiss.GpuMultipleClonerOptions()
    options.useFloat16 = True  # the lookup tables: those of 64 sub-vectors do not fit a block's shared memory otherwise
    try:
        return copy(options)
    except RuntimeError:
        log.info("FAISS has no GPU version of %s: on the CPU", type(index).__name__)
        return index


def check_dimension(index: faiss.Index, array: np.ndarray, name: str) -> None:
    if array.ndim != 2 or array.shape[1] != index.d:
        raise UserError(f"{name} have shape {array.shape}, the index {index.d} dimensions: make it again")


def is_inner_product(index: faiss.Index) -> bool:
    return index.metric_type == faiss.METRIC_INNER_PRODUCT


def _ivf(index: faiss.Index) -> faiss.IndexIVF | None:
    ivf = faiss.try_extract_index_ivf(index)
    return faiss.downcast_index(ivf) if ivf is not None else None


def _clusterings(index: faiss.Index) -> list[tuple[object, int, str]]:
    """(clustering parameters, number of centroids, what they are) of each k-means that training will run."""
    inner = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index
    found = [(inner.cp, inner.nlist, "lists")] if isinstance(inner, faiss.IndexIVF) else []
    if hasattr(inner, "pq"):
        found.append((inner.pq.cp, inner.pq.ksub, "centroids per sub-vector"))
    return found


def _without_polysemous_codes(index: faiss.Index) -> None:
    """A factory's "PQ" (unlike IndexIVFPQ itself) spends minutes ordering the codes for a filter we never use."""
    inner = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index
    if hasattr(inner, "do_polysemous_training"):
        inner.do_polysemous_training = False


def _with_blas(blas: bool, function: Callable, *arguments: object) -> tuple | None:
    """Call with FAISS's distances by matrix product (many times faster) or pair by pair (never rounded by block).

    FAISS 1.15 goes pair by pair up to 128,000 query components: left to itself, it trains product quantisers for
    minutes.
    """
    before = faiss.cvar.distance_compute_blas_threshold
    faiss.cvar.distance_compute_blas_threshold = 1 if blas else 1 << 30
    try:
        return function(*arguments)
    finally:
        faiss.cvar.distance_compute_blas_threshold = before
