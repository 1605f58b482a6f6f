"""What a kNN-LM row knows of each token of a split: the arrays that mixers and diagnostics are functions of."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from knnlm.artifacts import lineage, npy
from knnlm.artifacts.files import UserError
from knnlm.beyond.infinigram import Scored
from knnlm.datastores import neighbors
from knnlm.datastores.neighbors import Column
from knnlm.live.layout import KnnLM
from knnlm.scores import knn


@dataclass(frozen=True)
class Signals:
    """N tokens of one split in the order of the token stream, with the k neighbors of each."""

    tokens: np.ndarray  # [N] integer, the targets
    documents: np.ndarray  # [D] integer, where each document begins
    lm: np.ndarray  # [N] float32, log p_LM of the target in nats
    knn: np.ndarray  # [N] float32, log p_kNN of the target in nats, as the row has it
    values: np.ndarray | Column  # [N, k] uint32, the targets of the neighbors; 0 where one is missing
    ids: np.ndarray | Column  # [N, k] int64, the neighbors' positions in the training stream; -1 where one is missing
    stored: np.ndarray  # [N, k] float32, distances as the neighbors artifact has them, in its order; inf where missing
    distance: str  # exact, quantized or quantized_sqrt
    temperature: float
    queries: Path  # folder of the context vectors f(x): keys.npy [N, D]
    source: KnnLM | None = None  # the row
    infinigram: Scored | None = None  # the ∞-gram of the datastore's text

    def distances(self, tokens: int | slice | np.ndarray) -> np.ndarray:
        """Distances to the neighbors of some tokens as the row weighs them, [..., k] float32; inf where missing.

        They are sorted by the index's distances, which is not always the order of exact ones.
        """
        return knn.weighed(self.stored[tokens], self.distance)


def load(source: KnnLM, split: str, infinigram: Path | None = None, near: bool = True) -> Signals:
    """The signals of a row on "dev" or "test", with the scores in the folder `infinigram`.

    Without `near` it has no neighbors, which studies keep of few rows. Raises UserError where its parts are not of
    one text.
    """
    source.check(split)
    if not near:
        return _without_neighbors(source, split)
    folder, store = source.neighbors(split), source.store
    kind = knn.DISTANCES[store["distance"]]
    found = neighbors.load(folder, {kind}, store["k"])
    named = lineage.sources(folder)
    if "queries" not in named:
        raise UserError(f"{folder}: its description names the inputs {sorted(named)}, expected queries: search again")
    tokens, documents, lm, near_logprob = _scores(source, split)
    return Signals(
        tokens,
        documents,
        lm,
        near_logprob,
        found.values,
        found.ids,
        found.stored(kind),
        store["distance"],
        float(store["temperature"]),
        named["queries"][0],
        source,
        None if infinigram is None else _scored(infinigram, source.tokens(source.row["corpus"], split), len(tokens)),
    )


def _without_neighbors(source: KnnLM, split: str) -> Signals:
    tokens, documents, lm, knn_logprob = _scores(source, split)
    none = np.empty((len(tokens), 0), np.uint32)
    distance, temperature = source.store["distance"], float(source.store["temperature"])
    nothing = none.astype(np.float32)
    return Signals(tokens, documents, lm, knn_logprob, none, none, nothing, distance, temperature, Path(), source)


def _scores(source: KnnLM, split: str) -> tuple[np.ndarray, ...]:
    """Targets and starts of documents, log p_LM and log p_kNN."""
    tokens = npy.open_array(source.tokens(source.row["corpus"], split), "integer", 1)
    documents = np.asarray(npy.open_array(source.documents(source.row["corpus"], split), "integer", 1))
    return tokens, documents, *(npy.open_array(path, "float32", 1) for path in (source.lm(split), source.knn(split)))


def _scored(folder: Path, tokens: Path, count: int) -> Scored:
    lineage.agree((folder, tokens), "vocab", "text")
    found = Scored(*(npy.open_array(folder / f"{name}.npy", ndim=1) for name in Scored._fields))
    if len(found.logprob) != count:
        raise UserError(
            f"{folder}: found scores of {len(found.logprob):,} tokens, expected {count:,}: score them again"
        )
    return found
