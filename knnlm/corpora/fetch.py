"""Archives by name from the catalogue: wheels by pip, files by URL, dataset snapshots; nothing is opened unchecked.

What an interrupted download has got lies beside the archive in `.{name}.resume`, and the next run goes on with it.
"""

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from knnlm.artifacts import disk, files
from knnlm.artifacts.archives import sha256
from knnlm.artifacts.cli import checked
from knnlm.settings import Archive

AGENT = "Mozilla/5.0 (compatible; knnlm; +https://pypi.org/project/requests)"  # some servers answer 403 to urllib's own
BLOCK = 1 << 20  # bytes
log = logging.getLogger("knnlm")


@dataclass(frozen=True)
class FetchConfig:
    """Download one archive of the catalogue and check its SHA-256; a file that is already right is left alone."""

    archive: str
    """name in the catalogue"""
    out: Path
    """file (or, for a dataset snapshot, folder) to write"""
    catalogue: Path = Path("config/archives.yaml")


def main(config: FetchConfig) -> None:
    entry = read_catalogue(config.catalogue, config.archive)
    folder = config.out.with_name(f".{config.out.name}.resume")
    if is_right(config.out, entry):
        log.info("%s: already there", config.out)
        disk.remove(folder)
        return
    partial = folder / "partial"
    with files.explained(config.out, partial), disk.only_one(folder):  # another study may be fetching the same
        try:
            if not is_right(config.out, entry):
                fetch(entry, config.archive, partial)
                os.replace(partial, config.out)
        finally:
            if not partial.exists():
                disk.remove(folder)


def fetch(entry: dict, name: str, partial: Path) -> None:
    """Raises UserError, and removes what came, when it is not the pinned file."""
    KINDS[entry["kind"]](entry, partial)
    if not is_right(partial, entry):
        found = sha256(partial)
        partial.unlink()
        raise files.UserError(f"{name}: found sha256 {found}, expected {entry['sha256']}: not used")


def is_right(path: Path, entry: dict) -> bool:
    """Whether a file is there and is the pinned one, if one is pinned."""
    return path.exists() and (not entry.get("sha256") or sha256(path) == entry["sha256"])


def read_catalogue(path: Path, name: str) -> dict:
    """The entry of one archive; raises UserError for an unknown name or a wrong entry."""
    if not path.exists():
        raise files.UserError(f"{path}: no such catalogue")
    catalogue = yaml.safe_load(path.read_text(encoding="utf-8"))
    if name not in catalogue:
        raise files.UserError(f"{path}: no archive {name!r}; there are {', '.join(catalogue)}")
    return checked(Archive, catalogue[name], f"{path}: {name}").model_dump()


def fetch_wheel(entry: dict, out: Path) -> None:
    """A wheel by `pip download`, for the platform of the pinned file and not for this machine."""
    folder = out.parent / f"{out.name}.pip"
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(folder), entry["requirement"]]
    if platforms := entry.get("platforms"):
        command += ["--python-version", "311", "--implementation", "cp", "--abi", "cp311"]
        command += [part for platform in platforms for part in ("--platform", platform)]
    try:
        process = subprocess.run(command, capture_output=True, text=True)
        wheels = list(folder.glob("*.whl"))
        if process.returncode or len(wheels) != 1:
            reasons = [line for line in process.stderr.splitlines() if line.strip()] or ["no wheel found"]
            raise files.UserError(f"{entry['requirement']}: pip download failed ({reasons[-1]}); are you offline?")
        wheels[0].rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fetch_url(entry: dict, out: Path) -> None:
    """A file by HTTP; the rest of it where a part is there already and the server can."""
    import requests

    had = out.stat().st_size if out.exists() else 0
    headers = {"User-Agent": AGENT} | ({"Range": f"bytes={had}-"} if had else {})
    try:
        with requests.get(entry["url"], headers=headers, stream=True, timeout=60) as answer:
            if answer.status_code == requests.codes.requested_range_not_satisfiable:
                return  # it was whole
            answer.raise_for_status()
            resumed = answer.status_code == requests.codes.partial_content
            with out.open("ab" if resumed else "wb") as file:
                for block in answer.iter_content(BLOCK):
                    file.write(block)
    except requests.RequestException as error:
        raise files.UserError(f"{entry['url']}: {_first_line(error)}; are you offline?") from None


def fetch_huggingface(entry: dict, out: Path) -> None:
    """Files of one pinned revision of a dataset repository, each checked against the hash that the revision has."""
    from huggingface_hub import HfApi

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its five retries
    where = {"repo_type": "dataset", "revision": entry["revision"], "local_dir": out}
    try:
        HfApi().snapshot_download(entry["repository"], allow_patterns=entry["files"], **where)
        wrong = HfApi().verify_repo_checksums(entry["repository"], **where).mismatches
    except Exception as error:  # the hub raises its own, httpx's and OS errors alike
        raise files.UserError(f"{entry['repository']}: {_first_line(error)}; are you offline?") from None
    if wrong:
        for mismatch in wrong:
            (out / mismatch["path"]).unlink()
        raise files.UserError(f"{entry['repository']}: {wrong[0]['path']} is damaged: removed, run again to fetch it")
    shutil.rmtree(out / ".cache", ignore_errors=True)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


KINDS: dict[str, Callable[[dict, Path], None]] = {
    "wheel": fetch_wheel,
    "url": fetch_url,
    "huggingface": fetch_huggingface,
}
