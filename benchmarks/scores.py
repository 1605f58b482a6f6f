"""Cases of scoring: probabilities from neighbors, and mixture weights from log-probabilities."""

import math
from pathlib import Path

import numba
import numpy as np
import torch

from benchmarks import inputs
from benchmarks.harness import Sides, case
from knnlm.scores import knn, mixture

K, VOCAB, BLOCK = 1024, 33_000, 512


def target_sides(folder: Path, scale: float, other: str, repeats: int = 3) -> Sides:
    queries = int(200_000 * scale)
    near, values, targets = inputs.neighbors(folder, queries, K, VOCAB)
    others = {"scatter": dense_scatter, "numpy": in_numpy, "exp": numbas_exp, "read": read_once}

    def same(ours: np.ndarray, theirs: np.ndarray) -> None:
        if other != "read":
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)

    return Sides(
        lambda: knn.target_logprob(near, values, targets),
        lambda: others[other](near, values, targets),
        same,
        len(near),
        "queries",
        repeats,
    )


def dense_scatter(near: np.ndarray, values: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """log p of the targets, computed through the whole distribution [B, V]."""
    out = np.empty(len(near), np.float32)
    for start in range(0, len(near), BLOCK):
        here = slice(start, start + BLOCK)
        weights = torch.softmax(-torch.from_numpy(near[here]), dim=1)  # [B, K]
        full = torch.zeros(len(weights), VOCAB).scatter_add_(
            1, torch.from_numpy(values[here].astype(np.int64)), weights
        )
        out[here] = full.gather(1, torch.from_numpy(targets[here].astype(np.int64))[:, None])[:, 0].log()
    return out


def in_numpy(near: np.ndarray, values: np.ndarray, targets: np.ndarray) -> np.ndarray:
    out = np.empty(len(near), np.float32)
    for start in range(0, len(near), BLOCK):
        here = slice(start, start + BLOCK)
        weights = np.exp(near[here].min(1, keepdims=True) - near[here])  # [B, K]
        with np.errstate(divide="ignore"):
            hits = np.log((weights * (values[here] == targets[here, None])).sum(1))
        out[here] = hits - np.log(weights.sum(1))
    return out


@numba.njit(parallel=True, cache=True)
def numbas_exp(near: np.ndarray, values: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The plain loop, with numba's own exponential."""
    out = np.empty(len(near), np.float32)
    for n in numba.prange(len(near)):
        nearest, total, hits = near[n].min(), 0.0, 0.0
        for j in range(near.shape[1]):
            weight = math.exp(nearest - near[n, j])
            total += weight
            if values[n, j] == targets[n]:
                hits += weight
        out[n] = math.log(hits) - math.log(total) if hits > 0 else -np.inf
    return out


@numba.njit(parallel=True, cache=True, fastmath=True)
def read_once(near: np.ndarray, values: np.ndarray, targets: np.ndarray) -> np.ndarray:
    out = np.empty(len(near), np.float32)
    for n in numba.prange(len(near)):
        total, words = np.float32(0), np.uint32(0)
        for j in range(near.shape[1]):
            total += near[n, j]
            words += values[n, j]
        out[n] = total + words
    return out


WHAT = "log p of the targets from 200k × 1024 neighbors"


@case("targets-scatter", WHAT, "softmax scattered to the vocabulary of 33k in torch", "≥ 10×")
def targets_scatter(folder: Path, scale: float) -> Sides:
    return target_sides(folder, scale, "scatter")


@case("targets-numpy", WHAT, "NumPy, in blocks", "≥ 10×")
def targets_numpy(folder: Path, scale: float) -> Sides:
    return target_sides(folder, scale, "numpy")


@case("targets-exp", WHAT, "a plain loop with numba's own exponential", "≥ 2×")
def targets_exp(folder: Path, scale: float) -> Sides:
    return target_sides(folder, scale, "exp")


@case("targets-read", WHAT, "reading both arrays once from memory", "≥ 0.33×")
def targets_read(folder: Path, scale: float) -> Sides:
    return target_sides(folder, scale, "read", 5)


def grid_sides(tokens: int, weights: np.ndarray) -> Sides:
    """A grid of weights [P, M] over components that are near the LM but sharper, some targets without any."""
    rng = np.random.default_rng(8)
    lm = -rng.gamma(2, 3, tokens).astype(np.float32)  # [N]
    parts = []
    for _ in range(weights.shape[1]):
        part = np.minimum(lm + rng.normal(0, 2, tokens), -1e-4).astype(np.float32)
        part[rng.random(tokens) < 0.3] = -np.inf
        parts.append(part)

    def passes() -> list[float]:
        return [mixture.perplexity(mixture.mix(row, parts, lm)) for row in weights]

    def same(ours: np.ndarray, other: list[float]) -> None:
        np.testing.assert_allclose(np.exp(ours), other, rtol=1e-9)

    return Sides(lambda: mixture.losses(weights, parts, lm), passes, same, 1, "", repeats=3)


LOOP = "a Python loop of full passes"


@case("grid-2", "100 values of λ on 250k tokens", LOOP, "< 1 s")
def grid_2(_: Path, scale: float) -> Sides:
    return grid_sides(int(250_000 * scale), np.linspace(0, 0.99, 100)[:, None])


@case("grid-3", "20 × 20 weights of two components on 250k tokens", LOOP, "< 5 s")
def grid_3(_: Path, scale: float) -> Sides:
    points = np.array([[a, b] for a in np.linspace(0, 0.49, 20) for b in np.linspace(0, 0.49, 20)])
    return grid_sides(int(250_000 * scale), points)
