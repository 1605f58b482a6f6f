"""What the parts measured, as rates for workflow/plan.py and as Markdown."""

from pathlib import Path

from tabulate import tabulate

from benchmarks.gpu.part import PRECISIONS

FIRST = ("step", "on", "precision", "tokens_per_batch", "key_types", "key_type", "seed", "k", "keys")  # columns
PLAN = "python workflow/plan.py --configfile config/paper.yaml --rates {folder}/rates.json"
NO_RATES = "The sizes were reduced: these numbers show that every part works, and nothing about speed.\n"


def rates(parts: dict[str, dict]) -> dict:
    """The rates of workflow/rates.yaml that were measured, by the names that they have there.

    Of two batch sizes the faster one counts. Those of `core` are the CPU's, divided by its cores.
    """
    training, passes = parts.get("training", {}).get("updates", []), parts.get("extraction", {}).get("passes", [])
    adding, reranking = parts.get("indexing", {}).get("adding", []), parts.get("reranking", {}).get("rates", [])
    gpu: dict = {
        "train": {p: _best(training, "operations_per_second", precision=p) for p in PRECISIONS},
        "forward": {p: _best(passes, "operations_per_second", precision=p, key_types=1) for p in PRECISIONS},
        "index": _best(adding, "operations_per_second", on="GPU"),
    }
    core = {
        "matrix": _best(adding, "operations_per_second_and_core", on="CPU"),
        "gather": _best(reranking, "bytes_per_second_and_core", on="CPU"),
    }
    return _measured({"gpu": gpu, "core": core})


def _best(rows: list[dict], rate: str, **which: object) -> float | None:
    chosen = [row[rate] for row in rows if rate in row and which.items() <= row.items()]
    return max(chosen, default=None)


def _measured(values: dict) -> dict:
    """The values that are not None, without the mappings that have none."""
    nested = {key: _measured(value) if isinstance(value, dict) else value for key, value in values.items()}
    return {key: value for key, value in nested.items() if value not in (None, {})}


def markdown(parts: dict[str, dict], descriptions: dict[str, str], reduced: bool, folder: Path) -> str:
    """One section a part, with its numbers and its tables."""
    lines = ["# What this GPU computes per second", "", "Written by `make test-gpu`.", ""]
    if reduced:
        lines += [NO_RATES]
    for name, found in parts.items():
        lines += [f"## {name.capitalize()}", "", descriptions[name], ""]
        tables = {key: value for key, value in found.items() if isinstance(value, list)}
        single = {key: value for key, value in found.items() if key not in tables}
        lines += [_table([{"what": _words(key), "found": value} for key, value in single.items()]), ""]
        for key, rows in tables.items():
            lines += [f"**{_words(key).capitalize()}**", "", _table(rows), ""]
    lines += ["## Rates", "", f"For an estimate with them: `{PLAN.format(folder=folder)}`.", ""]
    rows = [{"rate": name, "per second": value} for name, value in _flat(rates(parts))]
    return "\n".join([*lines, _table(rows), ""])


def _table(rows: list[dict]) -> str:
    """A row for each dict, and a column for each key of any of them."""
    there = dict.fromkeys(key for row in rows for key in row)
    columns = [*(key for key in FIRST if key in there), *(key for key in there if key not in FIRST)]
    cells = [[_shown(row.get(column, "")) for column in columns] for row in rows]
    return tabulate(cells, [_words(column) for column in columns], tablefmt="github", disable_numparse=True)


def _words(name: str) -> str:
    return name.replace("_", " ").replace(" gb", ", GB")


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {number}" for key, number in value.items())
    if isinstance(value, float):
        return f"{value:,.0f}" if 1000 <= value < 1e9 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value).replace("|", "¦")


def _flat(values: dict, prefix: str = "") -> list[tuple[str, object]]:
    pairs: list[tuple[str, object]] = []
    for key, value in values.items():
        pairs += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return pairs
