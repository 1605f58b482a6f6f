"""What one part of a study says of another: names exist, files are there, and sizes allow what is asked."""

import math
import os
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TypeVar

import pretrained
from checking import StudyError, beside

from knnlm.settings import (
    HELD_OUT,
    LANGUAGE_MODEL,
    PADDED_TO,
    SECOND_LAST,
    SPECIAL_TOKENS,
    SPLITS,
    TEXT_FILES,
    TEXT_FOLDERS,
    Archive,
    Corpus,
    Model,
    Pretrained,
    Source,
    Study,
    Vocab,
    nearest,
)

T = TypeVar("T")
MOST_TOKENS_PER_WORD = 20  # a text without spaces has long words
OVERSHOOT = 1.1  # of a split filled with whole documents


def named(section: str, entries: Mapping[str, T], name: str, where: str) -> T:
    """The entry of that name; StudyError says which names the section has."""
    if name not in entries:
        raise StudyError(f"{where}: {section} has no {name!r}{nearest(name, list(entries))}")
    return entries[name]


def check_study(study: Study, catalogue: Mapping[str, Archive]) -> None:
    """Check everything but the experiment sheet; raises StudyError."""
    for name, corpus in study.corpora.items():
        if corpus.subset_of is None:
            check_sources(f"corpora.{name}", corpus, catalogue)
        else:
            check_subset(study, name, corpus.subset_of)
    for name, vocab in study.vocabs.items():
        for corpus_name in vocab.corpora:
            named("corpora", study.corpora, corpus_name, f"vocabs.{name}.corpora")
        check_file(f"vocabs.{name}.file", vocab.file)
        if vocab.type == "pretrained":
            check_origin(f"vocabs.{name}", vocab, catalogue)
    for name, model in study.models.items():
        named("corpora", study.corpora, model.corpus, f"models.{name}.corpus")
        vocab = named("vocabs", study.vocabs, model.vocab, f"models.{name}.vocab")
        if model.pretrained is not None:
            check_pretrained(f"models.{name}", model, model.pretrained, vocab, catalogue)
        else:
            check_words(f"models.{name}", model, vocab)
    for name in study.datastores:
        named("corpora", study.corpora, name, f"datastores.{name}")
    named("indexes", study.indexes, study.index, "retrieval.index")
    check_file("paper", study.paper)
    check_file("published", study.published)
    check_folders(study)


def check_subset(study: Study, name: str, parent: str) -> None:
    """A subset is a part of a corpus that is no subset itself."""
    where = f"corpora.{name}.subset_of"
    if parent == name:
        raise StudyError(f"{where}: {name} is its own parent; name another corpus")
    if named("corpora", study.corpora, parent, where).subset_of is not None:
        raise StudyError(f"{where}: {parent} is itself a subset; name its parent")


def check_sources(where: str, corpus: Corpus, catalogue: Mapping[str, Archive]) -> None:
    """Sources can be read and split, and are large enough for dev and test."""
    for number, source in enumerate(corpus.sources):
        check_source(f"{where}.sources[{number}]", source, catalogue)
    split = [has_splits(source) for source in corpus.sources]
    keys = (f"{part}_{how}" for part in HELD_OUT for how in ("words", "titles"))
    asked = [key for key in keys if getattr(corpus, key)]
    if any(split) and not all(split):
        own = split.index(True)
        raise StudyError(f"{where}.sources: [{own}] comes with its own splits, another does not; use two corpora")
    if any(split) and asked:
        raise StudyError(f"{where}.{asked[0]}: the source comes with its own dev and test; leave {asked[0]} out")
    held_out, most = corpus.dev_words + corpus.test_words, most_bytes(corpus) / 2
    if held_out >= most:
        raise StudyError(
            f"{where}.{'dev_words' if corpus.dev_words else 'test_words'}: dev and test ask for {held_out:,} words, "
            f"the sources have at most {most:,.0f}; lower dev_words and test_words"
        )


def check_source(where: str, source: Source, catalogue: Mapping[str, Archive]) -> None:
    """An archive of the catalogue that its kind reads, or a path of the right sort where there is something."""
    if source.path is None:
        name = source.archive or ""
        read_as = named("the catalogue", catalogue, name, f"{where}.archive").read_as
        if read_as not in (None, source.kind):
            raise StudyError(f"{where}.kind: found {source.kind!r}; archive {name} is read as {read_as!r}")
        return
    path, wants_folder = Path(source.path), source.kind in (*TEXT_FOLDERS, "huggingface_parquet")
    if path.exists() and path.is_dir() != wants_folder:
        expected = "folder" if wants_folder else "file"
        raise StudyError(f"{where}.path: {path} is not a {expected}; kind {source.kind} reads a {expected}")


def source_is_there(source: Mapping) -> bool:
    """Whether a source, as a study's dict holds it, can be read without filling a folder first."""
    return "archive" in source or Path(source["path"]).exists()


def has_splits(source: Source) -> bool:
    """Whether a source says which of its documents are train, dev and test."""
    if source.kind in TEXT_FOLDERS and source.path is not None:
        return all((Path(source.path) / split).is_dir() for split in SPLITS)
    return source.kind == "wikitext103"


def check_words(where: str, model: Model, vocab: Vocab) -> None:
    """The vocabulary is the checkpoint's, or has the words that the architecture divides."""
    if model.checkpoint is not None:
        if vocab.type != "word" or vocab.file is None:
            raise StudyError(
                f"{where}.vocab: a checkpoint needs `{{type: word, file: dict.txt}}`, the dictionary published with it"
            )
        check_file(f"{where}.checkpoint", model.checkpoint)
        check_file(f"{where}.checkpoint_text", model.checkpoint_text)
    elif not model.architecture.has_room_for_cutoffs(most := most_words(vocab)):
        raise StudyError(
            f"{where}.architecture.adaptive_cutoffs: found {list(model.architecture.adaptive_cutoffs)}, "
            f"vocabs.{model.vocab} has at most {most:,} words; allowed: cutoffs below"
        )


def check_origin(where: str, entry: Pretrained | Vocab, catalogue: Mapping[str, Archive]) -> None:
    """An archive of the catalogue that holds a language model, or a path that is there."""
    if entry.archive is not None:
        read_as = named("the catalogue", catalogue, entry.archive, f"{where}.archive").read_as
        if read_as != LANGUAGE_MODEL:
            raise StudyError(
                f"{where}.archive: found {entry.archive!r}, which is read as {read_as!r}; "
                f"allowed: an archive with `read_as: {LANGUAGE_MODEL}`"
            )
    elif not Path(entry.path or "").exists():
        raise StudyError(f"{where}.path: {entry.path} is not there; name the model's folder, .gguf file or wheel")


def check_pretrained(
    where: str, model: Model, entry: Pretrained, vocab: Vocab, catalogue: Mapping[str, Archive]
) -> None:
    """The model is there, its vocabulary is its own, and its windows are no longer than it can read."""
    check_origin(f"{where}.pretrained", entry, catalogue)
    if (vocab.archive, vocab.path) != (entry.archive, entry.path):
        own = f"archive: {entry.archive}" if entry.archive else f"path: {entry.path}"
        raise StudyError(f"{where}.vocab: {model.vocab} is not the model's own; allowed: `{{type: pretrained, {own}}}`")
    sizes = pretrained.sizes(entry, catalogue)
    for kind in ("evaluation", "datastore"):
        length = getattr(model.windows, kind).length
        if sizes and sizes.positions and length > sizes.positions:
            raise StudyError(
                f"{where}.windows.{kind}: found {length} tokens (new + context), the model can read "
                f"{sizes.positions}; allowed: at most so many"
            )
    if model.is_trained and sizes and sizes.positions and model.training.block > sizes.positions:
        raise StudyError(
            f"{where}.training.block: found {model.training.block}, the model can read {sizes.positions} tokens; "
            "allowed: at most so many"
        )


def check_file(where: str, path: str | None) -> None:
    if path is not None and not Path(path).is_file():
        raise StudyError(f"{where}: {path} is not a file{beside(path)}")


def check_folders(study: Study) -> None:
    """Results can be written, and downloads where an archive is not there yet."""
    needed = {source.archive for corpus in study.corpora.values() for source in corpus.sources if source.archive}
    entries = [*study.vocabs.values(), *(model.pretrained for model in study.models.values() if model.pretrained)]
    needed |= {entry.archive for entry in entries if entry.archive}
    downloads = Path(study.downloads)
    missing = sorted(name for name in needed if not (downloads / name).exists())
    for key, path in (("results", Path(study.results) / study.study), ("downloads", downloads)):
        there = next(folder for folder in (path, *path.parents) if folder.exists())
        if not there.is_dir():
            raise StudyError(f"{key}: {there} is not a folder; name a folder, there or not")
        if not os.access(there, os.W_OK | os.X_OK, effective_ids=True) and (key == "results" or missing):
            lacks = f" and lacks {missing[0]}" if key == "downloads" else ""
            raise StudyError(f"{key}: {there} cannot be written{lacks}; name a folder that can")


def check_rows(study: Study, output: str, rows: list[dict]) -> None:
    """Each row of an output, and that their names differ."""
    where = f"{study.experiments}: {output}"
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


def check_row(study: Study, row: dict, where: str) -> None:
    """The names and the mixture of one row of the sheet."""
    named("corpora", study.corpora, row["corpus"], f"{where}.corpus")
    if row["datastore"]:
        metric = named("indexes", study.indexes, row["index"], f"{where}.index").metric
        if metric == "ip" and row["distance"] == "quantized_sqrt":
            raise StudyError(f"{where}.distance: 'quantized_sqrt' has no meaning for an inner-product index")
        if row["distance"] == "exact" and not study.datastores[row["datastore"]].store_keys:
            raise StudyError(f"{where}.distance: 'exact' needs keys; set datastores.{row['datastore']}.store_keys")
    if row["memorizing"]:
        other = named("models", study.models, row["memorizing"], f"{where}.memorizing")
        if other.vocab != row["vocab"]:
            raise StudyError(f"{where}.memorizing: vocabulary {other.vocab!r}, the row's model has {row['vocab']!r}")
    if row["ngram"] not in (None, "infinite", *study.ngram.orders):
        raise StudyError(f"{where}.ngram: order {row['ngram']} is not among ngram.orders {list(study.ngram.orders)}")


def check_retrieval(study: Study, rows: Iterable[dict], catalogue: Mapping[str, Archive]) -> None:
    """The datastore and the index of each row: layers for its keys, keys that can be coded, and enough entries."""
    for row in rows:
        if row["datastore"]:
            check_keys(study, row, catalogue)
            check_entries(study, row)


def check_keys(study: Study, row: dict, catalogue: Mapping[str, Archive]) -> None:
    """The row's model has the layer that its keys come from, and its index's factory can divide them."""
    model, index = study.models[row["model"]], study.indexes[row["index"]]
    if model.checkpoint is not None:
        return
    a = pretrained.sizes(model.pretrained, catalogue) if model.pretrained else model.architecture
    if a is None:
        return
    dim, parts = index.parsed.dimension(a.dim), index.parsed.parts
    if parts and dim % parts:
        raise StudyError(
            f"indexes.{row['index']}.factory: found {index.factory!r}, whose {parts} sub-quantisers do not divide the "
            f"{dim} dimensions of the keys of models.{row['model']}; allowed: a divisor of {dim}"
        )
    if row["keytype"].endswith(SECOND_LAST) and a.layers < 2:
        key = "pretrained.sizes" if model.pretrained else "architecture"
        raise StudyError(
            f"models.{row['model']}.{key}.layers: found {a.layers}, {study.experiments} asks for "
            f"{row['keytype']}; allowed: at least 2"
        )


def check_entries(study: Study, row: dict) -> None:
    """Each shard can hold as many entries as neighbors are kept and lists are trained."""
    corpus, context = row["datastore"], study.models[row["model"]].windows.datastore.context
    entries = max(0, most_tokens(source_of(study, corpus)) - context) / row["of"]
    for key, needed in (
        ("retrieval.k", study.retrieval.k),
        (f"indexes.{row['index']}.factory", study.indexes[row["index"]].parsed.lists),
    ):
        if needed > entries:
            raise StudyError(
                f"{key}: needs {needed:,} entries, each of the {row['of']} shards of datastores.{corpus} can hold at "
                f"most {entries:,.0f} (after {context} tokens of context); allowed: at most so many"
            )


def most_words(vocab: Vocab) -> float:
    """The most words that a vocabulary can have, infinite where the text decides."""
    if vocab.type == "sentencepiece":
        return vocab.size
    if vocab.file is not None:
        lines = Path(vocab.file).read_bytes().count(b"\n")
        return lines + (len(SPECIAL_TOKENS) if vocab.type == "word" else 0)
    if vocab.max_size is None:
        return math.inf
    return math.ceil((len(SPECIAL_TOKENS) + vocab.max_size) / PADDED_TO) * PADDED_TO


def most_tokens(corpus: Corpus) -> float:
    """An upper bound on the training tokens of a corpus, infinite where its size is not known yet."""
    return OVERSHOOT * min(most_bytes(corpus), MOST_TOKENS_PER_WORD * (corpus.train_words or math.inf))


def most_bytes(corpus: Corpus) -> float:
    """The size of a corpus read from folders, infinite where it comes from an archive or is not there yet."""
    return sum(
        folder_bytes(source.path) if source.kind in TEXT_FOLDERS and source.path else math.inf
        for source in corpus.sources
    )


def source_of(study: Study, corpus: str) -> Corpus:
    """The corpus itself, or the one that it is a part of."""
    entry = study.corpora[corpus]
    return study.corpora[entry.subset_of] if entry.subset_of else entry


@cache
def folder_bytes(path: str) -> float:
    if not Path(path).is_dir():
        return math.inf
    files = [file for file in Path(path).rglob("*") if file.suffix.lower() in TEXT_FILES]
    return sum(file.stat().st_size for file in files) or math.inf  # the job that reads them says what is there instead
