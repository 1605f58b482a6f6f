"""Compare a run's tables and figures with a reference, number by number."""

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate

from knnlm.artifacts.files import UserError

INTERVALS = ("_low", "_high")
# These must exist, but seconds depend on the machine, and the chosen example on the last digits of a model.
UNCOMPARED = ("tables/cost.csv", "figures/figure1.csv")


@dataclass(frozen=True)
class VerifyConfig:
    """Compare tables/*.csv and figures/*.csv of a run with a reference; exit code 1 if one is out of tolerance."""

    run: Path
    """results/STUDY"""
    reference: Path
    """results/reference/STUDY"""
    tolerance: float = 0.03
    """largest relative difference of a perplexity or loss"""
    interval_tolerance: float = 0.10
    """the same for the bounds of intervals"""
    lmbda_tolerance: float = 0.10
    """largest absolute difference of a tuned λ"""


class Difference(NamedTuple):
    """One cell in which a run and its reference disagree."""

    file: str
    row: str
    column: str
    reference: str
    found: str
    verdict: str  # difference > tolerance, or why the two cannot be compared


def main(config: VerifyConfig) -> None:
    names = sorted(str(p.relative_to(config.reference)) for p in config.reference.glob("*/*.csv"))
    names = [name for name in names if name.split("/")[0] in ("tables", "figures")]
    if not names:
        raise UserError(f"{config.reference}: no tables/*.csv and figures/*.csv to compare with")
    differences = [difference for name in names for difference in compare(name, config)]
    if not differences:
        print(f"{len(names)} tables and figures agree with {config.reference} within tolerance")
        return
    print(tabulate(differences, headers=Difference._fields, tablefmt="plain", disable_numparse=True))
    raise UserError(f"{config.run}: {len(differences)} values out of tolerance with {config.reference}")


def compare(name: str, config: VerifyConfig) -> Iterator[Difference]:
    """Every difference in the file `name`, as tables/table1.csv, of the run and of the reference."""
    if not (config.run / name).is_file():
        yield Difference(name, "", "", "present", "missing", "not made")
        return
    if name in UNCOMPARED:
        return
    expected, found = (read(folder / name) for folder in (config.reference, config.run))
    if len(expected) != len(found):
        yield Difference(name, "", "", f"{len(expected)} rows", f"{len(found)} rows", "other rows")
        return
    for number, (before, after) in enumerate(zip(expected, found, strict=True)):
        row = next(iter(before.values()), str(number))
        for column in before.keys() | after.keys():
            verdict = disagreement(name, column, before.get(column), after.get(column), config)
            if verdict:
                yield Difference(name, row, column, str(before.get(column)), str(after.get(column)), verdict)


def disagreement(name: str, column: str, before: str | None, after: str | None, config: VerifyConfig) -> str:
    """Why two cells disagree, or "". Of the claims, the verdicts are compared and the texts are not."""
    if name == "tables/claims.csv" and column in ("ours", "intervals", "reason"):
        return ""
    if before is None or after is None:
        return "other columns"
    read_cell = weights if column.startswith("lmbda") else numbers
    expected, found = read_cell(before), read_cell(after)
    if expected is None or found is None or len(expected) != len(found):
        return "" if before == after else "other text"
    for x, y in zip(expected, found, strict=True):
        if column.startswith("lmbda"):
            excess, allowed = abs(x - y), config.lmbda_tolerance
        else:
            excess = 0.0 if x == y else abs(x - y) / max(abs(x), 1e-9)
            allowed = config.interval_tolerance if column.endswith(INTERVALS) else config.tolerance
        if not excess <= allowed + 1e-12:
            return f"{excess:.3g} > {allowed:g}"
    return ""


def numbers(cell: str) -> list[float] | None:
    """The number in a cell, or None if there is none."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return None if math.isnan(value) else [value]


def weights(cell: str) -> list[float] | None:
    """The weights in a λ cell ("0.25" or "knn 0.25, cache 0.05"), or None if there are none."""
    try:
        return [float(part.split()[-1]) for part in cell.split(",")]
    except (ValueError, IndexError):
        return None


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
