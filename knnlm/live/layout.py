"""A kNN-LM row of a finished study and the artifacts it is made of.

`interpolate` recorded where the row's scores, neighbors and models lie. Everything before them (the datastore, its
indexes, the texts) is named by the descriptions of these artifacts, so that no path is built here a second time.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from knnlm.artifacts import description, lineage
from knnlm.artifacts.files import UserError
from knnlm.datastores import neighbors
from knnlm.scores import experiments
from knnlm.settings import WindowSettings


@dataclass(frozen=True)
class KnnLM:
    """One seed of a row with a datastore."""

    folder: Path
    """the study"""
    row: dict
    """the row as experiments/OUTPUT.json has it"""
    paths: dict
    """where its artifacts lie: {"model": [seed], "lm": {split: [seed]}, "knn": ..., "neighbors": ...}"""
    seed: int

    @property
    def store(self) -> dict:
        """The row's datastore: corpus, keytype, index, distance, k, temperature, shards, of.

        A temperature that was tuned on dev is the one of this seed.
        """
        store = self.row["datastore"]
        tuned = store["temperature"]
        return store | {"temperature": tuned[self._position] if isinstance(tuned, list) else tuned}

    @property
    def lmbda(self) -> float:
        """The weight of kNN that was tuned on dev for this seed."""
        return self.row["lmbda"]["knn"][self._position]

    @property
    def model(self) -> Path:
        return self.paths["model"][self._position]

    def lm(self, split: str) -> Path:
        """Log-probabilities of the LM, float32 [N] nats."""
        return self._of("lm", split)

    def knn(self, split: str) -> Path:
        """Log-probabilities of kNN, float32 [N] nats."""
        return self._of("knn", split)

    def neighbors(self, split: str) -> Path:
        """Neighbors of the split's tokens in all shards of the datastore that the row uses."""
        return self._of("neighbors", split)

    def cache(self, split: str) -> Path | None:
        """Log-probabilities of the continuous cache where Table 1 has it for the same model and text, float32 [N]."""
        try:
            study = experiments.load([self.folder / "experiments/table1.json"])
            row = study.row("table1", "cache")
        except experiments.Missing:
            return None
        if (row["model"], row["corpus"]) != (self.row["model"], self.row["corpus"]) or self.seed not in row["seeds"]:
            return None
        return study.paths("table1", "cache")["cache"][split][row["seeds"].index(self.seed)]

    @property
    def keys(self) -> list[Path]:
        """A directory for each shard of the datastore that the row uses."""
        return neighbors.places(self.neighbors("dev"), "shard")

    @property
    def indexes(self) -> list[Path]:
        """A FAISS index for each of these shards."""
        return neighbors.places(self.neighbors("dev"), "index")

    @property
    def nprobe(self) -> int:
        """Lists visited per query, as the study searched."""
        return neighbors.facts(self.neighbors("dev"))["nprobe"]

    @property
    def windows(self) -> WindowSettings:
        """The windows in which held-out text was evaluated."""
        return WindowSettings(**description.described(self.lm("dev"))["config"]["windows"])

    @property
    def vocab(self) -> Path:
        return _made_from(self.tokens(self.row["corpus"], "dev"), "vocab")

    def tokens(self, corpus: str, split: str) -> Path:
        """Token stream of the held-out splits of the row's corpus, or of "train" of the datastore's corpus.

        Where the keys are deleted (`keep: needed`) and both corpora are one, the text lies beside its held-out splits.
        """
        is_train = (corpus, split) == (self.store["corpus"], "train")
        if is_train and corpus == self.row["corpus"] and not self.keys[0].exists():
            return self.tokens(corpus, "dev").with_name("train.npy")
        return _made_from(self.keys[0] if is_train else self.lm(split), "tokens")

    def documents(self, corpus: str, split: str) -> Path:
        """Start offsets of the documents of the same splits."""
        return self.tokens(corpus, split).with_suffix(".documents.npy")

    def titles(self, corpus: str, split: str) -> list[str]:
        """A title for each of these documents."""
        path = _made_from(self.tokens(corpus, split), "corpus") / f"{split}.documents.jsonl"
        with description.check(path).open(encoding="utf-8") as lines:
            return [json.loads(line)["title"] for line in lines]

    def check(self, split: str) -> None:
        """Raise UserError where the split's scores, neighbors and text are not of one text, model and index."""
        corpus = self.row["corpus"]
        texts = self.tokens(corpus, split), self.documents(corpus, split)
        lineage.agree((*texts, self.lm(split), self.knn(split), self.neighbors(split)), "vocab", "text", "model")
        lineage.agree((self.knn(split), self.neighbors(split)), "index", "datastore", "queries")

    def _of(self, part: str, split: str) -> Path:
        """The path of one part of the row; raises UserError where the row's table or figure shows dev only."""
        if split not in self.paths[part]:
            raise UserError(
                f"row {self.row['name']}: found scores of {', '.join(self.paths[part])}, expected {split} too: "
                "name a row of a table that shows test, as table1"
            )
        return self.paths[part][split][self._position]

    @property
    def _position(self) -> int:
        return self.row["seeds"].index(self.seed)


def _made_from(artifact: Path, name: str) -> Path:
    """The input `name` of an artifact, as its description says; raises UserError where it says nothing."""
    sources = lineage.sources(artifact)
    if name not in sources:
        raise UserError(
            f"{artifact}: its description names the inputs {sorted(sources)}, expected {name}: make it again"
        )
    return sources[name][0]


def _lacks(folder: Path, output: str) -> str:
    """Why an experiment is not in the folder of a study."""
    if not folder.is_dir():
        others = sorted(str(path.parent) for path in folder.parent.glob("*/experiments"))
        return f"no such folder; {'studies beside it: ' + ', '.join(others) if others else 'give results/STUDY'}"
    lacking = f"no experiments/{output}.json in it"
    if made := sorted(path.stem for path in folder.glob("experiments/*.json") if not path.stem.endswith(".meta")):
        return f"{lacking}; --output may be {', '.join(made)}, or run the study's remaining stages"
    if any((folder / stage).is_dir() for stage in ("corpora", "tokens", "models")):
        return f"{lacking} yet: the study is not finished; run its remaining stages"
    return f"{lacking}; give a finished study, as results/smoke"


def find(folder: Path, output: str = "table1", name: str = "knn", seed: int | None = None) -> KnnLM:
    """A row of the study in `folder`, by default Table 1's kNN-LM and its first seed; UserError where it has none."""
    path = Path(folder) / "experiments" / f"{output}.json"
    if not path.is_file():
        raise UserError(f"--study {folder}: {_lacks(Path(folder), output)}")
    try:
        study = experiments.load([path])
        row = study.row(output, name)
    except experiments.Missing as missing:
        raise UserError(f"--study {folder}: {missing}") from None
    if not row["datastore"]:
        raise UserError(f"--study {folder}: row {name} of {output} has no datastore; name one that has")
    if seed is not None and seed not in row["seeds"]:
        raise UserError(f"--seed {seed}: row {name} of {output} has seeds {row['seeds']}")
    paths = study.paths(output, name)
    if any(None in found for found in paths["neighbors"].values()):
        raise UserError(f"--study {folder}: the kNN scores of row {name} have no description; score them again")
    return KnnLM(Path(folder), row, paths, row["seeds"][0] if seed is None else seed)
