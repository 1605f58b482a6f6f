"""Components of a mixture that are scored at several settings, of which dev chooses: the cache's, kNN's temperature."""

import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from knnlm.artifacts import files

Setting = dict[str, float]
"""A cache's size and theta, or kNN's temperature."""

CACHE_FILE = re.compile(r"size(\d+)-theta(.+)\.npy")


def choices(row: dict, folders: Mapping[str, Path]) -> Iterator[dict[str, Setting]]:
    """Every combination of settings that dev chooses from: {component: setting}, only {} where nothing is chosen.

    The cache's settings are those in its folder, `folders["cache"]`, the smallest size and theta first. kNN's are the
    temperatures of the row's datastore, as ordered there.
    """
    grids: dict[str, list[Setting]] = {}
    if tunes_temperature(row):
        grids["knn"] = [{"temperature": temperature} for temperature in row["datastore"]["temperatures"]]
    if "cache" in folders:
        grids["cache"] = _cached(folders["cache"])
    for combination in itertools.product(*grids.values()):
        yield dict(zip(grids, combination, strict=True))


def tunes_temperature(row: dict) -> bool:
    """Whether the row leaves its temperature to dev."""
    return (row.get("datastore") or {}).get("temperature") == "tune"


def at(row: dict, paths: Mapping[str, Path], chosen: Mapping[str, Setting]) -> dict[str, Path]:
    """`paths` with the file of the chosen setting in place of a component's folder."""
    return {name: path / _file(row, name, chosen[name]) if name in chosen else path for name, path in paths.items()}


def cache_file(size: float, theta: float) -> str:
    """The file of the cache's log-probabilities at one setting."""
    return f"size{size}-theta{theta:g}.npy"


def knn_file(distance: str, k: int, temperature: float) -> str:
    """The file of kNN's log-probabilities from the first k neighbors at one temperature."""
    return f"{distance}-k{k}-t{temperature:g}.npy"


def _file(row: dict, component: str, setting: Setting) -> str:
    if component == "cache":
        return cache_file(**setting)
    return knn_file(row["datastore"]["distance"], row["datastore"]["k"], **setting)


def _cached(folder: Path) -> list[Setting]:
    found = filter(None, (CACHE_FILE.fullmatch(path.name) for path in folder.glob("size*-theta*.npy")))
    settings: list[Setting] = [{"size": int(match[1]), "theta": float(match[2])} for match in found]
    if not settings:
        raise files.UserError(f"{folder}: holds no size*-theta*.npy; score the cache again")
    return sorted(settings, key=lambda setting: (setting["size"], setting["theta"]))
