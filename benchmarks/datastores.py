"""Cases of retrieval: exact distances, searches, adding to an index."""

from pathlib import Path

import faiss
import numpy as np
import torch

from benchmarks import inputs
from benchmarks.harness import Sides, case
from knnlm.artifacts import description
from knnlm.datastores import add, ann, exact
from knnlm.scores import knn, mixture
from knnlm.settings import IndexSettings

K = 1024
BATCH = 512  # queries that the published way handles at a time: the new tokens of a window
PAPER = IndexSettings(factory="IVF4096,PQ64x8", nprobe=32, sample=160_000)
FAST = IndexSettings(factory="IVF512,PQ64x4fsr", nprobe=32, sample=60_000)


def reranking(folder: Path, count: int, dim: int, queries: int) -> Sides:
    keys, labels, asked = inputs.clustered(folder, count, dim, queries)
    keys, rows = np.array(keys), inputs.candidates(labels, queries, K)

    def published() -> np.ndarray:
        """Gather, repeat, subtract, square, sum."""
        found = []
        for start in range(0, queries, BATCH):
            here = slice(start, start + BATCH)
            stored = torch.from_numpy(keys[rows[here]]).float()  # [B, K, d]
            repeated = torch.from_numpy(asked[here]).unsqueeze(1).repeat(1, K, 1)  # [B, K, d]
            found.append(torch.sum((repeated - stored) ** 2, dim=2))
        return torch.cat(found).numpy()

    def same(ours: np.ndarray, other: np.ndarray) -> None:
        np.testing.assert_allclose(ours, other, rtol=1e-4)

    return Sides(lambda: exact.distances(keys, asked, rows), published, same, queries, "queries")


PUBLISHED = "the published way in torch: gather, repeat, subtract, square, sum"


@case("rerank-128", "exact distances to 1024 candidates, 1M × 128 fp16 keys", PUBLISHED, "≥ 4×")
def rerank_128(folder: Path, scale: float) -> Sides:
    return reranking(folder, int(1e6 * scale), 128, 1024)


@case("rerank-1024", "exact distances to 1024 candidates, 200k × 1024 fp16 keys", PUBLISHED, "≥ 4×")
def rerank_1024(folder: Path, scale: float) -> Sides:
    return reranking(folder, int(2e5 * scale), 1024, 512)


def exact_search(folder: Path, scale: float, queries: int) -> Sides:
    keys, _, asked = inputs.clustered(folder, int(1e6 * scale), 128, queries)
    index = ann.train(np.empty((1, 128), np.float32), IndexSettings(factory="Flat"))
    ann.add(index, keys)
    assert isinstance(index, faiss.IndexFlat)
    ids = np.arange(len(keys))

    def same(ours: tuple, other: tuple) -> None:
        np.testing.assert_allclose(ours[0], other[0], rtol=1e-4)
        assert (ours[1] == other[1]).mean() > 0.99  # neighbors within rounding of each other may change places

    return Sides(lambda: ann.search(index, asked, K, ids), lambda: index.search(asked, K), same, queries, "queries", 3)


EXACT = "exact search of 1024 neighbors without lists, 1M × 128"


@case("exact-512", f"{EXACT}, 512 queries", "`faiss.IndexFlatL2`, which compares so few pair by pair", "≥ 2×")
def exact_512(folder: Path, scale: float) -> Sides:
    return exact_search(folder, scale, 512)


@case("exact-2048", f"{EXACT}, 2048 queries", "`faiss.IndexFlatL2`, by matrix products too", "≥ 2×")
def exact_2048(folder: Path, scale: float) -> Sides:
    return exact_search(folder, scale, 2048)


def built(folder: Path, keys: np.ndarray, settings: IndexSettings) -> faiss.Index:
    path = folder / f"{settings.factory}-{len(keys)}.faiss"
    if not path.exists():
        sample = np.asarray(keys[: settings.sample], dtype=np.float32)
        index = ann.train(sample, settings)
        ann.add(index, keys)
        ann.save(index, path)
    return ann.load(path, settings.nprobe)


@case(
    "approximate",
    "approximate search (`IVF512,PQ64x4fsr`, nprobe 32) and exact distances, 1M × 128, k 1024",
    "the paper's `IVF4096,PQ64`, nprobe 32, with the same exact distances",
    "≥ 4× at equal perplexity",
)
def approximate(folder: Path, scale: float) -> Sides:
    keys, labels, asked = inputs.clustered(folder, int(1e6 * scale), 128, 2048)
    keys, ids = np.array(keys), np.arange(len(keys))
    rng = np.random.default_rng(6)
    words = (labels[:, None] * 7 + inputs.zipf(rng, (len(keys), 1), 50)) % 10_000  # [n, 1] a cluster has its words
    nearest = exact_rows(keys, asked)
    targets = words[nearest, 0]  # [Q] the word of one of the ten nearest
    lm = np.full(len(asked), -np.log(10_000), np.float32)

    def found(index: faiss.Index) -> np.ndarray:
        _, rows = ann.search(index, asked, K, ids)
        near = exact.distances(keys, asked, rows)
        return near, rows

    def perplexity(near: np.ndarray, rows: np.ndarray) -> float:
        scored = knn.target_logprob(near, words[:, 0][rows], targets)
        return mixture.perplexity(mixture.mix(mixture.tune([scored], lm), [scored], lm))

    def same(ours: tuple, other: tuple) -> str:
        mine, its = perplexity(*ours), perplexity(*other)
        assert mine < 1.005 * its, f"perplexity {mine:.3f} against {its:.3f}"
        return f"perplexity {mine:.3f} against {its:.3f}"

    fast, paper = built(folder, keys, FAST), built(folder, keys, PAPER)
    return Sides(lambda: found(fast), lambda: found(paper), same, len(asked), "queries")


def exact_rows(keys: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """For each query one of its ten nearest rows, chosen at random: [Q]."""
    index = faiss.IndexFlatL2(keys.shape[1])
    ann.add(index, keys)
    _, rows = ann.search(index, queries, 10, np.arange(len(keys)))
    return rows[np.arange(len(rows)), np.random.default_rng(7).integers(0, 10, len(rows))]


def adding(folder: Path, scale: float, settings: IndexSettings, count: int) -> Sides:
    folder.mkdir(exist_ok=True)
    keys, _, _ = inputs.clustered(folder, int(count * scale), 128, 1024)
    shard, trained = folder / "shard", folder / "trained.faiss"
    shard.mkdir(parents=True, exist_ok=True)
    if not (shard / "meta.json").exists():
        np.save(shard / "keys.npy", keys)
        description.write_meta(shard, "extract", {}, {})
    if not trained.exists():
        ann.save(ann.train(np.asarray(keys[: settings.sample], dtype=np.float32), settings), trained)
    in_memory, out = np.asarray(keys, dtype=np.float32), folder / "shard.faiss"

    def raw() -> faiss.Index:
        index = ann.load(trained)
        index.add(in_memory)
        return index

    def same(_: None, other: faiss.Index) -> None:
        assert ann.load(out).ntotal == other.ntotal

    def ours() -> None:
        (shard / "keys.npy").touch()  # so that its digest is checked in each run, as in a process of its own
        add.main(add.AddConfig(trained, shard, out))

    return Sides(ours, raw, same, len(keys), "keys", repeats=3, overhead=True)


ADDING = "FAISS's own `add` of float32 keys in memory, nothing written"


@case(
    "add-fast",
    "`knnlm add`: 500k fp16 keys of 128 from disk to an index file, `IVF512,PQ64x4fsr`",
    ADDING,
    "≤ +15%",
)
def add_fast(folder: Path, scale: float) -> Sides:
    return adding(folder / "fast", scale, FAST, 500_000)


@case("add-paper", "the same, `IVF4096,PQ64x8`", ADDING, "≤ +15%")
def add_paper(folder: Path, scale: float) -> Sides:
    return adding(folder / "paper", scale, PAPER, 250_000)
