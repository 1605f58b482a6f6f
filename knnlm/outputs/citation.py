"""BibTeX of this package and of the paper, from CITATION.cff (https://citation-file-format.github.io)."""

from collections.abc import Mapping
from pathlib import Path

from knnlm.scores import experiments

KINDS = {"conference-paper": "inproceedings", "article": "article", "software": "software"}


def bibtex(path: Path) -> str:
    """An entry for the preferred citation, which is the paper, and one for the package."""
    cff = experiments.read_yaml(path, "the repository has it as CITATION.cff")
    paper = cff.get("preferred-citation")
    return "\n\n".join(([entry(paper)] if paper else []) + [entry(cff)])


def entry(work: Mapping) -> str:
    """One entry; its key is the first author's family name, or else the type, and the year or version."""
    authors = work["authors"]
    names = [
        f"{author['family-names']}, {author['given-names']}" if "family-names" in author else f"{{{author['name']}}}"
        for author in authors
    ]
    fields = {
        "author": " and ".join(names),
        "title": f"{{{work['title']}}}",
        "booktitle": work.get("conference", {}).get("name"),
        "year": work.get("year"),
        "version": work.get("version"),
        "license": work.get("license"),
        "url": work.get("url") or work.get("repository-code"),
    }
    kind = KINDS.get(work["type"], "misc")
    key = f"{authors[0].get('family-names', 'knnlm').lower()}{work.get('year', '')}"
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value is not None]
    return "\n".join([f"@{kind}{{{key},", *lines, "}"])
