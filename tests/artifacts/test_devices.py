"""A job that asked for GPUs stops where a library sees fewer; descriptions name what computed."""

import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from knnlm.artifacts import description, devices, files
from knnlm.models import features


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Make the command nvidia-smi print a text, or make it absent."""

    def prints(text):
        devices.driver.cache_clear()
        monkeypatch.setenv("PATH", str(tmp_path))
        if text is not None:
            (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho '{text}'\n")
            (tmp_path / "nvidia-smi").chmod(0o755)

    yield prints
    devices.driver.cache_clear()


def test_a_job_that_asked_for_a_gpu_and_sees_none_stops_in_one_line(monkeypatch, nvidia_smi):
    nvidia_smi("NVIDIA A100-SXM4-80GB, 470.82.01")
    monkeypatch.setenv("KNNLM_GPUS", "8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(files.UserError) as stopped:
        features.device()
    message = str(stopped.value)
    assert "\n" not in message and "asked for 8 GPUs, PyTorch sees none" in message
    assert "built for CUDA 13.0" in message and "NVIDIA A100-SXM4-80GB, 470.82.01" in message
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(files.UserError, match="PyTorch: CPU build"):
        features.device()


def test_a_node_without_nvidia_smi_is_named_too(monkeypatch, nvidia_smi):
    nvidia_smi(None)
    monkeypatch.setenv("KNNLM_GPUS", "1")
    with pytest.raises(files.UserError, match=r"asked for 1 GPU, .*nvidia-smi: command not found"):
        devices.usable(0, "FAISS", "CPU build", "install it")


def test_fewer_gpus_than_asked_for_are_too_few_and_more_are_not(monkeypatch):
    monkeypatch.setenv("KNNLM_GPUS", "2")
    with pytest.raises(files.UserError, match="asked for 2 GPUs, FAISS sees 1"):
        devices.usable(1, "FAISS", "a build", "a fix")
    assert devices.usable(4, "FAISS", "a build", "a fix") == 4


def test_a_command_typed_by_hand_uses_what_there_is(monkeypatch):
    monkeypatch.delenv("KNNLM_GPUS", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.for_torch() == "cpu" and devices.usable(0, "FAISS", "", "") == 0
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert devices.for_torch() == "cuda"


def test_a_job_that_asked_for_no_gpu_uses_none(monkeypatch):
    monkeypatch.setenv("KNNLM_GPUS", "0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert devices.for_torch() == "cpu" and devices.usable(1, "FAISS", "", "") == 0


def test_where_there_can_be_no_gpu_pytorch_is_not_imported():
    code = "import sys; from knnlm.artifacts import devices; print(devices.for_torch(), devices.builds(), len("
    code += "{'torch', 'faiss'} & set(sys.modules)))"
    environment = {"PATH": "/nowhere", "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.split("\n")[0] == "cpu {} 0"


def test_descriptions_name_the_builds_and_the_driver_of_a_gpu_job(tmp_path, monkeypatch, nvidia_smi):
    nvidia_smi("NVIDIA H100 80GB HBM3, 580.95.05")
    monkeypatch.setenv("KNNLM_GPUS", "1")
    (tmp_path / "file").write_text("x")
    description.write_meta(tmp_path / "file", "test", {}, {})
    versions = files.read_json(tmp_path / "file.meta.json")["versions"]
    assert versions["GPU, driver"] == "NVIDIA H100 80GB HBM3, 580.95.05"
    assert versions["torch build"] == (f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU")
    assert versions["processor"].endswith(f", {os.cpu_count()} cores") and versions["processor"][0] != ","
    monkeypatch.delenv("KNNLM_GPUS")
    if not torch.cuda.is_initialized():
        assert "GPU, driver" not in devices.builds()
