"""What tests share: the repository and a way to run its commands as a user would."""

import os
import resource
import shutil
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
CHROMIUM = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
CHROMIUM += " --disable-component-update --disable-sync"  # it asks nothing of any network


def snakemake(*arguments, **options):
    """Run `snakemake …` from the repository's root; returns the finished process with its text."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "snakemake", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, **options)


@pytest.fixture(scope="session")
def browser():
    """Chromium, as a reader opens pages in it."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pages are tested with playwright: install it")
    if not (program := shutil.which("chromium")):
        pytest.skip("pages are tested in chromium: apt-get install chromium")
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:  # as the processes of tests/mutants have it
        pytest.skip("chromium reserves more address space than this process may")
    with playwright.sync_playwright() as tools:
        running = tools.chromium.launch(executable_path=program, args=CHROMIUM.split())
        yield running
        running.close()


@pytest.fixture(scope="session")
def smoke_config():
    return yaml.safe_load((ROOT / "config" / "smoke.yaml").read_text())


@pytest.fixture
def configured(tmp_path):
    """Write a study to a file and return its path."""

    def write(study):
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(study))
        return path

    return write


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A job of SLURM: `scontrol` on the path tells its state and end, and writes down what it was asked for."""
    asked = tmp_path / "asked"
    asked.touch()

    def job(state="RUNNING", minutes=2.0, refuses=False):
        end = (datetime.now() + timedelta(minutes=minutes)).isoformat(timespec="seconds")
        script = tmp_path / "bin/scontrol"
        script.parent.mkdir(exist_ok=True)
        script.write_text(
            f'#!/bin/sh\necho "$@" >> {asked}\n[ $1 = requeue ] && exit {int(refuses)}\n'
            f"echo 'JobId=17 JobName=x\n   JobState={state} Reason=None\n   RunTime=00:00:05 EndTime={end}'\n"
        )
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
        monkeypatch.setenv("SLURM_JOB_ID", "17")
        return asked

    return job


@pytest.fixture(scope="session")
def victims(tmp_path_factory):
    """For tests/faults: starts verbs on small inputs, to be killed."""
    from victims import begin

    with begin(tmp_path_factory.mktemp("victims")) as started:
        yield started
