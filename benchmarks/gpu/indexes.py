"""The parts that use FAISS: an index is trained, filled and searched, and keys go from the model straight into one."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu import part
from benchmarks.gpu.part import Results, Sizes
from knnlm.artifacts import description, npy
from knnlm.datastores import ann, extract, train_index
from knnlm.models import model
from knnlm.models.model import LanguageModel
from knnlm.settings import MAIN_KEYTYPE, IndexSettings

WIDTHS = (1152, 2048)  # neighbors asked for; 2,048 is the most that FAISS returns on a GPU
EXACTLY = 64  # queries whose true neighbors are computed
WARM_UP = 1000  # keys
CPU_SAMPLE = 20_000  # keys that an index is trained on where FAISS has no GPU
NO_FAISS = "FAISS has no GPU here ({}): it was measured on the CPU; `make FAISS=gpu .venv/ready` installs it for GPUs"


def fitted(sizes: Sizes, results: Results) -> Sizes:
    """The sizes; where FAISS has no GPU, a note says so and fewer keys are indexed, as many as a CPU can."""
    if ann.gpus(needed=False):
        return sizes
    text = NO_FAISS.format(f"{ann.faiss.__version__}, {ann.faiss.get_compile_options().strip()}")
    print(text, flush=True)
    results.put("note", text)
    index = sizes.index.model_copy(update={"sample": min(CPU_SAMPLE, sizes.index.sample)})
    return replace(sizes, keys=sizes.keys_on_cpu, index=index)


def place(index: ann.Index) -> str:
    return "GPU" if ann.is_on_gpu(index) else "CPU"


def indexing(sizes: Sizes, results: Results, scratch: Path) -> None:
    """The index is trained with two seeds, filled and searched, and the CPU's results stand beside the GPU's."""
    sizes = fitted(sizes, results)
    dim = sizes.architecture.dim
    keys = part.keys(sizes.keys, dim, seed=1)
    queries = part.keys(sizes.queries, dim, seed=2).astype(np.float32)
    trained = train_with_seeds(sizes, results, keys)
    if trained is None:
        return
    filled = add(sizes, results, trained, keys)
    if filled is None:
        return
    ann.faiss.downcast_index(filled).nprobe = sizes.index.nprobe
    true = nearest(keys, queries[:EXACTLY], max(WIDTHS))
    for k in WIDTHS:
        search(sizes, results, filled, queries, k, true)
    if part.on_gpu():
        free, total = torch.cuda.mem_get_info()
        results.put("gpu_memory_in_use_gb", (total - free) / 1e9)


def train_with_seeds(sizes: Sizes, results: Results, keys: np.ndarray) -> ann.Index | None:
    """Seeds 1, 2, and 1 again; returns the first index."""
    sample = keys[: sizes.index.sample].astype(np.float32)
    where, found = ("GPU" if ann.gpus(needed=False) else "CPU"), []

    def once(settings: IndexSettings) -> dict:
        began = part.clock()
        found.append(ann.train(sample, settings))
        return {"seconds": part.clock() - began, "keys": len(sample)}

    for seed in (1, 2, 1):
        chosen = sizes.index.model_copy(update={"seed": seed})
        if results.attempt("training", {"on": where, "seed": seed}, partial(once, chosen)) is None:
            return None
    first, other, again = map(centroids, found)
    results.put("seeds_differ_by", float(np.abs(first - other).max()))
    results.put("same_seed_differs_by", float(np.abs(first - again).max()))
    if np.array_equal(first, other):
        results.fail("indexes trained with two seeds are the same")
    return found[0]


def centroids(index: ann.Index) -> np.ndarray:
    """All numbers that training has found: of the lists and of the product quantiser."""
    ivf = ann.faiss.downcast_index(index)
    lists = ann.faiss.downcast_index(ivf.quantizer).reconstruct_n(0, ivf.nlist)
    return np.concatenate([lists.ravel(), ann.faiss.vector_to_array(ivf.pq.centroids)])


def add(sizes: Sizes, results: Results, trained: ann.Index, keys: np.ndarray) -> ann.Index | None:
    """Time `ann.add` on the GPU and on the CPU; returns an index on the CPU with all keys, filled on the GPU."""
    lists, dim, cores = sizes.index.parsed.lists, keys.shape[1], int(os.environ["OMP_NUM_THREADS"])

    def once(index: ann.Index, some: np.ndarray) -> dict:
        ann.add(index, some[:WARM_UP])
        began = part.clock()
        ann.add(index, some[WARM_UP:])
        rate = (len(some) - WARM_UP) / (part.clock() - began)
        found = {"keys_per_second": rate, "operations_per_second": 2 * (lists + 256) * dim * rate}
        if place(index) == "CPU":
            found["operations_per_second_and_core"] = found["operations_per_second"] / cores
        return found

    filled, some = ann.faiss.clone_index(trained), keys[: sizes.keys_on_cpu]
    added = results.attempt("adding", {"on": "CPU", "keys": len(some)}, lambda: once(filled, some))
    if ann.gpus(needed=False):
        filled = ann.on_gpu(trained)
        added = results.attempt("adding", {"on": place(filled), "keys": len(keys)}, lambda: once(filled, keys))
    return ann.off_gpu(filled) if added else None


def nearest(keys: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """The true neighbors [Q, k], by matrix products in float32."""
    sought = torch.from_numpy(queries).to(part.device())
    parts = []
    for first in range(0, len(keys), 1 << 16):
        some = torch.from_numpy(keys[first : first + (1 << 16)]).to(part.device()).float()
        parts.append(some.square().sum(1) - 2 * sought @ some.T)  # [Q, n]
    return torch.cat(parts, dim=1).topk(k, largest=False).indices.cpu().numpy()


def search(sizes: Sizes, results: Results, filled: ann.Index, queries: np.ndarray, k: int, true: np.ndarray) -> None:
    """Time one index's copy on the GPU and itself on the CPU, and compare what they find."""
    ids, found = np.arange(filled.ntotal), {}

    def once(name: str, copy: Callable[[], ann.Index]) -> dict:
        index = copy()

        def call() -> None:
            found[name] = ann.search(index, queries, k, ids)

        rate = len(queries) / part.seconds_per_call(call, sizes.seconds / 3)
        recall = shared(found[name][1][:EXACTLY], true[:, :k])
        return {"ran_on": place(index), "queries_per_second": rate, "recall": recall}

    sides = {"GPU": lambda: ann.on_gpus(filled, queries), "CPU": lambda: filled}
    for name, copy in sides.items():
        results.attempt("searching", {"on": name, "k": k}, partial(once, name, copy))
    if len(found) < 2:
        return
    (near, rows), (expected_near, expected) = found["GPU"], found["CPU"]
    both = np.isfinite(near) & np.isfinite(expected_near)
    difference = float((np.abs(near - expected_near)[both] / expected_near[both]).max())
    row = {"k": k, "shared_neighbors": shared(rows, expected), "largest_relative_difference_of_distances": difference}
    results.row("gpu_beside_cpu", row)
    if row["shared_neighbors"] < 0.95:
        results.fail(f"of {k} neighbors found on the CPU, the GPU finds {row['shared_neighbors']:.1%}")


def shared(first: np.ndarray, second: np.ndarray) -> float:
    """The mean share of neighbors that two results [Q, K] have in common."""
    pairs = [(a[a >= 0], b[b >= 0]) for a, b in zip(first, second, strict=True)]
    return float(np.mean([len(np.intersect1d(a, b)) / max(1, len(b)) for a, b in pairs]))


def streaming(sizes: Sizes, results: Results, scratch: Path) -> None:
    """`knnlm extract --index`: keys go from the forward pass into an index, which was trained on a sample of them."""
    sizes = fitted(sizes, results)
    torch.manual_seed(1)
    (scratch / "model").mkdir()
    model.save(LanguageModel(sizes.architecture), scratch / "model")
    description.write_meta(scratch / "model", "train", {}, {}, role="model")
    npy.save_array(scratch / "train.npy", part.words(sizes, sizes.streamed + sizes.windows.length))
    trained, out = scratch / "trained.faiss", scratch / "shard.faiss"
    given = scratch / "model", scratch / "train.npy", (MAIN_KEYTYPE,)
    how = {"windows": sizes.windows.model_dump_json(), "batch_tokens": sizes.batch_tokens, "precision": "bfloat16"}

    def sampled() -> dict:
        began = part.clock()
        entries = min(1 << 16, sizes.index.sample)
        extract.main(extract.ExtractConfig(*given, (scratch / "sample",), entries=entries, **how))
        chosen = json.dumps(sizes.index.model_dump() | {"sample": entries})
        train_index.main(train_index.TrainIndexConfig((scratch / "sample",), trained, chosen))
        return {"seconds": part.clock() - began}

    def streamed() -> dict:
        began = part.clock()
        extract.main(extract.ExtractConfig(*given, (scratch / "keys",), trained=(trained,), index=(out,), **how))
        seconds = part.clock() - began
        entries = ann.load(out).ntotal
        if entries < sizes.streamed:
            results.fail(f"{entries:,} keys of {sizes.streamed:,} tokens are in the index")
        return {"seconds": seconds, "keys": entries, "tokens_per_second": entries / seconds}

    if results.attempt("steps", {"step": "sample and train the index"}, sampled) is not None:
        results.attempt("steps", {"step": "extract --index"}, streamed)
