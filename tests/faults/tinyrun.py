"""Run Table 1 of an invented corpus by Snakemake in a working folder of its own, to be killed and run again."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml
from conftest import ROOT

WORDS = ["the", "old", "young", "fox", "dog", "mill", "river", "runs", "sleeps", "over", "near", "and", "was", "very"]
COMPARED = ("experiments/table1.json", *(f"tables/table1.{end}" for end in ("md", "tex", "csv")))


def story(number: int) -> str:
    generator = np.random.default_rng(number)
    return "\n".join(" ".join(generator.choice(WORDS, 30)) + "." for _ in range(4))


def workspace(folder: Path) -> Path:
    """A folder from which the repository's workflow runs, with a separate state of Snakemake."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("Snakefile", "workflow", "profiles", "config", "knnlm"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "my-texts").mkdir()
    for number in range(30):
        (folder / f"my-texts/story{number}.txt").write_text(f"Story {number}\n{story(number)}\n")
    return folder


def configured(folder: Path, study: str = "mine", shards: int = 1, **changes: object) -> Path:
    """A small variant of the configuration in docs/your-corpus.md, written to a file."""
    config = yaml.safe_load((ROOT / "config/your-corpus.yaml").read_text()) | {"study": study}
    config["corpora"]["mine"] |= {"dev_words": 400, "test_words": 400}
    config["models"]["mine"]["architecture"] |= {"layers": 2, "dim": 16, "ffn_dim": 32, "heads": 2}
    config["models"]["mine"]["training"] |= {"updates": 20, "evaluate_every": 10, "warmup": 5}
    config["mixture"] = {"resamples": 10}
    config["retrieval"] = {"k": 64}
    config["datastores"] = {"mine": {"shards": shards}}
    config |= changes
    path = folder / f"{study}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def start(folder: Path, config: Path, *flags: object, target: str = "table1", threads: int = 1) -> subprocess.Popen:
    """Start Snakemake in its own process group; what it prints goes to a file beside the configuration."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    environment.pop("OMP_NUM_THREADS", None)  # Snakemake sets it to a job's threads
    command = [sys.executable, "-m", "snakemake", target, "--cores", threads, *flags, "--configfile", config]
    log = log_of(config).open("w")
    return subprocess.Popen(
        [*map(str, command)], cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
    )


def run(folder: Path, config: Path, *flags: object, **options: object) -> str:
    """Run Snakemake to its end, which must be a success; returns what it printed."""
    code = start(folder, config, *flags, **options).wait()
    text = log_of(config).read_text()
    assert code == 0, text[-3000:]
    return text


def log_of(config: Path) -> Path:
    return config.with_suffix(".log")


def finished(text: str) -> int:
    """The number of jobs that a run finished."""
    return len(re.findall(r"^Finished jobid:", text, re.MULTILINE))


def planned(text: str) -> int:
    """The number of jobs that a run planned; 0 if nothing had to be made."""
    found = re.search(r"^total +(\d+)", text, re.MULTILINE)
    return int(found[1]) if found else 0


def tables(folder: Path, study: str = "mine") -> dict[str, str]:
    """The table and the numbers behind it, as text."""
    return {name: (folder / "results" / study / name).read_text() for name in COMPARED}
