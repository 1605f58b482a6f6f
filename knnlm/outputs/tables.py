"""A table as people read it: Markdown and LaTeX, with the findings of the paper below."""

import math

import pandas as pd

from knnlm.corpora.text import paragraph, plain
from knnlm.outputs.claims import Verdict

LATEX = {
    "λ": r"$\lambda$",
    "–": "--",
    "−": "$-$",
    "→": r"$\to$",
    "²": "$^2$",
    "θ": r"$\theta$",
    "±": r"$\pm$",
    "×": r"$\times$",
}
PLAIN = {c: f"\\{c}" for c in "&%$#_{}"} | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "§": r"\S{}"}


def markdown(title: str, note: str, shown: pd.DataFrame, findings: list[Verdict]) -> str:
    numeric = [
        "left"
        if name
        in (
            "Model",
            "Claim",
            "Section",
            "Finding",
            "Stage",
            "Writes",
            "Paper" if "Stage" in shown else "",
            "LM trained on",
            "Datastore",
        )
        else "right"
        for name in shown
    ]
    aligned = numeric if "Claim" not in shown else ["left"] * len(numeric)
    if "Model" in shown:
        shown = shown.assign(Model=shown["Model"].map(plain))
    parts = [f"# {title}", paragraph(note), shown.to_markdown(index=False, disable_numparse=True, colalign=aligned)]
    if findings:
        parts.append("**Findings of the paper, here:**")
        parts.append("\n".join(f"- {finding_line(verdict, bold='**')}" for verdict in findings))
    return "\n\n".join(part for part in parts if part) + "\n"


def latex(title: str, note: str, shown: pd.DataFrame, findings: list[Verdict]) -> str:
    """A booktabs table; compiles with any engine."""
    wide = "Claim" in shown
    columns = (
        "lp{.2\\linewidth}" + "p{.13\\linewidth}" * 2 + "p{.15\\linewidth}" * 2
        if wide
        else "l" + "r" * (shown.shape[1] - 1)
    )
    style = shown.rename(columns=_escape).style.hide(axis="index").format(_escape)
    body = style.to_latex(hrules=True, column_format=columns)
    lines = "".join(f"\\\\[2pt] {_escape(finding_line(verdict))}\n" for verdict in findings)
    return (
        "\\begin{table}\n\\centering\\small\n"
        f"\\caption{{{_escape(title)}. {_escape(note)}}}\n{body}"
        + (f"\\par\\raggedright\\footnotesize Findings of the paper, here:\n{lines}" if lines else "")
        + "\\end{table}\n"
    )


def finding_line(verdict: Verdict, bold: str = "") -> str:
    reason = f" ({verdict.reason})" if verdict.reason else ""
    claim = f"{verdict.quote} (§{verdict.section})"
    return f"{bold}{verdict.verdict}{bold}{reason} – {claim}. Ours: {verdict.ours}; paper: {verdict.paper}."


def number(value: float | None, form: str) -> str:
    return "–" if value is None or not math.isfinite(value) else form.format(value)


def millions(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "–"
    return f"{value / 1e6:.0f}M" if value >= 1e7 else f"{value / 1e6:.2f}M"


def text(value: object) -> str:
    missing = value is None or value == "" or (isinstance(value, float) and math.isnan(value))
    return "–" if missing else f"{value:g}" if isinstance(value, float) else str(value)


def _escape(text: object) -> str:
    return "".join((PLAIN | {"\\": r"\textbackslash{}"} | LATEX).get(character, character) for character in str(text))
