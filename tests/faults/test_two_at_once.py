"""Two processes at once: the same command, two Snakemakes on one results folder, two studies sharing downloads."""

import functools
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile

import pytest
import yaml
from conftest import ROOT
from tinyrun import configured, log_of, run, start, story, tables, workspace
from victims import COMMANDS, Quiet

from knnlm.artifacts import files

QUICK = ["search", "train"]
COPIES = 3


def check_at_once(victims, verb):
    victims.clear()
    assert victims.run(verb).code == 0
    whole = victims.outputs()
    victims.clear()
    all_of_them = [victims.start(verb) for _ in range(COPIES)]
    for ended in [victims.end(*one) for one in all_of_them]:
        assert ended.code == 0, ended.text
    assert victims.outputs() == whole


@pytest.mark.parametrize("verb", QUICK)
def test_one_command_twice(victims, verb):
    check_at_once(victims, verb)


@pytest.mark.slow
@pytest.mark.parametrize("verb", [verb for verb in COMMANDS if verb not in QUICK])
def test_every_command_twice(victims, verb):
    check_at_once(victims, verb)


def test_the_temporary_folder_of_a_living_writer_is_left_alone(tmp_path):
    with files.atomic(tmp_path / "x") as first:
        files.write_text(tmp_path / "x", "second")
        first.write_text("first")
    assert (tmp_path / "x").read_text() == "first" and os.listdir(tmp_path) == ["x"]


def test_a_folder_that_another_writer_made_in_the_meantime_is_replaced(tmp_path):
    with files.atomic(tmp_path / "x", directory=True) as first:
        with files.atomic(tmp_path / "x", directory=True) as second:
            (second / "file").write_text("second")
        (first / "file").write_text("first")
    assert (tmp_path / "x/file").read_text() == "first" and os.listdir(tmp_path) == ["x"]


def test_a_child_of_a_killed_writer_does_not_keep_its_temporary_folder(tmp_path):
    program = """
import os, signal, sys, time
from pathlib import Path
from knnlm.artifacts import files
with files.atomic(Path(sys.argv[1])) as tmp:
    if not os.fork():
        os.kill(os.getppid(), signal.SIGKILL)
        print(os.getpid(), flush=True)
    time.sleep(60)
"""
    writer = subprocess.Popen([sys.executable, "-c", program, tmp_path / "x"], stdout=subprocess.PIPE, cwd=ROOT)
    child = int(writer.stdout.readline())
    assert writer.wait() == -9 and len(os.listdir(tmp_path)) == 1
    files.write_text(tmp_path / "x", "again")
    os.kill(child, signal.SIGKILL)
    assert os.listdir(tmp_path) == ["x"]


def test_workers_end_with_a_killed_process():
    program = """
import os, time
from knnlm.artifacts.parallel import over_documents
def work(_):
    os.write(1, b"%d\\n" % os.getpid())  # print would write the end of the line separately
    time.sleep(60)
list(over_documents(work, range(100)))
"""
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=ROOT, env=environment)
    workers = [int(process.stdout.readline()) for _ in range(2)]
    process.kill()
    process.wait()
    ends = time.monotonic() + 30
    while any(os.path.exists(f"/proc/{worker}") for worker in workers):
        assert time.monotonic() < ends, "a worker lives on"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_second_snakemake_on_the_same_results_is_refused(tmp_path):
    folder = workspace(tmp_path / "work")
    config, again = configured(folder), tmp_path / "again.yaml"
    again.write_text(config.read_text())
    first = start(folder, config)
    while not list(folder.glob("results/mine/**/meta.json")):
        assert first.poll() is None, log_of(config).read_text()
        time.sleep(0.05)
    assert start(folder, again).wait() != 0
    assert "cannot be locked" in log_of(again).read_text()
    assert first.wait() == 0, log_of(config).read_text()[-3000:]


@pytest.mark.slow
def test_two_snakemakes_without_locks_corrupt_nothing(tmp_path):
    alone, folder = workspace(tmp_path / "alone"), workspace(tmp_path / "work")
    run(alone, configured(alone))
    config, again = configured(folder), tmp_path / "again.yaml"
    again.write_text(config.read_text())
    both = [start(folder, path, "--nolock") for path in (config, again)]
    print("exit codes of the two:", [one.wait() for one in both])
    run(folder, config, "--nolock")
    assert tables(folder) == tables(alone)
    assert not list(folder.glob("results/**/.*"))


@pytest.mark.slow
def test_two_studies_share_downloads_and_a_results_folder(tmp_path):
    folder = workspace(tmp_path / "work")
    (tmp_path / "served").mkdir()
    stories = {n: {"title": f"Story {n}", "extract": story(n).replace("\n", " ")} for n in range(30)}
    with zipfile.ZipFile(tmp_path / "served/stories.zip", "w") as archive:
        archive.writestr("data/summaries_en-us.json", json.dumps(stories))
    corpus = {"sources": [{"kind": "vital_leads", "archive": "stories"}], "dev_words": 400, "test_words": 400}
    handler = functools.partial(Quiet, directory=tmp_path / "served")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/stories.zip"
        entry = {"kind": "url", "url": address, "sha256": None}
        (folder / "archives.yaml").write_text(yaml.safe_dump({"stories": entry}))
        shared = {"corpora": {"mine": corpus}, "archives": "archives.yaml"}
        configs = [configured(folder, name, **shared) for name in ("one", "two")]
        both = [start(folder, path, "--nolock") for path in configs]
        print("exit codes of the two:", [one.wait() for one in both])
        for path in configs:
            run(folder, path, "--nolock")
        server.shutdown()
    one, two = (tables(folder, name) for name in ("one", "two"))
    assert {name: text.replace("results/one", "") for name, text in one.items()} == {
        name: text.replace("results/two", "") for name, text in two.items()
    }
    assert not list(folder.glob("downloads/.*"))
