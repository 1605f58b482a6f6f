"""The paper's study with its sizes divided; everything that decides which jobs there are stays as it is."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DIVISORS = {  # of the numbers under these keys, wherever they stand in the study
    **dict.fromkeys(("dev_words", "test_words"), 500),
    "sample_words": 1000,
    "size": 29,  # pieces of the subword vocabulary
    **dict.fromkeys(("layers", "heads"), 8),
    **dict.fromkeys(("dim", "ffn_dim"), 32),
    "adaptive_cutoffs": 100,
    **dict.fromkeys(("updates", "warmup"), 14300),
    "evaluate_every": 140,
    **dict.fromkeys(("tokens_per_update", "tokens_per_batch", "batch_tokens", "block", "new", "context"), 16),
    "sample": 500,  # keys that an index is trained on
    "nprobe": 4,  # not as much as the lists, so that enough neighbors are found
}
LISTS, PARTS = 256, 8  # divide the lists and the sub-quantisers of an index's factory
UNDIVIDED = {
    *("seeds", "token_shards", "shards", "fraction", "k"),  # these decide which jobs and which rows there are
    *("adaptive_factor", "dropout", "attention_dropout", "activation_dropout", "adaptive_dropout"),
    *("lr", "min_lr", "clip_norm", "stop_loss"),
}
KEYTYPES_GB = 1e-9  # less than one key type's keys: each in a pass of its own, as the paper's are
PLACES = {
    "study": "rehearsal",
    "keytypes_gb": KEYTYPES_GB,
    "note": "A rehearsal of the paper's study. Its numbers mean nothing.",
}


def divided(value: Any, key: str = "") -> Any:
    """A part of the study, with the numbers under the keys of DIVISORS divided, to at least 1."""
    if isinstance(value, dict):
        return {name: divided(entry, name) for name, entry in value.items()}
    if isinstance(value, list):
        return [divided(entry, key) for entry in value]
    if key == "factory":
        fewer = re.sub(r"(?<=IVF)\d+", lambda lists: str(int(lists[0]) // LISTS), value)
        return re.sub(r"(?<=PQ)\d+", lambda parts: str(int(parts[0]) // PARTS), fewer)
    return max(1, round(value / DIVISORS[key])) if key in DIVISORS else value


def rehearsed(study: dict, texts: Path, results: Path) -> dict:
    """The study of the rehearsal, with its texts in one folder and its results in another."""
    small = divided(study) | PLACES
    small |= {"results": str(results), "downloads": f"{texts}/downloads", "archives": f"{texts}/archives.yaml"}
    for corpus in small["corpora"].values():
        for source in corpus.get("sources", []):
            if "path" in source:
                source["path"] = f"{texts}/{source['path']}"
    return small


def catalogue(whole: dict, address: str, digest: str, words: dict[str, int]) -> dict:
    """The catalogue's two archives of the paper's study as a server at this address has them."""
    url = {"url": f"{address}/wikitext-103-v1.zip", "sha256": digest}
    changed = {"wikitext103": url, "wikipedia": {"repository": "rehearsal/wikipedia"}}
    return {name: whole[name] | entry | {"words": words[name]} for name, entry in changed.items()}


def numbers(value: Any, key: str = "") -> Iterator[str]:
    """The keys of all numbers of a study."""
    if isinstance(value, dict):
        for name, entry in value.items():
            yield from numbers(entry, name)
    elif isinstance(value, list):
        for entry in value:
            yield from numbers(entry, key)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield key
