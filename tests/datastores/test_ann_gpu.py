"""What FAISS is asked to do on a GPU, with a FAISS that seems to have one: a copy stands for the index on the GPU.

As the real one does, copying forgets the parameters of k-means in lists (GpuIndexIVF::copyFrom).
"""

from types import SimpleNamespace

import faiss
import numpy as np
import pytest
import torch

from knnlm.artifacts import devices, files
from knnlm.datastores import ann
from knnlm.datastores.ann import IndexSettings

D = 128


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((3000, D)).astype(np.float16), rng.standard_normal((20, D)).astype(np.float32)


@pytest.fixture
def gpu(monkeypatch):
    """A FAISS for GPUs; holds the options of the last copy to one, and may refuse to copy."""
    seen, copied = SimpleNamespace(options=None, refusal=None), set()

    def to_gpu(index, options):
        seen.options = options
        if seen.refusal:
            raise RuntimeError(seen.refusal)
        copy = faiss.clone_index(index)
        if hasattr(inner := ann._inner(copy), "nlist"):
            inner.cp.seed, inner.cp.min_points_per_centroid = 1234, 39
        copied.add(int(copy.this))
        return copy

    class OnGpu(type):
        def __instancecheck__(cls, index):
            return int(index.this) in copied

    for name, value in {
        "StandardGpuResources": object,
        "GpuMultipleClonerOptions": SimpleNamespace,
        "GpuIndex": OnGpu("GpuIndex", (), {}),
        "get_num_gpus": lambda: 1,
        "index_cpu_to_gpu": lambda resources, device, index, options: to_gpu(index, options),
        "index_cpu_to_all_gpus": lambda index, co: to_gpu(index, co),
        "index_gpu_to_cpu": faiss.clone_index,
    }.items():
        monkeypatch.setattr(faiss, name, value, raising=False)
    return seen


def trained(keys, factory, seed=0, metric="l2"):
    return ann.train(keys[:400].astype(np.float32), IndexSettings(factory=factory, seed=seed, metric=metric))


@pytest.mark.parametrize("factory", ["IVF16,PQ8x8", "IVF16,Flat", "RR128,IVF16,PQ8x8"])
def test_training_on_a_gpu_keeps_the_seed_and_the_smallest_cluster(data, gpu, monkeypatch, capfd, factory):
    def centroids(seed):
        index = trained(data[0], factory, seed)
        return ann._inner(index).quantizer.reconstruct_n(0, 16)

    first, same, other = map(centroids, (1, 1, 2))
    assert "please provide at least" not in capfd.readouterr().err  # fewer points for a centroid than FAISS expects
    assert gpu.options is not None and gpu.options.use_cuvs is False
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    np.testing.assert_array_equal(first, centroids(1))


VERIFY_PQ = "Error in void faiss::gpu::GpuIndexIVFPQ::verifyPQSettings_() const at /b/gpu/GpuIndexIVFPQ.cu:580: "
ALLOCATE = "Error in virtual void* faiss::gpu::StandardGpuResourcesImpl::allocMemory(const faiss::gpu::AllocRequest&) "
REFUSALS = [
    "Error in faiss::Index* faiss::gpu::ToGpuCloner::clone_Index(const faiss::Index*) at /b/gpu/GpuCloner.cpp:251: "
    + "This index type is not implemented on GPU.",
    VERIFY_PQ + "Error: 'ivfpqConfig_.interleavedLayout || IVFPQ::isSupportedPQCodeLength(subQuantizers_)' failed: "
    "Number of bytes per encoded vector / sub-quantizers (7) is not supported",
    VERIFY_PQ
    + "Error: 'requiredSmemSize <= getMaxSharedMemPerBlock(config_.device)' failed: Device 0 has 49152 bytes of "
    "shared memory, while 8 bits per code and 128 sub-quantizers requires 65536 bytes. Consider useFloat16LookupTables "
    "and/or reduce parameters",
    VERIFY_PQ + "Error: 'bitsPerCode_ == 8' failed: Bits per code must be 8 (passed 6)",
    "Error in void faiss::gpu::GpuIndexIVFPQ::copyFrom(const faiss::IndexIVFPQ*) at /b/gpu/GpuIndexIVFPQ.cu:124: "
    "Error: '!(ivfpqConfig_.interleavedLayout || index->pq.nbits == 8)' failed: GPU: only pq.nbits == 8 is supported",
    "Error in void faiss::gpu::validateNProbe(size_t, bool) at /b/gpu/impl/IndexUtils.cu:37: Error: 'nprobe > 0 && "
    "nprobe <= (size_t)getMaxKSelection(use_cuvs)' failed: GPU IVF index only supports nprobe selection up to 2048 "
    "(requested 4096)",
    "Error in void faiss::gpu::GpuIndexIVFScalarQuantizer::verifySQSettings_() const at /b/gpu/x.cu:98: Error: "
    "'!(isSQSupported(sq.qtype))' failed: Unsupported scalar QuantizerType on GPU",
]
NO_MEMORY = [
    ALLOCATE + "at /b/gpu/gpu/StandardGpuResources.cpp:576: Error: 'err == cudaSuccess' failed: StandardGpuResources: "
    "alloc fail type IVFLists dev 0 space Device stream 0x1 size 9663676 bytes (cudaMalloc error out of memory [2])\n",
    "Error in void faiss::gpu::StandardGpuResourcesImpl::initializeForDevice(int) at /b/gpu/StandardGpuResources.cpp"
    ":364: 'err == cudaSuccess' failed: failed to cudaHostAlloc 268435456 bytes for CPU <-> GPU async copy buffer "
    "(error 2 out of memory)",
]


@pytest.mark.parametrize("refusal", REFUSALS)
def test_an_index_without_a_gpu_version_stays_on_the_cpu(data, gpu, caplog, refusal):
    index, gpu.refusal = trained(data[0], "IVF16,Flat"), refusal
    with caplog.at_level("INFO", "knnlm"):
        assert ann.on_gpu(index) is index and ann.on_gpus(index, data[1]) is index
    assert refusal.split(": ")[-1] in caplog.text and "/b/gpu" not in caplog.text


@pytest.mark.parametrize("refusal", NO_MEMORY)
def test_a_gpu_without_memory_is_reported_and_nothing_runs_on_the_cpu(data, gpu, refusal):
    index, gpu.refusal = trained(data[0], "IVF16,Flat"), refusal
    with pytest.raises(files.UserError, match=r"does not fit a GPU's free memory.*out of memory") as stopped:
        ann.on_gpus(index, data[1])
    assert "\n" not in str(stopped.value)


def test_any_other_error_of_a_gpu_is_not_hidden(data, gpu):
    index, gpu.refusal = trained(data[0], "IVF16,Flat"), "Error in x at y.cu:1: CUDA error 700 illegal memory access"
    with pytest.raises(RuntimeError, match="error 700"):
        ann.on_gpu(index)


def test_memory_that_runs_out_while_adding_is_reported(data, gpu, monkeypatch):
    index = ann.on_gpu(trained(data[0], "RR128,IVF16,PQ8x8"))

    def full(keys):
        raise RuntimeError(NO_MEMORY[0])

    monkeypatch.setattr(index, "add", full)
    with pytest.raises(files.UserError, match="free memory"):
        ann.add(index, data[0])


@pytest.mark.parametrize(
    ("factory", "half"),
    [
        *[("Flat", False), ("IVF16,Flat", False), ("IVF16,SQ8", False), ("IVF16,SQfp16", False)],
        *[("IVF16,PQ32x8", False), ("IVF16,PQ64x8", True)],
    ],
)
def test_tables_are_in_half_precision_only_where_single_does_not_fit(data, gpu, factory, half):
    ann.on_gpus(trained(data[0], factory), data[1])
    assert gpu.options.useFloat16 is half


@pytest.mark.parametrize(("subvectors", "half"), [(48, False), (49, True)])
def test_48_sub_vectors_are_the_most_that_fit_in_single_precision(subvectors, half):
    """48 KiB, which a block of any GPU may use, are 48 times 256 numbers of 4 bytes."""
    index = faiss.IndexIVFPQ(faiss.IndexFlatL2(subvectors), subvectors, 1, subvectors, 8)
    assert ann._needs_half_tables(index) is half


@pytest.mark.parametrize("factory", ["SQfp16", "SQ8", "IVF16,PQ16+8"])
def test_an_index_that_would_change_on_a_gpu_stays_on_the_cpu(data, gpu, factory):
    index = ann.train(data[0], IndexSettings.model_construct(factory=factory))  # a published one may have "+8"
    gpu.options = None
    assert ann.on_gpus(index, data[1]) is index and ann.on_gpu(index) is index and gpu.options is None


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("factory", ["IVF16,PQ64x8", "RR128,IVF16,PQ64x8"])
def test_distances_that_do_not_fit_half_precision_are_computed_on_the_cpu(data, gpu, caplog, metric, factory):
    index, gpu.options = trained(data[0], factory, metric=metric), None
    assert not ann.is_on_gpu(ann.on_gpus(index, data[1], 1e5 * data[1])) and gpu.options is None
    assert "do not fit FAISS's tables" in caplog.text
    ann.on_gpus(index, data[1])
    assert gpu.options is not None


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_no_entry_of_a_table_is_larger_than_its_bound(data, metric):
    index, queries = trained(data[0], "IVF16,PQ64x8", metric=metric), data[1]
    codes = faiss.vector_to_array(index.pq.centroids).reshape(64, 256, 2)
    if metric == "ip":
        entries = np.einsum("qmd,mcd->qmc", queries.reshape(-1, 64, 2), codes)
    else:
        residuals = (queries[:, None] - index.quantizer.reconstruct_n(0, 16)[None]).reshape(-1, 64, 1, 2)
        entries = ((residuals - codes) ** 2).sum(-1)
    assert entries.max() <= ann._largest_table_entry(index, queries) < 20 * entries.max()


def test_a_gpu_is_asked_for_2048_candidates_at_most(data, gpu, monkeypatch):
    widths, candidates = [], ann._candidates

    def recorded(index, queries, width):
        widths.append(width)
        return candidates(index, queries, width)

    monkeypatch.setattr(ann, "_candidates", recorded)
    index = trained(data[0], "Flat")
    ann.add(index, np.repeat(data[0][:100], 30, axis=0))  # ties everywhere: ever more candidates would be asked for
    copy, ids = ann.on_gpus(index, data[1]), np.arange(3000)
    for k in (1024, 2048):
        ann.search(copy, data[1], k, ids)
    assert widths[0] == 1152 and max(widths) == 2048
    with pytest.raises(files.UserError, match="k is 2,049, FAISS returns 2,048 neighbors at most on a GPU"):
        ann.search(copy, data[1], 2049, ids)
    assert ann.search(index, data[1], 2049, ids)[0].shape == (20, 2049)


def test_each_library_is_asked_for_its_own_gpus(data, gpu, monkeypatch):
    monkeypatch.setenv("KNNLM_GPUS", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert ann.gpus() == 1
    with pytest.raises(files.UserError, match="PyTorch sees none"):
        devices.for_torch()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.delattr(faiss, "StandardGpuResources")
    with pytest.raises(files.UserError, match=r"FAISS sees none .*CPU build.*make FAISS=gpu"):
        ann.on_gpu(trained(data[0], "Flat"))


def test_streaming_fills_indexes_on_the_cpu_where_only_pytorch_has_a_gpu(data, monkeypatch):
    index = trained(data[0], "IVF16,Flat")
    monkeypatch.setenv("KNNLM_GPUS", "1")
    assert ann.on_gpu(index, needed=False) is index


def test_a_job_that_asked_for_no_gpu_leaves_indexes_on_the_cpu(data, gpu, monkeypatch):
    monkeypatch.setenv("KNNLM_GPUS", "0")
    index = trained(data[0], "IVF16,Flat")
    assert ann.on_gpu(index) is index and gpu.options is None


def test_a_gpu_too_full_for_cublas_is_refused_before_faiss_ends_the_process(data, gpu, monkeypatch):
    index = trained(data[0], "IVF16,PQ8x8")
    free = [600 << 20]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (free[0], 80 << 30))
    assert ann.is_on_gpu(ann.on_gpu(index))
    free[0], gpu.options = 64 << 20, None
    with pytest.raises(files.UserError, match=r"does not fit a GPU's free memory \(GPU 0 has 67 MB left"):
        ann.on_gpu(index)
    assert gpu.options is None
