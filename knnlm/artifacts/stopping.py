"""Stop at a SIGTERM, which SLURM sends some time before a job's limit, and queue the job again so that it goes on."""

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta

from knnlm.artifacts.files import Unfinished

NEAR_ITS_END = timedelta(minutes=15)  # of a SLURM job: a signal that comes earlier is not that of its time limit


@contextlib.contextmanager
def noted_signals() -> Iterator[list[int]]:
    """Collect SIGTERMs instead of ending at once, so that work can stop where it can go on later."""
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, before)


def stopped(after: str, requeues: bool = True) -> Unfinished:
    """The error to end with, once everything `after` which the work stopped is saved.

    A SLURM job that is stopped at its time limit is queued again where this process `requeues` it. Progress must have
    been made since the job started, so that it ends some day.
    """
    again = requeues and requeue()
    advice = "SLURM will run this job again, which then goes on" if again else "run again to go on"
    return Unfinished(f"stopped by SIGTERM after {after}: {advice}")


def requeue() -> bool:
    """Queue this process's SLURM job again if its time limit is near; returns whether this was done.

    Nothing is done for a job that is being cancelled, that may not be requeued or that has time left. To Snakemake, a
    requeued job is one that has not ended: no retry is used up.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        return False
    shown = _scontrol("show", "job", job) or ""
    end = re.search(r"\bEndTime=(\d\S+)", shown)
    if not re.search(r"\bJobState=RUNNING\b", shown) or not end:
        return False
    if datetime.fromisoformat(end[1]) - datetime.now() > NEAR_ITS_END:
        return False
    return _scontrol("requeue", job) is not None


def _scontrol(*arguments: str) -> str | None:
    """What SLURM's administration tool prints; None where it fails or is missing."""
    try:
        done = subprocess.run(["scontrol", *arguments], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
