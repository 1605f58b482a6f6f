"""Apply a function to many documents, in as many processes as OMP_NUM_THREADS allows."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Any, TypeVar

from knnlm.artifacts import devices

T = TypeVar("T")
R = TypeVar("R")
AHEAD = 256  # documents read ahead for each process: bounds the memory that a full Wikipedia dump needs
_function: Callable[[Any], Any]  # forked processes inherit it, so that a vocabulary is not sent with each document


def over_documents(function: Callable[[T], R], documents: Iterable[T]) -> Iterator[R]:
    """The results of `function`, in the documents' order; few documents, or one process, are worked on right here."""
    global _function
    documents = iter(documents)
    workers = devices.cores()
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
    """End this worker when its parent is killed; it would wait for its next document forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _call(document: Any) -> Any:
    return _function(document)
