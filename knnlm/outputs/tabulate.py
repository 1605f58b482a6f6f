"""Write one table of the paper, its numbers beside ours, as Markdown, LaTeX and CSV."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median, median_low

import pandas as pd

from knnlm.artifacts import files
from knnlm.artifacts.files import UserError
from knnlm.outputs import claims, pages
from knnlm.outputs.costs import cost
from knnlm.outputs.tables import csv, latex, markdown, millions, number, text
from knnlm.outputs.verdicts import additions, with_interval
from knnlm.scores import experiments
from knnlm.scores.stats import FEWEST
from knnlm.settings import REPORTED

DETAILS = {  # columns between a row's label and its λ
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
UNITS = {  # beside perplexities per token, where tokenizers differ
    "per_word": (experiments.per_word, "per word", "{:.2f}"),
    "bits_per_byte": (experiments.bits_per_byte, "bits per byte", "{:.3f}"),
}
CLAIM_HEADINGS = {
    "section": "Section",
    "quote": "Claim",
    "paper": "Paper",
    "ours": "Ours",
    "intervals": "Differences, nats a token",
    "finding": "Finding",
    "criterion": "Held when",
}
LEGEND = "Perplexities; λ tuned on dev; in brackets 95% bootstrap intervals over documents."
ONE_SEED = "A table of several seeds shows medians and says so."
SEEDS_LEGEND = (
    "In parentheses the lowest and the highest of several seeds; intervals are of the seed in the middle on dev, "
    "differences of the means over seeds."
)
CLAIMS_LEGEND = (
    "In parentheses by how much a perplexity changed; differences of log-likelihoods, or of λ, with 95% bootstrap "
    "intervals over documents in brackets."
)
UNITS_LEGEND = (
    "Tokenizers differ: compare models per word (between white space) or in bits per byte; both spread the nats of all "
    "tokens, ends of documents included, over the words and UTF-8 bytes of the text."
)


@dataclass(frozen=True)
class TabulateConfig:
    """Write one table of the study as Markdown, LaTeX and CSV."""

    table: str
    """table1 to table5, precision, metric, temperature, memorizing, cost or claims"""
    out: Path
    """folder of the tables"""
    paper: Path | None = None
    """config/paper_numbers.yaml; without it the table has no number, title or claim of the paper"""
    published: Path | None = None
    """numbers that others published, of the same form: its tables stand in place of the paper's"""
    experiments: tuple[Path, ...] = ()
    """experiment files; for `claims` all of the study's"""
    curves: tuple[Path, ...] = ()
    """learning curves (models/MODEL/seedS/curve.jsonl), for the claims on training"""
    benchmarks: tuple[Path, ...] = ()
    """for `cost`: Snakemake benchmark files under benchmarks/STAGE/, or the folder benchmarks"""
    artifacts: tuple[Path, ...] = ()
    """for `cost`: folders of the study (corpora, models, keys…), whose bytes are counted"""
    title: str = ""
    """of a table, in place of the one of the paper's numbers"""
    note: str = ""
    """the line above the table: the study and its scale"""


def main(config: TabulateConfig) -> None:
    paper = experiments.paper_numbers(config.paper) if config.paper else {}
    if config.published:
        paper |= experiments.paper_numbers(config.published)
    study = experiments.load(config.experiments, config.curves)
    numbers, shown = build(config, paper, study)
    title, note = heading(config.table, config.title, config.note, paper)
    if config.table in study.experiments:
        note = pages.about_models(note, study.experiments[config.table]["rows"])
    findings = [verdict for verdict in claims.judge(paper, study) if verdict.output == config.table]
    rows = study.experiments[config.table]["rows"] if config.table in study.experiments else []
    units, few = UNITS_LEGEND if differ(rows) else "", without_interval(rows, REPORTED.get(config.table, ()))
    each = seeds_of_each(study) if config.table == "claims" else ""
    note = " ".join(filter(None, (note, each, about(rows), units, few)))
    added = extras(study, config.table) if config.table in study.experiments else {}
    texts = {
        "csv": csv(numbers),
        "md": markdown(title, note, shown, added, findings),
        "tex": latex(title, note, shown, added, findings),
    }
    for suffix, content in texts.items():
        files.write_text(config.out / f"{config.table}.{suffix}", content)


def build(config: TabulateConfig, paper: Mapping, study: experiments.Study) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The numbers (one column a number) and the table as shown (all text)."""
    if config.table == "cost":
        return cost(config.benchmarks, config.artifacts, paper.get("cost", {}).get("stages"))
    if config.table == "claims":
        if "claims" not in paper:
            raise UserError("--table claims: found no claims in --paper; give config/paper_numbers.yaml")
        return ledger(claims.judge(paper, study))
    if config.table not in study.experiments:
        raise UserError(
            f"--table {config.table}: found {sorted(study.experiments)} in --experiments; give {config.table}.json"
        )
    return perplexities(config.table, study.experiments[config.table]["rows"], paper.get(config.table, {}).get("rows"))


def heading(table: str, title: str, note: str, paper: Mapping) -> tuple[str, str]:
    """The title of a table and the line below it; a study's own `title` stands in place of the paper's."""
    if table == "claims":
        return "Claims of the paper", f"{note} {CLAIMS_LEGEND}".strip()
    printed = paper.get(table, {"section": "", "title": "Computational cost" if table == "cost" else table})
    section = printed["section"]
    title = (title or printed["title"]) + (f" (paper: §{section})" if section else "")
    return title, note if table == "cost" else f"{note} {LEGEND}".strip()


def perplexities(output: str, rows: list[dict], paper: Mapping | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A table of perplexities: results that the paper quotes, then the study's `rows` beside the paper's numbers.

    Without numbers of the paper (None) the table has no column for them.

    Returns the numbers (one column a number) and the table as shown (all text, intervals in brackets). Where tokenizers
    differ, both have perplexities per word and bits per byte beside those per token.
    """
    units = UNITS if differ(rows) else {}
    splits, details = REPORTED[output], DETAILS.get(output, ())
    quoted = [
        row | {"name": name, "label": f"{row['label']}, quoted"}
        for name, row in (paper or {}).items()
        if row.get("quoted")
    ]
    records = [
        _record({key: row[key] for key in ("name", "label", "parameters")}, row, splits, units) for row in quoted
    ]
    records += [_record(row, (paper or {}).get(row["name"], {}), splits, units) for row in rows]
    numbers = pd.DataFrame(records)
    shown = pd.DataFrame({"label": numbers["label"]})
    for name in details:
        shown[name] = [millions(value) if name == "parameters" else text(value) for value in numbers[name]]
    shown["lmbda"] = numbers["lmbda"].map(text)
    for split in splits:
        shown[split] = [_interval(record, split) for record in records]
        for unit, (_, _, form) in units.items():
            shown[f"{split}_{unit}"] = [_interval(record, f"{split}_{unit}", form) for record in records]
        shown[f"paper_{split}"] = [number(value, "{:.2f}") for value in numbers[f"paper_{split}"]]
    not_printed = [name for name in shown if name.startswith("paper_") and set(shown[name]) == {"–"}]
    hidden = {name for names in DETAILS.values() for name in names} - set(details)
    hidden |= {name for name in numbers if name.endswith(("_min", "_max")) and numbers[name].isna().all()}
    hidden |= {f"paper_{split}" for split in splits if paper is None}
    headings = HEADINGS | {split: f"{HEADINGS[split]}, per token" for split in splits if units}
    for unit, (_, name, _) in units.items():
        headings |= {f"{split}_{unit}": f"{HEADINGS[split]}, {name}" for split in splits}
    return numbers.drop(columns=list(hidden)), shown.drop(columns=not_printed).rename(columns=headings)


def extras(study: experiments.Study, output: str) -> dict[str, str]:
    """What each component of a row adds to the others, on the last of the splits that the table shows, by its label."""
    split, found = REPORTED[output][-1], {}
    for label, comparisons in additions(study, output, split).items():
        if texts := [with_interval(one) for one in comparisons if one.difference]:
            found[label] = f"on {split}, {'; '.join(texts)}"
    return found


def about(rows: list[dict]) -> str:
    """Of which seeds and index the numbers are, and what stands beside medians; "" where no row has either."""
    found = experiments.of_what(rows)
    if not found:
        return ""
    several = {len(row["seeds"]) > 1 for row in rows if experiments.is_trained(row)}
    legend = SEEDS_LEGEND if True in several else ONE_SEED if several else ""
    return f"{found[0].upper()}{found[1:]}. {legend}".strip()


def seeds_of_each(study: experiments.Study) -> str:
    """Of which seeds the numbers of each table and figure are, for the claims, which rest on all of them."""
    outputs: dict[str, list[str]] = {}
    for name, experiment in study.experiments.items():
        trained = filter(experiments.is_trained, experiment["rows"])
        for seeds in dict.fromkeys(experiments.seeds(row["seeds"]) for row in trained):
            outputs.setdefault(seeds, []).append(name)
    parts = [f"{seeds} in {', '.join(names)}" for seeds, names in outputs.items()]
    return f"Perplexities: {'; '.join(parts)}." if parts else ""


def without_interval(rows: list[dict], splits: tuple[str, ...]) -> str:
    """Which splits have too few documents for an interval, and how many they have; "" where every one has enough."""
    counted = {(split, (row.get(split) or {}).get("documents", FEWEST)): None for split in splits for row in rows}
    few = [f"{count} document{'s' * (count != 1)} of {split}" for split, count in counted if count < FEWEST]
    if not few:
        return ""
    verb = "is" if few[0].startswith("1 ") and len(few) == 1 else "are"
    return f"Without brackets no interval can be drawn: {' and '.join(few)} {verb} too few (at least {FEWEST})."


def differ(rows: list[dict]) -> bool:
    """Whether an experiment is of a study whose tokenizers differ, which recorded each row's."""
    return any("vocab" in row for row in rows)


def ledger(verdicts: list[claims.Verdict]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The table of claims: every field of the verdicts, and the columns as shown."""
    table = pd.DataFrame(verdicts)
    finding = [f"{v.verdict}: {v.reason}" if v.reason else v.verdict for v in verdicts]
    shown = table.assign(finding=finding)[list(CLAIM_HEADINGS)].rename(columns=CLAIM_HEADINGS)
    return table, shown


def _record(row: Mapping, paper: Mapping, splits: tuple[str, ...], units: Mapping) -> dict:
    """One line of a table of perplexities: a row of an experiment beside the paper's numbers for it."""
    store = row.get("datastore") or {}
    temperature = store.get("temperature")
    tuned = isinstance(temperature, list)  # of each seed
    record = {
        "name": row["name"],
        "label": row["label"],
        "parameters": row.get("parameters"),
        "training": _trained_on(row),
        "datastore": f"{store['corpus']} ({store['entries']:,})" if store else None,
        "distance": store.get("distance"),
        "index": store.get("index"),
        "temperature": median_low(temperature) if tuned else temperature,
        "lmbda": _weights(row.get("lmbda") or {}) + (f", T = {median_low(temperature):g}" if tuned else ""),
    }
    for split in splits:
        measured = row.get(split) or {}
        record |= _bounded(split, measured)
        for unit, (converted, _, _) in units.items():
            record |= _bounded(f"{split}_{unit}", converted(measured) if measured else {})
        record[f"paper_{split}"] = paper.get(split)
    return record


def _bounded(column: str, measured: Mapping) -> dict:
    """A number, the lowest and the highest where there are several seeds, and its interval, in five columns."""
    low, high = measured.get("interval") or (None, None)
    seeds = measured.get("per_seed") or []
    least, most = (min(seeds), max(seeds)) if len(seeds) > 1 else (None, None)
    bounds = {"_min": least, "_max": most, "_low": low, "_high": high}
    return {column: measured.get("perplexity"), **{f"{column}{end}": value for end, value in bounds.items()}}


def _trained_on(row: Mapping) -> str | None:
    tokens = f"{row['training_tokens']:,} tokens" if row.get("training_tokens") else ""
    if row.get("description"):
        return f"pretrained, then {tokens}" if tokens else "pretrained"
    return f"{row['model']} ({tokens})" if tokens else row.get("model")


def _weights(lmbda: Mapping[str, list[float]]) -> str:
    """The median λ over seeds; with the component's name where there are several, as in "cache 0.05, knn 0.25"."""
    tuned = {name: median(values) for name, values in lmbda.items() if values}
    named = len(tuned) > 1
    return ", ".join(f"{name} {weight:.3g}" if named else f"{weight:.3g}" for name, weight in tuned.items())


def _interval(record: Mapping, column: str, form: str = "{:.2f}") -> str:
    """As in "163.11 (162.40–165.02) [149.54, 181.22]"; what is in parentheses is of several seeds."""
    value, least, most, low, high = (record[f"{column}{end}"] for end in ("", "_min", "_max", "_low", "_high"))
    spread = f" ({form.format(least)}–{form.format(most)})" if least is not None else ""
    between = f" [{form.format(low)}, {form.format(high)}]" if low is not None and high is not None else ""
    return number(value, form) + spread + between
