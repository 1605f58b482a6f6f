"""The documents agree with the repository: links, names of functions and targets, the tree, the version."""

import ast
import json
import re

import pytest
import yaml
from conftest import ROOT

import knnlm
from knnlm.__main__ import verbs

PAGES = sorted(
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("*/**/*.md"))
    if not {".venv", ".snakemake", "results", "downloads"} & set(path.relative_to(ROOT).parts)
    and not path.is_relative_to(ROOT / "profiles")  # links to workflow/profiles
    and not path.is_relative_to(ROOT / "slurm")
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
REFERENCE = re.compile(r"`((?:knnlm|workflow|tests|benchmarks|config|docs|setup)/[\w./-]+\.\w+)(?::([\w.]+))?`")


def without_code(text):
    return re.sub(r"(?ms)^\s*```.*?^\s*```|`[^`\n]*`", "", text)


def name_of(page):
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_somewhere(page):
    for link in LINK.findall(without_code(page.read_text(encoding="utf-8"))):
        if not re.match(r"[a-z]+:|#", link):
            assert (page.parent / link.partition("#")[0]).exists(), link


def defines(tree, name):
    """Whether a module defines `name` (or `Class.method`) at its top level."""
    first, _, rest = name.partition(".")
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == first:
            return not rest or defines(node, rest)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == first for target in targets):
            return not rest
    return False


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_and_functions_that_a_page_names_exist(page):
    if page.name == "CHANGELOG.md":
        return  # history may name what is gone
    for path, name in REFERENCE.findall(page.read_text(encoding="utf-8")):
        assert (ROOT / path).exists(), path
        if name and path.endswith(".py"):
            assert defines(ast.parse((ROOT / path).read_text(encoding="utf-8")), name), f"{path}:{name}"


def targets():
    """What `snakemake TARGET` understands: the outputs of the sheet and the named rules."""
    rules = "\n".join(path.read_text() for path in [ROOT / "Snakefile", *ROOT.glob("workflow/rules/*.smk")])
    sheet = yaml.safe_load((ROOT / "config/experiments/paper.yaml").read_text())
    return {*sheet, "figure1", "figure3", "figure8", *re.findall(r"(?m)^rule (\w+):", rules)}


def test_the_map_of_the_paper_covers_it_with_known_targets():
    tables = re.findall(r"(?m)^\|.*\|$", (ROOT / "docs/paper-to-code.md").read_text(encoding="utf-8"))
    cells = [line.strip("|").rsplit("|", 1)[-1] for line in tables if not line.startswith("|---")]
    shown = {target for cell in cells for target in re.findall(r"`(\w+)`", cell)} - {"datastore"}
    assert shown <= targets()
    expected = {f"table{n}" for n in range(1, 6)} | {f"figure{n}" for n in (1, 2, 3, 4, 5, 7, 8)}
    assert shown >= expected | {"examples", "claims", "precision", "metric", "memorizing"}


def test_targets_of_the_readme_are_known():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = readme[readme.index("| target |") : readme.index("Tables are ")]
    named = {
        name
        for line in table.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    assert named and named <= targets()


def gloss_tree(text):
    """{file: gloss} of README's tree: folders are lines that end in `/`, files are indented below them."""
    folders, files = {}, {}
    for line in text.splitlines():
        if not line.strip():
            continue
        indent = len(line) - len(line.lstrip())
        name, gloss = re.match(r"\s*(\S+)\s*(.*)", line).groups()
        parent = "".join(folder for depth, folder in sorted(folders.items()) if depth < indent)
        if name.endswith("/"):
            folders = {depth: folder for depth, folder in folders.items() if depth < indent} | {indent: name}
        else:
            assert gloss, f"{name} has no gloss"
            files[parent + name] = gloss
    return files


def test_the_readmes_tree_is_the_repositorys():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    described = gloss_tree(readme.partition("<!-- tree -->\n```\n")[2].partition("```")[0])
    there = {
        str(path.relative_to(ROOT))
        for room in ("knnlm", "workflow")
        for path in (ROOT / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.name != "__init__.py"
        and path.parent.name not in ("templates", "schemas", "report") and "profiles" not in path.parts
    }  # fmt: skip
    assert set(described) == there
    assert {path for path, gloss in described.items() if gloss.startswith("▸")} == {
        f"knnlm/{room}/{verb}.py" for verb, (room, _) in verbs().items()
    }


def test_every_target_of_the_makefile_is_in_its_help():
    makefile = (ROOT / "Makefile").read_text()
    phony = set(re.search(r"(?m)^\.PHONY: (.*)$", makefile)[1].split())
    assert phony == set(re.findall(r"(?m)^([a-z-]+):.*## \S", makefile))


def test_the_version_stands_in_one_place():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == knnlm.__version__
    assert json.loads((ROOT / ".zenodo.json").read_text())["version"] == knnlm.__version__
    assert f"## [{knnlm.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert not re.search(r"(?m)^version = \"", (ROOT / "pyproject.toml").read_text())
