"""What a crate says of itself: its files, the run of the workflow, and each command that made something."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import knnlm

FORMATS = {
    ".csv": "text/csv",
    ".html": "text/html",
    ".json": "application/json",
    ".md": "text/markdown",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".py": "text/x-python",
    ".svg": "image/svg+xml",
    ".tex": "application/x-tex",
    ".yaml": "application/yaml",
}  # of the files in a crate; others are plain text
PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate",
}
BIOSCHEMAS = "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"
LICENCE = "https://spdx.org/licenses/MIT"


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
