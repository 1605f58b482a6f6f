"""Score a split's targets by the continuous cache, for a grid of sizes and θ in one pass."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from knnlm.artifacts import description, files, lineage, npy
from knnlm.artifacts.cli import progress
from knnlm.scores import continuous_cache, grids


@dataclass(frozen=True)
class ScoreCacheConfig:
    """Score targets by the continuous cache; writes size{C}-theta{theta}.npy for each setting."""

    queries: Path
    """directory of the split's keys, in stream order"""
    documents: Path
    """{split}.documents.npy: where each document starts"""
    out: Path
    """directory"""
    sizes: tuple[int, ...] = (100, 500, 2000)
    """previous positions of the same document that the cache holds"""
    thetas: tuple[float, ...] = (0.03, 0.1, 0.3)
    """sharpness of the distribution"""

    def __post_init__(self) -> None:
        for name in ("sizes", "thetas"):
            if not getattr(self, name) or min(getattr(self, name)) <= 0:
                raise files.UserError(f"--{name}: found {getattr(self, name)}, expected numbers above 0")


def main(config: ScoreCacheConfig) -> None:
    shared = lineage.agree((config.queries, config.documents), "vocab", "model", "text")
    queries = npy.open_array(config.queries / "keys.npy", "floating", 2)  # [N, D]
    targets = npy.open_array(config.queries / "values.npy", "integer", 1)  # [N]
    documents = np.asarray(npy.open_array(config.documents, "integer", 1), np.int64)  # [M]
    if not len(targets) == len(queries) or documents[-1] >= len(targets):
        raise files.UserError(
            f"{config.queries} has {len(queries):,} keys and {len(targets):,} values, the last document of "
            f"{config.documents} starts at {documents[-1]:,}: use the documents of the split the keys are of"
        )
    sizes, thetas = sorted(set(config.sizes)), sorted(set(config.thetas))
    ends = np.append(documents[1:], len(targets))
    with files.atomic(config.out, directory=True) as tmp:
        out = {
            (c, t): npy.create_array(tmp / grids.cache_file(c, t), targets.shape, "float32")
            for c in sizes
            for t in thetas
        }
        for start, end in progress(zip(documents, ends, strict=True), "cache", len(documents), unit="document"):
            document = queries[start:end], targets[start:end], np.zeros(1, int)
            grid = continuous_cache.target_logprobs(*document, sizes, thetas)  # [sizes, thetas, tokens]
            for (c, t), array in out.items():
                array[start:end] = grid[sizes.index(c), thetas.index(t)]
        inputs = {"queries": config.queries, "documents": config.documents}
        description.write_meta(tmp, "score_cache", {"sizes": sizes, "thetas": thetas}, inputs, shared)
