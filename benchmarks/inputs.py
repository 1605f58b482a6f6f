"""Seeded inputs like a real study's: keys in clusters, neighbors scattered on disk, words by Zipf's law."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

CLUSTERS = 400
LATENT = 12  # directions that keys of a cluster vary in, beside noise in all
SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]


def cached(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array in a file, memory-mapped; the file is written first if it does not exist."""
    if not path.exists():
        np.save(path, make())
    return np.load(path, mmap_mode="r")


def clustered(folder: Path, count: int, dim: int, queries: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keys [n, d] float16, labels [n] of their clusters, queries [Q, d] float32; of the length of normed keys, √d.

    With 128 dimensions the nearest squared distance is about 10 and the 1024th of a million about 25, as measured in
    the mini study.
    """
    keys_file, labels_file = folder / f"keys{count}x{dim}.npy", folder / f"labels{count}x{dim}.npy"
    if not keys_file.exists():
        keys, labels = _draw(count, dim, seed=1)
        np.save(keys_file, keys.astype(np.float16))
        np.save(labels_file, labels)
    asked = cached(folder / f"queries{queries}x{dim}.npy", lambda: _draw(queries, dim, seed=2)[0])
    return np.load(keys_file, mmap_mode="r"), np.load(labels_file), np.array(asked)


def _draw(count: int, dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points drawn with `seed` from clusters whose centers and directions are always the same."""
    fixed, rng = np.random.default_rng(0), np.random.default_rng(seed)
    centers = fixed.standard_normal((CLUSTERS, dim), dtype=np.float32)
    directions = fixed.standard_normal((CLUSTERS, LATENT, dim), dtype=np.float32)
    share = 1 / np.arange(2, CLUSTERS + 2) ** 0.7
    labels = np.sort(rng.choice(CLUSTERS, count, p=share / share.sum()).astype(np.int32))  # [n]
    points = np.empty((count, dim), np.float32)  # [n, d]
    for cluster, rows in enumerate(np.split(np.arange(count), np.searchsorted(labels, np.arange(1, CLUSTERS)))):
        latent = rng.standard_normal((len(rows), LATENT), dtype=np.float32)
        points[rows] = centers[cluster] + 0.13 * latent @ directions[cluster]
    points += 0.17 * rng.standard_normal(points.shape, dtype=np.float32)
    points /= np.sqrt(np.square(points).mean(1, keepdims=True))
    order = rng.permutation(count)
    return points[order], labels[order]


def candidates(labels: np.ndarray, queries: int, k: int) -> np.ndarray:
    """Rows [Q, k] int64 as a search returns them: from a few clusters, scattered on disk."""
    rng = np.random.default_rng(3)
    by_cluster = np.argsort(labels, kind="stable")
    start = rng.integers(0, len(labels) - 4 * k, queries)
    return np.stack([rng.permutation(by_cluster[s : s + 4 * k])[:k] for s in start])


def neighbors(folder: Path, queries: int, k: int, vocab: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distances [Q, k] float32 ascending from about 8 to 26, values [Q, k] uint32, targets [Q] uint32."""
    rng, drawn = np.random.default_rng(4), min(queries, 5000)  # the same 5000 again and again

    def distances() -> np.ndarray:
        steps = np.sort(rng.random((drawn, k), dtype=np.float32), axis=1)
        return 8 + 4 * rng.random((drawn, 1), dtype=np.float32) + 16 * steps ** np.float32(0.4)

    near = cached(folder / "near.npy", distances)
    values = cached(folder / "values.npy", lambda: zipf(rng, (drawn, k), vocab).astype(np.uint32))
    targets = cached(folder / "targets.npy", lambda: zipf(rng, drawn, vocab).astype(np.uint32))
    return tuple(np.concatenate([part] * (queries // drawn)) for part in (near, values, targets))


def zipf(rng: np.random.Generator, shape: int | tuple[int, ...], vocab: int) -> np.ndarray:
    """Word ids distributed as in text (Zipf's law): word i occurs about 1/i as often as the first."""
    return np.minimum(np.exp(rng.random(shape, dtype=np.float32) * np.log(vocab)) - 1, vocab - 1).astype(np.int64)


def text(words: int, seed: int = 5) -> list[str]:
    """Documents of about 500 made-up words in lines of 50, the frequent words short."""
    rng = np.random.default_rng(seed)
    vocab = ["".join(rng.choice(SYLLABLES, 1 + int(np.log10(i + 1)))) for i in range(30_000)]
    drawn = [vocab[i] for i in zipf(rng, words, len(vocab))]
    lines = [" ".join(drawn[i : i + 50]) + " ." for i in range(0, words, 50)]
    return ["\n".join(lines[i : i + 10]) + "\n" for i in range(0, len(lines), 10)]
