"""Pack a study into one file that can be deposited: a Workflow Run RO-Crate (https://w3id.org/ro/wfrun/workflow)."""

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import knnlm
from knnlm.artifacts import description, disk, files
from knnlm.artifacts.files import UserError

SETTINGS = ("config/", "workflow/profiles/")  # sources into which users write paths
EXTRA = "pip install -e '.[crate]'"
SHOWN = ("tables/*.*", "figures/*.*", "examples/*.*", "experiments/*.json", "beyond/*.json", "*.html")
DESCRIPTION = "meta.json"  # the end of a description's name
FORMATS = {
    ".csv": "text/csv",
    ".html": "text/html",
    ".json": "application/json",
    ".md": "text/markdown",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".py": "text/x-python",
    ".tex": "application/x-tex",
    ".yaml": "application/yaml",
}  # of the files in a crate; others are plain text
METADATA, MANIFEST = "ro-crate-metadata.json", "manifest-sha256.txt"
PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate",
}
BIOSCHEMAS = "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"
LICENCE = "https://spdx.org/licenses/MIT"
# A path from the root of a disk, as a word of a command or a value in JSON or YAML; JSON may escape its letters.
ABSOLUTE = re.compile(r"(?<=[\s\"'=:\[])/(?:[^\s\"'\\,\]/]|\\+u[0-9a-f]{4})(?:[^\s\"'\\,\]]|\\+u[0-9a-f]{4})*")


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


# What goes in.


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


# Without paths of this machine.


def paths_of_this_machine(study: Path, root: Path, holders: Iterable[Path]) -> dict[str, str]:
    """What stands in the crate for each path of this machine: of the study, the sources, the home, and all others.

    `holders` are the files in which others are looked for: descriptions and settings. Of a path outside the
    sources the last name stays, unless it is the user's.
    """
    private = {str(Path.home()): "~", str(root): ".", str(root.resolve()): "."}
    private |= dict.fromkeys((str(study.absolute()), str(study.resolve())), f"results/{study.name}")
    known = tuple(f"{place}/" for place in (study.absolute(), root))
    for path in holders:
        text = path.read_text(encoding="utf-8")
        found = set(ABSOLUTE.findall(text))
        if path.name.endswith(DESCRIPTION):
            sources = [source["path"] for source in json.loads(text)["inputs"].values()]
            places = {source: os.path.normpath(path.parent.absolute() / source) for source in sources}
            found |= {source for source, place in places.items() if not place.startswith(known)}
        for place in found:
            plain = re.sub(r"\\+u([0-9a-f]{4})", lambda code: chr(int(code[1], 16)), place)
            if not place.startswith(known):
                private |= {each: shortened(each) for each in (place, plain, json.dumps(plain)[1:-1])}
    return {place: name for place, name in private.items() if len(place) > 1}


def shortened(place: str) -> str:
    """The last name of a path, unless it is the user's: …/NAME."""
    name = place.rstrip("/").rpartition("/")[2]
    return "…" if name == Path.home().name else f"…/{name}"


def portable(path: Path, private: dict[str, str]) -> bytes:
    """A file's bytes with the paths of this machine replaced. A description that changes has no digest of its own."""
    if path.suffix in (".pdf", ".png"):
        return path.read_bytes()
    text = path.read_text(encoding="utf-8")
    anywhere = "|".join(re.escape(place) for place in sorted(private, key=len, reverse=True))
    changed = re.sub(rf"(?<![\w.~…/])(?:{anywhere})(?![\w-])", lambda found: private[found[0]], text)
    if changed != text and path.name.endswith(DESCRIPTION):
        meta = {name: value for name, value in json.loads(changed).items() if name != "digest"}
        changed = json.dumps(meta, indent=1, sort_keys=True) + "\n"
    return changed.encode()


# What it says of itself.


def describe(
    rocrate: Any,
    study: str,
    place: str,
    content: dict[str, bytes],
    shown: list[str],
    metas: list[str],
    configs: list[str],
    published: str,
) -> dict:
    """The crate's metadata, JSON-LD: its files, the run of the workflow, and one action for each recorded command."""
    crate = rocrate.ROCrate(version="1.1")

    def add(identifier: str, kind: str, /, **properties: Any) -> Any:
        known = crate.get(identifier)
        return known or crate.add(rocrate.ContextEntity(crate, identifier, {"@type": kind} | properties))

    profiles = [add(uri, "CreativeWork", name=name, version=uri.rpartition("/")[2]) for uri, name in PROFILES.items()]
    licence = add(LICENCE, "CreativeWork", name="MIT License", description="of the code; quoted texts keep their own")
    size = {name: {"contentSize": str(len(value))} for name, value in content.items()}
    workflow = {"name": "kNN-LM study", "version": knnlm.__version__, "encodingFormat": "text/plain"}
    crate.add_workflow(dest_path="Snakefile", main=True, lang="snakemake", properties=size["Snakefile"] | workflow)
    crate.mainEntity["license"], crate.mainEntity["conformsTo"] = licence, {"@id": BIOSCHEMAS}
    for name in content:
        if name != "Snakefile":
            known = {
                "name": name.removeprefix(f"{place}/"),
                "encodingFormat": FORMATS.get(Path(name).suffix, "text/plain"),
            }
            crate.add_file(dest_path=quote(name), properties=size[name] | known)

    def file(name: str) -> Any:
        return crate.get(quote(name))

    authors = add("#authors", "Organization", name="The kNN-LM reproducibility package's authors")
    title = f"kNN-LM study {study}: tables, figures, pages, configuration, workflow and provenance"
    crate.root_dataset.append_to("conformsTo", profiles)
    for key, value in {
        "name": title,
        "description": "A run of the workflow that reproduces every table and figure of 'Generalization through "
        "Memorization: Nearest Neighbor Language Models' (Khandelwal et al., ICLR 2020).",
        "datePublished": published,
        "license": licence,
        "author": authors,
    }.items():
        crate.root_dataset[key] = value
    run = add("#run", "CreateAction", name=f"Snakemake run of the study {study}")
    run["instrument"], run["agent"] = crate.mainEntity, authors
    run["description"] = "The workflow was run with the study's configuration, and made its tables, figures and pages."
    if "README.md" in content:
        file("README.md")["about"] = crate.root_dataset
    run["object"], run["result"] = one_or_all(map(file, configs)), one_or_all(map(file, shown))
    steps = list(actions(add, file, authors, content, metas))
    crate.root_dataset["mentions"] = one_or_all([run, *steps])
    return crate.metadata.generate()


def one_or_all(entities: Iterable[Any]) -> Any:
    """A list of one is written as the one, as the specification of RO-Crates asks for."""
    found = list(entities)
    return found[0] if len(found) == 1 else found


def actions(add: Any, file: Any, authors: Any, content: dict[str, bytes], metas: list[str]) -> Iterator[Any]:
    """One action for each command that made artifacts of the study, with descriptions as its objects and results.

    An artifact is itself not in the crate: its description gives the digest of each of its files. Raw texts and
    other inputs without a description stand in it with their SHA-256.
    """
    made: dict[str, list[str]] = {}
    parsed = {name: json.loads(content[name]) for name in metas}
    for name, meta in parsed.items():
        made.setdefault(meta["command"] or name, []).append(name)
    for command, names in made.items():
        meta, first = parsed[names[0]], names[0].removesuffix("meta.json").rstrip("./")
        tool = add(
            f"#knnlm-{meta['stage']}",
            "SoftwareApplication",
            name=f"knnlm {meta['stage']}",
            softwareVersion=meta["versions"].get("knnlm", "unknown"),
        )
        objects = {
            entity.id: entity
            for name in names
            for source in parsed[name]["inputs"].values()
            for entity in [input_of(add, file, name, source, parsed)]
        }
        action = add(f"#made/{quote(first)}", "CreateAction", name=f"{meta['stage']}: {first}")
        action["instrument"], action["agent"], action["result"] = tool, authors, one_or_all(map(file, names))
        if objects:
            action["object"] = one_or_all(objects.values())
        action["description"] = f"commit {meta['commit'] or 'unknown'}: {command if meta['command'] else 'no command'}"
        yield action


def input_of(add: Any, file: Any, meta: str, source: dict, metas: dict[str, dict]) -> Any:
    """The description of an artifact that was read, or what is known of a file without one."""
    parts: list[str] = []
    for part in (*meta.split("/")[:-1], *source["path"].split("/")):
        parts = parts[:-1] if part == ".." else [*parts, part]
    path = "/".join(parts)
    for name in (f"{path}.meta.json", f"{path}/meta.json", f"{'/'.join(parts[:-1])}/meta.json"):
        if name in metas and "digest" in source:
            return file(name)
    kind, value = next((kind, source[kind]) for kind in ("sha256", "digest") if kind in source)
    return add(f"#{kind}-{value}", "CreativeWork", name=parts[-1], identifier=f"{kind}:{value}")


def pack(out: Path, content: dict[str, bytes]) -> None:
    """Write a ZIP file of the same bytes for the same content: sorted names, one time, one set of permissions."""
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, value in sorted(content.items()):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.create_system, entry.external_attr = zipfile.ZIP_DEFLATED, 3, 0o644 << 16
            archive.writestr(entry, value)
