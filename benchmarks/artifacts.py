"""Cases of checking: the cost of comparing every input with its digest and of digesting every output."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks import inputs
from benchmarks.harness import Sides, case
from knnlm.artifacts import description
from knnlm.datastores import add, merge, rerank, search, train_index
from knnlm.scores import score_knn

ENTRIES, QUERIES, K = 300_000, 10_000, 1024  # entries of each of two shards
INDEX = '{"factory": "IVF512,PQ64x4fsr", "nprobe": 32, "sample": 60000}'
WITHOUT, WANTED = "the same without digests", "≤ +5%"


def artifact(directory: Path, stage: str, **arrays: np.ndarray) -> Path:
    if not directory.exists():
        directory.mkdir(parents=True)
        for name, array in arrays.items():
            np.save(directory / f"{name}.npy", array)
        description.write_meta(directory, stage, {}, {})
    return directory


def sides(folder: Path, scale: float, stage: str) -> Sides:
    """Search one shard, merge two, or score the reranked neighbors, from artifacts that earlier stages have made."""
    entries, count = int(ENTRIES * scale), int(QUERIES * scale)
    keys, _, asked = inputs.clustered(folder, 2 * entries, 128, count)
    folder /= stage  # a run without digests spoils its outputs for the stages after it
    folder.mkdir(exist_ok=True)
    words = inputs.zipf(np.random.default_rng(9), (2 * entries,), 8000).astype(np.uint32)
    queries = artifact(folder / "queries", "evaluate", keys=asked, values=words[:count])
    shards = []
    for number in range(2):
        part = slice(number * entries, (number + 1) * entries)
        stored = {"keys": keys[part], "values": words[part], "ids": np.arange(2 * entries)[part]}
        shards.append(artifact(folder / f"keys{number}", "extract", **stored))
    index, found = ([folder / name.format(number) for number in range(2)] for name in ("{}.faiss", "found{}"))
    merged, final, scores = folder / "merged", folder / "final", [["exact", k, 1] for k in (1, 8, 64, 1024)]
    run: dict[str, list[Callable[[], None]]] = {
        "add": [
            lambda: train_index.main(train_index.TrainIndexConfig(tuple(shards), folder / "trained.faiss", INDEX)),
            *(lambda i=i: add.main(add.AddConfig(folder / "trained.faiss", shards[i], index[i])) for i in range(2)),
        ],
        "search": [
            lambda i=i: search.main(search.SearchConfig(index[i], shards[i], (queries,), K, (found[i],), INDEX))
            for i in range(2)
        ],
        "merge": [lambda: merge.main(merge.MergeConfig(tuple(found), (merged,)))],
        "rerank": [lambda: rerank.main(rerank.RerankConfig((merged,), tuple(shards), (queries,), (final,)))],
        "score": [
            lambda: score_knn.main(
                score_knn.ScoreKnnConfig((final,), (queries,), (folder / "scores",), (json.dumps(scores),))
            )
        ],
    }
    for before in list(run)[: list(run).index(stage)]:
        if not (folder / f"{before}.made").exists():
            for make in run[before]:
                make()
            (folder / f"{before}.made").touch()

    def measured() -> None:
        if stage == "search":  # what is there already is not searched again
            shutil.rmtree(found[0], ignore_errors=True)
        run[stage][0]()

    def ours() -> None:
        for path in (*folder.glob("*/*.npy"), *folder.glob("*.faiss")):
            path.touch()  # so that its digest is compared in each run, as in a process of its own
        measured()

    def other() -> None:
        with mock.patch.multiple(description, digest=lambda _: "", _digest_of_version=lambda *_: mock.ANY):
            measured()

    return Sides(ours, other, lambda *_: None, count, "queries", repeats=3, overhead=True)


@case(
    "check-search",
    f"`knnlm search` of 300k keys of 128, k {K}, inputs and outputs digested",
    WITHOUT,
    WANTED,
)
def check_search(folder: Path, scale: float) -> Sides:
    return sides(folder, scale, "search")


@case("check-merge", "`knnlm merge` of two shards, inputs and outputs digested", WITHOUT, WANTED)
def check_merge(folder: Path, scale: float) -> Sides:
    return sides(folder, scale, "merge")


@case("check-score", "`knnlm score_knn` at four k, inputs and outputs digested", WITHOUT, WANTED)
def check_score(folder: Path, scale: float) -> Sides:
    return sides(folder, scale, "score")
