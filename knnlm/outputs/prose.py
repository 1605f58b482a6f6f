"""Sentences of the report: what the paper claims, what was measured and what that means, from the study's tables."""

import csv
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from knnlm.artifacts.files import UserError
from knnlm.outputs.markdown import scientific
from knnlm.outputs.verdicts import FAILED, HELD, NOISE, OPEN

Row = dict[str, str]  # of a CSV file
WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
ORDER = HELD, FAILED, NOISE, OPEN
FEW = 4  # of so many claims each that did not hold is named with its verdict


def rows(path: Path) -> list[Row]:
    """The rows of a CSV file; raises UserError where it is missing."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the stage that makes it") from None


def of_claims(claims: Sequence[Row]) -> str:
    """What the ledger of claims is, and how many of them have each verdict."""
    failed = [quoted(claim) for claim in claims if claim["verdict"] == FAILED]
    return (
        f"The paper makes {number(len(claims))} claim{'s' * (len(claims) != 1)} that numbers can decide. Each was "
        "measured again with the models, text and datastores of this study; a difference counts where its 95% "
        f"interval, over resampled documents, leaves out zero. {verdicts(claims)}"
        + (f" What did not hold: {'; '.join(failed)}." if failed else "")
    )


def of_output(name: str, claims: Sequence[Row], measured: Sequence[Row], figure: bool = False) -> str:
    """Of one table or figure: the claims that rest on it, what was measured, and the verdicts.

    The numbers of single claims stand below a table, and therefore here only for a `figure`.
    """
    panel = name[-1].isalpha() and [claim for claim in claims if name[6:] in claim["section"]]
    claims = panel or claims
    sentences = []
    if claims:
        sentences.append(f"The paper claims: {'; '.join(map(quoted, claims))}.")
    if figure and claims:
        sentences.append(f"Measured here: {'; '.join(claim['ours'] for claim in claims)}.")
        sentences.append(f"In the paper: {'; '.join(claim['paper'] for claim in claims)}.")
    elif not figure:
        sentences.append(perplexities(measured))
    if claims:
        sentences.append(verdicts(claims))
    elif not figure and (judged := [row for row in measured if row.get("verdict")]):
        sentences.append(verdicts(judged, "line"))
    return scientific(" ".join(filter(None, sentences)))


def perplexities(measured: Sequence[Row]) -> str:
    """The lowest and the highest perplexity of a table's own rows, on test where it has that."""
    for split in ("test", "dev"):
        found = [row for row in measured if row.get(split) and row.get("label")]
        if len(found) > 1:
            ordered = sorted(found, key=lambda row: float(row[split]))
            low, high = (
                f"{float(row[split]):.2f} ({row['label'].removeprefix('+ ')})" for row in (ordered[0], ordered[-1])
            )
            less = 1 - float(ordered[0][split]) / float(ordered[-1][split])
            return (
                f"Measured here are {number(len(found))} perplexities on {split}: the lowest, {low}, is {less:.1%} "
                f"below the highest, {high}."
            )
    return ""


def verdicts(claims: Sequence[Row], noun: str = "claim") -> str:
    """How many have which verdict; of few, each that did not hold by name, with its reason."""
    counts = Counter(claim["verdict"] for claim in claims)
    if len(claims) == 1:
        return f"Here the {noun} {said(claims[0]['verdict'], 1)}{reason(claims[0])}."
    reasons = Counter(claim["reason"] for claim in claims if claim.get("reason"))
    if len(counts) == 1:
        every = "both" if len(claims) == 2 else f"all {number(len(claims))}"
        because = f": {next(iter(reasons))}" if len(reasons) == 1 else ""
        return f"Here {every} {noun}s {said(claims[0]['verdict'], len(claims))}{because}."
    count = number if len(claims) < len(WORDS) else str
    parts = [f"{count(counts[verdict])} {said(verdict, counts[verdict])}" for verdict in ORDER if counts[verdict]]
    sentence = f"Of the {number(len(claims))} {noun}s, {listed(parts)}"
    others = [claim for claim in claims if claim["verdict"] != HELD]
    if noun == "claim" and len(claims) <= FEW and len(others) < len(claims):
        return f"{sentence}: {'; '.join(quoted(claim, section=False) + reason(claim) for claim in others)}."
    if len(others) == counts[OPEN] and len(reasons) == 1:
        return f"{sentence}: {next(iter(reasons))}."
    return f"{sentence}."


def said(verdict: str, count: int) -> str:
    return f"{'is' if count == 1 else 'are'} {verdict}" if verdict == NOISE else verdict


def reason(claim: Row) -> str:
    return f" ({claim['reason']})" if claim.get("reason") else ""


def quoted(claim: Row, section: bool = True) -> str:
    """A claim in quotation marks, with its section in the paper."""
    return f"“{claim['quote']}”" + (f" (§{claim['section']})" if section else "")


def of_examples(page: str) -> str:
    """How many examples a page of them has, and their probabilities."""
    found = [
        tuple(map(float, pair)) for pair in re.findall(r"^p_kNN = ([\d.e-]+), p_LM = ([\d.e-]+)", page, re.MULTILINE)
    ]
    if not found:
        return ""
    (low, high), (least, most) = ((min(values), max(values)) for values in zip(*found, strict=True))
    return (
        f"Of the tokens of the test text that kNN helps most, {number(len(found))} are shown. The neighbors give them "
        f"a probability of {low:.3g} to {high:.3g}, the LM alone one of {least:.3g} to {most:.3g}."
    )


def of_cost(stages: Sequence[Row]) -> str:
    """What the paper says of the cost, and the study's time, memory and disk."""
    each, whole = stages[:-1], stages[-1]
    told = "; ".join(f"{row['stage']}, {row['paper']}" for row in each if row.get("paper"))
    total = float(whole["seconds"])
    most = sorted(each, key=lambda row: -float(row["seconds"]))[:3]
    shares = listed([f"{row['stage']} ({float(row['seconds']) / total:.0%})" for row in most if total])
    sentences = [
        f"The paper says of the time: {told}." if told else "",
        f"Here {spent(whole)}; files took at most {size(float(whole['peak_bytes']))} at once.",
        f"Most of the time went into {shares}." if shares else "",
    ]
    return " ".join(filter(None, sentences))


def spent(whole: Row) -> str:
    """Jobs, time and memory of all stages."""
    jobs = number(int(float(whole["jobs"])))
    peak = size(1e6 * float(whole["peak_mb"] or 0))
    return (
        f"{jobs} job{'s' * (jobs != 'one')} took {duration(float(whole['seconds']))} together, the longest "
        f"{duration(float(whole['longest'] or 0))}, with at most {peak} of memory"
    )


def duration(seconds: float) -> str:
    """As in 1 h 55 min, 14 min or 9 s."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min"


def size(number_of_bytes: float) -> str:
    """As in 4.2 GB or 320 MB."""
    return f"{number_of_bytes / 1e9:,.1f} GB" if number_of_bytes >= 1e9 else f"{number_of_bytes / 1e6:,.0f} MB"


def number(count: int) -> str:
    """A small number as a word."""
    return WORDS[count] if count < len(WORDS) else f"{count:,}"


def listed(parts: Sequence[str]) -> str:
    """As in a, b and c."""
    return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))
