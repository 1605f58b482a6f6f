"""The environment that `make` sets up: one of two packages of FAISS, which own the same folder."""

import os
import shutil
import subprocess
import tomllib
from importlib import metadata

import pytest
from conftest import ROOT
from packaging.specifiers import SpecifierSet

PIP = """#!/bin/sh
echo "$*" >> pip.log
"""


@pytest.fixture
def checkout(tmp_path):
    """A repository with an environment whose Python only writes down how it was called; runs make there."""
    (tmp_path / "setup").mkdir()
    (tmp_path / ".venv/bin").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name, text in (("setup/kenlm.sh", "#!/bin/sh\n"), (".venv/bin/python", PIP), ("pyproject.toml", "")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "requirements.txt").touch()

    def make(*arguments):
        environment = {name: value for name, value in os.environ.items() if name not in ("FAISS", "MAKEFLAGS")}
        command = ["make", "--silent", *arguments, ".venv/ready"]
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
        log = tmp_path / "pip.log"
        calls = [line.split()[2:] for line in log.read_text().splitlines()] if log.exists() else []
        log.unlink(missing_ok=True)
        return [(call[0], call[-1] if call[0] == "install" else call[-2:]) for call in calls]

    return make


def test_another_faiss_replaces_the_one_that_is_installed(checkout):
    removed = ("uninstall", ["faiss-cpu", "faiss-gpu"])
    installed = checkout()
    assert installed[-1][0] == "install" and ".[cpu," in installed[-1][1]
    assert checkout() == [] and checkout("FAISS=cpu") == []
    switched = checkout("FAISS=gpu")
    assert switched[0] == removed and ".[gpu," in switched[1][1] and len(switched) == 2
    assert checkout() == [] and checkout("FAISS=gpu") == []  # what is installed stays without the word
    back = checkout("FAISS=cpu")
    assert back[0] == removed and ".[cpu," in back[1][1]


def test_a_container_with_gpus_shares_the_hosts_memory():
    text = "".join(path.read_text() for path in [ROOT / "Dockerfile", ROOT / "README.md", *ROOT.glob("docs/*.md")])
    runs = [line for line in text.splitlines() if "docker run --gpus" in line]
    assert runs and all("docker run --gpus all --ipc=host" in line for line in runs)


def test_every_pinned_package_installs_on_the_oldest_python_that_the_project_names():
    """A system's Python is often the first of its series or near it: Debian 12 has 3.11.2."""
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    pins = [line.partition("==") for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line]
    asked = {}
    for name, _, version in pins:
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # of an extra that is not installed
        if found.version.partition("+")[0] == version:
            asked[name] = found.metadata["Requires-Python"] or ""
    assert len(asked) > len(pins) / 2
    assert not {name: python for name, python in asked.items() if f"{oldest}.0" not in SpecifierSet(python)}
