"""Reads the rates that estimates of time assume: workflow/rates.yaml, and the file that replaces some of them."""

import os
from collections.abc import Mapping
from pathlib import Path

from checking import StudyError, read

from knnlm.settings import nearest

FILE = Path(__file__).with_name("rates.yaml")
VARIABLE = "KNNLM_RATES"


def load() -> dict:
    """All rates; those in the file that KNNLM_RATES names come first. Raises StudyError for one that has no meaning."""
    rates, given = read(FILE), os.environ.get(VARIABLE)
    return replaced(rates, read(given, VARIABLE), given) if given else rates


def replaced(rates: Mapping, given: Mapping, where: str) -> dict:
    """`rates` with those of `given`, which has some of the same keys."""
    found = dict(rates)
    for key, value in given.items():
        name = f"{where}.{key}" if where else str(key)
        if key not in rates:
            raise StudyError(f"{name}: unknown rate{nearest(str(key), list(rates))}")
        if isinstance(rates[key], Mapping):
            if not isinstance(value, Mapping):
                raise StudyError(f"{name}: found {value!r}, expected a mapping of {', '.join(rates[key])}")
            found[key] = replaced(rates[key], value, name)
        else:
            found[key] = number(value, name)
    return found


def number(value: object, name: str) -> float:
    """A positive number; YAML takes 1e12 for text, JSON does not."""
    try:
        rate = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise StudyError(f"{name}: found {value!r}, expected a number above 0")
    return rate
