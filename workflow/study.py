"""A study's configuration: checked in one pass, then turned into the runs that its outputs need.

Nothing here imports the library, so a dry run works on a login node without torch.
`python workflow/study.py config/mine.yaml` checks a file alone.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from checking import LONGEST, StudyError, check, read
from limits import check_sizes
from references import check_references, check_rows, named

SPLITS = ("dev", "test")
MAIN_KEYTYPE = "ffn_input_ln"
LAYER_KEYTYPES = ("mhsa_input", "mhsa_input_ln", "ffn_input", "ffn_input_ln", "output", "output_ln")
OTHER_KEYTYPES = tuple(k + s for s in ("", "-second_last") for k in LAYER_KEYTYPES if k + s != MAIN_KEYTYPE)


def load(config: dict, configfiles: Iterable[str | Path] = ()) -> dict:
    """Check a study and fill in its defaults; raises StudyError. Returns the study with its sheet loaded.

    The files that Snakemake merged into `config` are read again: of a key that occurs twice it keeps the last.
    """
    for path in configfiles:
        read(path)
    check(config, "study.schema.yaml", f"study {' '.join(str(config.get('study', '?')).split())[:LONGEST]}")
    study = config | {key: os.path.normpath(config[key]) for key in ("results", "downloads")}
    catalogue, sheet = read(study["archives"], "archives"), read(study["experiments"], "experiments")
    check(catalogue, "archives.schema.yaml", study["archives"])
    check(sheet, "sheet.schema.yaml", study["experiments"])
    check_references(study, catalogue)
    study["sheet"] = {
        output: [
            complete_row(study, row, f"{study['experiments']}: {output}[{number}]") for number, row in enumerate(rows)
        ]
        for output, rows in sheet.items()
    }
    for output, rows in study["sheet"].items():
        check_rows(study, output, rows)
    check_sizes(study)
    for output, rows in study["sheet"].items():  # a smaller study keeps fewer neighbors than the sheet asks for
        study["sheet"][output] = [row for row in rows if not row["datastore"] or row["k"] <= study["retrieval"]["k"]]
        if not study["sheet"][output]:
            raise StudyError(
                f"retrieval.k: found {study['retrieval']['k']}, every row of {output} asks for more; raise it"
            )
    return study


def complete_row(study: dict, row: dict, where: str) -> dict:
    """Fill in what a row of the sheet leaves to the study; every row then has the same keys."""
    row = {"cache": False, "ngram": None, "memorizing": None, "datastore": None, "fraction": 1, "seeds": "first", **row}
    model = named(study, "models", row["model"], f"{where}.model")
    row.setdefault("corpus", model["corpus"])
    row["seeds"] = model["seeds"] if row["seeds"] == "all" else model["seeds"][:1]
    row["vocab"] = model["vocab"]
    if row["datastore"]:
        datastore = named(study, "datastores", row["datastore"], f"{where}.datastore")
        row.setdefault("keytype", MAIN_KEYTYPE)
        row.setdefault("index", study["retrieval"]["index"])
        row.setdefault("distance", datastore["distance"])
        row.setdefault("k", study["retrieval"]["k"])
        row.setdefault("temperature", 1)
        row["of"] = datastore["shards"]
        row["shards"] = max(1, round(row["fraction"] * row["of"]))
        for key in ("name", "label"):
            row[key] = row[key].replace("{m}", str(row["shards"])).replace("{n}", str(row["of"]))
    return row


def rows(study: dict) -> Iterator[dict]:
    for output in study["sheet"].values():
        yield from output


def scores_needed(study: dict, **where: object) -> list[list]:
    """All [distance, k, temperature] that the sheet wants from one set of neighbors."""
    found = {
        (row["distance"], row["k"], row["temperature"])
        for row in rows(study)
        if row["datastore"] and all(row[key] == value for key, value in where.items())
    }
    return [list(score) for score in sorted(found)]


if __name__ == "__main__":
    try:
        for path in sys.argv[1:]:
            load(read(path))
    except StudyError as error:
        sys.exit(f"error: {error}")
