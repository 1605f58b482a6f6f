"""Reads FAISS factory strings: how many lists an index has, how its keys are transformed, and how they are coded.

`auto` stands for the one that fits the number of entries (`fitting`).
"""

import math
import re
from functools import lru_cache
from typing import NamedTuple

PATTERN = (
    r"((OPQ[1-9]\d*(_(?P<opq>[1-9]\d*))?|PCAR?(?P<pca>[1-9]\d*)|RR(?P<rr>[1-9]\d*)),)?"
    r"(IVF(?P<lists>[1-9]\d*)(_HNSW[1-9]\d*)?,)?"
    r"(Flat|SQ(?P<scalar>4|6|8|fp16|bf16)|PQ(?P<parts>[1-9]\d*)(x(?P<bits>[4-9]|1[0-6]))?"
    r"|PQ(?P<fast>[1-9]\d*)x4fsr?|RaBitQ(fs)?(?P<rabitq>[2-9]?)|HNSW(?P<links>[1-9]\d*)(,Flat)?)"
)
ALLOWED = (
    "FAISS factory strings [OPQm | PCAd | RRd,][IVFn,]code with the code Flat, SQfp16, SQ8, PQmxb, PQmx4fs[r], "
    "RaBitQ[fs][b] or HNSWm"
)
AUTO = "auto"
EXACT_BELOW = 200_000  # entries: an exact search of fewer loses nothing, and takes less time than training the LM
MOST_PARTS = 256  # of a product quantiser for fast scans, which adds up one byte a part in 16 bits
WIDEST_PART = 16  # dimensions: a code of 4 bits says little of more
SCALAR_BITS = {"4": 4, "6": 6, "8": 8, "fp16": 16, "bf16": 16}  # for each component of a key
RABITQ_BYTES = {True: 8, False: 20}  # factors stored with each RaBitQ code, of one bit a component or of more
ID_BYTES = 8  # an index holds a 64-bit row number with each code


class Factory(NamedTuple):
    """The parts of a factory string that other settings depend on."""

    lists: int
    """inverted lists, 0 where there are none"""
    reduced: int | None
    """dimensions that OPQ, PCA or a random rotation leaves; None where the keys keep theirs"""
    parts: int
    """sub-quantisers of a product quantiser, 0 where there is none"""
    bits: int
    """of each sub-quantiser, or of each component where there is no product quantiser"""
    links: int
    """of each entry in an HNSW graph, 0 where there is none"""
    factors: int
    """bytes that RaBitQ stores with each code to estimate distances from it, 0 for other codes"""

    @classmethod
    @lru_cache(maxsize=64)
    def parse(cls, text: str) -> "Factory":
        """Raises ValueError for a string that is not supported."""
        found = re.fullmatch(PATTERN, text)
        if not found:
            raise ValueError(f"found {text!r}; allowed: {ALLOWED}")
        reduced = found["opq"] or found["pca"] or found["rr"]
        parts = found["parts"] or found["fast"]
        bits = found["bits"] or (4 if found["fast"] else 8) if parts else SCALAR_BITS.get(found["scalar"], 32)
        if found["rabitq"] is not None:
            bits = found["rabitq"] or 1
        return cls(
            lists=int(found["lists"] or 0),
            reduced=int(reduced) if reduced else None,
            parts=int(parts or 0),
            bits=int(bits),
            links=2 * int(found["links"] or 0),
            factors=RABITQ_BYTES[int(bits) == 1] if found["rabitq"] is not None else 0,
        )

    @property
    def centroids(self) -> int:
        """The most centroids that one k-means of the training needs a key for."""
        return max(self.lists, 1 << self.bits if self.parts else 1)

    def dimension(self, keys: int) -> int:
        """Dimensions of what is coded, for keys of so many dimensions."""
        return self.reduced or keys

    def entry_bytes(self, keys: int) -> float:
        """Bytes of one entry of an index over keys of so many dimensions, its row number included."""
        return (self.parts or self.dimension(keys)) * self.bits / 8 + self.factors + 4 * self.links + ID_BYTES


def near_root(entries: int) -> int:
    """The power of two nearest to the square root of so many entries, which is how many lists fit them."""
    return 1 << round(math.log2(entries) / 2)


def fitting(entries: int, dimension: int) -> str:
    """The factory string that `auto` stands for, for so many keys [entries, dimension].

    Few keys are searched exactly. More are divided into lists and coded for fast scans, in parts of the fewest
    dimensions from two on that divide a key evenly, or else with 8 bits for each dimension.
    """
    if entries < EXACT_BELOW:
        return "Flat"
    parts = range(2, min(dimension // 2, MOST_PARTS) + 1, 2)  # fast scans look up two parts at a time
    most = max((part for part in parts if dimension % part == 0), default=0)
    code = f"PQ{most}x4fsr" if most * WIDEST_PART >= dimension else "SQ8"
    return f"IVF{near_root(entries)},{code}"
