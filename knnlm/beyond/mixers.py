"""Ways of mixing p_kNN and p_LM that came after the paper.

A mixer is a function of the signals of dev, on which it is tuned, and of test: it returns the log-probability of every
target of both. `@mixer` gives it the name by which config/experiments/beyond.yaml asks for it, and the keys of its row
become its arguments.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from knnlm.artifacts import npy
from knnlm.artifacts.files import UserError
from knnlm.beyond.infinigram import MOST
from knnlm.beyond.signals import Signals
from knnlm.scores import knn, mixture

BLOCK = 4096  # tokens whose neighbors are in memory at a time
TEMPERATURES = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)  # tried on dev
FEWEST = 100  # tokens of dev that a bin has at least


class Mixed(NamedTuple):
    """What a mixer makes of dev and test."""

    dev: np.ndarray  # [N] float64, log-probability of each target in nats
    test: np.ndarray
    facts: dict[str, Any]  # what was tuned
    gates: tuple[np.ndarray, np.ndarray] | None = None  # λ of each token of dev and of test, where it varies


Mixer = Callable[..., Mixed]
MIXERS: dict[str, Mixer] = {}


def mixer(function: Mixer) -> Mixer:
    MIXERS[function.__name__] = function
    return function


@mixer
def lm(dev: Signals, test: Signals) -> Mixed:
    """The LM alone."""
    return Mixed(dev.lm.astype(np.float64), test.lm.astype(np.float64), {})


@mixer
def constant(dev: Signals, test: Signals) -> Mixed:
    """One λ for all tokens, equation 3 of the paper."""
    weights = mixture.tune([dev.knn], dev.lm)
    found = [mixture.mix(weights, [split.knn], split.lm) for split in (dev, test)]
    return Mixed(found[0], found[1], {"lmbda": float(weights[0])})


@mixer
def bins(dev: Signals, test: Signals, count: int = 64) -> Mixed:
    """A λ for each of `count` bins of the nearest distance that hold equally many tokens of dev.

    Drozdov et al. (2022, section 5) fit them on the split that they report; here dev decides and test is reported.
    Fewer bins where dev has fewer than a hundred tokens for each.
    """
    near = [nearest(split) for split in (dev, test)]
    count = max(1, min(count, len(dev.lm) // FEWEST))
    edges = np.quantile(near[0], np.arange(1, count) / count)
    places = [np.searchsorted(edges, distances, side="right") for distances in near]  # [N] each
    lmbdas = np.zeros(count)
    for place in range(count):
        inside = places[0] == place
        if inside.any():
            lmbdas[place] = min(MOST, *mixture.tune([dev.knn[inside]], dev.lm[inside]))
    gates = [lmbdas[place] for place in places]
    found = [by_token(split.lm, split.knn, gate) for split, gate in zip((dev, test), gates, strict=True)]
    return Mixed(
        found[0],
        found[1],
        {"bins": count, "smallest": float(lmbdas.min()), "largest": float(lmbdas.max())},
        (gates[0], gates[1]),
    )


@mixer
def confidence(dev: Signals, test: Signals, tuned: bool = False, alpha: float = 0.3, tau: float = 0.1) -> Mixed:
    """λ by relative retrieval confidence (NEST, Li et al. 2024): λ_LM = σ((min |s| / max |s| − α) / τ), s = −distance.

    p_kNN has the temperature √d. `tuned`: dev chooses α and τ, in place of those that the authors give.
    """
    temperature = math.sqrt(context_vectors(dev).shape[1])
    ratios = [ratio(split) for split in (dev, test)]
    near = [scored(split, temperature) for split in (dev, test)]

    def mixed(split: Signals, place: int, alpha: float, tau: float) -> np.ndarray:
        with np.errstate(over="ignore"):
            return by_token(split.lm, near[place], 1 - 1 / (1 + np.exp((alpha - ratios[place]) / tau)))

    if tuned:
        grid = [(a, t) for a in np.linspace(0, 1, 21) for t in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)]
        alpha, tau = max(grid, key=lambda pair: mixed(dev, 0, *pair).sum())
    facts = {"alpha": float(alpha), "tau": float(tau)}
    return Mixed(mixed(dev, 0, alpha, tau), mixed(test, 1, alpha, tau), facts)


@mixer
def joint(dev: Signals, test: Signals, temperatures: tuple[float, ...] = TEMPERATURES) -> Mixed:
    """Temperature, k and λ tuned together (Xu et al. 2023)."""
    widest = dev.stored.shape[1]
    ks = [2**power for power in range(widest.bit_length()) if 2**power < widest] + [widest]
    (temperature, k), lmbda = best(
        dev,
        (
            ((temperature, k), near)
            for temperature in temperatures
            for k, near in zip(ks, scored_for_ks(dev, ks, temperature), strict=True)
        ),
    )
    found = [
        mixture.mix([lmbda], [scored_for_ks(split, [k], temperature)[0]], split.lm.astype(np.float64))
        for split in (dev, test)
    ]
    return Mixed(found[0], found[1], {"temperature": temperature, "k": k, "lmbda": lmbda})


def best(dev: Signals, candidates: Iterable[tuple[Any, np.ndarray]]) -> tuple[Any, float]:
    """The settings whose log p_kNN [N] suits dev best, and the λ for it; of equals the first."""
    losses = []
    for settings, near in candidates:
        (lmbda,) = mixture.tune([near], dev.lm)
        loss = float(mixture.losses(np.array([[lmbda]]), [near], dev.lm)[0])
        losses.append((loss, settings, float(lmbda)))
    _, settings, lmbda = min(losses, key=lambda one: one[0])
    return settings, lmbda


def by_token(lm: np.ndarray, near: np.ndarray, gates: np.ndarray) -> np.ndarray:
    """log(λ p_kNN + (1 − λ) p_LM) with a λ for each token: three arrays [N] -> [N] float64 nats."""
    with np.errstate(divide="ignore"):
        return np.logaddexp(np.log(gates) + near, np.log1p(-gates) + lm)


def context_vectors(split: Signals) -> np.ndarray:
    """f(x) of each token, [N, d] float16 or float32."""
    return npy.open_array(split.queries / "keys.npy", "floating", 2)


def blocks(count: int) -> list[slice]:
    return [slice(first, min(first + BLOCK, count)) for first in range(0, count, BLOCK)]


def nearest(split: Signals) -> np.ndarray:
    """The smallest distance of each token, [N] float32; inf where it has no neighbor."""
    return np.concatenate([split.distances(block).min(1) for block in blocks(len(split.lm))])


def ratio(split: Signals) -> np.ndarray:
    """The smallest over the largest |distance| of each token's neighbors, [N] float64; 1 where none is there."""
    found = []
    for block in blocks(len(split.lm)):
        distances = np.abs(split.distances(block))
        there = np.isfinite(distances)
        least = np.where(there, distances, np.inf).min(1)
        most = np.where(there, distances, 0).max(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            found.append(np.where(there.any(1) & (most > 0), least / most, 1.0))
    return np.concatenate(found)


def scored(split: Signals, temperature: float) -> np.ndarray:
    """log p_kNN of the targets from all neighbors at another temperature: [N] float32 nats."""
    return scored_for_ks(split, [split.stored.shape[1]], temperature)[0]


def scored_for_ks(split: Signals, ks: list[int], temperature: float) -> np.ndarray:
    """log p_kNN of the targets from the first k neighbors, for each of the ascending `ks`: [len(ks), N] float32."""
    out = np.empty((len(ks), len(split.lm)), np.float32)
    for block in blocks(len(split.lm)):
        near, targets = split.distances(block), np.asarray(split.tokens[block])
        out[:, block] = knn.target_logprobs_for_ks(near, split.values[block], targets, ks, temperature)
    return out


def find(name: str) -> Mixer:
    if name not in MIXERS:
        raise UserError(f"mixer {name}: expected one of {', '.join(MIXERS)}")
    return MIXERS[name]
