"""A finished study in miniature with rows to compare, and its explorer."""

import json
import shutil
from pathlib import Path

import tinystudy

from knnlm.outputs import explore
from knnlm.scores import interpolate, score_knn


def write(study: Path) -> Path:
    """The study of `tinystudy` with the experiment "temperature": Table 1's row again, temperature 3, quantized
    distances, and a row whose neighbors are deleted.
    """
    tinystudy.write(study)
    splits = ("dev", "test")
    keys = tuple(study / f"keys/fox/seed1/fox/{split}/ffn_input_ln/shard0of1" for split in splits)
    near = tuple(study / tinystudy.NEIGHBORS.format(split) for split in splits)
    rows, documents = map(json.loads, tinystudy.sheet(study))
    knn, store = rows[1], rows[1]["datastore"]
    folders = {split: Path(paths[0]).parent for split, paths in knn["components"]["knn"].items()}
    scores = '[["exact", 16, 1], ["exact", 16, 3], ["quantized", 16, 1]]'
    score_knn.main(score_knn.ScoreKnnConfig(near, keys, tuple(folders.values()), (scores,)))
    lost = {split: folder.with_name("lost") for split, folder in folders.items()}
    copies = tuple(shutil.copytree(path, path.with_name("lost")) for path in near)
    score_knn.main(score_knn.ScoreKnnConfig(copies, keys, tuple(lost.values()), ('[["exact", 16, 2]]',)))

    def row(name: str, file: str, where: dict, **settings: object) -> dict:
        parts = {"knn": {split: [str(folder / file)] for split, folder in where.items()}}
        return knn | {"name": name, "label": f"+ {name}", "components": parts, "datastore": store | settings}

    compared = [
        rows[0],
        row("same", "exact-k16-t1.npy", folders),
        row("t3", "exact-k16-t3.npy", folders, temperature=3),
        row("quantized", "quantized-k16-t1.npy", folders, distance="quantized"),
        row("lost", "exact-k16-t2.npy", lost, temperature=2, neighbors=str(copies[0])),
    ]
    for name, made in (("table1", rows), ("temperature", compared)):
        out, settings = study / f"experiments/{name}.json", '{"resamples": 10}'
        interpolate.main(interpolate.InterpolateConfig(json.dumps(made), json.dumps(documents), out, settings))
    for copy in copies:
        (copy / "rows.npy").unlink()
    return study


def page(study: Path, name: str = "explorer.html", tokens: int = 8000) -> Path:
    """The explorer of a study that `write` made."""
    out = study / name
    compared = ("temperature",)
    config = explore.ExploreConfig(
        study=study, out=out, compare=compared, tokens=tokens, neighbors=4, words=5, note="A test."
    )
    explore.main(config)
    return out
