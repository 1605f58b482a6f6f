"""How an artifact was made: command by command, back to the digests of the raw texts."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from knnlm.artifacts import files, lineage
from knnlm.artifacts.files import UserError


@dataclass(frozen=True)
class ProvenanceConfig:
    """Print how an artifact was made and the commands that make it again, back to the raw texts' digests."""

    path: Annotated[Path, tyro.conf.Positional]
    """an artifact's directory or a file in it; an index; experiments/OUTPUT.json"""


def main(config: ProvenanceConfig) -> None:
    if config.path.exists() and not lineage.is_described(config.path):
        raise UserError(
            f"{config.path}: has no meta.json; give an artifact (for a table or figure: its experiments/OUTPUT.json)"
        )
    print("\n".join(tell(config.path)))


def tell(path: Path, indent: str = "", name: str = "", seen: set[Path] | None = None) -> Iterator[str]:
    """Lines about an artifact and, further in, about its inputs; one told of before is only named."""
    seen = set() if seen is None else seen
    meta, where = files.described(path), files.description(path)
    heading = f"{indent}{name}{path}"
    if where in seen:
        yield f"{heading} (told above)"
        return
    seen.add(where)
    yield f"{heading}  [{meta['stage']}, {files.identity(path)}, commit {meta['commit'] or 'unknown'}]"
    inner = indent + "  "
    yield f"{inner}$ {meta['command'] or '(made within another program: no command is recorded)'}"
    for role, (place, source) in lineage.sources(path).items():
        if "sha256" in source:
            yield f"{inner}{role}: {place}  [raw, sha256 {source['sha256']}]{'' if place.exists() else ' missing'}"
        elif not place.exists() or not lineage.is_described(place):
            yield f"{inner}{role}: {place}  [{source['digest']}] missing"
        elif files.identity(place) != source["digest"]:
            yield f"{inner}{role}: {place}  [{source['digest']}] missing: another artifact lies there now"
        else:
            yield from tell(place, inner, f"{role}: ", seen)
