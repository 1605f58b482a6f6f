"""Who may import whom (the layout in docs/code.md)."""

import ast
import re
import sys
from pathlib import Path

import pytest

from knnlm.__main__ import verbs

ROOT = Path(__file__).parent.parent
MODULES = {
    path.stem: ast.parse(path.read_text()) for path in (ROOT / "knnlm").glob("*/*.py") if path.stem != "__init__"
}
OWNERS = {
    "faiss": {"ann"},
    "matplotlib": {"figures", "diagrams", "followup_figures", "vectors", "whiskers"},
    "sentencepiece": {"vocab"},
    "tokenizers": {"vocab", "pretrained_vocab"},
    "transformers": {"huggingface"},
    "gguf": {"huggingface"},
    "rocrate": {"crate"},
    "sacremoses": {"wikitext"},
}


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


ROOMS = (
    "settings",
    "artifacts",
    "corpora",
    "models",
    "datastores",
    "scores",
    "live",
    "beyond",
    "outputs",
)  # a room imports only those before it
ROOM = {path.stem: path.parent.name for path in (ROOT / "knnlm").glob("*/*.py")}
VERBS = set(verbs())


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_imports_no_verb_and_only_its_own_libraries(name):
    for target in imported(MODULES[name]):
        parts = target.split(".")
        if parts[0] == "knnlm" and len(parts) > 2:
            assert parts[2] not in VERBS, f"{name} imports the verb {parts[2]}"
            assert ROOMS.index(parts[1]) <= ROOMS.index(ROOM[name]), f"{ROOM[name]}/{name} imports {target}"
        assert name in OWNERS.get(parts[0], {name}), f"{name} imports {parts[0]}"
        assert parts[0] != "snakemake", f"{name} imports snakemake"


def test_settings_import_no_other_part_of_the_library():
    for path in (ROOT / "knnlm/settings").glob("*.py"):
        targets = {target.split(".")[0] for target in imported(ast.parse(path.read_text()))}
        assert targets - set(sys.stdlib_module_names) <= {"knnlm", "pydantic", "pydantic_core"}, path


def test_the_workflow_imports_the_settings_and_nothing_else_of_the_library():
    for path in (ROOT / "workflow").rglob("*.py"):
        for target in imported(ast.parse(path.read_text())):
            assert target.split(".")[0] != "knnlm" or target.startswith("knnlm.settings"), path
    for path in [ROOT / "Snakefile", *(ROOT / "workflow").rglob("*.smk")]:
        for module in re.findall(r"(?m)^\s*(?:from|import)\s+(knnlm[\w.]*)", path.read_text()):
            assert module == "knnlm.settings", path
