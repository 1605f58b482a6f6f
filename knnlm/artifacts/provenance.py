"""Print how an artifact was made: each command, back to the digests of the raw texts."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from knnlm.artifacts import description, lineage
from knnlm.artifacts.files import UserError


@dataclass(frozen=True)
class ProvenanceConfig:
    """Print the commands that made an artifact and its inputs, back to the digests of the raw texts."""

    path: Annotated[Path, tyro.conf.Positional]
    """an artifact's directory or a file in it; an index; experiments/OUTPUT.json"""


def main(config: ProvenanceConfig) -> None:
    if config.path.exists() and not description.is_described(config.path):
        raise UserError(
            f"{config.path}: has no meta.json; give an artifact (for a table or figure: its experiments/OUTPUT.json)"
        )
    print("\n".join(history(config.path)))


def history(path: Path, indent: str = "", name: str = "", shown: set[Path] | None = None) -> Iterator[str]:
    """Lines about an artifact and, indented, about each of its inputs; an artifact that was shown is only named."""
    shown = set() if shown is None else shown
    meta, meta_path = description.described(path), description.meta_path(path)
    heading, inner = f"{indent}{name}{path}", f"{indent}  "
    if meta_path in shown:
        yield f"{heading} (shown above)"
        return
    shown.add(meta_path)
    yield f"{heading}  [{meta['stage']}, {description.identity(path)}, commit {meta['commit'] or 'unknown'}]"
    yield f"{inner}$ {meta['command'] or '(made within another program: no command is recorded)'}"
    for role, (place, source) in lineage.sources(path).items():
        if state := _unavailable(place, source):
            yield f"{inner}{role}: {place}  {state}"
        else:
            yield from history(place, inner, f"{role}: ", shown)


def _unavailable(place: Path, source: dict) -> str:
    """What is known of an input without a history: a raw file, or an artifact that is gone; empty for the others."""
    if "sha256" in source:
        return f"[raw, sha256 {source['sha256']}]{'' if place.exists() else ' missing'}"
    if not place.exists() or not description.is_described(place):
        return f"[{source['digest']}] missing"
    if description.identity(place) != source["digest"]:
        return f"[{source['digest']}] missing: another artifact is in its place"
    return ""
