"""A function over many documents, on as many processes as OMP_NUM_THREADS allows."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")
AHEAD = 256  # documents handed out per process at a time: bounds memory on a full dump
_function: Callable[[Any], Any]  # inherited by the forked processes, so that a vocabulary is not sent with each task


def over_documents(function: Callable[[T], R], documents: Iterable[T]) -> Iterator[R]:
    """`map` in order; with one process, or fewer documents than would keep several busy, in this process."""
    global _function
    documents = iter(documents)
    workers = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    batch = list(islice(documents, AHEAD * workers))
    if workers == 1 or len(batch) < 2 * workers:
        yield from map(function, chain(batch, documents))
        return
    _function = function
    with multiprocessing.get_context("fork").Pool(workers, _end_with_parent) as pool:
        while batch:
            yield from pool.imap(_call, batch, chunksize=1 + len(batch) // (16 * workers))
            batch = list(islice(documents, AHEAD * workers))


def _end_with_parent() -> None:
    """A worker of a killed process would wait for its next task for ever."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _call(document: object) -> object:
    return _function(document)
