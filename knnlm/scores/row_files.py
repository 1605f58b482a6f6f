"""The files that a row of an experiment is computed from: named for its description, and recorded for later readers."""

import os
from pathlib import Path

from knnlm.artifacts import description, lineage
from knnlm.scores import grids


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


def record(row: dict, picked: list[dict[str, grids.Setting]], folder: Path) -> dict:
    """Where a row's artifacts lie as seen from `folder`: {"model": [seed], "lm": {split: [seed]}, "knn": ...}.

    Besides the log-probabilities that were mixed there are the "neighbors" that kNN's were computed from, null where
    kNN's have no description. `picked` holds, for each seed, the settings that dev chose: {component: setting}.
    """
    files: dict[str, dict[str, list]] = {
        part: {
            split: [grids.at(row, {part: path}, chosen)[part] for path, chosen in zip(paths, picked, strict=True)]
            for split, paths in splits.items()
        }
        for part, splits in parts(row).items()
    }
    if "knn" in files:
        files["neighbors"] = {split: [_neighbors(path) for path in paths] for split, paths in files["knn"].items()}

    def relative(paths: list) -> list[str | None]:
        return [path and os.path.relpath(path, folder) for path in paths]

    models = {"model": relative(row.get("model_dirs") or [])}
    return models | {part: {split: relative(paths) for split, paths in of.items()} for part, of in files.items()}


def parts(row: dict) -> dict[str, dict[str, list[Path]]]:
    """The row's log-probabilities, the LM's first: {part: {split: [seed]}}; where dev chooses, the folder of all."""
    named = {"lm": row["lm"]} | (row.get("components") or {})
    return {
        part: {split: [Path(path) for path in paths] for split, paths in splits.items()}
        for part, splits in named.items()
    }


def _neighbors(scores: Path) -> Path | None:
    """The neighbors that kNN's log-probabilities were computed from, as their description says."""
    return lineage.sources(scores)["neighbors"][0] if description.is_described(scores) else None
