"""Approximate nearest neighbors with FAISS, on a CPU or a GPU; the one module that imports it.

An index holds row numbers of one datastore shard. All shards' indexes start from one trained coarse quantiser and
product quantiser. On a CPU, shards that are searched separately and then merged give the same neighbors and distances
as one index over everything, bit for bit.
"""

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard, cast

import faiss
import numpy as np
from faiss import Index

from knnlm.artifacts import devices
from knnlm.artifacts.description import check, is_described
from knnlm.artifacts.files import UserError, atomic
from knnlm.settings import IndexSettings

LARGEST_TABLE = 1 << 31  # bytes that FAISS computes ahead when it reads an index with product codes
ANY_SIZE = 1 << 40  # FAISS's own limit on what a file claims
log = logging.getLogger("knnlm")
PACKED = faiss.IndexIVFPQFastScan, faiss.IndexIVFRaBitQFastScan  # codes that are packed after they were computed
METRICS = {"l2": faiss.METRIC_L2, "ip": faiss.METRIC_INNER_PRODUCT}
TIES = 32  # extra neighbors asked for at least, so that equal distances around the k-th can be ordered by id,
TIES_SHARE = 1 / 8  # and this share of k: distances of 4-bit codes are equal by the dozen there
GPU_WIDEST = 2048  # neighbors that FAISS returns per query on a GPU
SHARED_MEMORY = 48 << 10  # bytes of a block on every GPU, where FAISS keeps the table of a query's distances to codes
CUBLAS = 512 << 20  # bytes that a GPU must have free for cuBLAS, streams and the first small tables
HALF_MAX = float(np.finfo(np.float16).max)
NO_GPU_VERSION = re.compile(
    "not implemented on GPU|Unsupported scalar QuantizerType|Insufficient shared memory|bytes of shared memory"
    "|Bits per code must be|only pq.nbits == 8 is supported|only by_residual = true is supported"
    r"|sub-quantizers \(\d+\) is not supported|nprobe selection up to|unsupported metric type"
)  # what FAISS says of an index that a GPU cannot hold
OUT_OF_MEMORY = re.compile("alloc fail|failed to cudaHostAlloc|CUDA memory allocation error")
HANDED = 1 << 24  # bytes between FAISS and the file at a time
ON_DISK = b"ilod"  # how FAISS marks inverted lists that are in a further file, which the index names
CHUNK = 1 << 22  # floats converted from half precision at a time, few enough to stay in a cache


def sample(shards: list[np.ndarray], size: int, seed: int) -> np.ndarray:
    """`size` rows drawn without replacement from the shards' concatenation, in ascending order: float32 [size, d]."""
    starts = np.cumsum([0, *map(len, shards)])
    total = int(starts[-1])
    if size < total:
        chosen = np.sort(np.random.default_rng(seed).choice(total, size, replace=False, shuffle=False))
    else:
        chosen = np.arange(total)
    keys = np.empty((len(chosen), shards[0].shape[1]), np.float32)  # [size, d]
    for shard, start, end in zip(shards, starts, starts[1:], strict=False):
        here = slice(*np.searchsorted(chosen, [start, end]))
        keys[here] = shard[chosen[here] - start]
    return keys


def train(sample: np.ndarray, settings: IndexSettings, opq_points: int | None = None) -> Index:
    """An empty index trained on float32 `sample` [n, d]; seeded, so the same sample gives the same index.

    `opq_points`: keys that the rotation of OPQ is learned from, at most; by default FAISS's 65,536, which take minutes.

    Raises UserError for a factory string FAISS cannot read, or a sample smaller than the number of centroids.
    """
    count, dimension = sample.shape
    try:
        index = faiss.index_factory(dimension, settings.factory, METRICS[settings.metric])
    except RuntimeError as error:
        reason = str(error).rsplit("Error:", 1)[-1].strip() or "unknown description"
        raise UserError(f"factory {settings.factory!r} does not fit {dimension}-dimensional keys: {reason}") from None
    inner = _inner(index)
    if opq_points and isinstance(index, faiss.IndexPreTransform):
        rotation = faiss.downcast_VectorTransform(index.chain.at(0))  # type: ignore[attr-defined]
        if isinstance(rotation, faiss.OPQMatrix):
            rotation.max_train_points = opq_points
    for _, centroids, name in _clusterings(inner):
        if centroids > count:
            raise UserError(
                f"factory {settings.factory!r} has {centroids:,} {name}, the sample {count:,} keys: "
                "ask for fewer, or for a larger sample"
            )
    if hasattr(inner, "do_polysemous_training"):
        inner.do_polysemous_training = False  # minutes spent on ordering codes for a filter that is never used
    if not index.is_trained:
        trained = on_gpu(index)
        for clustering, _, _ in _clusterings(_inner(trained)):  # of the copy: a GPU's has default parameters again
            clustering.seed = settings.seed
            clustering.min_points_per_centroid = 1
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
    plain, quantizer = _unpacked(index), cast(faiss.IndexFlat, faiss.downcast_index(index.quantizer))
    for chunk in _chunks(keys):
        lists = _nearest_lists(quantizer, chunk)  # [n]
        plain.add_core(len(chunk), faiss.swig_ptr(chunk), None, faiss.swig_ptr(lists))
    if isinstance(index, PACKED):
        packed: Any = type(index)(plain, index.bbs)
        index.replace_invlists(packed.invlists, True)
        packed.own_invlists, index.ntotal = False, plain.ntotal  # the lists belong to `index` now


def _takes_lists(index: Index) -> TypeGuard[faiss.IndexIVF]:
    """Whether keys can be added together with the numbers of their lists.

    Otherwise FAISS chooses the lists itself: on a GPU, behind a transform such as OPQ, where the coarse quantiser is
    approximate, and for packed ("fast scan") codes that are not the index's first or of a kind that cannot be packed
    afterwards.
    """
    if not isinstance(index, faiss.IndexIVF) or not isinstance(faiss.downcast_index(index.quantizer), faiss.IndexFlat):
        return False
    if isinstance(index, faiss.IndexIVFFastScan):
        return isinstance(index, PACKED) and not index.ntotal
    return True


def _unpacked(index: faiss.IndexIVF) -> Any:
    """An index that can be filled list by list: for packed codes, an empty plain index with the same quantisers."""
    plain: Any
    given = index.quantizer, index.d, index.nlist
    if isinstance(index, faiss.IndexIVFRaBitQFastScan):
        quantizer: Any = index.rabitq
        plain = faiss.IndexIVFRaBitQ(*given, index.metric_type, True, quantizer.nb_bits)
        plain.rabitq = quantizer
    elif isinstance(index, faiss.IndexIVFPQFastScan):
        plain = faiss.IndexIVFPQ(*given, index.pq.M, index.pq.nbits, index.metric_type)
        plain.pq = index.pq
    else:
        return index
    plain.by_residual, plain.is_trained = index.by_residual, True
    return plain


def _chunks(keys: np.ndarray) -> Iterator[np.ndarray]:
    step = max(1, CHUNK // keys.shape[1])
    for start in range(0, len(keys), step):
        yield np.ascontiguousarray(keys[start : start + step], dtype=np.float32)


def _nearest_lists(quantizer: faiss.IndexFlat, keys: np.ndarray) -> np.ndarray:
    """The list of each key [n] int64: of those whose centroids are nearest, the first.

    A matrix product of float32 finds it, unless other lists are as near up to the product's rounding error: among
    these, distances of float64 decide, so that the choice depends on nothing but the key.
    """
    shape = quantizer.ntotal, quantizer.d
    centroids = faiss.rev_swig_ptr(quantizer.get_xb(), quantizer.ntotal * quantizer.d).reshape(shape)
    inner = is_inner_product(quantizer)
    scaled = np.ascontiguousarray(centroids.T) * np.float32(-1 if inner else -2)  # [d, nlist]
    added = np.float32(0) if inner else np.einsum("ld,ld->l", centroids, centroids)
    lists = np.empty(len(keys), np.int64)
    products = np.empty((max(1, CHUNK // quantizer.ntotal), quantizer.ntotal), np.float32)
    for start in range(0, len(keys), len(products)):
        block = keys[start : start + len(products)]
        distances = np.matmul(block, scaled, out=products[: len(block)])  # less the key's own squared length
        distances += added
        nearest = distances.argmin(1)
        least = distances[np.arange(len(block)), nearest]
        lengths = np.einsum("bd,bd->b", block, block)
        limits = least + 4 * _rounding_error(quantizer, block, np.maximum(least + lengths, 0))
        near = distances <= limits[:, None]
        undecided = np.flatnonzero(np.count_nonzero(near, axis=1) > 1)
        rows, candidates = np.nonzero(near[undecided])
        chosen, offered = block[undecided[rows]].astype(np.float64), centroids[candidates]
        exact = -(chosen * offered).sum(1) if inner else ((chosen - offered) ** 2).sum(1)
        order = np.lexsort((candidates, exact, rows))
        nearest[undecided] = candidates[order[np.searchsorted(rows, np.arange(len(undecided)))]]
        lists[start : start + len(block)] = nearest
    return lists


def search(index: Index, queries: np.ndarray, k: int, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The `k` nearest entries of each query, sorted by (distance, id).

    queries [Q, d]; ids [n] int64, the global id of each row: of equal distances the smaller id comes first, also
    where only some of them are among the k. Returns distances [Q, k] float32 (squared L2, or negated inner product;
    inf where missing) and rows [Q, k] int64 (-1 where missing, because the lists visited hold fewer than k entries).
    On a GPU, FAISS returns 2,048 candidates at most: entries beyond those that tie with the k-th are not seen.
    Raises UserError when k > n, or k > 2,048 on a GPU.
    """
    check_dimension(index, queries, "queries")
    total = index.ntotal
    if k > total:
        raise UserError(f"k is {k:,}, the index holds {total:,} entries: ask for a smaller k or use a larger datastore")
    widest = min(total, GPU_WIDEST) if is_on_gpu(index) else total
    if k > widest:
        raise UserError(
            f"k is {k:,}, FAISS returns {GPU_WIDEST:,} neighbors at most on a GPU: ask for a smaller k, or search "
            "on the CPU (CUDA_VISIBLE_DEVICES= by hand, `set-resources: search: gpu: 0` in a profile)"
        )
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    width = min(widest, k + max(TIES, int(TIES_SHARE * k)))
    near, nearest, unsure = _ordered(index, queries, k, width, ids)
    distances, rows = np.ascontiguousarray(near), np.ascontiguousarray(nearest)  # [Q, k] each
    pending = np.flatnonzero(unsure)
    while len(pending) and width < widest:
        width = min(widest, 2 * width)
        distances[pending], rows[pending], unsure = _ordered(index, queries[pending], k, width, ids)
        pending = pending[unsure]
    return distances, rows


def _ordered(index: Index, queries: np.ndarray, k: int, width: int, ids: np.ndarray) -> tuple[np.ndarray, ...]:
    """The `k` nearest of `width` candidates: distances and rows [q, k], and whether one left out may tie, [q]."""
    from knnlm.datastores.neighbors import order_ties  # numba, which training and adding do not need

    near, rows, bound = _candidates(index, queries, width)  # [q, width] twice, [q]
    if (last := int(rows.max(initial=-1))) >= len(ids):
        raise UserError(f"the index names row {last:,} of {len(ids):,}: add the shard's keys again")
    order_ties(near, rows, ids)
    return near[:, :k], rows[:, :k], (near[:, k - 1] >= bound) & (rows[:, -1] >= 0)


def _candidates(index: Index, queries: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The `width` nearest entries of each query: distances [q, width], ascending, and rows [q, width]; a bound [q].

    No entry that was left out is nearer than the bound. In a flat index, a matrix product finds the candidates. It is
    fast, but its rounding depends on the shape of the block: their distances are computed again pair by pair, and the
    bound allows for the rounding.
    """
    near, rows = _with_blas(isinstance(index, faiss.IndexFlat), index.search, queries, width)
    sign = -1 if is_inner_product(index) else 1
    if sign < 0:
        near *= sign
    if (rows[:, -1] < 0).any():  # missing ones come last
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
        faiss.write_index(off_gpu(index), faiss.PyCallbackIOWriter(file.write, HANDED))  # type: ignore[attr-defined]


def load(path: Path, nprobe: int | None = None) -> Index:
    """An index from its file; `nprobe` is the number of lists visited per query (ignored without lists).

    Raises UserError for a damaged file and, where it has no description, for one that names a further file for its
    lists, for sizes beyond the file's, or for rows that the index does not have.
    """
    size, published = check(path).stat().st_size, not is_described(path)
    faiss.set_deserialization_vector_byte_limit(size + LARGEST_TABLE if published else ANY_SIZE)
    faiss.set_deserialization_loop_limit(size if published else 0)
    try:
        index = _published(path) if published else faiss.read_index(str(path))
    except (RuntimeError, MemoryError):
        raise UserError(f"{path}: not a whole FAISS index; delete it and run its stage again") from None
    if published and isinstance(_inner(index), faiss.IndexIDMap):
        raise UserError(f"{path}: found ids of its own (IDMap), expected row numbers: add the keys without ids")
    if published and (ivf := _ivf(index)) is not None:
        _check_rows(ivf, path)
    return visiting(index, nprobe) if nprobe else index


def _published(path: Path) -> Index:
    """An index of strangers."""
    with path.open("rb") as file:
        reader = faiss.PyCallbackIOReader(_without_other_files(file, path), HANDED)  # type: ignore[attr-defined]
        return faiss.read_index(reader)


def _without_other_files(file: BinaryIO, path: Path) -> Callable[[int], bytes]:
    """What FAISS reads from; raises UserError at lists on disk, before FAISS opens the file whose path comes next."""

    def read(size: int) -> bytes:
        content = file.read(size)
        if content == ON_DISK:
            raise UserError(
                f"{path}: found lists that are in another file (OnDiskInvertedLists), expected an index in one file: "
                "merge them into the index with FAISS"
            )
        return content

    return read


def visiting(index: Index, nprobe: int) -> Index:
    """The same index, which visits so many lists for each query from now on (ignored without lists)."""
    ivf = _ivf(index)
    if ivf is not None:
        ivf.nprobe = min(nprobe, ivf.nlist)
    return index


def _check_rows(ivf: faiss.IndexIVF, path: Path) -> None:
    """Raise UserError where lists of a published index name rows that it does not have, or do not hold all of them."""
    if not ivf.is_trained:
        raise UserError(f"{path}: found an index without training, expected a filled one: fetch it again")
    lists: Any = ivf.invlists
    sizes = np.array([lists.list_size(number) for number in range(ivf.nlist)], dtype=np.int64)
    if sizes.sum() != ivf.ntotal:
        raise UserError(f"{path}: found {sizes.sum():,} entries in its lists, expected {ivf.ntotal:,}: fetch it again")
    for number in np.flatnonzero(sizes):
        rows = faiss.rev_swig_ptr(lists.get_ids(int(number)), int(sizes[number]))  # [n] int64
        for row in (int(rows.min()), int(rows.max())):
            if not 0 <= row < ivf.ntotal:
                raise UserError(f"{path}: found row {row:,}, expected rows below {ivf.ntotal:,}: fetch it again")


def use_threads(count: int) -> None:
    """Search with so many threads from now on, in this process."""
    faiss.omp_set_num_threads(count)


def gpus(needed: bool = True) -> int:
    """How many GPUs FAISS may use.

    Raises UserError where the job asked for more than FAISS sees, unless the GPUs are not needed for FAISS.
    """
    built = hasattr(faiss, "StandardGpuResources")
    seen = faiss.get_num_gpus() if built else 0
    if not needed and not seen:
        return 0
    build = f"{faiss.__version__}, {faiss.get_compile_options().strip()}" if built else "CPU build"
    return devices.usable(seen, "FAISS", build, "run it where there are GPUs, with `make FAISS=gpu .venv/ready`")


def on_gpus(index: Index, *queries: np.ndarray) -> Index:
    """A copy on every GPU that may be used to search for `queries` [Q, d] each, or itself.

    It is itself without GPUs, where FAISS has no such index for them, and where a half-precision table of distances
    would overflow.
    """
    if not gpus():
        return index
    if _needs_half_tables(index) and (largest := max(_largest_table_entry(index, q) for q in queries)) > HALF_MAX:
        log.warning("distances to codes up to %.3g do not fit FAISS's tables on a GPU: searching on the CPU", largest)
        return index
    return _to_gpu(index, lambda options: faiss.index_cpu_to_all_gpus(index, co=options))


def on_gpu(index: Index, needed: bool = True) -> Index:
    """A copy on the first GPU to train or add to, or itself; `off_gpu` takes it back.

    It is itself without GPUs, without lists (there is nothing to compute), and where FAISS has no such index for a
    GPU. `needed` as in `gpus`.
    """
    if not gpus(needed) or _ivf(index) is None:
        return index
    return _to_gpu(index, lambda options: faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index, options))


def off_gpu(index: Index) -> Index:
    return faiss.index_gpu_to_cpu(index) if is_on_gpu(index) else index


def is_on_gpu(index: Index) -> bool:
    index = _inner(index)
    if isinstance(index, faiss.IndexReplicas):
        index = _inner(index.at(0))  # type: ignore[attr-defined]
    return isinstance(index, getattr(faiss, "GpuIndex", ()))


def _to_gpu(index: Index, copy: Callable) -> Index:
    inner = _inner(index)
    # The copy of a scalar quantiser without lists is a flat index in half precision; IVFPQR loses its refinement.
    if isinstance(inner, faiss.IndexScalarQuantizer | faiss.IndexIVFPQR):
        return index
    options = faiss.GpuMultipleClonerOptions()
    options.useFloat16 = _needs_half_tables(index)
    options.use_cuvs = False  # its k-means has no seed
    _check_free_memory()
    try:
        return _reporting_memory(copy, options)
    except RuntimeError as error:
        if not NO_GPU_VERSION.search(str(error)):
            raise
        log.info("FAISS has no GPU version of this %s: on the CPU (%s)", type(inner).__name__, _reason(error))
        return index


def _needs_half_tables(index: Index) -> bool:
    """Whether a GPU can hold a query's distances to all codes, [sub-vectors, codes], in half precision only."""
    inner = _inner(index)
    return isinstance(inner, faiss.IndexIVFPQ) and 4 * inner.pq.M * inner.pq.ksub > SHARED_MEMORY


def _largest_table_entry(index: Any, queries: np.ndarray) -> float:
    """A bound on the entries of the tables that FAISS makes on a GPU to search for `queries` [Q, d].

    An entry is the inner product of a sub-vector of the query with a code, or its squared L2 distance from the code
    added to a list's centroid; the triangle inequality bounds both by the lengths of these sub-vectors.
    """
    ivf: Any = _inner(index)
    shape, codes = (-1, ivf.pq.M, ivf.pq.dsub), faiss.vector_to_array(ivf.pq.centroids)
    codes = np.linalg.norm(codes.reshape(ivf.pq.M, ivf.pq.ksub, ivf.pq.dsub), axis=2).max(1)  # [M]
    centroids = ivf.quantizer.reconstruct_n(0, ivf.nlist)
    centroids = np.linalg.norm(centroids.reshape(shape), axis=2).max(0)  # [M]
    chain: Any = index.chain if isinstance(index, faiss.IndexPreTransform) else None
    largest = 0.0
    for chunk in _chunks(queries):
        for i in range(chain.size() if chain else 0):
            chunk = faiss.downcast_VectorTransform(chain.at(i)).apply(chunk)
        asked = np.linalg.norm(chunk.reshape(shape), axis=2).max(0)  # [M]
        entries = asked * codes if is_inner_product(ivf) else (asked + centroids + codes) ** 2
        largest = max(largest, float(entries.max()))
    return largest


def _check_free_memory() -> None:
    """Raises UserError where a GPU is so full that cuBLAS could not start: FAISS would end the process."""
    import torch

    if not torch.cuda.is_available():
        return
    for number in range(gpus(needed=False)):
        free, _ = torch.cuda.mem_get_info(number)
        if free < CUBLAS:
            raise UserError(
                f"the index does not fit a GPU's free memory (GPU {number} has {free / 1e6:,.0f} MB left, FAISS needs "
                f"{CUBLAS / 1e6:,.0f} MB beside it): end what else runs there, or take another GPU"
            )


def _reporting_memory(function: Callable, *arguments: object) -> Any:
    """Call a function; a GPU without enough memory for it raises UserError."""
    try:
        return function(*arguments)
    except RuntimeError as error:
        if not OUT_OF_MEMORY.search(str(error)):
            raise
        raise UserError(
            f"the index does not fit a GPU's free memory ({_reason(error)}): take a larger GPU, the CPU, or more shards"
        ) from None


def _reason(error: RuntimeError) -> str:
    """FAISS's message without the function, file, line and condition that it begins with."""
    text = re.split(r" at \S+:\d+: ", str(error))[-1]
    return " ".join(re.sub(r"^Error: '.*?' failed: ", "", text).split())


def check_dimension(index: Index, array: np.ndarray, name: str) -> None:
    if array.ndim != 2 or array.shape[1] != index.d:
        raise UserError(f"{name} have shape {array.shape}, the index {index.d} dimensions: make it again")


def is_inner_product(index: Index) -> bool:
    return index.metric_type == faiss.METRIC_INNER_PRODUCT


def _inner(index: Any) -> Any:
    """The index behind a transform of the keys such as OPQ, or the index itself."""
    index = faiss.downcast_index(index)
    return faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index


def _ivf(index: Index) -> faiss.IndexIVF | None:
    ivf: Any = faiss.try_extract_index_ivf(index)
    return None if ivf is None else faiss.downcast_index(ivf)  # type: ignore[return-value]


def _clusterings(index: Any) -> Iterator[tuple[faiss.ClusteringParameters, int, str]]:
    """(parameters, number of centroids, what they are) of each k-means that training will run, on a CPU or a GPU."""
    if hasattr(index, "cp") and hasattr(index, "nlist"):
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
        return _reporting_memory(function, *arguments)
    finally:
        faiss.cvar.distance_compute_blas_threshold = before
