"""Sizes that cannot be: what the numbers of a study's parts ask of each other. The library asks the same, but later."""

import math
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from checking import StudyError
from references import TEXT_FOLDERS

ARCHITECTURE = {"layers": 16, "dim": 1024, "ffn_dim": 4096, "heads": 16, "adaptive_factor": 4}  # the library's defaults
RECIPE = {"lr": 1.0, "min_lr": 1e-4, "warmup": 16000, "updates": 286000}
RECIPE |= {"tokens_per_update": 73728, "tokens_per_batch": 3072, "block": 3072}
SPECIAL_WORDS, PADDED_TO = 4, 8  # of a word vocabulary
MOST_TOKENS_PER_WORD = 20  # a text without spaces has long words
OVERSHOOT = 1.1  # of a split filled with whole documents


def check_sizes(study: dict) -> None:
    """Of corpora, models, indexes, and of the datastores that the sheet searches; raises StudyError."""
    for name, corpus in study["corpora"].items():
        check_split_sizes(study, name, corpus)
    for name, model in study["models"].items():
        if "checkpoint" not in model:
            check_architecture(study, f"models.{name}", model)
            check_recipe(f"models.{name}", model)
        check_windows(study, f"models.{name}", model)
    for name, index in study["indexes"].items():
        check_index(f"indexes.{name}", index)
    for rows in study["sheet"].values():
        for row in rows:
            if row["datastore"]:
                check_retrieval(study, row)


def check_split_sizes(study: dict, name: str, corpus: dict) -> None:
    held_out, most = sum(corpus.get(f"{split}_words", 0) for split in ("dev", "test")), most_bytes(study, name) / 2
    if held_out >= most:
        key = "dev_words" if "dev_words" in corpus else "test_words"
        raise StudyError(
            f"corpora.{name}.{key}: dev and test ask for {held_out:,} words, the sources have at most {most:,.0f}; "
            "lower dev_words and test_words"
        )


def check_architecture(study: dict, where: str, model: dict) -> None:
    a = ARCHITECTURE | model["architecture"]
    cutoffs, where = a.get("adaptive_cutoffs", []), f"{where}.architecture"
    if a["dim"] % a["heads"]:
        raise StudyError(f"{where}.heads: found {a['heads']}, dim is {a['dim']}; allowed: a divisor of dim")
    if any(high - low < 2 for low, high in zip([0, *cutoffs], cutoffs, strict=False)):
        raise StudyError(f"{where}.adaptive_cutoffs: found {cutoffs}; allowed: rising numbers")
    if cutoffs and (most := vocab_size(study, model["vocab"])) - cutoffs[-1] < 2:
        raise StudyError(
            f"{where}.adaptive_cutoffs: found {cutoffs}, vocabs.{model['vocab']} has at most {most:,} words; "
            "allowed: cutoffs below"
        )
    if a["adaptive_factor"] ** len(cutoffs) > a["dim"]:
        raise StudyError(
            f"{where}.adaptive_factor: found {a['adaptive_factor']}: dim {a['dim']} divided by it {len(cutoffs)} times "
            "is below 1; lower it or take fewer adaptive_cutoffs"
        )


def check_recipe(where: str, model: dict) -> None:
    recipe = RECIPE | model["training"]
    for large, small in (("tokens_per_update", "tokens_per_batch"), ("tokens_per_batch", "block")):
        if recipe[large] % recipe[small]:
            raise StudyError(
                f"{where}.training.{large}: found {recipe[large]}, {small} is {recipe[small]}; "
                f"allowed: a multiple of {small}"
            )
    for small, large in (("warmup", "updates"), ("min_lr", "lr")):
        if recipe[small] > recipe[large]:
            raise StudyError(
                f"{where}.training.{small}: found {recipe[small]}, {large} is {recipe[large]}; allowed: at most {large}"
            )


def check_windows(study: dict, where: str, model: dict) -> None:
    lengths = {kind: window["new"] + window["context"] for kind, window in model["windows"].items()}
    for kind, length in lengths.items():
        block = (RECIPE | model["training"])["block"]
        if "checkpoint" not in model and length > block:
            raise StudyError(
                f"{where}.windows.{kind}: found {length} tokens (new + context), training.block is {block}: positions "
                "beyond it are never trained; allowed: at most block"
            )
        if length > model["batch_tokens"]:
            raise StudyError(
                f"{where}.batch_tokens: found {model['batch_tokens']}, a window of windows.{kind} has {length} tokens; "
                "allowed: at least one window"
            )


def check_index(where: str, index: dict) -> None:
    factory, lists, (_, bits) = index["factory"], lists_of(index["factory"]), codes_of(index["factory"])
    if lists and index["nprobe"] > lists:
        raise StudyError(
            f"{where}.nprobe: found {index['nprobe']}, factory {factory} has {lists} lists; allowed: at most {lists}"
        )
    if index["sample"] < (needed := max(lists, 1 << bits)):
        raise StudyError(
            f"{where}.sample: found {index['sample']}, factory {factory} has {needed:,} centroids to train; "
            f"allowed: at least {needed}"
        )


def check_retrieval(study: dict, row: dict) -> None:
    """A row's model, datastore and index: keys that the factory can cut, layers to take them from, enough entries."""
    model, factory = study["models"][row["model"]], study["indexes"][row["index"]]["factory"]
    if "checkpoint" not in model:
        a = ARCHITECTURE | model["architecture"]
        dim, (sub, _) = keys_of(factory, a["dim"]), codes_of(factory)
        if dim % (sub or 1):
            raise StudyError(
                f"indexes.{row['index']}.factory: found {factory!r}, whose {sub} sub-quantisers do not divide the "
                f"{dim} dimensions of the keys of models.{row['model']}; allowed: a divisor of {dim}"
            )
        if row["keytype"].endswith("-second_last") and a["layers"] < 2:
            raise StudyError(
                f"models.{row['model']}.architecture.layers: found {a['layers']}, {study['experiments']} asks for "
                f"{row['keytype']}; allowed: at least 2"
            )
    corpus, shards, context = row["datastore"], row["of"], model["windows"]["datastore"]["context"]
    tokens = most_tokens(study, model["vocab"], corpus)
    entries = max(0, tokens - context) / shards if tokens < math.inf else math.inf
    for key, needed in (
        ("retrieval.k", study["retrieval"]["k"]),
        (f"indexes.{row['index']}.factory", lists_of(factory)),
    ):
        if needed > entries:
            raise StudyError(
                f"{key}: needs {needed:,} entries, each of the {shards} shards of datastores.{corpus} can hold at most "
                f"{entries:,.0f} (after {context} tokens of context); allowed: at most so many"
            )


def lists_of(factory: str) -> int:
    """Inverted lists, 0 where there are none."""
    found = re.search(r"IVF(\d+)", factory)
    return int(found[1]) if found else 0


def codes_of(factory: str) -> tuple[int, int]:
    """Sub-quantisers of a product quantiser and bits of each, (0, 0) where there is none."""
    found = re.search(r"(?<!O)PQ(\d+)(?:x(\d+))?", factory)
    return (int(found[1]), int(found[2] or 8)) if found else (0, 0)


def keys_of(factory: str, dim: int) -> int:
    """Dimensions that are left by what stands before the lists."""
    found = re.match(r"OPQ\d+_(\d+)|(?:PCAR?|RR)(\d+)", factory)
    return int(found[1] or found[2]) if found else dim


def vocab_size(study: Mapping, name: str) -> float:
    """The most words that a vocabulary can have."""
    vocab = study["vocabs"][name]
    if vocab["type"] == "sentencepiece":
        return vocab.get("size", math.inf)
    if "file" in vocab:
        lines = Path(vocab["file"]).read_bytes().count(b"\n")
        return lines + (SPECIAL_WORDS if vocab["type"] == "word" else 0)
    most = vocab.get("max_size") or math.inf
    return math.ceil((SPECIAL_WORDS + most) / PADDED_TO) * PADDED_TO if most < math.inf else most


def most_tokens(study: Mapping, vocab: str, corpus: str) -> float:
    """An upper bound on the training tokens of a corpus, infinite where nothing is known."""
    train_words = source_of(study, corpus).get("train_words") or math.inf
    return OVERSHOOT * min(most_bytes(study, corpus), MOST_TOKENS_PER_WORD * train_words)


def most_bytes(study: Mapping, corpus: str) -> float:
    """Of a corpus read from folders, infinite where it comes from an archive or is not there yet."""
    sources = source_of(study, corpus)["sources"]
    return sum(folder_bytes(source["path"]) if source["kind"] in TEXT_FOLDERS else math.inf for source in sources)


def source_of(study: Mapping, corpus: str) -> Mapping:
    """The corpus itself, or the one that it is a part of."""
    entry = study["corpora"][corpus]
    return study["corpora"][entry["subset_of"]] if "subset_of" in entry else entry


@cache
def folder_bytes(path: str) -> float:
    if not Path(path).is_dir():
        return math.inf
    return sum(file.stat().st_size for file in Path(path).rglob("*.txt"))
