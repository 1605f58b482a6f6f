"""Score a split's targets by kNN, for any distances, k and temperatures (equation 2)."""

import json
from collections import defaultdict
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np

from knnlm.artifacts import description, files, lineage, npy
from knnlm.artifacts.cli import progress
from knnlm.datastores import neighbors
from knnlm.scores import grids, knn

BLOCK = 8192  # queries scored at a time
SHARED = ("vocab", "model", "text", "keytype", "deal", "index", "datastore", "queries")


@dataclass(frozen=True)
class ScoreKnnConfig:
    """Score targets from their neighbors; writes {distance}-k{k}-t{temperature}.npy for each score."""

    neighbors: tuple[Path, ...]
    """neighbors directories, one a split"""
    targets: tuple[Path, ...]
    """directories of the splits' keys, whose values are the targets"""
    out: tuple[Path, ...]
    """directories, in the same order"""
    scores: tuple[str, ...] = ('[["exact", 1024, 1]]',)
    """JSON list of [distance, k, temperature], one for all splits or one a split; distance is exact, quantized or
    quantized_sqrt"""


def main(config: ScoreKnnConfig) -> None:
    if not len(config.neighbors) == len(config.targets) == len(config.out):
        raise files.UserError("--neighbors, --targets and --out name different numbers of splits: give one of each")
    scores = [parse(text) for text in config.scores]
    if len(scores) not in (1, len(config.out)):
        raise files.UserError(
            f"--scores: found {len(scores)} lists, expected one, or one for each of {len(config.out)}"
        )
    for split, wanted in zip(
        zip(config.neighbors, config.targets, config.out, strict=True), cycle(scores), strict=False
    ):
        score(*split, wanted)


def score(source: Path, targets_dir: Path, folder: Path, scores: set[tuple[str, int, float]]) -> None:
    """Write every score of one split, block by block."""
    shared = lineage.agree((source, targets_dir), *SHARED)
    found = neighbors.load(source, {knn.DISTANCES[distance] for distance, _, _ in scores})
    targets = npy.open_array(targets_dir / "values.npy", "integer", 1)  # [N]
    check(source, targets_dir, found, targets, scores, description.described(source)["metric"])
    wanted: dict[tuple[str, float], list[int]] = defaultdict(list)
    for distance, k, temperature in sorted(scores):
        wanted[distance, temperature].append(k)
    with files.atomic(folder, directory=True) as tmp:
        out = {
            (distance, k, t): npy.create_array(tmp / grids.knn_file(distance, k, t), targets.shape, "float32")
            for distance, k, t in scores
        }
        for start in progress(range(0, len(targets), BLOCK), f"score {folder}", unit="block"):
            block = slice(start, start + BLOCK)
            values = found.values[block]  # [B, K]
            for (distance, temperature), ks in wanted.items():
                near = knn.weighed(found.stored(knn.DISTANCES[distance])[block], distance)  # [B, K]
                logprobs = knn.target_logprobs_for_ks(near, values, targets[block], ks, temperature)  # [ks, B]
                for k, logprob in zip(ks, logprobs, strict=True):
                    out[distance, k, temperature][block] = logprob
        inputs = {"neighbors": source, "targets": targets_dir}
        description.write_meta(tmp, "score_knn", sorted(scores), inputs, shared)


def parse(text: str) -> set[tuple[str, int, float]]:
    """The set of (distance, k, temperature) in the flag --scores; raises UserError where it is anything else."""
    scores = set()
    try:
        entries = json.loads(text)
        for distance, k, temperature in entries:
            if distance not in knn.DISTANCES or not isinstance(k, int) or k < 1 or not float(temperature) > 0:
                raise ValueError
            scores.add((distance, k, float(temperature)))
    except (TypeError, ValueError):
        raise files.UserError(
            f"--scores: found {text}, expected a list of [distance, k, temperature] with distance "
            f"{' | '.join(knn.DISTANCES)}, k and temperature above 0"
        ) from None
    return scores


def check(
    source: Path, targets_dir: Path, found: neighbors.Neighbors, targets: np.ndarray, scores: set, metric: str
) -> None:
    """Raise UserError where the targets are of another split, or the neighbors cannot give one of the scores."""
    queries, stored = found.rows.shape
    if queries != len(targets):
        raise files.UserError(
            f"{targets_dir}/values.npy has {len(targets):,} targets, {source} {queries:,} queries: "
            "search again with this split's keys"
        )
    for distance, k, _ in sorted(scores):
        if k > stored:
            raise files.UserError(f"--scores: k is {k}, {source} keeps {stored}: search again with k {k}")
        found.stored(knn.DISTANCES[distance])
        if distance == "quantized_sqrt" and metric != "l2":
            raise files.UserError(f"{source} holds inner products: quantized_sqrt needs the metric l2")
