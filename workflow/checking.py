"""Configuration files read and checked: what is wrong becomes one line that names the key and what is allowed."""

import difflib
import json
import math
import re
from collections.abc import Collection, Iterator
from pathlib import Path

import jsonschema
import yaml

SCHEMAS = Path(__file__).parent / "schemas"
LONGEST = 80  # characters shown of what was found
TYPES = {"array": "a list", "integer": "a whole number", "object": "a mapping of keys", "string": "text"}
TYPES |= {"boolean": "true or false", "null": "null", "number": "a finite number"}
LIMITS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "multipleOf": "a multiple of {}",
    "minItems": "at least {} in the list",
    "minProperties": "at least {} key",
    "uniqueItems": "each of them once",
}


class StudyError(Exception):
    """A mistake in a configuration file: one line that names the key, what was found and what is allowed."""


class _Loader(yaml.SafeLoader):
    """YAML in which a key occurs once; PyYAML's own loaders take the last of several unseen."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for place, (tag, name) in enumerate(keys):
            if (tag, name) in keys[:place]:
                raise yaml.MarkedYAMLError(
                    problem=f"key {name!r} occurs twice", problem_mark=node.value[place][0].start_mark
                )
        return super().construct_mapping(node, deep)


def read(path: str | Path, key: str = "") -> dict:
    """The mapping in a YAML file; StudyError names the file, and the `key` of the study that names it."""
    where = f"{key}: {path}" if key else str(path)
    try:
        value = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise StudyError(f"{where} is not a file{beside(path)}") from None
    except OSError as error:
        raise StudyError(f"{where} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise StudyError(f"{where}: byte {error.start + 1} is not UTF-8; save the file as UTF-8") from None
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
        line = f"line {mark.line + 1}: " if mark else ""
        raise StudyError(f"{where}: {line}{' '.join(problem.split())}; expected YAML with every key once") from None
    if not isinstance(value, dict):
        raise StudyError(f"{where}: found {shown(value)}, expected {TYPES['object']}")
    return value


def check(value: dict, schema_name: str, where: str) -> None:
    """Validate against a schema and fill in defaults; the most telling violation becomes a StudyError."""
    schema = yaml.safe_load((SCHEMAS / schema_name).read_text(encoding="utf-8"))
    error = jsonschema.exceptions.best_match(_validator()(schema).iter_errors(value))
    if error is not None:
        raise StudyError(f"{where}: {_explain(error)}")


def _validator() -> type:
    """JSON Schema with defaults filled in, patterns for the whole text, finite numbers, and no 3.0 for 3."""
    base = jsonschema.Draft202012Validator
    properties = base.VALIDATORS["properties"]

    def fill(validator, schema, instance, parent) -> Iterator:
        if validator.is_type(instance, "object"):
            for name, child in schema.items():
                if isinstance(child, dict) and "default" in child:
                    instance.setdefault(name, json.loads(json.dumps(child["default"])))
        yield from properties(validator, schema, instance, parent)

    def pattern(validator, expression, instance, parent) -> Iterator:
        if validator.is_type(instance, "string") and not re.fullmatch(expression, instance):
            yield jsonschema.ValidationError(f"does not match {expression}")

    def is_number(_, value) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

    types = base.TYPE_CHECKER.redefine("number", is_number)
    types = types.redefine("integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool))
    return jsonschema.validators.extend(base, {"properties": fill, "pattern": pattern}, type_checker=types)


def _explain(error: jsonschema.ValidationError) -> str:
    key, rule, found, schema = _key(error.absolute_path), error.validator, error.instance, error.schema
    if rule == "additionalProperties":
        allowed = sorted(schema.get("properties", {}))
        unknown = next(name for name in found if name not in allowed)
        return f"{key}: unknown key {shown(unknown)}{nearest(str(unknown), allowed)}"
    if rule == "required":
        return f"{key}: key {next(name for name in error.validator_value if name not in found)!r} is missing"
    if rule == "dependentRequired":
        name, needed = next(
            (n, m) for n, names in error.validator_value.items() if n in found for m in names if m not in found
        )
        return f"{key}: key {name!r} needs {needed!r} beside it"
    if rule == "anyOf" and all("required" in choice for choice in error.validator_value):
        return f"{key}: needs one of the keys {', '.join(choice['required'][0] for choice in error.validator_value)}"
    if rule == "not" and "required" in error.validator_value:
        return f"{key}: {' and '.join(error.validator_value['required'])} are both set; keep one"
    return f"{key}: found {shown(found)}{_expected(error)}"


def _expected(error: jsonschema.ValidationError) -> str:
    """What a value should have been, with the nearest where there is a list."""
    rule, wanted, found, schema = error.validator, error.validator_value, error.instance, error.schema
    if rule == "enum":
        return nearest(str(found), [str(value) for value in wanted])
    if rule == "type":
        names = [TYPES[name] for name in ([wanted] if isinstance(wanted, str) else wanted)]
        return f", expected {' or '.join(names)}{_hint(found, names)}"
    if rule in LIMITS:
        bounds = [LIMITS[name].format(schema[name]) for name in LIMITS if name in schema and name != "uniqueItems"]
        return f"; allowed: {', '.join(bounds) if rule != 'uniqueItems' else LIMITS[rule]}"
    return f"; allowed: {schema.get('description') or schema.get('$comment') or error.message}"


def _hint(found: object, expected: list[str]) -> str:
    """How a number came to be text."""
    if not isinstance(found, str) or not {TYPES["number"], TYPES["integer"]} & set(expected):
        return ""
    try:
        float(found)
    except ValueError:
        return ""
    return "; write it without quotes, 1e-3 as 0.001, and in a file: a --config with braces makes text of it"


def _key(path: Collection[str | int]) -> str:
    """`corpora.wiki.sources[0].kind`."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in path]
    return " ".join("".join(parts).removeprefix(".").split()) or "top level"


def shown(found: object) -> str:
    """On one line, shortened."""
    text = repr(found)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def nearest(found: str, allowed: Collection[str]) -> str:
    close = difflib.get_close_matches(found, allowed, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"; {hint}allowed: {', '.join(allowed) or 'none'}"


def beside(path: str | Path) -> str:
    """The files that a wrong path may have meant."""
    folder, ending = Path(path).parent, Path(path).suffix
    names = sorted(file.name for file in folder.glob(f"*{ending}") if file.is_file()) if folder.is_dir() else []
    close = difflib.get_close_matches(Path(path).name, names, n=1)
    return f"; did you mean {str(folder / close[0])!r}?" if close else "; give the path of a file that is there"
