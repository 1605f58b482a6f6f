"""Snakemake is killed, with its jobs or without them, and started again: the same table, no job run twice."""

import os
import random
import signal
import time

import pytest
from tinyrun import configured, finished, log_of, planned, run, start, tables, workspace

SEED = 20240607
KILLED = {"with its jobs": os.killpg, "without its jobs": os.kill}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The table of an undisturbed run, and the number of its jobs."""
    folder = workspace(tmp_path_factory.mktemp("undisturbed") / "work")
    text = run(folder, configured(folder))
    return tables(folder), planned(text)


@pytest.mark.slow
@pytest.mark.parametrize("way", KILLED)
def test_snakemake_killed_and_started_again(undisturbed, tmp_path, way):
    table, jobs = undisturbed
    folder = workspace(tmp_path / "work")
    config = configured(folder)
    generator, done = random.Random(f"{SEED} {way}"), 0
    for after in sorted(generator.sample(range(1, jobs - 4), 2)):
        began = start(folder, config)
        while finished(log_of(config).read_text()) < after - done:
            assert began.poll() is None, log_of(config).read_text()[-3000:]
            time.sleep(0.05)
        time.sleep(seconds := generator.random() * 2)  # into the next job
        KILLED[way](began.pid, signal.SIGKILL)
        began.wait()
        done += finished(log_of(config).read_text())
        print(f"killed {way} {seconds:.1f} s after {after} of {jobs} jobs; {done} had ended")
        run(folder, config, "--unlock")
    text = run(folder, config)
    assert planned(text) <= jobs - done + 1  # one may be killed between its end and the record of it
    assert tables(folder) == table
    assert not list(folder.glob("results/**/.*"))
