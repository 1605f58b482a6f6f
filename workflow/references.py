"""What one part of a study says of another: names exist, files are there, no two keys contradict each other."""

import os
from collections.abc import Mapping
from pathlib import Path

from checking import StudyError, beside, nearest

TEXT_FOLDERS = ("folder", "books_folder")  # kinds of source
OWN_SPLITS = ("train", "dev", "test")  # subfolders of a folder of text that comes with its own splits


def named(study: Mapping, section: str, name: str, where: str) -> dict:
    if name not in study[section]:
        raise StudyError(f"{where}: {section} has no {name!r}{nearest(name, list(study[section]))}")
    return study[section][name]


def check_references(study: dict, catalogue: Mapping) -> None:
    """Of everything but the experiment sheet; raises StudyError."""
    for name, corpus in study["corpora"].items():
        check_corpus(study, catalogue, name, corpus)
    for name, vocab in study["vocabs"].items():
        for corpus in vocab["corpora"]:
            named(study, "corpora", corpus, f"vocabs.{name}.corpora")
        check_file(f"vocabs.{name}.file", vocab.get("file"))
    for name, model in study["models"].items():
        named(study, "corpora", model["corpus"], f"models.{name}.corpus")
        vocab = named(study, "vocabs", model["vocab"], f"models.{name}.vocab")
        if "checkpoint" in model:
            check_checkpoint(f"models.{name}", model, vocab)
    for name in study["datastores"]:
        named(study, "corpora", name, f"datastores.{name}")
    named(study, "indexes", study["retrieval"]["index"], "retrieval.index")
    check_folders(study)


def check_corpus(study: dict, catalogue: Mapping, name: str, corpus: dict) -> None:
    """A subset of a corpus that is none itself, or sources that can be read and split."""
    where = f"corpora.{name}"
    if parent := corpus.get("subset_of"):
        if parent == name:
            raise StudyError(f"{where}.subset_of: {name} is its own parent; name another corpus")
        if "subset_of" in named(study, "corpora", parent, f"{where}.subset_of"):
            raise StudyError(f"{where}.subset_of: {parent} is itself a subset; name its parent")
        return
    if both := sorted(set(corpus.get("dev_titles", ())) & set(corpus.get("test_titles", ()))):
        raise StudyError(f"{where}.test_titles: {both[0]!r} is in dev_titles too; keep one")
    split = []
    for number, source in enumerate(corpus["sources"]):
        check_source(catalogue, source, f"{where}.sources[{number}]")
        split.append(has_splits(source))
    asked = [f"{part}_{how}" for part in ("dev", "test") for how in ("words", "titles") if f"{part}_{how}" in corpus]
    if any(split) and not all(split):
        own = split.index(True)
        raise StudyError(f"{where}.sources: [{own}] comes with its own splits, another does not; use two corpora")
    if any(split) and asked:
        raise StudyError(f"{where}.{asked[0]}: the source comes with its own dev and test; leave {asked[0]} out")
    if not any(split) and all(source_is_there(source) for source in corpus["sources"]):
        for part in ("dev", "test"):
            if not any(key.startswith(part) for key in asked):
                raise StudyError(f"{where}: needs {part}_words or {part}_titles: its sources come without splits")


def check_source(catalogue: Mapping, source: dict, where: str) -> None:
    """An archive of the catalogue that its kind reads, or a path of the right sort where there is something."""
    if archive := source.get("archive"):
        if archive not in catalogue:
            raise StudyError(f"{where}.archive: the catalogue has no {archive!r}{nearest(archive, list(catalogue))}")
        read_as = catalogue[archive].get("read_as", source["kind"])
        if read_as != source["kind"]:
            raise StudyError(f"{where}.kind: found {source['kind']!r}; archive {archive} is read as {read_as!r}")
        return
    path, wants_folder = Path(source["path"]), source["kind"] in (*TEXT_FOLDERS, "huggingface_parquet")
    if path.exists() and path.is_dir() != wants_folder:
        expected = "folder" if wants_folder else "file"
        raise StudyError(f"{where}.path: {path} is not a {expected}; kind {source['kind']} reads a {expected}")


def source_is_there(source: Mapping) -> bool:
    return "archive" in source or Path(source["path"]).exists()


def has_splits(source: Mapping) -> bool:
    """Whether a source says which of its documents are train, dev and test."""
    if source["kind"] in TEXT_FOLDERS:
        return all((Path(source["path"]) / split).is_dir() for split in OWN_SPLITS)
    return source["kind"] == "wikitext103"


def check_file(where: str, path: str | None) -> None:
    if path and not Path(path).is_file():
        raise StudyError(f"{where}: {path} is not a file{beside(path)}")


def check_checkpoint(where: str, model: dict, vocab: dict) -> None:
    """A model that is imported is told nothing that its checkpoint tells, and shares its dictionary."""
    for key in ("architecture", "training"):
        if model[key]:
            raise StudyError(f"{where}.{key}: {where}.checkpoint has its own; keep one of the two")
    if len(model["seeds"]) > 1:
        raise StudyError(f"{where}.seeds: found {model['seeds']}, a checkpoint is one training run; name one seed")
    if vocab["type"] != "word" or "file" not in vocab:
        raise StudyError(
            f"{where}.vocab: a checkpoint needs `{{type: word, file: dict.txt}}`, the dictionary published with it"
        )
    check_file(f"{where}.checkpoint", model["checkpoint"])


def check_folders(study: dict) -> None:
    """Results can be written, and downloads where an archive is not there yet."""
    needed = {
        source["archive"]
        for corpus in study["corpora"].values()
        for source in corpus.get("sources", ())
        if "archive" in source
    }
    downloads = Path(study["downloads"])
    missing = sorted(name for name in needed if not (downloads / name).exists())
    for key, path in (("results", Path(study["results"]) / study["study"]), ("downloads", downloads)):
        there = next(folder for folder in (path, *path.parents) if folder.exists())
        if not there.is_dir():
            raise StudyError(f"{key}: {there} is not a folder; name a folder, there or not")
        if not os.access(there, os.W_OK | os.X_OK, effective_ids=True) and (key == "results" or missing):
            lacks = f" and lacks {missing[0]}" if key == "downloads" else ""
            raise StudyError(f"{key}: {there} cannot be written{lacks}; name a folder that can")


def check_row(study: dict, row: dict, where: str) -> None:
    """The names and the mixture of one row of the sheet."""
    named(study, "corpora", row["corpus"], f"{where}.corpus")
    if row["datastore"]:
        named(study, "indexes", row["index"], f"{where}.index")
        metric, distance = study["indexes"][row["index"]]["metric"], row["distance"]
        if metric == "ip" and distance == "quantized_sqrt":
            raise StudyError(f"{where}.distance: 'quantized_sqrt' has no meaning for an inner-product index")
        if distance == "exact" and not study["datastores"][row["datastore"]]["store_keys"]:
            raise StudyError(f"{where}.distance: 'exact' needs keys; set datastores.{row['datastore']}.store_keys")
    if row["memorizing"]:
        other = named(study, "models", row["memorizing"], f"{where}.memorizing")
        if other["vocab"] != row["vocab"]:
            raise StudyError(f"{where}.memorizing: vocabulary {other['vocab']!r}, the row's model has {row['vocab']!r}")
    if row["ngram"] and row["ngram"] not in study["ngram"]["orders"]:
        raise StudyError(f"{where}.ngram: order {row['ngram']} is not among ngram.orders {study['ngram']['orders']}")


def check_rows(study: dict, output: str, rows: list[dict]) -> None:
    """Each row of an output, and that they can be told apart."""
    where = f"{study['experiments']}: {output}"
    names = [row["name"] for row in rows]
    for row in rows:
        if names.count(row["name"]) > 1:
            if any(other["fraction"] < 1 for other in rows if other["name"] == row["name"]):
                raise StudyError(
                    f"datastores.{row['datastore']}.shards: found {row['of']}, too few for the fractions of {where}: "
                    f"two rows use the same {row['shards']}; take more shards"
                )
            raise StudyError(f"{where}: two rows are named {row['name']!r}")
        check_row(study, row, f"{where}.{row['name']}")
    if output == "table1" and not all(row["datastore"] for row in rows if row["name"] == "knn"):
        raise StudyError(f"{where}.knn: no datastore; the examples and the explorer show this row, name one")
