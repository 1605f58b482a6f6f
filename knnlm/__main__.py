"""The command `knnlm VERB --flag …`: one verb for each stage of a study.

A verb is a module of a room that defines `main(config)`. Only the chosen verb's module is imported, so that listing
the verbs takes no time and a verb loads no library that it does not use.
"""

import ast
import difflib
import importlib
import sys
import typing
from pathlib import Path

ROOMS = ("corpora", "models", "datastores", "scores", "live", "beyond", "outputs", "artifacts")
HERE = Path(__file__).parent


def main() -> None:
    """Run the verb that the command line names; without one, list them all."""
    verb, *arguments = sys.argv[1:] or ["--help"]
    if verb in ("-h", "--help"):
        print(listing())
        return
    places = {path.stem: path for room in ROOMS for path in (HERE / room).glob("*.py")}
    if verb not in places or not _is_verb(ast.parse(places[verb].read_text(encoding="utf-8"))):
        close = difflib.get_close_matches(verb, verbs(), n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        sys.exit(f"error: knnlm has no verb {verb!r}; {hint}`knnlm --help` lists them")
    from knnlm.artifacts import cli

    module = importlib.import_module(f"knnlm.{places[verb].parent.name}.{verb}")
    cli.run(module.main, typing.get_type_hints(module.main)["config"], verb, arguments)


def verbs() -> dict[str, tuple[str, str]]:
    """Every verb: {name: (room, the first line of its module's docstring)}."""
    found = {}
    for room in ROOMS:
        for path in sorted((HERE / room).glob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            if _is_verb(tree):
                found[path.stem] = room, (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def listing() -> str:
    """The text of `knnlm --help`."""
    found = verbs()
    width = max(map(len, found))
    lines = ["usage: knnlm VERB [--flag …]", "", "`knnlm VERB --help` explains a verb's flags."]
    for room in ROOMS:
        lines += ["", room]
        lines += [f"  {verb:<{width}}  {summary}" for verb, (place, summary) in found.items() if place == room]
    return "\n".join(lines)


def _is_verb(tree: ast.Module) -> bool:
    return any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body)


if __name__ == "__main__":
    main()
