"""The documents agree with the repository: links, names, numbers, the tree, the version; and they become a site."""

import ast
import csv
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections import Counter

import pytest
import yaml
from conftest import ROOT
from markdown_it import MarkdownIt

import knnlm
from knnlm.__main__ import verbs

PAGES = sorted(
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("*/**/*.md"))
    if not {".venv", ".snakemake", "downloads"} & set(path.relative_to(ROOT).parts)
    and (path.relative_to(ROOT).parts[0] != "results" or (path.name == "README.md" and "reference" in path.parts))
    and not path.is_relative_to(ROOT / "profiles")  # links to workflow/profiles
    and not path.is_relative_to(ROOT / "slurm")
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
REFERENCE = re.compile(r"`((?:knnlm|workflow|tests|benchmarks|config|docs|setup)/[\w./-]+\.\w+)(?::([\w.]+))?`")


def without_code(text):
    return re.sub(r"(?ms)^\s*```.*?^\s*```|`[^`\n]*`|<!--.*?-->", "", text)


def name_of(page):
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_somewhere(page):
    for link in LINK.findall(without_code(page.read_text(encoding="utf-8"))):
        if not re.match(r"[a-z]+:|#", link):
            assert (page.parent / link.partition("#")[0]).is_file(), (
                f"{link}: a link to a folder leads nowhere on the site"
            )


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
    """{file: gloss} of the tree in docs/code.md: folders are lines that end in `/`, files are indented below them."""
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
            assert parent + name not in files, f"{parent + name} stands there twice"
            files[parent + name] = gloss
    return files


def test_the_tree_of_files_is_the_repositorys():
    page = (ROOT / "docs/code.md").read_text(encoding="utf-8")
    described = gloss_tree(page.partition("<!-- tree -->\n```\n")[2].partition("```")[0])
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


@pytest.mark.parametrize("rules", sorted(ROOT.glob("workflow/rules/*.smk")), ids=lambda path: path.name)
def test_every_rule_says_what_it_does(rules):
    for rule, line in re.findall(r"(?m)^ *((?:use )?rule\b.*):\n(.*)$", rules.read_text(encoding="utf-8")):
        assert re.fullmatch(r' *"""(?!Likewise).*\."""', line), f"{rule} has no explanation for `snakemake --list`"


def test_every_verb_says_what_it_does():
    assert [verb for verb, (_, summary) in verbs().items() if not summary.endswith((".", ")"))] == []


def reference(study, table):
    """The rows of a table of results/reference."""
    with (ROOT / f"results/reference/{study}/tables/{table}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def table_below(page, mark):
    """The cells of the first table below a mark, its first two lines left out."""
    lines = page.partition(mark)[2].strip().splitlines()
    lines = lines[: next((n for n, line in enumerate(lines) if not line.startswith("|")), None)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_readmes_scales_have_the_references_numbers():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    scales = {re.match(r"\[([\w ]+)\]", cells[0])[1]: cells[1:] for cells in table_below(readme, "<!-- scales -->\n")}
    assert list(scales) == ["mini", "pretrained", "one GPU", "paper"]
    for study in ("mini", "pretrained"):
        test = {row["name"]: float(row["test"]) for row in reference(study, "table1") if row["test"]}
        verdicts = Counter(row["verdict"] for row in reference(study, "claims"))
        order = ("held", "did not hold", "within noise", "cannot be judged at this scale")
        assert scales[study] == [
            " → ".join(f"{test[name]:.2f}" for name in ("base", "knn", "knn-cache")),
            ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in order if verdicts[verdict]),
        ]
    assert all("not run here" in scales[scale][0] for scale in ("one GPU", "paper"))
    paper = {row["name"]: row["paper_test"] for row in reference("mini", "table1")}
    for name in ("base", "knn", "knn-cache"):
        assert f"{float(paper[name]):.2f}" in scales["paper"][0]


def test_the_readmes_findings_are_those_of_the_references():
    """Claim, the paper's numbers, and a verdict for each study, with its numbers or without."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    studies = [{row["quote"]: row for row in reference(study, "claims")} for study in ("mini", "pretrained")]
    findings = table_below(readme, "<!-- findings -->\n")
    assert {"**held**", "**did not hold**"} <= {cells[2].partition(":")[0] for cells in findings}
    for quote, paper, *here in findings:
        assert paper == studies[0][quote]["paper"]
        for cell, study in zip(here, studies, strict=True):
            verdict = f"**{study[quote]['verdict']}**"
            assert cell in (verdict, f"{verdict}: {study[quote]['ours']}"), quote


def test_model_cards_have_the_references_numbers():
    rows = 0
    for part in (ROOT / "docs/model-cards.md").read_text(encoding="utf-8").split("\n## ")[1:]:
        header = re.search(r"(?m)^\| model \|(.*)\|$", part)[0]
        columns = [name.strip() for name in header.strip("|").split("|")]
        for cells in table_below(part, header[:-1]):
            shown = dict(zip(columns, cells, strict=True))
            study, table = re.search(r"reference/(\w+)/tables/(\w+)\.md", shown["table"]).groups()
            (row,) = (row for row in reference(study, table) if row["label"] == shown["model"])
            assert shown["λ"] == (row["lmbda"] or "–")
            for column, digits in {"dev": 2, "test": 2, "test, bits per byte": 3}.items():
                if column in shown:
                    name = column.replace(", ", "_").replace(" ", "_")
                    value, *ends = (row[name + end] for end in ("", "_low", "_high"))
                    ends = f" [{', '.join(f'{float(end):.{digits}f}' for end in ends)}]" if all(ends) else ""
                    assert shown[column] == f"{float(value):.{digits}f}{ends}", (shown["model"], column)
            rows += 1
    assert rows >= 10


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The documentation as `make docs` builds it: a broken link or anchor fails."""
    if not importlib.util.find_spec("material"):
        pytest.skip("mkdocs-material is not installed (the extra `docs`)")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    return folder


def test_every_page_is_on_the_site_and_fetches_nothing(site):
    pages = {path.relative_to(site): path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    assert len(pages) > 40
    for name, page in pages.items():
        for tag in re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", page):
            assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", tag), f"{name}: {tag}"


def test_a_page_has_the_same_parts_on_the_site_as_on_github(site):
    """GitHub's dialect of Markdown and the site's differ in nested lists and in lines before a list."""
    github = MarkdownIt("commonmark").enable("table")
    for page in PAGES:
        source = page.relative_to(ROOT)
        built = site / (source.parent / "index.html" if source.name == "README.md" else source.with_suffix(".html"))
        if not built.exists():
            continue
        here = built.read_text(encoding="utf-8").partition("<article")[2].partition("</article>")[0]
        there = github.render(page.read_text(encoding="utf-8"))
        for part in ("h1", "h2", "h3", "li", "pre", "code", "table", "tr", "td", "img", "strong", "em"):
            counts = [len(re.findall(rf"<{part}[\s>]", text)) for text in (there, here)]
            assert counts[0] == counts[1], f"{source}: {counts[0]} <{part}> on GitHub, {counts[1]} on the site"


def test_the_version_stands_in_one_place():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == knnlm.__version__
    assert json.loads((ROOT / ".zenodo.json").read_text())["version"] == knnlm.__version__
    assert f"## [{knnlm.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert not re.search(r"(?m)^version = \"", (ROOT / "pyproject.toml").read_text())
