"""Whether artifacts may be used together: they must have been made from the same vocabulary, text, model and so on.

Each description holds a lineage, {role: digest}, of what other artifacts must share with this one. The roles are:

- vocab, text (the tokens of one split), part (a part of that text), model, keytype
- deal (how entries are distributed over shards), keys, queries, index
- datastore (the text from which the keys were extracted)
"""

import os
from collections.abc import Iterable
from pathlib import Path

from knnlm.artifacts import description
from knnlm.artifacts.files import UserError


def of(path: Path) -> dict[str, str]:
    """The lineage of an artifact, or of a file in one, as {role: digest}; empty for a file without a description."""
    path = Path(path)
    if not path.is_dir() and not description.is_described(path):
        return {}
    meta = description.described(path)
    if meta["stage"] != "binarize":
        return meta["lineage"]
    tokens = meta["outputs"].get(f"{path.name.split('.')[0]}.npy")  # for {split}.npy and {split}.documents.npy
    return meta["lineage"] | ({"text": tokens["digest"]} if tokens else {})


def agree(paths: Iterable[Path], *roles: str) -> dict[str, str]:
    """The digests that the artifacts have in those `roles`; raises UserError where two artifacts differ in one.

    Also raises UserError where an artifact was made from another input than the one now in that input's place, and
    where a file without a description would be used with artifacts that have a vocabulary.
    """
    first: dict[str, tuple[Path, str]] = {}
    paths = [Path(path) for path in paths]
    for path in paths:
        for role, value in of(path).items():
            if role in roles:
                _must_equal(role, *first.setdefault(role, (path, value)), path, value)
    if "vocab" in first:
        _must_be_described(paths, first["vocab"][0])
    for path in paths:
        _must_be_current(path)
    return {role: value for role, (_, value) in first.items()}


def differ(paths: Iterable[Path], role: str) -> None:
    """Raise UserError where two artifacts have the same digest in `role`."""
    seen: dict[str, Path] = {}
    for path in paths:
        value = of(path).get(role)
        if value in seen:
            raise UserError(f"{seen[value]} and {path} have the same {role}: give each once, or make one of them again")
        if value is not None:
            seen[value] = path


def sources(path: Path) -> dict[str, tuple[Path, dict]]:
    """The inputs of an artifact: {name: (the path where it should be now, its recorded path and digest or sha256)}."""
    folder = description.meta_path(path).parent
    return {
        name: (Path(os.path.normpath(folder / source["path"])), source)
        for name, source in description.described(path)["inputs"].items()
    }


def _must_equal(role: str, first: Path, expected: str, path: Path, value: str) -> None:
    if value != expected:
        raise UserError(
            f"{first} has {role} {expected}, {path} has {role} {value}: "
            f"they can only be used together when both come from the same {role}; make one of them again"
        )


def _must_be_described(paths: list[Path], described: Path) -> None:
    for path in paths:
        if not description.is_described(path):
            raise UserError(
                f"{path}: has no description, {described} has one: "
                "whether they fit together cannot be checked; run its stage again"
            )


def _must_be_current(path: Path) -> None:
    if not description.is_described(path):
        return
    for name, (place, source) in sources(path).items():
        deleted = not place.exists() or (place.is_dir() and not description.is_described(place))  # an emptied folder
        if "digest" in source and not deleted and description.identity(place) != source["digest"]:
            raise UserError(
                f"{path}: was made from another {name} than the one that is now at {place}: "
                "it is out of date, or was copied from another study; run its stage again"
            )
