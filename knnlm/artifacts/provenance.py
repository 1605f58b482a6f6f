"""Print how an artifact, table, figure or page was made: each command, back to the digests of the raw texts.

Artifacts have descriptions. Of what is made for readers (tables, figures, pages) Snakemake keeps a record, in the
folder `.snakemake` of the folder in which it ran: https://snakemake.readthedocs.io.
"""

import base64
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from knnlm.artifacts import description, files, lineage
from knnlm.artifacts.files import UserError

LONG, MANY = 60, 3  # characters of settings, and values of a flag, that are printed unless --full is given
LEFT_OUT = "…"
RECORDS = ".snakemake/metadata"
NAME_MAX = 254  # characters of a name in it; longer ones are divided over folders
SOFTWARE = ("knnlm/", "workflow/")
SHOWN = ("tables", "figures", "examples", "beyond")  # folders of a study that the workflow makes for readers


@dataclass(frozen=True)
class ProvenanceConfig:
    """Print the commands that made a file of a study and its inputs, back to the digests of the raw texts."""

    path: Annotated[Path, tyro.conf.Positional]
    """an artifact's folder or a file in it, an index, an experiment, a table, a figure, the report or the explorer"""
    full: bool = False
    """print long settings and long lists of files whole, so that the commands can be run"""


def main(config: ProvenanceConfig) -> None:
    path = config.path
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if not (description.is_described(path) or record(path) or experiments_of(path)):
        raise UserError(
            f"{path}: has no meta.json and is no table, figure or page of a study; give one of these, or an artifact"
        )
    for line in history(path):
        print(line if config.full else folded(line))
    if not config.full:
        print(f"({LEFT_OUT} stands for long settings and lists: --full prints them)")


def history(path: Path, indent: str = "", name: str = "", shown: set[Path] | None = None) -> Iterator[str]:
    """Lines about a file and, indented, about each of its inputs; what was shown is only named."""
    shown = set() if shown is None else shown
    described = description.is_described(path)
    key, heading, inner = description.meta_path(path) if described else path, f"{indent}{name}{path}", f"{indent}  "
    if key in shown:
        yield f"{heading} (shown above)"
        return
    shown.add(key)
    if not described:
        yield from _of_workflow(path, heading, inner, shown)
        return
    meta = description.described(path)
    yield f"{heading}  [{meta['stage']}, {description.identity(path)}, commit {meta['commit'] or 'unknown'}]"
    yield f"{inner}$ {meta['command'] or '(made within another program: no command is recorded)'}"
    for role, (place, source) in lineage.sources(path).items():
        if state := _unavailable(place, source):
            yield f"{inner}{role}: {place}  {state}"
        else:
            yield from history(place, inner, f"{role}: ", shown)


def _of_workflow(path: Path, heading: str, inner: str, shown: set[Path]) -> Iterator[str]:
    """Lines about a file without a description, from the workflow's record or, without one, from its study."""
    root, found = record(path) or (Path(), None)
    if found is None:
        yield f"{heading}  [found no record of the workflow for it; by its name it shows:]"
        for place in experiments_of(path):
            yield from history(place, inner, "", shown)
        return
    yield f"{heading}  [workflow, rule {found['rule']}]"
    yield f"{inner}$ {re.sub(r'  *2> [^ ]+$', '', found['shellcmd'] or '(no command is recorded)')}"
    inputs = [name for name in found["input"] if not name.startswith(SOFTWARE)]
    for name in inputs:
        place, digest = root / name, (found.get("input_checksums") or {}).get(name, "")
        place = place if path.is_absolute() else Path(os.path.relpath(place))
        if not place.exists():
            yield f"{inner}{place}  [{digest or 'no digest is recorded'}] missing"
        elif digest and place.is_file() and f"sha256:{description.sha256(place)}" != digest:
            yield f"{inner}{place}  [{digest}] missing: another file is in its place"
        elif description.is_described(place) or record(place):
            yield from history(place, inner, "", shown)
        else:
            yield f"{inner}{place}  [{digest or 'raw'}]"
    if software := len(found["input"]) - len(inputs):
        yield f"{inner}and {software} file{'s' * (software > 1)} of the software"


def record(path: Path) -> tuple[Path, dict] | None:
    """The folder in which Snakemake made a file, and its record of it; None where it has none."""
    path = path.absolute()
    for root in dict.fromkeys((*path.parents, Path.cwd())):
        if (root / RECORDS).is_dir():
            names = [str(path)] + ([str(path.relative_to(root))] if path.is_relative_to(root) else [])
            for name in names:
                code = base64.urlsafe_b64encode(name.encode()).decode()
                *folders, last = [code[i : i + NAME_MAX] for i in range(0, len(code), NAME_MAX)]
                place = root.joinpath(RECORDS, *(f"@{folder}" for folder in folders), last)
                if place.is_file():
                    return root, files.read_json(place)
    return None


def experiments_of(path: Path) -> list[Path]:
    """The experiments that a table, figure or page shows, by its name: its own, else all that its study has."""
    study = path.parent.parent if path.parent.name in SHOWN else path.parent
    if not path.is_file() or (study == path.parent and path.suffix != ".html"):
        return []
    every = [place for place in sorted(study.glob("experiments/*.json")) if not place.name.endswith(".meta.json")]
    return [place for place in every if place.stem == path.stem.rstrip("ab")] or every


def folded(line: str) -> str:
    """A line of a command with long settings in JSON and further values of a flag left out; others as they are."""
    start, sign, command = line.partition("$ ")
    if start.strip() or not sign or command.startswith("("):
        return line
    words, values = [], 0
    for word in shlex.split(command):
        values = 0 if word.startswith("-") else values + 1
        if values == MANY + 1:
            words.append(LEFT_OUT)
        elif values <= MANY:
            is_long = word[:1] in ("{", "[") and len(word) > LONG
            words.append(f"'{word[0]}{LEFT_OUT}{word[-1]}'" if is_long else shlex.quote(word))
    return f"{start}{sign}{' '.join(words)}"


def _unavailable(place: Path, source: dict) -> str:
    """What is known of an input without a history: a raw file, or an artifact that is gone; empty for the others."""
    if "sha256" in source:
        return f"[raw, sha256 {source['sha256']}]{'' if place.exists() else ' missing'}"
    if not place.exists() or not description.is_described(place):
        return f"[{source['digest']}] missing"
    if description.identity(place) != source["digest"]:
        return f"[{source['digest']}] missing: another artifact is in its place"
    return ""
