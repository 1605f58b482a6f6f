"""A kNN-LM in memory: the distribution over the next word after any tokens, and the stored contexts behind it."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from knnlm.artifacts import description, files, lineage, npy
from knnlm.datastores import ann, exact
from knnlm.live.layout import KnnLM
from knnlm.models import features, model
from knnlm.scores import knn, mixture


class Nearest(NamedTuple):
    """One query's nearest entries of all shards, ordered by the index's distance and then by id."""

    ids: np.ndarray  # [K] int64, positions of the targets in the datastore's token stream
    values: np.ndarray  # [K] uint32, the targets
    distances: np.ndarray  # [K] float32, as the row weighs them
    weights: np.ndarray  # [K] float64, their shares of p_kNN


class Next(NamedTuple):
    """Distributions over the next word, each [V] float64 with sum 1, and the entries that p_kNN comes from."""

    lm: np.ndarray
    knn: np.ndarray
    nearest: Nearest

    def mixed(self, lmbda: float) -> np.ndarray:
        """λ p_kNN + (1 - λ) p_LM, [V] (equation 3)."""
        with np.errstate(divide="ignore"):
            return np.exp(mixture.mix([lmbda], [np.log(self.knn)], np.log(self.lm)))


class Reading:
    """A text as the model reads it: the window, and what attention keeps of it, so that a word costs one step.

    Of a long beginning the model reads the end that fits its window. A window that becomes full while words are added
    is refilled with its last half, which costs one pass over so many tokens.
    """

    def __init__(self, lm: model.LanguageModel, longest: int) -> None:
        self.lm, self.longest = lm, longest
        self.window: list[int] = []
        self.cache = lm.cache()

    @torch.inference_mode()
    def read(self, tokens: list[int]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Read further tokens: what the model returns after the last one, [1, D], and its key types, [D] each."""
        new = tokens[-self.longest :]
        if self.window and len(self.window) + len(tokens) > self.longest:
            new = [*self.window, *tokens][-max(1, self.longest // 2) :]
            self.window, self.cache = [], self.lm.cache()
        taps: dict[str, torch.Tensor] = {}
        output = self.lm(torch.tensor([new], device=features.device()), taps, self.cache)  # [1, T, D]
        self.window += new
        return output[:, -1], {name: tap[0, -1] for name, tap in taps.items()}


class Retriever:
    """The LM, indexes and keys of a row, loaded once.

    Keys stay on disk and are not checked as a whole, because only those of neighbors are read.
    """

    def __init__(self, source: KnnLM) -> None:
        self.source, self.store = source, source.store
        self.lm = model.load(source.model, features.device())
        self.longest = source.windows.length
        self.shards = []
        for path, folder in zip(source.indexes, source.keys, strict=True):
            lineage.agree((source.model, folder, path), "vocab", "model", "keytype", "text", "keys")
            stored = "keys.npy" in description.described(folder)["outputs"]
            keys = npy.open_array(folder / "keys.npy", "floating", 2, whole=False) if stored else None
            ids, values = (npy.open_array(folder / f"{name}.npy", "integer", 1) for name in ("ids", "values"))
            self.shards.append((ann.load(path, source.nprobe), ids, values, keys))
        if self.store["distance"] == "exact" and any(keys is None for _, _, _, keys in self.shards):
            raise files.UserError(f"{source.keys[0]}: no keys.npy, and the row's distances are exact: extract it again")

    def next(self, tokens: list[int]) -> Next:
        """What follows `tokens`, which begin a text; of a long one only the end that fits the study's windows."""
        return self.read(self.begin(), [self.lm.eos, *tokens])

    def after(self, inputs: list[int]) -> Next:
        """What follows `inputs`, the window exactly as the model reads it."""
        return self.read(self.begin(), inputs)

    def begin(self) -> Reading:
        """A text of which nothing has been read, for `read`."""
        return Reading(self.lm, self.longest)

    @torch.inference_mode()
    def read(self, text: Reading, tokens: list[int]) -> Next:
        """What follows when `text` goes on with `tokens`; the first of a text is the token that ends documents."""
        output, keys = text.read(tokens)
        return self._next(output, keys[self.store["keytype"]])

    @torch.inference_mode()
    def along(self, inputs: list[int], first: int = 0) -> Iterator[Next]:
        """What follows each of `inputs` from number `first` on; they are read at once and must fit one window."""
        taps: dict[str, torch.Tensor] = {}
        output = self.lm(torch.tensor([inputs], device=features.device()), taps)  # [1, T, D]
        for place in range(first, len(inputs)):
            yield self._next(output[:, place], taps[self.store["keytype"]][0, place])

    def _next(self, output: torch.Tensor, key: torch.Tensor) -> Next:
        """Both distributions from what the model returns [1, D], and its key type [D]."""
        lm = self.lm.logprob(output)[0].double().exp().cpu().numpy()
        lm /= lm.sum()
        nearest = self.nearest(key.float().cpu().numpy())
        words, shares = knn.distribution(nearest.distances, nearest.values, self.store["temperature"])
        near = np.zeros(len(lm))
        near[words] = shares
        return Next(lm, near, nearest)

    def nearest(self, query: np.ndarray) -> Nearest:
        """The k nearest entries of `query` [D] over all shards, the same that `search` and `merge` find."""
        queries, parts = query[None], []
        for index, ids, values, keys in self.shards:
            distances, rows = ann.search(index, queries, min(self.store["k"], index.ntotal), ids)  # [1, k]
            near = self._weighed(distances, rows, keys, queries, ann.is_inner_product(index))
            here = rows[0][rows[0] >= 0]
            parts.append((distances[0][: len(here)], ids[here], values[here], near[0][: len(here)]))
        order_by, ids, values, near = (np.concatenate(part) for part in zip(*parts, strict=True))
        order = np.lexsort((ids, order_by))[: self.store["k"]]
        weights = knn.shares(near[order], self.store["temperature"])
        return Nearest(ids[order], values[order], near[order], weights)

    def _weighed(
        self, distances: np.ndarray, rows: np.ndarray, keys: np.ndarray | None, queries: np.ndarray, product: bool
    ) -> np.ndarray:
        """Distances [1, k] as the row weighs them; only exact ones are computed from the keys."""
        if knn.DISTANCES[self.store["distance"]] == "exact":
            distances = exact.distances(keys, queries, rows, product)
        return knn.weighed(distances, self.store["distance"])
