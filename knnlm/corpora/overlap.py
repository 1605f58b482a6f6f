"""Text that documents share: the 8-grams of some that stand in others, and near-duplicates.

An n-gram is n words in a row; words are what spaces and line breaks part. N-grams are compared by 64-bit hashes.
"""

from collections.abc import Iterable, Sequence

import numpy as np

ORDER = 8  # words in a row that two documents hardly share by chance
SHINGLE = 5  # words; the usual size where documents are compared as sets of n-grams
PERMUTATIONS = 128


def ngrams(text: str, order: int = ORDER) -> np.ndarray:
    """Hashes, uint64 [W − order + 1], of the n-grams of a text of W words, in their order; none if it is shorter."""
    from pandas.util import hash_array

    words = hash_array(np.array(text.split(), dtype=object), categorize=False)
    hashes = np.zeros(max(0, len(words) - order + 1), np.uint64)
    for i in range(order):
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + words[i : len(words) - order + 1 + i][: len(hashes)]
    return hashes


def occurrences(wanted: np.ndarray, documents: Iterable[np.ndarray]) -> np.ndarray:
    """In how many of the documents, each given by its n-grams, each of `wanted` (sorted, unique) occurs: int64."""
    counts = np.zeros(len(wanted), np.int64)
    for hashes in documents:
        unique = np.unique(hashes)
        places = np.searchsorted(wanted, unique)
        inside = places < len(wanted)
        places, unique = places[inside], unique[inside]
        counts[places[wanted[places] == unique]] += 1
    return counts


def shares(chosen: Sequence[np.ndarray], documents: Iterable[np.ndarray], least: int = 1) -> list[float]:
    """The share of each chosen document's n-grams that occur in at least `least` of the documents.

    Both are given by their n-grams. Where the chosen are among the documents, `least` is 2: each has its own.
    """
    wanted = np.unique(np.concatenate([np.empty(0, np.uint64), *chosen]))
    found = occurrences(wanted, documents) >= least
    return [float(found[np.searchsorted(wanted, hashes)].mean()) if len(hashes) else 0.0 for hashes in chosen]


def near_duplicates(texts: Iterable[str], similarity: float, seed: int) -> set[int]:
    """Positions of documents that are too similar to an earlier one: Jaccard similarity of their sets of 5-grams.

    MinHash with locality-sensitive hashing proposes pairs; their similarity is then estimated from 128 permutations.
    Texts are read once.
    """
    from datasketch import MinHash, MinHashLSH

    index, out = MinHashLSH(threshold=similarity, num_perm=PERMUTATIONS), set()
    signatures: dict[int, MinHash] = {}
    for position, text in enumerate(texts):
        signature = MinHash(num_perm=PERMUTATIONS, seed=seed, hashfunc=_low_half)
        signature.update_batch(np.unique(ngrams(text, SHINGLE)).tolist())
        if any(signature.jaccard(signatures[other]) >= similarity for other in index.query(signature)):
            out.add(position)
        elif not signature.is_empty():
            index.insert(position, signature)
            signatures[position] = signature
    return out


def _low_half(hashed: int) -> int:
    return hashed & 0xFFFFFFFF
