"""Gather a study's tables, figures, examples and settings in one HTML page."""

import base64
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from knnlm.artifacts import files
from knnlm.artifacts.files import UserError
from knnlm.outputs import pages, prose
from knnlm.outputs.citation import bibtex
from knnlm.outputs.markdown import VERDICTS, html, paragraph, scientific, together
from knnlm.outputs.portable import paths_of_this_machine, replaced
from knnlm.settings import SPLITS

SUMMARY, COST = "claims", "cost"  # tables that have their own sections in the page
TYPES = {".csv": "text/csv;charset=utf-8", ".tex": "application/x-tex;charset=utf-8", ".pdf": "application/pdf"}
Reader = Callable[[Path], str]  # of a text file, without paths of this machine


@dataclass(frozen=True)
class ReportConfig:
    """Gather a study's outputs into one HTML file that opens without a network and without any other file.

    Paths of this machine are taken out of what it shows. The same study gives the same bytes.
    """

    study: str
    """the study's name"""
    tables: tuple[Path, ...]
    """Markdown tables in the order shown, each with its CSV and TeX beside it; claims and cost get sections"""
    out: Path
    """report.html"""
    figures: tuple[Path, ...] = ()
    """SVG files in the order shown, each with its CSV and PDF beside it"""
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
    citation: Path | None = None
    """CITATION.cff: how to cite the package and the paper"""
    note: str = ""
    """the study and its scale"""
    own: bool = False
    """whether the study has no role in the paper"""


class Part(NamedTuple):
    """A table or figure: its title, sentences around it, what it shows, and files to download by kind."""

    name: str
    title: Markup
    prose: str
    shown: Markup
    downloads: list[tuple[str, str, str]]


def main(config: ReportConfig) -> None:
    holders = (*config.configs, *config.metas, *config.corpora)
    private = paths_of_this_machine(config.out.parent, Path.cwd(), [path for path in holders if path.exists()])

    def reader(path: Path) -> str:
        return replaced(read(path), private)

    ledger, stages = (numbers(config.tables, name) for name in (SUMMARY, COST))
    ledger = [claim | {key: together(scientific(claim[key])) for key in ("ours", "intervals")} for claim in ledger]
    tables = {path.stem: table(path, config.note, ledger, reader) for path in config.tables}
    summary, cost = tables.pop(SUMMARY, None), tables.pop(COST, None)
    versions, commits = provenance(config.metas)
    examples = reader(config.examples) if config.examples else ""
    facts = {
        "study": config.study,
        "note": replaced(config.note, private),
        "own": config.own,
        "made": made(config.tables, versions, commits, stages),
        "verdicts": counted(ledger),
        "claims": ledger,
        "classes": VERDICTS,
        "summary": summary and summary._replace(prose=prose.of_claims(ledger), shown=above_table(summary.shown)),
        "cost": cost and cost._replace(prose=prose.of_cost(stages)),
        "tables": [*tables.values()],
        "figures": [figure(path, config.captions, ledger, reader) for path in config.figures],
        "examples": html(examples.replace(paragraph(config.note), "", 1)),
        "examples_prose": prose.of_examples(examples),
        "explorer": config.explorer.name if config.explorer else None,
        "configs": [(short(path), reader(path)) for path in config.configs],
        "corpora": texts(config.corpora),
        "versions": versions,
        "commits": commits,
        "deviations": unlinked(html(reader(config.deviations), trusted=True)) if config.deviations else None,
        "citation": bibtex(config.citation) if config.citation else None,
    }
    files.write_text(config.out, pages.render("report.html", **facts))


def numbers(tables: Iterable[Path], name: str) -> list[prose.Row]:
    """The rows of the CSV beside the Markdown table of that name, or none."""
    return [row for path in tables if path.stem == name for row in prose.rows(path.with_suffix(".csv"))]


def above_table(shown: Markup) -> Markup:
    """What stands above a table: the template has the table of claims itself, so that readers can filter it."""
    return Markup(shown.partition('<div class="wide">')[0])


def unlinked(page: Markup) -> Markup:
    """A page of docs/ without its links to other files, which the report's reader may not have."""
    return Markup(re.sub(r'<a href="(?!https?:|#)[^"]*">(.*?)</a>', r"\1", page, flags=re.DOTALL))


def table(path: Path, note: str, ledger: Sequence[prose.Row], reader: Reader) -> Part:
    """A table with its title, its sentences and its CSV and TeX."""
    title, end, body = html(reader(path).replace(paragraph(note), "", 1)).partition("</h3>")
    claims = [claim for claim in ledger if claim["output"] == path.stem]
    sentences = prose.of_output(path.stem, claims, prose.rows(path.with_suffix(".csv")))
    downloads = [download(path.with_suffix(end), reader) for end in (".csv", ".tex")]
    return Part(path.stem, Markup(title + end), sentences, Markup(body), downloads)


def figure(path: Path, captions: Path | None, ledger: Sequence[prose.Row], reader: Reader) -> Part:
    """A figure with its caption, its sentences and its CSV and PDF."""
    name, text = path.stem, caption(captions, path.stem)
    claims = [claim for claim in ledger if claim["output"] == name.rstrip("ab")]
    downloads = [download(path.with_suffix(end), reader) for end in (".csv", ".pdf")]
    sentences = prose.of_output(name, claims, [], figure=True)
    return Part(name, Markup.escape(text), sentences, pages.embedded(reader(path), name, text), downloads)


def download(path: Path, reader: Reader) -> tuple[str, str, str]:
    """What a link calls a file, the file's name, and its content as a data URL: the page needs no other file."""
    content = path.read_bytes() if path.suffix == ".pdf" else reader(path).encode()
    address = f"data:{TYPES[path.suffix]};base64,{base64.b64encode(content).decode('ascii')}"
    return {".tex": "TeX"}.get(path.suffix, path.suffix[1:].upper()), path.name, address


def counted(ledger: Sequence[prose.Row]) -> list[tuple[str, str, int]]:
    """Each verdict, its CSS class and how many claims have it."""
    counts = Counter(claim["verdict"] for claim in ledger)
    return [(verdict, style, counts[verdict]) for verdict, style in VERDICTS.items()]


def made(
    tables: Iterable[Path], versions: dict[str, str], commits: Sequence[str], stages: Sequence[prose.Row]
) -> list[tuple[str, str]]:
    """When, where, how long and by which commit: what descriptions, the table of cost and the tables' times say."""
    newest = max((path.stat().st_mtime for path in tables), default=0)
    parts = [versions[name] for name in ("processor", "GPU, driver") if name in versions]
    machine = "; ".join(parts) or ("no GPU; its processor is not recorded" if versions else "")
    facts = {
        "Date": datetime.fromtimestamp(newest, UTC).strftime("%-d %B %Y") if newest else "",
        "Machine": machine,
        "Time": prose.spent(stages[-1]) if stages else "",
        "Commit": ", ".join(commits),
    }
    return [(name, text) for name, text in facts.items() if text]


def short(path: Path) -> str:
    """A configuration file's place below the current folder, or its name."""
    place, root = path.absolute(), Path.cwd()
    return str(place.relative_to(root)) if place.is_relative_to(root) else path.name


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
