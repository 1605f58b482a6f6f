"""Reads the YAML of a study, a sheet or a catalogue, and checks it; what is wrong becomes one line of a StudyError."""

import difflib
import math
import re
from pathlib import Path
from typing import TypeVar

import ruamel.yaml
import yaml
from pydantic import BaseModel, ValidationError

from knnlm.settings import explain

M = TypeVar("M", bound=BaseModel)
MOST = 100_000  # values in a file, with those of an anchor wherever it is named


class StudyError(Exception):
    """A mistake in a configuration file: one line that names the key, what was found and what is allowed."""


def read(path: str | Path, key: str = "") -> dict:
    """The mapping in a YAML file; StudyError names the file, and the `key` of the study that names it."""
    where = f"{key}: {path}" if key else str(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
        if "*" in text and _values(yaml.compose(text, yaml.SafeLoader), {}) > MOST:
            raise StudyError(f"{where}: its anchors make more than {MOST:,} values; write out what is meant")
        value = yaml.safe_load(text)  # reads values as Snakemake does, by YAML 1.1
        ruamel.yaml.YAML(typ="safe", pure=True).load(text)  # refuses a key that occurs twice
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise StudyError(f"{where} is not a file{beside(path)}") from None
    except OSError as error:
        raise StudyError(f"{where} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise StudyError(f"{where}: lists in lists without end; expected a mapping of keys") from None
    except UnicodeDecodeError as error:
        raise StudyError(f"{where}: byte {error.start + 1} is not UTF-8; save the file as UTF-8") from None
    except (yaml.YAMLError, ruamel.yaml.YAMLError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
        line = f"line {mark.line + 1}: " if mark else ""
        problem = re.sub(r'found duplicate key "(.*?)" .*', r"key '\1' occurs twice", " ".join(problem.split()))
        raise StudyError(f"{where}: {line}{problem}; expected YAML with every key once") from None
    if not isinstance(value, dict):
        raise StudyError(f"{where}: found {value!r}, expected a mapping of keys")
    return value


def _values(node: yaml.Node | None, known: dict[yaml.Node, float]) -> float:
    """How many values a node stands for, itself included; inf where it holds itself."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if node not in known:
        known[node] = math.inf
        parts = (part for item in node.value for part in (item if isinstance(item, tuple) else (item,)))
        known[node] = 1 + sum(_values(part, known) for part in parts)
    return known[node]


def check(model: type[M], value: dict, where: str, between_keys: str = "") -> M:
    """`value` as settings; the most telling error becomes a StudyError.

    The line begins with `where`, or with `between_keys` where every value alone would be allowed.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        mistake = explain(error, model)
        begin = between_keys if mistake.between_keys else f"{where}: "
        raise StudyError(f"{begin}{mistake if mistake.key else f'top level: {mistake}'}") from None


def beside(path: str | Path) -> str:
    """The files that a wrong path may have meant."""
    folder, ending = Path(path).parent, Path(path).suffix
    names = sorted(file.name for file in folder.glob(f"*{ending}") if file.is_file()) if folder.is_dir() else []
    close = difflib.get_close_matches(Path(path).name, names, n=1)
    return f"; did you mean {str(folder / close[0])!r}?" if close else "; give the path of a file that is there"
