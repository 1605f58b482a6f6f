"""The table of computational cost: jobs, time, memory and disk of each stage (the paper's section 3)."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from knnlm.outputs.tables import number, text

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
    "logprobs": ("evaluate", "evaluate_keytypes", "score_knn", "score_cache", "score_ngram"),
    "experiments": ("interpolate",),
}
MEASURES = {"seconds": "Seconds", "longest": "Longest job, s", "peak_mb": "Peak memory, MB", "bytes": "On disk, MB"}


def cost(benchmarks: Iterable[Path], artifacts: Iterable[Path], paper: Mapping) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The numbers, one row a stage and one for all, and the table as shown.

    `benchmarks` are Snakemake's benchmark files or folders of them, `artifacts` the folders whose bytes are counted,
    and `paper` has what the paper says about a stage.
    """
    numbers = stages(jobs(benchmarks), {path.name: size(path) for path in artifacts})
    numbers["paper"] = [paper.get(stage) for stage in numbers["stage"]]
    shown: dict[str, object] = {
        "Stage": numbers["stage"],
        "Writes": numbers["folder"].map(text),
        "Jobs": numbers["jobs"].map(str),
    }
    for column, heading in MEASURES.items():
        form, unit = "{:,.0f}" if column == "peak_mb" else "{:,.1f}", 1e6 if column == "bytes" else 1
        shown[heading] = [number(value / unit, form) for value in numbers[column]]
    return numbers, pd.DataFrame(shown | {"Paper": numbers["paper"].map(text)})


def jobs(benchmarks: Iterable[Path]) -> pd.DataFrame:
    """Every job that was measured: stage, s (seconds) and max_rss (MB)."""
    found = [file for path in benchmarks for file in (sorted(path.rglob("*.jsonl")) if path.is_dir() else [path])]
    return pd.concat([_benchmark(path) for path in found] or [pd.DataFrame(columns=["stage", "s", "max_rss"])])


def stages(jobs: pd.DataFrame, sizes: Mapping[str, int]) -> pd.DataFrame:
    """One row for each stage that ran, in the order of the pipeline, and one for all of them.

    The bytes of a folder that several stages write are counted in the row of the first.
    """
    folders = {stage: folder for folder, names in WRITES.items() for stage in names}
    others = sorted(set(jobs["stage"]) - set(folders))
    records, counted = [], dict(sizes)
    for stage in [*folders, *others]:
        if len(ran := jobs[jobs["stage"] == stage]):
            folder = folders.get(stage, "")
            records.append(_record(stage, folder, ran) | {"bytes": counted.pop(folder, math.nan)})
    total = sum(record["bytes"] for record in records if not math.isnan(record["bytes"]))
    return pd.DataFrame([*records, _record("all", "", jobs) | {"bytes": total}])


def size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


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


def _benchmark(path: Path) -> pd.DataFrame:
    """The jobs of one benchmark file; its stage is the folder below benchmarks/ or, elsewhere, the file's name."""
    table = pd.read_json(path, lines=True) if path.suffix == ".jsonl" else pd.read_csv(path, sep="\t")
    measured = {name: pd.to_numeric(table[name], errors="coerce").astype(float) for name in ("s", "max_rss")}
    parts = path.with_suffix("").parts
    stage = parts[parts.index("benchmarks") + 1] if "benchmarks" in parts[:-1] else path.stem
    return pd.DataFrame({"stage": stage, **measured})
