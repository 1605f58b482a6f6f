"""The files that a row of an experiment is computed from: named for its description, and recorded for later readers."""

import os
from pathlib import Path

from knnlm.artifacts import description, lineage


def inputs(sheet: list[dict], documents: dict[str, dict[str, Path]]) -> dict[str, Path]:
    """The files that the rows are computed from, by a name for each; a file that several rows use occurs once."""
    names = {
        path: f"documents {corpus} {split}" for corpus, paths in documents.items() for split, path in paths.items()
    }
    for row in sheet:
        for part, splits in parts(row).items():
            for split, paths in splits.items():
                for seed, path in zip(row["seeds"], paths, strict=True):
                    names.setdefault(path, f"{row['name']} {part} {split} {seed}")
    return {name: path for path, name in names.items()}


def record(row: dict, caches: list[dict] | None, folder: Path) -> dict:
    """Where a row's artifacts lie as seen from `folder`: {"model": [seed], "lm": {split: [seed]}, "knn": ...}.

    Besides the log-probabilities that were mixed there are the "neighbors" that kNN's were computed from, null where
    kNN's have no description. `caches` holds the tuned cache setting of each seed.
    """
    files: dict[str, dict[str, list]] = dict(parts(row))
    if caches:
        files["cache"] = {
            split: [path / cache_file(**cache) for path, cache in zip(paths, caches, strict=True)]
            for split, paths in files["cache"].items()
        }
    if "knn" in files:
        files["neighbors"] = {split: [_neighbors(path) for path in paths] for split, paths in files["knn"].items()}

    def relative(paths: list) -> list[str | None]:
        return [path and os.path.relpath(path, folder) for path in paths]

    models = {"model": relative(row.get("model_dirs") or [])}
    return models | {part: {split: relative(paths) for split, paths in of.items()} for part, of in files.items()}


def parts(row: dict) -> dict[str, dict[str, list[Path]]]:
    """The row's log-probabilities, the LM's first: {part: {split: [seed]}}; of a cache the folder of its settings."""
    named = {"lm": row["lm"]} | (row.get("components") or {})
    return {
        part: {split: [Path(path) for path in paths] for split, paths in splits.items()}
        for part, splits in named.items()
    }


def cache_file(size: int, theta: float) -> str:
    """The cache's log-probabilities at one setting, as `score_cache` names the file."""
    return f"size{size}-theta{theta:g}.npy"


def _neighbors(scores: Path) -> Path | None:
    """The neighbors that kNN's log-probabilities were computed from, as their description says."""
    return lineage.sources(scores)["neighbors"][0] if description.is_described(scores) else None
