"""Each verb asks for as much disk as its files take, before it begins."""

from pathlib import Path

import numpy as np
import pytest
import tinystudy

from knnlm.artifacts import files


def taken(*folders: Path) -> int:
    """Bytes of all arrays in the folders, without their headers."""
    return sum(np.load(path).nbytes for folder in folders for path in folder.glob("*.npy"))


def test_the_room_that_is_asked_for_is_the_room_that_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}
    monkeypatch.setattr(files, "check_room", lambda out, needed: asked.setdefault(Path(out), needed))
    study = tinystudy.write(tmp_path / "study")

    keys = study / "keys/fox/seed1/fox"
    shard = keys / "train/ffn_input_ln/shard1of2"
    assert asked[shard] == taken(shard)
    splits = ("dev", "test")
    queries = [keys / split / "ffn_input_ln/shard0of1" for split in splits]
    assert asked[queries[0]] == taken(*queries, *(study / f"logprobs/fox/{split}/lm/fox/seed1" for split in splits))
    index = study / "indexes/fox/seed1/fox/ffn_input_ln/fine"
    grown = (index / "shard1of2.faiss").stat().st_size - (index / "trained.faiss").stat().st_size
    assert asked[index / "shard1of2.faiss"] == pytest.approx(grown, rel=0.01)
    for path in (f"{tinystudy.SEARCHED}/shard1of2", f"{tinystudy.SEARCHED}/first2of2", tinystudy.NEIGHBORS):
        folders = [study / path.format(split) for split in splits]
        assert asked[folders[0]] == taken(*folders), path
