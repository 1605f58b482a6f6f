"""A study's configuration: checked in one pass, then turned into the runs that its outputs need.

Nothing here imports the library, so a dry run works on a login node without torch.
"""

import difflib
import json
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import yaml

SCHEMAS = Path(__file__).parent / "schemas"
SPLITS = ("dev", "test")
MAIN_KEYTYPE = "ffn_input_ln"
LAYER_KEYTYPES = ("mhsa_input", "mhsa_input_ln", "ffn_input", "ffn_input_ln", "output", "output_ln")
OTHER_KEYTYPES = tuple(k + s for s in ("", "-second_last") for k in LAYER_KEYTYPES if k + s != MAIN_KEYTYPE)


class StudyError(Exception):
    """A mistake in a configuration file: one line that names the key, what was found and what is allowed."""


def load(config: dict) -> dict:
    """Check a study and fill in its defaults; raises StudyError. Returns the study with its sheet loaded."""
    check(config, "study.schema.yaml", f"study {config.get('study', '?')}")
    sheet_path = Path(config["experiments"])
    if not sheet_path.is_file():
        raise StudyError(f"experiments: {sheet_path} is not a file; the paper's sheet is config/experiments/paper.yaml")
    sheet = yaml.safe_load(sheet_path.read_text())
    check(sheet, "sheet.schema.yaml", str(sheet_path))
    study = dict(config)
    study["sheet"] = {
        output: [complete_row(study, row, f"{sheet_path}: {output}[{number}]") for number, row in enumerate(rows)]
        for output, rows in sheet.items()
    }
    check_references(study)
    for output, rows in study["sheet"].items():  # a smaller study keeps fewer neighbors than the sheet asks for
        study["sheet"][output] = [row for row in rows if not row["datastore"] or row["k"] <= study["retrieval"]["k"]]
    return study


def check(value: dict, schema_name: str, where: str) -> None:
    """Validate against a schema and fill in defaults; the most telling violation becomes a StudyError."""
    schema = yaml.safe_load((SCHEMAS / schema_name).read_text())
    validator = _with_defaults(jsonschema.Draft202012Validator)(schema)
    error = jsonschema.exceptions.best_match(validator.iter_errors(value))
    if error is not None:
        raise StudyError(f"{where}: {_explain(error)}")


def _with_defaults(base: type) -> type:
    properties = base.VALIDATORS["properties"]

    def fill(validator, schema, instance, parent) -> Iterator:
        if validator.is_type(instance, "object"):
            for name, child in schema.items():
                if "default" in child:
                    instance.setdefault(name, json.loads(json.dumps(child["default"])))
        yield from properties(validator, schema, instance, parent)

    return jsonschema.validators.extend(base, {"properties": fill})


def _explain(error: jsonschema.ValidationError) -> str:
    key = ".".join(str(part) for part in error.absolute_path) or "top level"
    if error.validator == "additionalProperties":
        allowed = sorted(error.schema.get("properties", {}))
        unknown = sorted(set(error.instance) - set(allowed))[0]
        return f"{key}: unknown key {unknown!r}{nearest(unknown, allowed)}"
    if error.validator == "enum":
        return f"{key}: found {error.instance!r}{nearest(str(error.instance), [str(v) for v in error.validator_value])}"
    if error.validator == "required":
        missing = [name for name in error.validator_value if name not in error.instance]
        return f"{key}: key {missing[0]!r} is missing"
    return f"{key}: {error.message}"


def nearest(found: str, allowed: list[str]) -> str:
    close = difflib.get_close_matches(found, allowed, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"; {hint}allowed: {', '.join(allowed)}"


def complete_row(study: dict, row: dict, where: str) -> dict:
    """Fill in what a row of the sheet leaves to the study; every row then has the same keys."""
    row = {"cache": False, "ngram": None, "memorizing": None, "datastore": None, "seeds": "first", **row}
    model = _named(study, "models", row["model"], f"{where}.model")
    row.setdefault("corpus", model["corpus"])
    row["seeds"] = model["seeds"] if row["seeds"] == "all" else model["seeds"][:1]
    row["vocab"] = model["vocab"]
    if row["datastore"]:
        datastore = _named(study, "datastores", row["datastore"], f"{where}.datastore")
        row.setdefault("keytype", MAIN_KEYTYPE)
        row.setdefault("index", study["retrieval"]["index"])
        row.setdefault("distance", datastore["distance"])
        row.setdefault("k", study["retrieval"]["k"])
        row.setdefault("temperature", 1)
        row["of"] = datastore["shards"]
        row["shards"] = max(1, round(row.pop("fraction", 1) * row["of"]))
        row["name"] = row["name"].format(m=row["shards"], n=row["of"])
        row["label"] = row["label"].format(m=row["shards"], n=row["of"])
    return row


def check_references(study: dict) -> None:
    """Every name that the study and its sheet use must exist, and vocabularies must agree."""
    for name, corpus in study["corpora"].items():
        parent = corpus.get("subset_of")
        if parent and "subset_of" in _named(study, "corpora", parent, f"corpora.{name}.subset_of"):
            raise StudyError(f"corpora.{name}.subset_of: {parent} is itself a subset; name its parent")
    for name, vocab in study["vocabs"].items():
        for corpus in vocab["corpora"]:
            _named(study, "corpora", corpus, f"vocabs.{name}.corpora")
    for name, model in study["models"].items():
        _named(study, "corpora", model["corpus"], f"models.{name}.corpus")
        vocab = _named(study, "vocabs", model["vocab"], f"models.{name}.vocab")
        if "checkpoint" in model:
            check_checkpoint(f"models.{name}", model, vocab)
    for name in study["datastores"]:
        _named(study, "corpora", name, f"datastores.{name}")
    _named(study, "indexes", study["retrieval"]["index"], "retrieval.index")
    for output, rows in study["sheet"].items():
        names = [row["name"] for row in rows]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise StudyError(f"{study['experiments']}: {output}: two rows are named {repeated[0]!r}")
        for row in rows:
            where = f"{study['experiments']}: {output}.{row['name']}"
            _named(study, "corpora", row["corpus"], f"{where}.corpus")
            if row["datastore"]:
                _named(study, "indexes", row["index"], f"{where}.index")
                metric, distance = study["indexes"][row["index"]]["metric"], row["distance"]
                if metric == "ip" and distance == "quantized_sqrt":
                    raise StudyError(f"{where}.distance: 'quantized_sqrt' has no meaning for an inner-product index")
                if distance == "exact" and not study["datastores"][row["datastore"]]["store_keys"]:
                    raise StudyError(
                        f"{where}.distance: 'exact' needs keys; set datastores.{row['datastore']}.store_keys"
                    )
            if row["memorizing"]:
                other = _named(study, "models", row["memorizing"], f"{where}.memorizing")
                if other["vocab"] != row["vocab"]:
                    raise StudyError(
                        f"{where}.memorizing: vocabulary {other['vocab']!r}, the row's model has {row['vocab']!r}"
                    )
            if row["ngram"] and row["ngram"] not in study["ngram"]["orders"]:
                raise StudyError(
                    f"{where}.ngram: order {row['ngram']} is not among ngram.orders {study['ngram']['orders']}"
                )


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


def _named(study: dict, section: str, name: str, where: str) -> dict:
    if name not in study[section]:
        raise StudyError(f"{where}: {section} has no {name!r}{nearest(name, list(study[section]))}")
    return study[section][name]


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
