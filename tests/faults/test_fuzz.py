"""Openers of strangers' files, given files with a few changed bytes: each is taken or refused in one line."""

import argparse
import contextlib
import functools
import io
import json
import logging
import os
import resource
import signal
import struct
import sys
import time
import zipfile
from typing import NamedTuple

import numpy as np
import pytest
import torch
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from knnlm.artifacts import description, huggingface, npy
from knnlm.artifacts.files import UserError
from knnlm.corpora.vocab import WordVocab
from knnlm.datastores import ann
from knnlm.models import fairseq, import_fairseq
from knnlm.models.import_fairseq import ImportFairseqConfig

sys.path.insert(0, str(ROOT / "workflow"))
from checking import StudyError, read

RUN = ROOT / "tests/data/oracles/fairseq_run"
NUMBERS = [0, 1, -1, 255, 2**15, 2**31 - 1, 2**31, 2**40, 2**60, 2**63 - 1, -(2**63)]
PLACE = st.integers(0, 2**20)
EDIT = st.one_of(
    st.tuples(PLACE, st.just(0), st.binary(min_size=1, max_size=4)),  # put in
    st.tuples(PLACE, st.integers(1, 16), st.binary(max_size=16)),  # put in place of so many bytes
    st.tuples(PLACE, st.just(8), st.sampled_from([struct.pack("<Q", number % 2**64) for number in NUMBERS])),
    st.tuples(PLACE, st.just(4), st.sampled_from([struct.pack("<I", number % 2**32) for number in NUMBERS])),
)
EDITS = st.lists(EDIT, min_size=1, max_size=3)


class Target(NamedTuple):
    """A whole file: what is changed in it, how a file is made of that, and what opens it."""

    content: bytes
    made: object  # content -> bytes of the file
    opened: object  # path -> None


def edited(content, edits):
    for place, length, data in edits:
        place %= len(content) or 1
        content = content[:place] + data + content[place + length :]
    return content


def packed(pickled, members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in (members | {"archive/data.pkl": pickled}).items():
            archive.writestr(name, data)
    return file.getvalue()


def imported(path):
    import_fairseq.main(ImportFairseqConfig(path, RUN / "dict.txt", path.parent / "model"))


def searched(path):
    """In a process of its own: a mistake of C++ ends it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(60)
            resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
            ann.use_threads(1)  # a fork has none of the threads that FAISS's library believes it has
            with contextlib.suppress(UserError):
                index = ann.load(path, 8)
                ann.check_dimension(index, np.zeros((3, 32), np.float32), "queries")
                if index.ntotal == 17321:
                    rows = ann._candidates(index, np.ones((3, 32), np.float32), 5)[1]
                    assert rows.min() >= -1 and rows.max() < index.ntotal
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


@functools.cache
def targets():
    whole = (RUN / "checkpoint_best.pt").read_bytes()
    with zipfile.ZipFile(RUN / "checkpoint_best.pt") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    arguments, state = fairseq.load_checkpoint(RUN / "checkpoint_best.pt")
    older, array = io.BytesIO(), io.BytesIO()
    content = {"args": argparse.Namespace(**arguments), "model": state}
    torch.save(content, older, _use_new_zipfile_serialization=False)
    np.save(array, np.zeros((3, 4), np.float32))
    text = (8).to_bytes(4, "little"), len("llama").to_bytes(8, "little") + b"llama"
    keys = [len(name).to_bytes(8, "little") + name for name in (b"general.architecture", b"general.name", b"tokens")]
    tokens = struct.pack("<IIQ", 9, 4, 3) + bytes(12)
    gguf = (
        b"GGUF" + struct.pack("<IQQ", 3, 0, 3) + keys[0] + b"".join(text) + keys[1] + b"".join(text) + keys[2] + tokens
    )
    weights = json.dumps({"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}).encode()
    index, study = (RUN / "knn.index").read_bytes(), (ROOT / "config/smoke.yaml").read_bytes()
    head = len(older.getvalue()) - sum(weight.nbytes for weight in state.values())

    def safetensors(path):
        with huggingface.whole(path):
            load_file(path)

    same = bytes
    return {
        "checkpoint": Target(members["archive/data.pkl"], lambda pickled: packed(pickled, members), imported),
        "archive": Target(whole, same, imported),
        "older": Target(older.getvalue()[:head], lambda begin: begin + older.getvalue()[head:], imported),
        "dictionary": Target((RUN / "dict.txt").read_bytes(), same, WordVocab.read),
        "array": Target(array.getvalue()[:128], lambda begin: begin + array.getvalue()[128:], npy.open_array),
        "gguf": Target(gguf, same, lambda path: huggingface.gguf_fields(path, "general.architecture", "tokens")),
        "safetensors": Target(len(weights).to_bytes(8, "little") + weights + bytes(16), same, safetensors),
        "index": Target(index[:120], lambda begin: begin + index[120:], searched),
        "lists": Target(index[37000:39900], lambda lists: index[:37000] + lists + index[39900:], searched),
        "study": Target(study, same, read),
        "description": Target(b'{"digest": "0", "outputs": {"a": 1}}', same, description.described),
    }


def fuzz(kind, tmp_path, examples):
    target = targets()[kind]
    path = tmp_path / ("meta.json" if kind == "description" else f"file.{kind}")

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(EDITS)
    def attempt(edits):
        path.write_bytes(target.made(edited(target.content, edits)))
        try:
            target.opened(path)
        except (UserError, StudyError) as error:
            assert "\n" not in str(error) and len(str(error)) < 1000

    logging.getLogger("knnlm").setLevel(logging.ERROR)
    try:
        attempt()
    finally:
        logging.getLogger("knnlm").setLevel(logging.NOTSET)


KINDS = list(targets())


@pytest.mark.parametrize("kind", KINDS)
def test_changed_bytes_are_taken_or_refused(kind, tmp_path):
    fuzz(kind, tmp_path, 15)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_changed_bytes_are_taken_or_refused_for_a_minute(kind, tmp_path):
    end = time.monotonic() + float(os.environ.get("FUZZ_SECONDS", "55"))
    while time.monotonic() < end:
        fuzz(kind, tmp_path, 200)
