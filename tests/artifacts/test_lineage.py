"""Lineage: what was made from an artifact can still be used when that artifact is deleted."""

from pathlib import Path

import numpy as np
import pytest

from knnlm.artifacts import description, lineage
from knnlm.artifacts.files import UserError


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, Path]:
    """An artifact, and another that was made from it."""
    for name, inputs in (("keys", {}), ("index", {"keys": tmp_path / "keys"})):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / f"{name}.npy", np.arange(3))
        description.write_meta(tmp_path / name, name, {}, inputs)
    return tmp_path / "keys", tmp_path / "index"


@pytest.mark.parametrize("deleted", [("keys.npy",), ("meta.json",), ("keys.npy", "meta.json")])
def test_an_artifact_is_current_when_files_of_its_source_were_deleted(made: tuple[Path, Path], deleted: tuple) -> None:
    keys, index = made
    for name in deleted:  # as Snakemake does with temporary files: the folder stays
        (keys / name).unlink()
    lineage.agree([index])


def test_an_artifact_is_not_current_when_its_source_was_made_again(made: tuple[Path, Path]) -> None:
    keys, index = made
    np.save(keys / "keys.npy", np.arange(4))
    description.write_meta(keys, "keys", {}, {})
    with pytest.raises(UserError, match=r"index: was made from another keys than the one that is now at .*keys: "):
        lineage.agree([index])
