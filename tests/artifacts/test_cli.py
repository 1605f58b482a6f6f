"""How a verb runs as a command: its progress in log files, and how it ends."""

import io
import logging
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest
from conftest import ROOT

from knnlm.artifacts import cli


@dataclass(frozen=True)
class Nothing:
    """No flags."""


def state(n, total, elapsed, rate, unit=" token", initial=0, postfix=None):
    parts = {"n": n, "total": total, "elapsed": elapsed, "rate": rate, "unit": unit}
    return parts | {"initial": initial, "postfix": postfix, "prefix": "keys"}


@pytest.mark.parametrize(
    ("found", "ended", "expected"),
    [
        (state(854_000, 2_370_000, 25, 30_900), False, "keys: 854k of 2.37M tokens (36%), 30.9k/s, 00:49 left"),
        (state(2_370_000, 2_370_000, 60, 1), True, "keys: 2.37M tokens in 01:00, 39.5k/s"),
        (state(1, 4, 22.8, 1 / 22.8, " shard"), False, "keys: 1 of 4 shards (25%), 22.8 s a shard, 01:08 left"),
        (state(1, 1, 22.8, None, " shard"), True, "keys: 1 shard in 00:22, 22.8 s a shard"),
        (state(30, 40, 10, None, " block", initial=20), True, "keys: 30 of 40 blocks (75%) in 00:10, 1/s"),
        (state(0, 40, 10, None, " block"), False, "keys: 0 of 40 blocks (0%)"),
        (state(20_100, 20_000, 22, 900), False, "keys: 20.1k of 20.0k tokens (100%), 900/s, 00:00 left"),
        (state(7, None, 2, 3.5, " word"), False, "keys: 7 words, 3.5/s"),
        (
            state(5, 10, 2, 2, " word", postfix="loss 1.2"),
            False,
            "keys: 5 of 10 words (50%), 2/s, 00:02 left, loss 1.2",
        ),
    ],
)
def test_a_line_of_progress_says_only_what_is_known(found, ended, expected):
    assert cli.line(found, ended) == expected


@pytest.fixture
def clock(monkeypatch):
    """A clock of tqdm's that tests set."""
    now = [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    return now


def test_a_log_file_gets_a_line_every_ten_seconds_and_one_at_the_end(caplog, monkeypatch, clock):
    caplog.set_level(logging.INFO, "knnlm")
    monkeypatch.setattr(sys, "stderr", io.StringIO())  # as "2> log": no terminal
    for _ in cli.progress(range(25), "search", unit="block"):
        clock[0] += 1
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(" (")[0].split(" in ")[0] for line in lines] == [
        "search: 10 of 25 blocks",
        "search: 20 of 25 blocks",
        "search: 25 blocks",
    ]
    assert all("postfix" not in line and ":-" not in line for line in lines)
    caplog.clear()
    for _ in cli.progress(range(2), "search"):
        clock[0] += 0.5
    assert not caplog.records


def test_a_terminal_gets_a_bar_wherever_standard_output_goes(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert type(cli.progress(None, "a", 5)) is cli.tqdm
    monkeypatch.setenv("TERM", "dumb")
    assert type(cli.progress(None, "a", 5)) is cli.Lines


def test_ctrl_c_ends_a_verb_without_a_traceback(capsys):
    def main(config):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        cli.run(main, Nothing, "query", [])
    assert ended.value.code == 130 and capsys.readouterr().err == "stopped\n"


def test_a_reader_of_standard_output_that_stops_ends_a_verb_without_a_traceback(tmp_path):
    """A short answer fails where it is flushed, a long one where it is printed; another broken pipe is an error."""
    script = tmp_path / "verb.py"
    script.write_text(PRINTS)
    for size, code, error in ((10, 141, ""), (10**6, 141, ""), (-1, 1, "BrokenPipeError")):
        reader, writer = os.pipe()
        if size > 0:
            os.close(reader)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, script, str(size)], stdout=writer, stderr=subprocess.PIPE, text=True, env=environment
        )
        os.close(writer)
        assert done.returncode == code and ("Traceback" in done.stderr) is bool(error) and error in done.stderr


PRINTS = """
import sys
from dataclasses import dataclass
from knnlm.artifacts import cli

@dataclass(frozen=True)
class Nothing:
    pass

def main(config):
    if int(sys.argv[1]) < 0:
        raise BrokenPipeError("a worker's")
    print("x" * int(sys.argv[1]))

cli.run(main, Nothing, "query", [])
"""
