"""Gather a study's tables, figures, examples and settings in one HTML page."""

import base64
import csv
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from knnlm.artifacts import files
from knnlm.artifacts.files import UserError
from knnlm.outputs import pages
from knnlm.outputs.markdown import html, paragraph
from knnlm.settings import SPLITS

SUMMARY, COST = "claims", "cost"  # tables that have their own sections in the page


@dataclass(frozen=True)
class ReportConfig:
    """Gather a study's outputs into one HTML file that opens without a network."""

    study: str
    """the study's name"""
    tables: tuple[Path, ...]
    """Markdown tables in the order shown; claims.md and cost.md get sections of their own"""
    out: Path
    """report.html"""
    figures: tuple[Path, ...] = ()
    """PNG files, in the order shown"""
    captions: Path | None = None
    """folder of a caption for each figure, FIGURE.rst"""
    examples: Path | None = None
    """examples.md"""
    explorer: Path | None = None
    """explorer.html, which the report links to"""
    configs: tuple[Path, ...] = ()
    """configuration files, printed as they are"""
    metas: tuple[Path, ...] = ()
    """meta.json of artifacts, for versions and commits"""
    corpora: tuple[Path, ...] = ()
    """meta.json of the corpora, for their sizes and how much of dev and test stands in train"""
    deviations: Path | None = None
    """docs/differences.md"""
    note: str = ""
    """the study and its scale"""
    own: bool = False
    """whether the study has no role in the paper"""


def main(config: ReportConfig) -> None:
    tables = {path.stem: html(read(path).replace(paragraph(config.note), "", 1)) for path in config.tables}
    versions, commits = provenance(config.metas)
    facts = {
        "study": config.study,
        "note": config.note,
        "own": config.own,
        "held": findings(config.tables),
        "summary": tables.pop(SUMMARY, None),
        "cost": tables.pop(COST, None),
        "tables": tables,
        "figures": [(path.stem, picture(path), caption(config.captions, path.stem)) for path in config.figures],
        "examples": html(read(config.examples).replace(paragraph(config.note), "", 1)) if config.examples else None,
        "explorer": config.explorer.name if config.explorer else None,
        "configs": [(str(path), read(path)) for path in config.configs],
        "corpora": texts(config.corpora),
        "versions": versions,
        "commits": commits,
        "deviations": html(read(config.deviations), trusted=True) if config.deviations else None,
    }
    files.write_text(config.out, pages.render("report.html", **facts))


def texts(metas: Iterable[Path]) -> list[dict[str, str]]:
    """For each split of each corpus its words and documents; for dev and test also how much of it stands in train."""
    lines = []
    for path in metas:
        meta = files.read_json(path)
        for split in SPLITS:
            shared = meta["overlap"].get(split)
            lines.append(
                {
                    "corpus": path.parent.name if split == SPLITS[0] else "",
                    "split": split,
                    "words": f"{meta['words'][split]:,}",
                    "documents": f"{meta['documents'][split]:,}",
                    "ngrams": f"{shared['ngrams']:.2%}" if shared else "",
                    "sharing": f"{shared['documents']:.1%}" if shared else "",
                    "most": most_shared(shared["sources"]) if shared else "",
                }
            )
    return lines


def most_shared(sources: dict[str, dict[str, float]]) -> str:
    """The source whose held-out text stands most in train, where there are several."""
    name = max(sources, key=lambda source: sources[source]["ngrams"])
    return f"{name} {sources[name]['ngrams']:.2%}" if len(sources) > 1 else ""


def findings(tables: Iterable[Path]) -> Counter[str]:
    """How many claims have each verdict, from claims.csv beside claims.md."""
    for path in tables:
        if path.stem == SUMMARY:
            with path.with_suffix(".csv").open(encoding="utf-8", newline="") as file:
                return Counter(claim["verdict"] for claim in csv.DictReader(file))
    return Counter()


def picture(path: Path) -> str:
    """A PNG file as a data URL, so that the page needs no other file."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def caption(folder: Path | None, name: str) -> str:
    """A figure's caption, which is also the one in Snakemake's report; "" if there is none."""
    path = folder / f"{name}.rst" if folder else None
    return " ".join(path.read_text(encoding="utf-8").split()) if path and path.is_file() else ""


def provenance(metas: Iterable[Path]) -> tuple[dict[str, str], list[str]]:
    """The versions of packages and the commits of this project that the artifacts were made with, each named once."""
    versions: dict[str, set[str]] = {}
    commits = set()
    for path in metas:
        meta = files.read_json(path)
        commits.add(meta["commit"] or "unknown")
        for name, version in meta["versions"].items():
            versions.setdefault(name, set()).add(version)
    return {name: ", ".join(sorted(found)) for name, found in sorted(versions.items())}, sorted(commits)


def read(path: Path) -> str:
    """The text of a file; raises UserError where it is missing."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the stage that makes it") from None
