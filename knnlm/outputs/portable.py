"""Text files of a study without paths of the machine that it ran on."""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

DESCRIPTION = "meta.json"  # the end of a description's name
# A path from the root of a disk, as a word of a command or a value in JSON or YAML; JSON may escape its letters.
ABSOLUTE = re.compile(r"(?<=[\s\"'=:\[])/(?:[^\s\"'\\,\]/]|\\+u[0-9a-f]{4})(?:[^\s\"'\\,\]]|\\+u[0-9a-f]{4})*")


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
    changed = replaced(text, private)
    if changed != text and path.name.endswith(DESCRIPTION):
        meta = {name: value for name, value in json.loads(changed).items() if name != "digest"}
        changed = json.dumps(meta, indent=1, sort_keys=True) + "\n"
    return changed.encode()


def replaced(text: str, private: dict[str, str]) -> str:
    """`text` with the paths of this machine replaced."""
    anywhere = "|".join(re.escape(place) for place in sorted(private, key=len, reverse=True))
    return re.sub(rf"(?<![\w.~…/])(?:{anywhere})(?![\w-])", lambda found: private[found[0]], text)
