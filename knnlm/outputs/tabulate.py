"""One table of the study, the paper's numbers beside ours: Markdown, LaTeX and CSV."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pandas as pd

from knnlm.artifacts import files
from knnlm.artifacts.files import UserError
from knnlm.outputs import claims
from knnlm.outputs.tables import latex, markdown, millions, number, text
from knnlm.scores import experiments as studies

SPLITS = {
    "table5": ("dev",),
    "precision": ("dev",),
    "metric": ("dev",),
    "temperature": ("dev",),
    "memorizing": ("dev",),
}
DETAILS = {
    "table1": ("parameters",),
    "table2": ("parameters",),
    "table3": ("training", "datastore"),
    "table4": ("training", "datastore"),
    "precision": ("distance",),
    "metric": ("index",),
    "temperature": ("temperature",),
    "memorizing": ("training",),
}
HEADINGS = {
    "label": "Model",
    "training": "LM trained on",
    "datastore": "Datastore",
    "parameters": "Parameters",
    "distance": "Distance",
    "index": "Index",
    "temperature": "Temperature",
    "lmbda": "λ",
    "dev": "Dev",
    "paper_dev": "Paper, dev",
    "test": "Test",
    "paper_test": "Paper, test",
}
WRITES = {
    "downloads": ("fetch",),
    "corpora": ("prepare",),
    "vocabs": ("vocab",),
    "tokens": ("binarize",),
    "models": ("train",),
    "keys": ("extract", "extract_keytypes"),
    "indexes": ("train_index", "add"),
    "neighbors": ("search", "merge"),
    "logprobs": ("evaluate", "evaluate_keytypes", "score_knn", "score_cache", "score_ngram"),
    "experiments": ("interpolate",),
}
MEASURES = {
    "seconds": "Seconds",
    "longest": "Longest job, s",
    "peak_mb": "Peak memory, MB",
    "bytes": "On disk, MB",
}
LEGEND = "Perplexities; λ tuned on dev; medians over seeds; in brackets 95% bootstrap intervals over documents."


@dataclass(frozen=True)
class TabulateConfig:
    """Write one table of the study as Markdown, LaTeX and CSV."""

    table: str
    """table1 to table5, precision, metric, temperature, memorizing, cost or claims"""
    paper: Path
    """config/paper_numbers.yaml"""
    out: Path
    """folder of the tables"""
    experiments: tuple[Path, ...] = ()
    """experiment files; for `claims` all of the study's"""
    curves: tuple[Path, ...] = ()
    """learning curves (models/MODEL/seedS/curve.jsonl), for the claims on training"""
    benchmarks: tuple[Path, ...] = ()
    """for `cost`: Snakemake benchmark files under benchmarks/STAGE/, or the folder benchmarks"""
    artifacts: tuple[Path, ...] = ()
    """for `cost`: folders of the study (corpora, models, keys…), whose bytes are counted"""
    note: str = ""
    """the line above the table: the study and its scale"""


def main(config: TabulateConfig) -> None:
    paper = studies.paper_numbers(config.paper)
    study = studies.load(config.experiments, config.curves)
    if config.table == "cost":
        table, shown = cost(config.benchmarks, config.artifacts, paper["cost"]["stages"])
    elif config.table == "claims":
        table, shown = ledger(claims.judge(paper, study))
    elif config.table in study.experiments:
        table, shown = perplexities(config.table, study.experiments[config.table]["rows"], paper[config.table]["rows"])
    else:
        raise UserError(
            f"--table {config.table}: found {sorted(study.experiments)} in --experiments; give {config.table}.json"
        )
    title, note = "Claims of the paper", config.note
    if config.table != "claims":
        section = paper[config.table]["section"]
        title = paper[config.table]["title"] + (f" (paper: §{section})" if section else "")
    if config.table not in ("claims", "cost"):
        note = f"{note} {LEGEND}".strip()
    findings = [verdict for verdict in claims.judge(paper, study) if verdict.output == config.table]
    numbers = table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    files.write_text(config.out / f"{config.table}.csv", numbers)
    files.write_text(config.out / f"{config.table}.md", markdown(title, note, shown, findings))
    files.write_text(config.out / f"{config.table}.tex", latex(title, note, shown, findings))


def perplexities(output: str, rows: list[dict], paper: Mapping) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The numbers (one column a number) and the table as shown (text, intervals in brackets)."""
    splits, details = SPLITS.get(output, ("dev", "test")), DETAILS.get(output, ())
    quoted = {name: row for name, row in paper.items() if row.get("quoted")}
    records = [_quoted(name, row, splits) for name, row in quoted.items()]
    records += [_measured(row, paper.get(row["name"], {}), splits) for row in rows]
    table = pd.DataFrame(records)
    shown = pd.DataFrame({"label": table["label"]})
    for name in details:
        shown[name] = [millions(value) if name == "parameters" else text(value) for value in table[name]]
    shown["lmbda"] = table["lmbda"].map(text)
    for split in splits:
        shown[split] = [_interval(record, split) for record in records]
        shown[f"paper_{split}"] = table[f"paper_{split}"].map(lambda value: number(value, "{:.2f}"))
    unprinted = [name for name in shown if name.startswith("paper_") and set(shown[name]) == {"–"}]
    hidden = {"parameters", "training", "datastore", "distance", "index", "temperature"} - set(details)
    return table.drop(columns=list(hidden)), shown.drop(columns=unprinted).rename(columns=HEADINGS)


def ledger(verdicts: list[claims.Verdict]) -> tuple[pd.DataFrame, pd.DataFrame]:
    table = pd.DataFrame(verdicts)
    verdict = [f"{v.verdict}: {v.reason}" if v.reason else v.verdict for v in verdicts]
    shown = table[["section", "quote", "paper", "ours", "criterion"]].assign(verdict=verdict)
    return table, shown[["section", "quote", "paper", "ours", "verdict", "criterion"]].rename(
        columns={
            "section": "Section",
            "quote": "Claim",
            "paper": "Paper",
            "ours": "Ours",
            "verdict": "Finding",
            "criterion": "Held when",
        }
    )


def cost(
    benchmarks: tuple[Path, ...], artifacts: tuple[Path, ...], paper: Mapping
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Jobs, seconds and peak memory of each stage that ran; the bytes of a folder stand with its first stage."""
    measured = [file for path in benchmarks for file in (sorted(path.rglob("*.jsonl")) if path.is_dir() else [path])]
    jobs = pd.concat([_benchmark(path) for path in measured] or [pd.DataFrame(columns=["stage", "s", "max_rss"])])
    sizes = {path.name: sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) for path in artifacts}
    table, order = [], [(stage, folder) for folder, stages in WRITES.items() for stage in stages]
    order += [(stage, "") for stage in sorted(set(jobs["stage"])) if stage not in dict(order)]
    for stage, folder in order:
        ran = jobs[jobs["stage"] == stage]
        if len(ran):
            record = {"stage": stage, "folder": folder, "jobs": len(ran), "seconds": ran["s"].sum()}
            record |= {"longest": ran["s"].max(), "peak_mb": ran["max_rss"].max(), "bytes": sizes.pop(folder, math.nan)}
            table.append(record | {"paper": paper.get(stage)})
    total = pd.DataFrame(table, columns=["stage", "folder", "jobs", "seconds", "longest", "peak_mb", "bytes", "paper"])
    record = {"stage": "all", "folder": "", "jobs": len(jobs), "seconds": total["seconds"].sum(), "paper": None}
    record |= {"longest": total["longest"].max(), "peak_mb": total["peak_mb"].max(), "bytes": total["bytes"].sum()}
    numbers = pd.DataFrame([*table, record])
    shown = {"Stage": numbers["stage"], "Writes": numbers["folder"].map(text), "Jobs": numbers["jobs"].map(str)}
    for column, heading in MEASURES.items():
        scale = 1e6 if column == "bytes" else 1
        shown[heading] = [
            number(value / scale, "{:,.0f}" if column == "peak_mb" else "{:,.1f}") for value in numbers[column]
        ]
    return numbers, pd.DataFrame(shown | {"Paper": numbers["paper"].map(text)})


def _quoted(name: str, row: Mapping, splits: tuple[str, ...]) -> dict:
    record = {"name": name, "label": f"{row['label']}, quoted", "parameters": row["parameters"], "lmbda": None}
    record |= {"training": None, "datastore": None, "distance": None, "index": None, "temperature": None}
    for split in splits:
        record |= {split: None, f"{split}_low": None, f"{split}_high": None, f"paper_{split}": row.get(split)}
    return record


def _measured(row: Mapping, paper: Mapping, splits: tuple[str, ...]) -> dict:
    store = row.get("datastore") or {}
    tuned = {name: median(values) for name, values in (row.get("lmbda") or {}).items() if values}
    record = {
        "name": row["name"],
        "label": row["label"],
        "parameters": row.get("parameters"),
        "training": _trained_on(row),
        "datastore": f"{store['corpus']} ({store['entries']:,})" if store else None,
        "distance": store.get("distance"),
        "index": store.get("index"),
        "temperature": store.get("temperature"),
        "lmbda": ", ".join(
            f"{weight:.3g}" if len(tuned) == 1 else f"{name} {weight:.3g}" for name, weight in tuned.items()
        ),
    }
    for split in splits:
        measured = row.get(split) or {}
        low, high = measured.get("interval") or (None, None)
        record |= {split: measured.get("perplexity"), f"{split}_low": low, f"{split}_high": high}
        record[f"paper_{split}"] = paper.get(split)
    return record


def _trained_on(row: Mapping) -> str:
    size = row.get("training_tokens")
    return f"{row.get('model')} ({size:,} tokens)" if size else str(row.get("model"))


def _interval(record: Mapping, split: str) -> str:
    value, low, high = record[split], record[f"{split}_low"], record[f"{split}_high"]
    return number(value, "{:.2f}") + (f" [{low:.2f}, {high:.2f}]" if low is not None and high is not None else "")


def _benchmark(path: Path) -> pd.DataFrame:
    """A benchmark file of Snakemake under benchmarks/STAGE/: [jobs] rows of stage, s (seconds) and max_rss (MB)."""
    lines = path.suffix == ".jsonl"
    jobs = pd.read_json(path, lines=True) if lines else pd.read_csv(path, sep="\t")
    measured = {name: pd.to_numeric(jobs[name], errors="coerce").astype(float) for name in ("s", "max_rss")}
    parts = path.with_suffix("").parts
    stage = parts[parts.index("benchmarks") + 1] if "benchmarks" in parts[:-1] else path.stem
    return pd.DataFrame({"stage": stage, **measured})
