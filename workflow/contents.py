"""The contents of files and folders of the user's own, as descriptions record them: whether they have changed."""

import hashlib
import json
from pathlib import Path


def content(path: str, made: Path, name: str) -> str:
    """The SHA-256 of a file or folder, which the description `made` has under a name; "" where neither is there.

    That is taken where the source is gone, and where nothing in it is newer than the description, so that large texts
    are read only once they may have changed.
    """
    source = Path(path)
    inputs = json.loads(made.read_text(encoding="utf-8"))["inputs"] if made.exists() else {}
    recorded = inputs.get(name, {}).get("sha256", "")
    files = [file for file in (source, *source.rglob("*")) if file.exists()]
    if recorded and all(file.stat().st_mtime <= made.stat().st_mtime for file in files):
        return recorded
    return sha256(source) if files else ""


def sha256(path: Path) -> str:
    """That of a file; of a folder, that of a list of its files, without hidden ones (knnlm.artifacts.description)."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    inside = sorted((file.relative_to(path), file) for file in path.rglob("*") if file.is_file())
    shown = [(name, file) for name, file in inside if not any(part.startswith(".") for part in name.parts)]
    return hashlib.sha256("".join(f"{sha256(file)}  {name}\n" for name, file in shown).encode()).hexdigest()
