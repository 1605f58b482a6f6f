"""The part that computes exact distances to the neighbors' stored keys."""

import os
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.gpu import part
from benchmarks.gpu.part import Results, Sizes
from knnlm.datastores import exact

K = 1024


def reranking(sizes: Sizes, results: Results, scratch: Path) -> None:
    """`exact.rerank` of 1,024 neighbors on the GPU, the copy of the keys to it included, and on the CPU."""
    keys = part.keys(sizes.reranked, sizes.architecture.dim, seed=1)
    queries = part.keys(4 * sizes.queries, sizes.architecture.dim, seed=2).astype(np.float32)
    rows = np.random.default_rng(1).integers(-1, len(keys), (len(queries), K))
    sides: dict[str, tuple[str, int | None]] = {"GPU": ("cuda", None), "CPU": ("cpu", None)}
    if not part.on_gpu():  # on any device but "cpu" PyTorch computes, as it does on a GPU
        sides["GPU"] = "cpu:0", keys.nbytes // 2
    found: dict[str, np.ndarray] = {}

    def measure(name: str, device: str, memory: int | None) -> dict:
        def once() -> None:
            found[name] = exact.rerank([keys], queries, rows, memory, device)

        rate = len(queries) / part.seconds_per_call(once, sizes.seconds)
        measured = {"device": device, "queries_per_second": rate, "bytes_per_second": rate * K * keys[0].nbytes}
        if name == "CPU":
            measured["bytes_per_second_and_core"] = measured["bytes_per_second"] / int(os.environ["OMP_NUM_THREADS"])
        return measured

    for name, side in sides.items():
        results.attempt("rates", {"on": name}, partial(measure, name, *side))
    if len(found) == len(sides):
        compare(results, found["GPU"], found["CPU"])


def compare(results: Results, found: np.ndarray, expected: np.ndarray) -> None:
    there = np.isfinite(expected)
    difference = float(np.abs(found[there] / expected[there] - 1).max())
    results.put("largest_relative_difference", difference)
    if difference > 1e-4 or not np.array_equal(there, np.isfinite(found)):
        results.fail(f"distances on the GPU differ from the CPU's by up to {difference:.3g} of them")
