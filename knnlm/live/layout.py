"""Where a study's folder keeps what one kNN-LM row of a table is made of: the one module that knows its layout."""

import json
from dataclasses import dataclass
from pathlib import Path

from knnlm.artifacts import description, lineage
from knnlm.artifacts.files import UserError
from knnlm.scores import experiments as studies
from knnlm.settings import WindowSettings


@dataclass(frozen=True)
class KnnLM:
    """One seed of a row with a datastore; every path lies under `folder`."""

    folder: Path
    row: dict
    """the row as experiments/OUTPUT.json has it"""
    seed: int

    @property
    def store(self) -> dict:
        """The row's datastore: corpus, keytype, index, distance, k, temperature, shards, of."""
        return self.row["datastore"]

    @property
    def lmbda(self) -> float:
        """The weight of kNN that was tuned on dev for this seed."""
        return self.row["lmbda"]["knn"][self.row["seeds"].index(self.seed)]

    @property
    def model(self) -> Path:
        return self.folder / "models" / self._run

    @property
    def keys(self) -> list[Path]:
        """A directory for each shard of the datastore that the row uses."""
        folder = self.folder / "keys" / self._run / self.store["corpus"] / "train" / self.store["keytype"]
        return [folder / f"shard{i}of{self.store['of']}" for i in range(self.store["shards"])]

    @property
    def indexes(self) -> list[Path]:
        """A FAISS index for each of these shards."""
        folder = self.folder / "indexes" / self._found
        return [folder / f"{keys.name}.faiss" for keys in self.keys]

    @property
    def nprobe(self) -> int:
        """Lists visited per query, as the study searched."""
        return self._meta(self._neighbors("test") / self.keys[0].name)["config"]["settings"]["nprobe"]

    @property
    def windows(self) -> WindowSettings:
        """Those in which held-out text was evaluated."""
        return WindowSettings(**self._meta(self.lm("test").parent)["config"]["windows"])

    @property
    def vocab(self) -> Path:
        tokens = Path(self._meta(self.keys[0])["inputs"]["tokens"]["path"])
        return self.folder / "vocabs" / tokens.parent.parent.name

    def tokens(self, corpus: str, split: str) -> Path:
        return self.folder / "tokens" / self.vocab.name / corpus / f"{split}.npy"

    def documents(self, corpus: str, split: str) -> Path:
        """Start offsets of the split's documents."""
        return self.tokens(corpus, split).with_suffix(".documents.npy")

    def titles(self, corpus: str, split: str) -> list[str]:
        path = self.folder / "corpora" / corpus / f"{split}.documents.jsonl"
        return [json.loads(line)["title"] for line in description.check(path).read_text(encoding="utf-8").splitlines()]

    def neighbors(self, split: str) -> Path:
        """Merged neighbors of the split's tokens."""
        m, n = self.store["shards"], self.store["of"]
        return self._neighbors(split) / ("shard0of1" if n == 1 else f"first{m}of{n}")

    def check(self, split: str) -> None:
        """Raise UserError where the split's scores, neighbors and text do not belong together."""
        corpus = self.row["corpus"]
        texts = self.tokens(corpus, split), self.documents(corpus, split)
        lineage.agree((*texts, self.lm(split), self.knn(split), self.neighbors(split)), "vocab", "text", "model")
        lineage.agree((self.knn(split), self.neighbors(split)), "index", "datastore", "queries")

    def lm(self, split: str) -> Path:
        """Log-probabilities of the LM."""
        return self._scores(split) / "lm" / self._run / "logprob.npy"

    def knn(self, split: str) -> Path:
        """Log-probabilities of kNN."""
        store = self.store
        score = f"{store['distance']}-k{store['k']}-t{store['temperature']:g}.npy"
        return self._scores(split) / "knn" / self._found / f"first{store['shards']}of{store['of']}" / score

    def cache(self, split: str, size: int, theta: float) -> Path:
        """Log-probabilities of the continuous cache."""
        return self._scores(split) / "cache" / self._run / f"size{size}-theta{theta:g}.npy"

    @property
    def _run(self) -> str:
        return f"{self.row['model']}/seed{self.seed}"

    @property
    def _found(self) -> str:
        return f"{self._run}/{self.store['corpus']}/{self.store['keytype']}/{self.store['index']}"

    def _scores(self, split: str) -> Path:
        return self.folder / "logprobs" / self.row["corpus"] / split

    def _neighbors(self, split: str) -> Path:
        searched = f"{self.store['corpus']}/{self.store['keytype']}/{self.store['index']}"
        return self.folder / "neighbors" / self._run / self.row["corpus"] / split / searched

    @staticmethod
    def _meta(directory: Path) -> dict:
        return description.described(directory)


def find(folder: Path, output: str = "table1", name: str = "knn", seed: int | None = None) -> KnnLM:
    """A row of a study's folder, by default Table 1's kNN-LM and its first seed; UserError where it has none."""
    path = Path(folder) / "experiments" / f"{output}.json"
    if not path.is_file():
        raise UserError(f"--study {folder}: no experiments/{output}.json in it; give a finished study")
    try:
        row = studies.load([path]).row(output, name)
    except studies.Missing as missing:
        raise UserError(f"--study {folder}: {missing}") from None
    if not row["datastore"]:
        raise UserError(f"--study {folder}: row {name} of {output} has no datastore; name one that has")
    if seed is not None and seed not in row["seeds"]:
        raise UserError(f"--seed {seed}: row {name} of {output} has seeds {row['seeds']}")
    return KnnLM(Path(folder), row, row["seeds"][0] if seed is None else seed)
