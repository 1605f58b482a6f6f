"""The table of computational cost: jobs, time, memory and disk of each stage (the paper's section 3)."""

import logging
import math
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from knnlm.artifacts import files
from knnlm.outputs.tables import number, text

log = logging.getLogger("knnlm")
WRITES = {  # folders of a study and the stages that write them, in the order of the table
    "downloads": ("fetch",),
    "corpora": ("prepare",),
    "vocabs": ("vocab",),
    "tokens": ("binarize",),
    "models": ("train", "finetune", "import_pretrained", "import_fairseq"),
    "keys": ("extract", "extract_keytypes"),
    "indexes": ("train_index", "add"),
    "searched": ("search", "merge"),
    "neighbors": ("rerank", "search_quantized", "merge_quantized"),
    "logprobs": ("evaluate", "evaluate_keytypes", "score_knn", "score_cache", "score_ngram", "score_infinigram"),
    "experiments": ("interpolate",),
}
BYTES = ("written", "peak_bytes", "bytes")
MEASURES = {
    "seconds": "Seconds",
    "longest": "Longest job, s",
    "peak_mb": "Peak memory, MB",
    "written": "Written, MB",
    "peak_bytes": "Most at once, MB",
    "bytes": "On disk, MB",
}


def cost(
    benchmarks: Iterable[Path], artifacts: Collection[Path], paper: Mapping | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The numbers, one row a stage and one for all, and the table as shown.

    `benchmarks` are Snakemake's benchmark files or folders of them, `artifacts` the folders whose bytes are counted,
    and `paper` has what the paper says about a stage, if that is shown. Files that were deleted count as their
    descriptions say.
    """
    used = last_uses(artifacts)
    found = {path.name: list(lifetimes(path, used)) for path in artifacts}
    sizes = {name: volume(kept) for name, kept in found.items()}
    numbers = stages(jobs(benchmarks), sizes, volume([file for kept in found.values() for file in kept]))
    shown: dict[str, object] = {
        "Stage": numbers["stage"],
        "Writes": numbers["folder"].map(text),
        "Jobs": numbers["jobs"].map(str),
    }
    for column, heading in MEASURES.items():
        form, unit = "{:,.0f}" if column == "peak_mb" else "{:,.1f}", 1e6 if column in BYTES else 1
        shown[heading] = [number(value / unit, form) for value in numbers[column]]
    if paper is None:
        return numbers, pd.DataFrame(shown)
    numbers["paper"] = [paper.get(stage) for stage in numbers["stage"]]
    return numbers, pd.DataFrame(shown | {"Paper": numbers["paper"].map(text)})


def jobs(benchmarks: Iterable[Path]) -> pd.DataFrame:
    """Every job that was measured: stage, s (seconds) and max_rss (MB).

    Snakemake writes its benchmark files without waiting for the disk, so that a loss of power may leave an empty one or
    zeros. Such a job has no row.
    """
    found = [file for path in benchmarks for file in (sorted(path.rglob("*.jsonl")) if path.is_dir() else [path])]
    whole = [path for path in found if _is_whole(path)]
    return pd.concat([_benchmark(path) for path in whole] or [pd.DataFrame(columns=["stage", "s", "max_rss"])])


def stages(jobs: pd.DataFrame, sizes: Mapping[str, dict], whole: dict) -> pd.DataFrame:
    """One row for each stage that ran, in the order of the pipeline, and one for all of them.

    The bytes of a folder that several stages write are counted in the row of the first; `whole` has those of all.
    """
    folders = {stage: folder for folder, names in WRITES.items() for stage in names}
    others = sorted(set(jobs["stage"]) - set(folders))
    records, counted = [], dict(sizes)
    for stage in [*folders, *others]:
        if len(ran := jobs[jobs["stage"] == stage]):
            folder = folders.get(stage, "")
            records.append(_record(stage, folder, ran) | counted.pop(folder, dict.fromkeys(BYTES, math.nan)))
    return pd.DataFrame([*records, _record("all", "", jobs) | whole])


class File(NamedTuple):
    """A file that a study wrote: its bytes, and when it was there (seconds)."""

    size: int
    made: float
    gone: float
    """infinite for a file that is still there"""


def lifetimes(folder: Path, used: Mapping[Path, float]) -> Iterator[File]:
    """Every file below a folder, those that were deleted as well: descriptions stay and name them.

    A deleted file is taken to have gone when it was last `used`. What jobs wrote beside their outputs, and deleted
    themselves, is in no description.
    """
    for path in folder.rglob("*"):
        if path.is_file():
            yield File(path.stat().st_size, path.stat().st_mtime, math.inf)
    for meta in folder.rglob("*meta.json"):
        made = meta.stat().st_mtime
        for name, output in files.read_json(meta)["outputs"].items():
            if not (path := meta.parent / name).exists():
                yield File(output["bytes"], made, max(made, *(used.get(place, made) for place in (path, path.parent))))


def last_uses(folders: Iterable[Path]) -> dict[Path, float]:
    """When the last artifact below these folders was made from each of its inputs, files or folders."""
    used: dict[Path, float] = {}
    for meta in (meta for folder in folders for meta in folder.rglob("*meta.json")):
        for source in files.read_json(meta)["inputs"].values():
            path = Path(os.path.normpath(meta.parent / source["path"]))
            used[path] = max(used.get(path, 0), meta.stat().st_mtime)
    return used


def volume(written: Collection[File]) -> dict[str, int]:
    """The bytes of files: written in all, the most there at once, and there now."""
    changes = [(file.made, file.size) for file in written] + [(file.gone, -file.size) for file in written]
    changes.sort(key=lambda change: (change[0], -change[1]))  # what is made from a file is there before that goes
    return {
        "written": sum(file.size for file in written),
        "peak_bytes": max(accumulate(size for _, size in changes), default=0),
        "bytes": sum(file.size for file in written if file.gone == math.inf),
    }


def _record(stage: str, folder: str, jobs: pd.DataFrame) -> dict:
    seconds = jobs["s"].astype(float)
    peak = jobs["max_rss"].astype(float).max()
    return {
        "stage": stage,
        "folder": folder,
        "jobs": len(jobs),
        "seconds": seconds.sum(),
        "longest": seconds.max(),
        "peak_mb": peak,
    }


def _is_whole(path: Path) -> bool:
    content = path.read_bytes()
    is_whole = content.endswith(b"\n") and b"\0" not in content
    if not is_whole:
        log.warning("%s: empty or cut short, by a loss of power for example: its job is not counted", path)
    return is_whole


def _benchmark(path: Path) -> pd.DataFrame:
    """The jobs of one benchmark file; its stage is the folder below benchmarks/ or, elsewhere, the file's name."""
    table = pd.read_json(path, lines=True) if path.suffix == ".jsonl" else pd.read_csv(path, sep="\t")
    measured = {name: pd.to_numeric(table[name], errors="coerce").astype(float) for name in ("s", "max_rss")}
    parts = path.with_suffix("").parts
    stage = parts[parts.index("benchmarks") + 1] if "benchmarks" in parts[:-1] else path.stem
    return pd.DataFrame({"stage": stage, **measured})
