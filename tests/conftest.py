"""What tests share: the repository and a way to run its commands as a user would."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent


def snakemake(*arguments, **options):
    """Run `snakemake …` from the repository's root; returns the finished process with its text."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "snakemake", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, **options)


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


@pytest.fixture(scope="session")
def victims(tmp_path_factory):
    """For tests/faults: starts verbs on small inputs, to be killed."""
    from victims import begin

    with begin(tmp_path_factory.mktemp("victims")) as started:
        yield started
