"""A table as people read it: Markdown and LaTeX, with the paper's findings and whether they held below it."""

import math
from collections.abc import Mapping

import pandas as pd

from knnlm.outputs import typeset
from knnlm.outputs.claims import Verdict
from knnlm.outputs.markdown import paragraph, plain, scientific

LEFT = {"Model", "Measure", "LM trained on", "Datastore", "Stage", "Writes", "Better here", "Bin", "What it shows"}
"""Columns of text; all others are aligned right."""
FINDINGS = "Findings of the paper, here:"
ADDED = "What each adds to the others (an extra; nats a token, with 95% intervals):"
Added = Mapping[str, str]  # of a row's label: the differences as text
FORMULA = r"(?s)\A(?=[=@\t\r]|[+-].*([|!]|\w\())"
"""How a cell begins that a spreadsheet program may run: a call or a command; a plain label as "+ kNN-LM" is none."""


def markdown(title: str, note: str, shown: pd.DataFrame, added: Added, findings: list[Verdict]) -> str:
    """A page with one table: title, note, the table `shown` (all text), what components add to others, and findings."""
    left = aligned_left(shown)
    aligned = ["left" if name in left else "right" for name in shown]
    shown = shown.map(scientific)
    if "Model" in shown:
        shown = shown.assign(Model=shown["Model"].map(plain))
    parts = [
        f"# {plain(title)}",
        paragraph(note),
        shown.to_markdown(index=False, disable_numparse=True, colalign=aligned),
    ]
    if added:
        parts.append(f"**{ADDED}**")
        parts.append("\n".join(f"- {paragraph(label)}: {scientific(line)}" for label, line in added.items()))
    if findings:
        parts.append(f"**{FINDINGS}**")
        parts.append("\n".join(f"- {scientific(finding_line(verdict, bold='**'))}" for verdict in findings))
    return "\n\n".join(part for part in parts if part) + "\n"


def latex(title: str, note: str, shown: pd.DataFrame, added: Added, findings: list[Verdict]) -> str:
    """The same as a LaTeX table; it compiles with any engine and fits the text width of an A4 article."""
    below = {ADDED: [f"{label}: {line}" for label, line in added.items()], FINDINGS: list(map(finding_line, findings))}
    below = {heading: list(map(scientific, lines)) for heading, lines in below.items()}
    return typeset.latex(title, note, shown.map(scientific), aligned_left(shown), below)


def csv(numbers: pd.DataFrame) -> str:
    """The numbers of a table or figure as CSV. Text that a spreadsheet program would run as a formula begins with '."""
    shown = numbers.replace(FORMULA, "'", regex=True)
    return shown.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def aligned_left(shown: pd.DataFrame) -> set[str]:
    """The columns of text; in the table of claims, all."""
    return set(shown) if "Claim" in shown else LEFT | ({"Paper"} if "Stage" in shown else set())


def finding_line(verdict: Verdict, bold: str = "") -> str:
    """One claim: its verdict between `bold` marks, the claim itself, our numbers and the paper's."""
    reason = f" ({verdict.reason})" if verdict.reason else ""
    claim = f"{verdict.quote} (§{verdict.section})"
    return f"{bold}{verdict.verdict}{bold}{reason} – {claim}. Ours: {verdict.ours}; paper: {verdict.paper}."


def number(value: float | None, form: str) -> str:
    """A number in the format `form`, or a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else form.format(value)


def millions(value: float | None) -> str:
    """A number of parameters, as 247M or 0.23M."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value / 1e6:.0f}M" if value >= 1e7 else f"{value / 1e6:.2f}M"


def text(value: object) -> str:
    """Any value of a table as text, or a dash where there is none."""
    missing = value is None or value == "" or (isinstance(value, float) and math.isnan(value))
    return "–" if missing else f"{value:g}" if isinstance(value, float) else str(value)
