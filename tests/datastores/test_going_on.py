"""A stopped extraction goes on where it was, and ends with the same files to the bit."""

import errno
import json
import logging
import os
import signal
import time

import numpy as np
import pytest
import torch

from knnlm.artifacts import description, disk, npy, resume
from knnlm.artifacts.files import UserError
from knnlm.datastores import ann, extract, sinks, train_index
from knnlm.models import features, model
from knnlm.settings import ModelConfig

FACTORIES = ("Flat", "IVF8,PQ4x4", "IVF8,PQ4x4fs", "OPQ4,IVF8,PQ4x4")
BLOCK = 60  # tokens asked for; a block has two batches of three windows of 16, in the second block one of 12
BATCHES = 31  # of the whole extraction


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model with random weights, tokens, and trained indexes."""
    at = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    lm = model.LanguageModel(ModelConfig(vocab_size=64, layers=1, dim=16, ffn_dim=32, heads=2))
    (at / "model").mkdir()
    model.save(lm, at / "model")
    description.write_meta(at / "model", "train", {}, {}, role="model")
    npy.save_array(at / "train.npy", np.random.default_rng(0).integers(2, 60, 1500).astype(np.uint16))
    extract.main(config(at, at / "sample", "disk", keytypes=("ffn_input_ln",)))
    for number, factory in enumerate(FACTORIES):
        asked = json.dumps({"factory": factory, "sample": 400})
        train_index.main(train_index.TrainIndexConfig((at / "sample/ffn_input_ln",), at / f"{number}.faiss", asked))
    return at


def config(at, out, where, **options):
    """Two key types to disk, or one into an index of each factory."""
    given = {"keytypes": ("ffn_input_ln", "output") if where == "disk" else ("ffn_input_ln",)}
    if where == "indexes":
        numbers = range(len(FACTORIES))
        given["trained"] = tuple(at / f"{number}.faiss" for number in numbers)
        given["index"] = tuple(out / f"{number}.faiss" for number in numbers)
    given |= {"block_tokens": BLOCK, "batch_tokens": 96, "windows": '{"new": 16, "context": 16}'} | options
    return extract.ExtractConfig(
        at / "model", at / "train.npy", out=tuple(out / name for name in given["keytypes"]), **given
    )


def outputs(out):
    """{name: content} of all files; descriptions without the command."""
    found = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    return {name: content for name, content in found.items() if not name.endswith(("meta.json", "/lock"))}


@pytest.fixture
def batches(monkeypatch):
    """The batches that the LM has computed; a function in place of `at` is called before that batch."""
    real, seen = features._start, []

    def start(*arguments):
        seen.append(arguments)
        seen_at.get(len(seen), lambda: None)()
        return real(*arguments)

    seen_at = {}
    monkeypatch.setattr(features, "_start", start)
    seen_at["all"] = seen
    return seen_at


def stopped(batches, asked, at):
    """Run with a SIGTERM during batch `at`; the error message, and how many batches were computed."""
    batches["all"].clear()
    batches[at] = lambda: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(UserError, match="stopped by SIGTERM") as error:
        extract.main(asked)
    del batches[at]
    return str(error.value), len(batches["all"])


def ran(batches, asked):
    """Run to the end; how many batches were computed."""
    batches["all"].clear()
    extract.main(asked)
    return len(batches["all"])


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    """The files of an extraction that nothing stops, to disk and into indexes."""
    found = {}
    for where in ("disk", "indexes"):
        out = tmp_path_factory.mktemp(where)
        extract.main(config(made, out, where))
        found[where] = outputs(out)
    return found


@pytest.mark.parametrize("where", ["disk", "indexes"])
def test_stopped_again_and_again_it_does_nothing_twice(made, whole, tmp_path, batches, monkeypatch, where):
    asked, real, shown = config(made, tmp_path, where), extract.progress, []
    monkeypatch.setattr(extract, "progress", lambda *given: shown.append((given[2], given[4])) or real(*given))
    for at, (message, computed) in enumerate((("96 of 1,484", 2), ("284 of 1,484", 4), ("764 of 1,484", 10))):
        line, count = stopped(batches, asked, (1, 3, 9)[at])
        assert line == f"stopped by SIGTERM after {message} entries: run again to go on" and count == computed
        assert not (tmp_path / "ffn_input_ln").exists()
    assert ran(batches, asked) == BATCHES - 16
    assert shown == [(1484, 0), (1484, 96), (1484, 284), (1484, 764)]
    assert outputs(tmp_path) == whole[where]
    assert not list(tmp_path.glob(".*"))
    assert ran(batches, asked) == 0  # everything is made


def test_a_signal_in_the_last_block_lets_it_finish(made, whole, tmp_path, batches):
    batches[BATCHES] = lambda: os.kill(os.getpid(), signal.SIGTERM)
    assert ran(batches, config(made, tmp_path, "indexes")) == BATCHES
    assert outputs(tmp_path) == whole["indexes"]


def test_unfinished_indexes_are_saved_now_and_then_but_not_all_the_time(made, whole, tmp_path, batches, monkeypatch):
    now, real, saves = [0.0], ann.save, []

    def save(index, path):
        now[0] += 0.25  # four indexes take a second
        saves.append(path)
        real(index, path)

    def tick():
        now[0] += 5.0  # a block of two batches takes ten seconds

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(ann, "save", save)
    batches |= {number: tick for number in range(1, BATCHES + 1)}
    asked = config(made, tmp_path, "indexes", save_every=15.0)
    assert ran(batches, asked) == BATCHES
    # after block 2 (20 s), then not before 50 s, the fiftyfold of what it took, have passed: after blocks 8 and 14
    assert [path.parent.name for path in saves[::4]] == ["188", "764", "1340", tmp_path.name]
    assert outputs(tmp_path) == whole["indexes"]


def test_a_kill_loses_no_more_than_the_work_since_the_last_save(made, whole, tmp_path, batches, monkeypatch):
    monkeypatch.setattr(sinks, "SAVING", 1e9)

    def killed():
        raise KeyboardInterrupt

    batches[10] = killed
    asked = config(made, tmp_path, "indexes", save_every=1e-9)
    with pytest.raises(KeyboardInterrupt):
        ran(batches, asked)
    (state,) = (tmp_path / ".ffn_input_ln.resume/scratch").iterdir()  # older ones are removed
    assert state.name == "380"
    del batches[10]
    assert ran(batches, asked) == BATCHES - 8
    assert outputs(tmp_path) == whole["indexes"]


def flip(path, where=0.5):
    content = bytearray(path.read_bytes())
    content[int(len(content) * where)] ^= 1
    path.write_bytes(content)


def test_a_damaged_block_is_done_again_and_others_are_not(made, whole, tmp_path, batches, caplog):
    asked = config(made, tmp_path, "disk")
    stopped(batches, asked, 9)
    keys = tmp_path / ".output.resume/output/keys.npy"
    content = bytearray(keys.read_bytes())
    content[-1484 * 32 + 200 * 32] ^= 1  # in row 200, of the third block
    keys.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert ran(batches, asked) == BATCHES - 10 + 2
    assert "what step 188 wrote is damaged: doing it again" in caplog.text
    assert outputs(tmp_path) == whole["disk"]


DAMAGES = ["state", "half a state", "steps", "cut steps", "no steps", "no arrays", "short arrays"]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("where", ["disk", "indexes"])
def test_damaged_resume_files_are_done_again(made, whole, tmp_path, batches, where, damage):
    asked = config(made, tmp_path, where)
    stopped(batches, asked, 9)
    place = tmp_path / ".ffn_input_ln.resume"
    arrays, states = list(place.rglob("keys.npy")), list(place.glob("scratch/*/1.faiss"))
    if damage == "state":
        [flip(path) for path in states]
    if damage == "half a state":
        [path.unlink() for path in states]
    if damage == "steps":
        flip(place / "steps.jsonl", 0.9)
        (place / "steps.jsonl").open("ab").write(b'\xff["x"\n[[], 5]\n17\n')
    if damage == "cut steps":
        (place / "steps.jsonl").write_bytes((place / "steps.jsonl").read_bytes()[:-9])
    if damage == "no steps":
        (place / "steps.jsonl").write_bytes(b"")
    if damage == "no arrays":
        [path.unlink() for path in arrays]
    if damage == "short arrays":
        [path.write_bytes(path.read_bytes()[:-100]) for path in arrays]
    ran(batches, asked)
    assert outputs(tmp_path) == whole[where] and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("where", ["disk", "indexes"])
def test_what_was_kept_of_other_settings_is_replaced(made, whole, tmp_path, batches, caplog, where):
    with caplog.at_level(logging.INFO):
        stopped(batches, config(made, tmp_path, where, seed=2), 9)
        assert ran(batches, config(made, tmp_path, where)) == BATCHES
    assert "of other settings or inputs: starting anew" in caplog.text
    assert outputs(tmp_path) == whole[where] and not list(tmp_path.glob(".*"))


def test_a_key_type_that_is_already_made_is_not_made_again(made, whole, tmp_path, batches):
    extract.main(config(made, tmp_path, "disk", keytypes=("output",)))
    before = (tmp_path / "output/meta.json").stat().st_ino
    assert ran(batches, config(made, tmp_path, "disk")) == BATCHES
    assert outputs(tmp_path) == whole["disk"] and (tmp_path / "output/meta.json").stat().st_ino == before


def test_an_index_that_is_missing_is_made_again(made, whole, tmp_path, batches):
    asked = config(made, tmp_path, "indexes")
    extract.main(asked)
    asked.index[1].unlink()
    assert ran(batches, asked) == BATCHES
    assert outputs(tmp_path) == whole["indexes"]


def test_room_is_asked_for_once(made, tmp_path, batches, monkeypatch):
    asked = config(made, tmp_path, "disk")
    stopped(batches, asked, 9)
    kept = resume.kept(asked.out)
    assert kept > 2 * 1484 * 32  # the whole arrays
    monkeypatch.setattr(disk, "free", lambda _: 2 * 1484 * 12)  # values and ids only
    ran(batches, asked)


def test_a_full_disk_while_indexes_are_saved_loses_nothing(made, whole, tmp_path, batches, monkeypatch):
    monkeypatch.setattr(sinks, "SAVING", 1e9)
    real, asked = ann.save, config(made, tmp_path, "indexes", save_every=1e-9)

    def full(index, path):
        if len(batches["all"]) > 8:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(index, path)

    with monkeypatch.context() as patch:
        patch.setattr(ann, "save", full)
        with pytest.raises(UserError, match="free space or raise the quota"):
            ran(batches, asked)
    assert ran(batches, asked) == BATCHES - 8
    assert outputs(tmp_path) == whole["indexes"]


def test_another_error_keeps_nothing(made, tmp_path, batches):
    def diverged():
        raise UserError("a key is not finite")

    batches[10] = diverged
    with pytest.raises(UserError, match="not finite"):
        ran(batches, config(made, tmp_path, "disk"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["disk", "indexes"])
def test_a_job_at_its_time_limit_is_queued_again_until_it_is_done(made, tmp_path, batches, slurm, where):
    asked_of_slurm, asked = slurm(), config(made, tmp_path, where)
    for at in (3, 3):
        assert stopped(batches, asked, at)[0].endswith("SLURM will run this job again, which then goes on")
    assert asked_of_slurm.read_text().splitlines() == ["show job 17", "requeue 17"] * 2
    ran(batches, asked)
    slurm(minutes=600)
    again = config(made, tmp_path / "by hand", where)
    assert stopped(batches, again, 3)[0].endswith("run again to go on")
