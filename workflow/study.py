"""A study's configuration: checked in one pass, then turned into the runs that its outputs need.

`python workflow/study.py config/mine.yaml` checks a file alone. `python workflow/study.py --schemas` writes what is
generated from the settings: workflow/schemas, by which an editor can check these files, and config/README.md's tables.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pretrained
from checking import StudyError, check, read
from references import check_retrieval, check_rows, check_study, named

from knnlm.settings import HELD_OUT, MAIN_KEYTYPE, OTHER_KEYTYPES, REPORTED, Archive, Catalogue, Row, Sheet, Study


def load(config: dict, configfiles: Iterable[str | Path] = ()) -> dict:
    """Check a study and fill in its defaults; raises StudyError. Returns the study with its sheet loaded.

    The files that Snakemake merged into `config` are read again: of a key that occurs twice it keeps the last.
    """
    for path in configfiles:
        read(path)
    study = check(Study, config, f"study {' '.join(str(config.get('study', '?')).split())[:80]}")
    files = {key: read(getattr(study, key), key) for key in ("archives", "experiments")}
    catalogue = check(Catalogue, files["archives"], study.archives, f"{study.archives}: ").root
    sheet = check(Sheet, files["experiments"], study.experiments, f"{study.experiments}: ").root
    check_study(study, catalogue)
    drawn = [output for output in sheet if output.startswith("figure") and study.paper is None]
    if drawn:
        raise StudyError(
            f"paper: found null, but {drawn[0]} of {study.experiments} is drawn beside the paper's numbers; leave "
            "it out of the sheet, or `paper` out of the study"
        )
    completed = {
        output: [
            complete_row(study, row, f"{study.experiments}: {output}[{number}]") | {"splits": list(REPORTED[output])}
            for number, row in enumerate(rows)
        ]
        for output, rows in sheet.items()
    }
    for output, complete in completed.items():
        check_rows(study, output, complete)
    check_retrieval(study, (row for complete in completed.values() for row in complete), catalogue)
    kept = {name: kept_rows(study, name, complete) for name, complete in completed.items()}
    return as_dict(study, catalogue) | {"sheet": kept}


def complete_row(study: Study, given: Row, where: str) -> dict:
    """Fill in what a row of the sheet leaves to the study; every row then has the same keys."""
    row: dict[str, Any] = {
        "cache": False,
        "ngram": None,
        "memorizing": None,
        "datastore": None,
        "fraction": 1,
        "seeds": "first",
    }
    row |= given.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    model = named("models", study.models, row["model"], f"{where}.model")
    row.setdefault("corpus", model.corpus)
    row["seeds"] = list(model.seeds if row["seeds"] == "all" else model.seeds[:1])
    row["vocab"] = model.vocab
    if row["datastore"]:
        datastore = named("datastores", study.datastores, row["datastore"], f"{where}.datastore")
        row.setdefault("keytype", MAIN_KEYTYPE)
        row.setdefault("index", study.index)
        row.setdefault("distance", datastore.distance)
        row.setdefault("k", study.retrieval.k)
        row.setdefault("temperature", 1)
        row["of"] = datastore.shards
        row["shards"] = max(1, round(row["fraction"] * row["of"]))
        for key in ("name", "label"):
            row[key] = row[key].replace("{m}", str(row["shards"])).replace("{n}", str(row["of"]))
    return row


def kept_rows(study: Study, output: str, rows: list[dict]) -> list[dict]:
    """The rows that a study can fill: a smaller one keeps fewer neighbors than some rows of the sheet ask for."""
    kept = [row for row in rows if not row["datastore"] or row["k"] <= study.retrieval.k]
    if not kept:
        raise StudyError(f"retrieval.k: found {study.retrieval.k}, every row of {output} asks for more; raise it")
    return kept


def as_dict(study: Study, catalogue: Mapping[str, Archive]) -> dict:
    """The study as nested dicts, which the rules read.

    Settings that a command reads whole hold only what was written: the command knows the defaults itself, and a new
    one then reruns nothing. Of a pretrained model, `origin` of its vocabulary and `pretrained` hold what the catalogue
    says of it too, and `training` is there only where it is trained on.
    """
    whole = study.model_dump(mode="json")
    whole["retrieval"]["index"] = study.index
    written = study.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    for name, model in whole["models"].items():
        model |= {key: written["models"][name].get(key, {}) for key in ("architecture", "training")}
        if model["checkpoint"] is None:
            del model["checkpoint"]
        if (entry := study.models[name].pretrained) is None:
            del model["pretrained"]
            continue
        sizes = pretrained.sizes(entry, catalogue)
        model["pretrained"] |= pretrained.facts(study, entry, catalogue)
        model["pretrained"]["sizes"] = sizes and sizes.model_dump()
        if not study.models[name].is_trained:
            del model["training"]
    for name, vocab in study.vocabs.items():
        if vocab.type == "pretrained":
            written["vocabs"][name]["origin"] = pretrained.facts(study, vocab, catalogue)
    return whole | {key: written[key] for key in ("corpora", "vocabs")}


def rows(study: dict) -> Iterator[dict]:
    for output in study["sheet"].values():
        yield from output


def temperatures(study: dict, row: dict) -> list[float]:
    """The temperatures that a row with a datastore is scored at: its own, or all that it chooses from."""
    return study["retrieval"]["temperatures"] if row["temperature"] == "tune" else [row["temperature"]]


def example(study: dict) -> dict | None:
    """The row that examples and explorer show, if the sheet has it."""
    return next((row for row in study["sheet"].get("table1", []) if row["name"] == "knn"), None)


def other_keytypes(study: dict) -> list[str]:
    """The key types of the sheet's rows but the main one."""
    asked = {row["keytype"] for row in rows(study) if row["datastore"]}
    return [keytype for keytype in OTHER_KEYTYPES if keytype in asked]


def searched_with(study: dict, datastore: str) -> list[str]:
    """The indexes that the sheet's rows search a datastore with."""
    return sorted({row["index"] for row in rows(study) if row["datastore"] == datastore})


def largest_sample(study: dict, datastore: str) -> int:
    """The most keys that one of these indexes is trained on."""
    return max(study["indexes"][name]["sample"] for name in searched_with(study, datastore))


def scores_needed(study: dict, split: str, **where: object) -> list[list]:
    """All [distance, k, temperature] that the sheet wants from one set of neighbors of a split."""
    found = {
        (row["distance"], row["k"], temperature)
        for row in rows(study)
        if row["datastore"] and split in row["splits"] and all(row[key] == value for key, value in where.items())
        for temperature in temperatures(study, row)
    }
    return [list(score) for score in sorted(found)]


def used_by(row: dict) -> list[dict]:
    """The wildcards of the jobs that a row is made by, of each of its language models."""
    models = [row["model"], *([row["memorizing"]] if row["memorizing"] else [])]
    jobs: list[dict] = [{"model": model, "corpus": row["corpus"]} for model in models]
    if row["datastore"]:
        jobs[0] |= {key: row[key] for key in ("datastore", "keytype", "index")}
        jobs[0] |= {"first": str(row["shards"]), "shards": str(row["of"])}
    return jobs


def splits_wanted(study: dict, wildcards: Mapping) -> list[str]:
    """Dev and, if an output shows test of what these wildcards stand for, test."""
    given = dict(wildcards)
    for row in rows(study):
        for job in used_by(row) if "test" in row["splits"] else []:
            asked = given.keys() & {"model", "corpus", "datastore", "keytype", "index", "first", "shards"}
            if all(job.get(key) == str(given[key]) for key in asked):
                return list(HELD_OUT)
    return ["dev"]


if __name__ == "__main__":
    if sys.argv[1:] == ["--schemas"]:
        import generated

        generated.write()
        sys.exit()
    try:
        for path in sys.argv[1:]:
            load(read(path))
    except StudyError as error:
        sys.exit(f"error: {error}")
