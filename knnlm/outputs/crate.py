"""Pack a study into one file that can be deposited: a Workflow Run RO-Crate (https://w3id.org/ro/wfrun/workflow)."""

import hashlib
import json
import re
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from knnlm.artifacts import description, disk, files
from knnlm.artifacts.files import UserError
from knnlm.outputs.crate_metadata import describe
from knnlm.outputs.portable import DESCRIPTION, paths_of_this_machine, portable

SETTINGS = ("config/", "workflow/profiles/")  # sources into which users write paths
EXTRA = "pip install -e '.[crate]'"
SHOWN = ("tables/*.*", "figures/*.*", "examples/*.*", "experiments/*.json", "beyond/*.json", "*.html")
METADATA, MANIFEST = "ro-crate-metadata.json", "manifest-sha256.txt"


@dataclass(frozen=True)
class CrateConfig:
    """Pack a study's tables, figures, pages and provenance, with the workflow, into a Workflow Run RO-Crate.

    Paths of this machine are taken out of what is packed. The same study gives the same bytes.
    """

    study: Path
    """results/STUDY, below the folder of the sources"""
    sources: tuple[Path, ...]
    """the workflow's files and folders, Snakefile among them, below the current folder"""
    out: Path
    """STUDY.crate.zip"""
    configs: tuple[Path, ...] = ()
    """the study's configuration files"""
    date: str | None = None
    """date of publication, YYYY-MM-DD; by default the day on which the newest table was written"""


def main(config: CrateConfig) -> None:
    rocrate = library()
    root = Path.cwd()
    place = f"results/{config.study.name}"
    tables = sorted(config.study.glob("tables/*.csv"))
    if not tables:
        raise UserError(f"{config.study}: no tables/*.csv; run the study first")
    sources = {inside(path, root): path for path in (*expanded(config.sources), *config.configs)}
    if "Snakefile" not in sources:
        raise UserError("--sources: no Snakefile among them; give the workflow's files and folders")
    shown = {f"{place}/{path.relative_to(config.study)}": path for path in results(config.study)}
    metas = {f"{place}/{path.relative_to(config.study)}": path for path in descriptions(config.study)}
    configs = [inside(path, root) for path in config.configs]
    settings = {name: path for name, path in sources.items() if name.startswith(SETTINGS)}
    private = paths_of_this_machine(config.study, root, [*metas.values(), *settings.values()])
    rewritten = {*shown, *metas, *settings}
    content = {
        name: portable(path, private) if name in rewritten else path.read_bytes()
        for name, path in sorted((sources | shown | metas).items())
    }
    manifest = "".join(f"{hashlib.sha256(value).hexdigest()}  {name}\n" for name, value in content.items())
    content[MANIFEST] = manifest.encode()
    published = config.date or datetime.fromtimestamp(max(p.stat().st_mtime for p in tables), UTC).date().isoformat()
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", published):
        raise UserError(f"--date: {published!r} is not a date; give it as 2026-11-27")
    described = describe(rocrate, config.study.name, place, content, [*shown], [*metas], configs, published)
    content[METADATA] = (json.dumps(described, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
    with files.atomic(config.out) as tmp:
        pack(tmp, content)


def library() -> Any:
    """The library `rocrate`, which is installed by an extra."""
    try:
        from rocrate import rocrate
    except ImportError as error:
        raise UserError(f"{error.name or error} is not installed; a crate needs it: {EXTRA}") from None
    return rocrate


def expanded(paths: Iterable[Path]) -> Iterator[Path]:
    """The files among the paths and in the folders among them, without hidden files and compiled ones."""
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder; give the workflow's files with --sources")
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            parts = file.relative_to(path).parts
            if file.is_file() and "__pycache__" not in parts and not any(part.startswith(".") for part in parts):
                yield file


def inside(path: Path, root: Path) -> str:
    """A source's name in the crate: its place below the root, or config/NAME for a configuration from elsewhere."""
    place = path.absolute()
    return str(place.relative_to(root)) if place.is_relative_to(root) else f"config/{path.name}"


def results(study: Path) -> list[Path]:
    """The study's tables, figures, pages and measured numbers, without descriptions."""
    found = {path for pattern in SHOWN for path in study.glob(pattern) if path.is_file()}
    return sorted(path for path in found if not path.name.endswith(DESCRIPTION) and not path.name.startswith("."))


def descriptions(study: Path) -> list[Path]:
    """Every meta.json and FILE.meta.json of the study; raises UserError where one was damaged or edited."""
    found = [
        path for path in sorted(study.rglob("*meta.json")) if not disk.TEMPORARY.search(str(path.relative_to(study)))
    ]
    for path in found:
        artifact = path.parent if path.name == "meta.json" else path.with_name(path.name.removesuffix(".meta.json"))
        if artifact.exists():  # `keep: needed` deletes artifacts and leaves their descriptions
            description.described(artifact)
    return found


def pack(out: Path, content: dict[str, bytes]) -> None:
    """Write a ZIP file of the same bytes for the same content: sorted names, one time, one set of permissions."""
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, value in sorted(content.items()):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.create_system, entry.external_attr = zipfile.ZIP_DEFLATED, 3, 0o644 << 16
            archive.writestr(entry, value)
