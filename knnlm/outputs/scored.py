"""Held-out text of a kNN-LM row with what the study measured for each token: probabilities and neighbors."""

from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax

from knnlm.artifacts import lineage, npy
from knnlm.artifacts.files import UserError
from knnlm.datastores import neighbors
from knnlm.datastores.neighbors import Column
from knnlm.live.layout import KnnLM
from knnlm.scores import knn

SPLIT = "test"


@dataclass(frozen=True)
class ScoredText:
    """N tokens, their log-probabilities, and the k neighbors that p_kNN of each token was computed from."""

    tokens: np.ndarray  # [N] integer
    lm: np.ndarray  # [N] float32, log p_LM in nats
    knn: np.ndarray  # [N] float32, log p_kNN in nats
    ids: np.ndarray | Column  # [N, k] int64, entries of the datastore; -1 where a neighbor is missing
    values: np.ndarray | Column  # [N, k] uint32, the targets of these entries
    stored: np.ndarray  # [N, k] float32, distances as the neighbors artifact has them; inf where one is missing
    distance: str  # exact, quantized or quantized_sqrt
    temperature: float

    def __post_init__(self) -> None:
        """Raise UserError unless every token has its log-probabilities and its neighbors."""
        counts = [len(self.tokens), len(self.lm), len(self.knn), len(self.ids)]
        if len(set(counts)) > 1:
            tokens, lm, knn, queries = (f"{count:,}" for count in counts)
            raise UserError(
                f"the held-out text: found {tokens} tokens, {lm} LM and {knn} kNN log-probabilities and {queries} "
                "queries, expected as many of each; score the text again with the same windows"
            )

    def distances(self, tokens: int | slice) -> np.ndarray:
        """Distances to the neighbors of some tokens as the row weighs them, [..., k] float32; inf where missing."""
        return knn.weighed(self.stored[tokens], self.distance)

    def log_shares(self, tokens: int | slice) -> np.ndarray:
        """log of each neighbor's share of p_kNN, log softmax(-d/T) of equation 2: [..., k] float64 nats."""
        logits = -self.distances(tokens).astype(np.float64) / self.temperature
        with np.errstate(invalid="ignore"):  # the softmax of a token without any neighbor is not a number
            return np.nan_to_num(log_softmax(logits, axis=-1), nan=-np.inf)


def load(source: KnnLM, split: str = SPLIT) -> ScoredText:
    """The text of a row's split; raises UserError where text, scores, neighbors and datastore do not fit together."""
    source.check(split)
    _check_datastore(source, split)
    kind = knn.DISTANCES[source.store["distance"]]
    found = neighbors.load(source.neighbors(split), {kind}, source.store["k"])
    tokens = npy.open_array(source.tokens(source.row["corpus"], split), "integer", 1)
    scores = (npy.open_array(path, "float32", 1) for path in (source.lm(split), source.knn(split)))
    distance, temperature = source.store["distance"], float(source.store["temperature"])
    return ScoredText(tokens, *scores, found.ids, found.values, found.stored(kind), distance, temperature)


def _check_datastore(source: KnnLM, split: str = SPLIT) -> None:
    """Raise UserError where the neighbors were found in another text than the datastore's."""
    corpus, near = source.store["corpus"], source.neighbors(split)
    train = source.tokens(corpus, "train")
    stored = lineage.agree((train, source.documents(corpus, "train"), source.vocab), "vocab", "text").get("text")
    if lineage.of(near).get("datastore", stored) != stored:
        raise UserError(f"{near}: its neighbors were found in another text than {train}; search again")
