"""Approximate nearest neighbors with FAISS; the one module that imports it.

An index holds row numbers of one datastore shard. All shards' indexes start from one trained coarse quantiser and
product quantiser. On a CPU, shards that are searched separately and then merged give the same neighbors and distances
as one index over everything, bit for bit.
"""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeGuard

import faiss
import numpy as np
from faiss import Index

from knnlm.artifacts.description import check
from knnlm.artifacts.files import UserError, atomic
from knnlm.settings import IndexSettings

log = logging.getLogger("knnlm")
METRICS = {"l2": faiss.METRIC_L2, "ip": faiss.METRIC_INNER_PRODUCT}
TIES = 32  # extra neighbors asked for, so that equal distances around the k-th can be ordered by id
GPU_WIDEST = 2048  # neighbors that FAISS returns per query on a GPU
WRITTEN = 1 << 24  # bytes handed to the file at a time
CHUNK = 1 << 22  # floats converted from half precision at a time, few enough to stay in a cache


def train(sample: np.ndarray, settings: IndexSettings) -> Index:
    """An empty index trained on float32 `sample` [n, d]; seeded, so the same sample gives the same index.

    Raises UserError for a factory string FAISS cannot read, or a sample smaller than the number of centroids.
    """
    count, dimension = sample.shape
    try:
        index = faiss.index_factory(dimension, settings.factory, METRICS[settings.metric])
    except RuntimeError as error:
        reason = str(error).rsplit("Error:", 1)[-1].strip() or "unknown description"
        raise UserError(f"factory {settings.factory!r} does not fit {dimension}-dimensional keys: {reason}") from None
    inner = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index
    for clustering, centroids, name in _clusterings(inner):
        if centroids > count:
            raise UserError(
                f"factory {settings.factory!r} has {centroids:,} {name}, the sample {count:,} keys: "
                "ask for fewer, or for a larger sample"
            )
        clustering.seed = settings.seed
        clustering.min_points_per_centroid = 1
    if hasattr(inner, "do_polysemous_training"):
        inner.do_polysemous_training = False  # minutes spent on ordering codes for a filter that is never used
    if not index.is_trained:
        trained = on_gpu(index)
        _with_blas(True, trained.train, np.ascontiguousarray(sample, dtype=np.float32))
        index = off_gpu(trained)
    return index


def add(index: Index, keys: np.ndarray) -> None:
    """Add `keys` [n, d] of any float type in row order; they are converted to float32 chunk by chunk.

    Where `_takes_lists` allows it, the list that a key falls into does not depend on the keys added with it.
    """
    check_dimension(index, keys, "keys")
    if not _takes_lists(index):
        for chunk in _chunks(keys):
            _with_blas(_ivf(index) is not None, index.add, chunk)
        return
    plain, quantizer = _unpacked(index), faiss.downcast_index(index.quantizer)
    for chunk in _chunks(keys):
        lists = _nearest_lists(quantizer, chunk)  # [n]
        plain.add_core(len(chunk), faiss.swig_ptr(chunk), None, faiss.swig_ptr(lists))
    if isinstance(index, faiss.IndexIVFPQFastScan):
        packed: Any = faiss.IndexIVFPQFastScan(plain, index.bbs)
        index.replace_invlists(packed.invlists, True)
        packed.own_invlists, index.ntotal = False, plain.ntotal  # the lists belong to `index` now


def _takes_lists(index: Index) -> TypeGuard[faiss.IndexIVF]:
    """Whether keys can be added together with the numbers of their lists.

    Otherwise FAISS chooses the lists itself: on a GPU, behind a transform such as OPQ, where the coarse quantiser is
    approximate, and for packed ("fast scan") codes that are not a product quantiser's or not the index's first.
    """
    if not isinstance(index, faiss.IndexIVF) or not isinstance(faiss.downcast_index(index.quantizer), faiss.IndexFlat):
        return False
    if isinstance(index, faiss.IndexIVFFastScan):
        return isinstance(index, faiss.IndexIVFPQFastScan) and not index.ntotal
    return True


def _unpacked(index: faiss.IndexIVF) -> Any:
    """An index that can be filled list by list: for packed codes, an empty plain index with the same quantisers."""
    if not isinstance(index, faiss.IndexIVFPQFastScan):
        return index
    pq = index.pq
    plain = faiss.IndexIVFPQ(index.quantizer, index.d, index.nlist, pq.M, pq.nbits, index.metric_type)
    plain.pq, plain.by_residual, plain.is_trained = pq, index.by_residual, True
    return plain


def _chunks(keys: np.ndarray) -> Iterator[np.ndarray]:
    step = max(1, CHUNK // keys.shape[1])
    for start in range(0, len(keys), step):
        yield np.ascontiguousarray(keys[start : start + step], dtype=np.float32)


def _nearest_lists(quantizer: Index, keys: np.ndarray) -> np.ndarray:
    """The list of each key [n] int64, chosen by matrix products where their rounding cannot change the choice.

    The remaining keys lie about as far from a second list; their distances are computed again pair by pair.
    """
    near, lists, bound = _candidates(quantizer, keys, min(2, quantizer.ntotal))
    nearest, undecided = np.ascontiguousarray(lists[:, 0]), near[:, 0] >= bound
    nearest[undecided] = _with_blas(False, quantizer.search, keys[undecided], 1)[1][:, 0]
    return nearest


def search(index: Index, queries: np.ndarray, k: int, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The `k` nearest entries of each query, sorted by (distance, id).

    queries [Q, d]; ids [n] int64, the global id of each row: of equal distances the smaller id comes first, also
    where only some of them are among the k. Returns distances [Q, k] float32 (squared L2, or negated inner product;
    inf where missing) and rows [Q, k] int64 (-1 where missing, because the lists visited hold fewer than k entries).
    Raises UserError when k > n.
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
    pending, width = np.arange(len(queries)), min(widest, k + TIES)
    while len(pending):
        near, nearest, bound = _candidates(index, queries[pending], width)  # [q, width] twice, [q]
        order_ties(near, nearest, ids)
        distances[pending], rows[pending] = near[:, :k], nearest[:, :k]
        # An entry that was left out may tie with the k-th: ask for more candidates, unless there are none.
        unsure = (near[:, k - 1] >= bound) & (nearest[:, -1] >= 0)
        pending = pending[unsure] if width < widest else pending[:0]
        width = min(widest, 2 * width)
    return distances, rows


def _candidates(index: Index, queries: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The `width` nearest entries of each query: distances [q, width], ascending, and rows [q, width]; a bound [q].

    No entry that was left out is nearer than the bound. In a flat index, a matrix product finds the candidates. It is
    fast, but its rounding depends on the shape of the block: their distances are computed again pair by pair, and the
    bound allows for the rounding.
    """
    near, rows = _with_blas(isinstance(index, faiss.IndexFlat), index.search, queries, width)
    sign = -1 if is_inner_product(index) else 1
    near *= sign
    near[rows < 0] = np.inf
    bound = near[:, -1].copy()
    if isinstance(index, faiss.IndexFlat):
        pointers = (faiss.swig_ptr(array) for array in (near, rows))
        index.compute_distance_subset(  # type: ignore[attr-defined]
            len(queries), faiss.swig_ptr(queries), width, *pointers
        )
        near *= sign
        order = np.argsort(near, axis=1)
        near, rows = np.take_along_axis(near, order, 1), np.take_along_axis(rows, order, 1)
        bound -= _rounding_error(index, queries, near[:, -1])
    return near, rows, bound


def _rounding_error(index: faiss.IndexFlat, queries: np.ndarray, farthest: np.ndarray) -> np.ndarray:
    """The largest error [q] of a distance by matrix product, for keys within the exact distance `farthest` [q].

    A float32 sum of d + 4 terms errs by at most eps (d + 4) times the sum of their magnitudes: |q| |k| for an inner
    product, (|q| + |k|)² for a squared L2 distance, with |k| at most |q| + √farthest.
    """
    lengths = np.linalg.norm(queries, axis=1)
    if is_inner_product(index):
        keys = faiss.rev_swig_ptr(index.get_xb(), index.ntotal * index.d).reshape(-1, index.d)  # [n, d]
        terms = lengths * np.sqrt(np.einsum("nd,nd->n", keys, keys).max())
    else:
        terms = (2 * lengths + np.sqrt(farthest)) ** 2
    return np.finfo(np.float32).eps * (index.d + 4) * terms


def entry_bytes(index: Index) -> int:
    """The least number of bytes that an entry takes in the index's file."""
    ivf = _ivf(index)
    return ivf.code_size + 8 if ivf is not None else getattr(index, "code_size", 0)


def save(index: Index, out: Path) -> None:
    with atomic(out) as tmp, tmp.open("wb") as file:  # FAISS's own writer ignores a disk that is full at the last block
        faiss.write_index(off_gpu(index), faiss.PyCallbackIOWriter(file.write, WRITTEN))  # type: ignore[attr-defined]


def load(path: Path, nprobe: int | None = None) -> Index:
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


def on_gpus(index: Index) -> Index:
    """A copy on every GPU to search, or itself where there is none (no GPU, or no such index for it)."""
    return _to_gpu(index, lambda options: faiss.index_cpu_to_all_gpus(index, co=options))


def on_gpu(index: Index) -> Index:
    """A copy on the first GPU to train or add to, or itself where there is none; `off_gpu` takes it back."""
    return _to_gpu(index, lambda options: faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index, options))


def off_gpu(index: Index) -> Index:
    return faiss.index_gpu_to_cpu(index) if has_gpus() else index


def _to_gpu(index: Index, copy: Callable) -> Index:
    if not has_gpus():
        return index
    options = faiss.GpuMultipleClonerOptions()
    options.useFloat16 = True  # the lookup tables: those of 64 sub-vectors do not fit a block's shared memory otherwise
    try:
        return copy(options)
    except RuntimeError:
        log.info("FAISS has no GPU version of %s: on the CPU", type(index).__name__)
        return index


def check_dimension(index: Index, array: np.ndarray, name: str) -> None:
    if array.ndim != 2 or array.shape[1] != index.d:
        raise UserError(f"{name} have shape {array.shape}, the index {index.d} dimensions: make it again")


def is_inner_product(index: Index) -> bool:
    return index.metric_type == faiss.METRIC_INNER_PRODUCT


def _ivf(index: Index) -> faiss.IndexIVF | None:
    ivf: Any = faiss.try_extract_index_ivf(index)
    return None if ivf is None else faiss.downcast_index(ivf)  # type: ignore[return-value]


def _clusterings(index: Any) -> Iterator[tuple[faiss.ClusteringParameters, int, str]]:
    """(parameters, number of centroids, what they are) of each k-means that training will run."""
    if isinstance(index, faiss.IndexIVF):
        yield index.cp, index.nlist, "lists"
    if hasattr(index, "pq"):
        yield index.pq.cp, index.pq.ksub, "centroids per sub-vector"


def _with_blas(blas: bool, function: Callable, *arguments: object) -> Any:
    """Call a function while FAISS computes distances by matrix products, or else pair by pair.

    Products are many times faster, but their rounding depends on the shape of the block. FAISS 1.15 alone goes pair by
    pair up to 128,000 query components, and would train product quantisers for minutes.
    """
    before = faiss.cvar.distance_compute_blas_threshold
    faiss.cvar.distance_compute_blas_threshold = 1 if blas else 1 << 30
    try:
        return function(*arguments)
    finally:
        faiss.cvar.distance_compute_blas_threshold = before
