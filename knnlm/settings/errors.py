"""Explains wrong settings in one line: the key's path, what was found, what is allowed, and the nearest valid name."""

import difflib
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

LONGEST = 80  # characters shown of what was found
TYPES = {"array": "a list", "integer": "a whole number", "object": "a mapping of keys", "string": "text"}
TYPES |= {"boolean": "true or false", "null": "null", "number": "a finite number"}
BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "multipleOf": "a multiple of {}",
    "minItems": "at least {} in the list",
    "minProperties": "at least {} key",
}
ORDER = ("extra_forbidden", "missing")  # of errors in one place: a misspelt key explains that the right one is missing


class Mistake(NamedTuple):
    """The most telling error of a validation."""

    key: str
    """path of the key, as `corpora.wiki.sources[0].kind`; empty for the settings as a whole"""
    message: str
    between_keys: bool
    """whether each value alone would be allowed"""

    def __str__(self) -> str:
        return f"{self.key}: {self.message}" if self.key else self.message


def explain(error: ValidationError, model: type[BaseModel]) -> Mistake:
    """Choose the error nearest to the top level and say in one line what is wrong and what is allowed."""
    places = [(found, _place(found)) for found in error.errors(include_url=False)]
    # A list with an invalid entry is also reported as too short, because only valid entries are counted.
    relevant = [
        (found, place)
        for found, place in places
        if found["type"] != "too_short" or not any(other[: len(place)] == place != other for _, other in places)
    ]
    chosen, place = min(relevant, key=lambda pair: _rank(*pair))
    if chosen["type"] != "disagreement":
        return Mistake(_path(place), _message(chosen, Schema(model)), between_keys=False)
    key, message = chosen["ctx"]["key"], chosen["ctx"]["message"]
    return Mistake(_path((*place, key) if key else place), message, between_keys=True)


def _rank(error: Mapping, place: tuple) -> tuple:
    kind = error["type"]
    return kind == "disagreement", len(place), ORDER.index(kind) if kind in ORDER else len(ORDER)


def _place(error: Mapping) -> tuple[str | int, ...]:
    """The location of the value that is wrong: for a wrong, unknown or missing key, of the mapping it belongs to."""
    location = error["loc"]
    if location and location[-1] == "[key]":
        return location[:-2]
    return location[:-1] if error["type"] in (*ORDER, "invalid_key") else location


def _path(place: Collection[str | int]) -> str:
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in place]
    return " ".join("".join(parts).removeprefix(".").split())


def _message(error: Mapping, schema: "Schema") -> str:
    kind, found, location = error["type"], error["input"], error["loc"]
    if kind in ("extra_forbidden", "invalid_key"):
        allowed = sorted(schema.at(location[:-1]).get("properties", {}))
        return f"unknown key {shown(location[-1])}{nearest(str(location[-1]), allowed)}"
    if kind == "missing":
        return f"key {location[-1]!r} is missing"
    if kind == "allowed":
        return f"found {shown(found)}; allowed: {error['ctx']['allowed']}"
    wanted = schema.at(location)
    if kind == "literal_error":
        return f"found {shown(found)}{nearest(str(found), wanted.get('enum') or [wanted['const']])}"
    if kind.endswith("_type") or kind == "finite_number":
        names = [TYPES[name] for name in wanted["types"]]
        return f"found {shown(found)}, expected {' or '.join(names)}{_hint(found, names)}"
    return f"found {shown(found)}; allowed: {schema.allowed(location) or error['msg']}"


def _hint(found: object, expected: list[str]) -> str:
    """How a number came to be text."""
    if not isinstance(found, str) or not {TYPES["number"], TYPES["integer"]} & set(expected):
        return ""
    try:
        float(found)
    except ValueError:
        return ""
    return "; write it without quotes, 1e-3 as 0.001, and in a file: a --config with braces makes text of it"


class Schema:
    """The JSON schema of a class, of which bounds and names are read."""

    def __init__(self, model: type[BaseModel]) -> None:
        self.whole = model.model_json_schema()

    def at(self, location: Collection[str | int]) -> dict[str, Any]:
        """The schema of the value (or, by a last part "[key]", of the keys) there, with its `types`."""
        node = self._resolved(self.whole)
        location = tuple(location)
        if location and location[-1] == "[key]":
            names = self.at(location[:-2]).get("propertyNames", {})
            return {"types": ["string"], **names}
        for part in location:
            node = self._resolved(self._child(node, part))
        return node

    def allowed(self, location: Collection[str | int]) -> str:
        """The names or the bounds there, as `at least 1, at most 7`; empty where there are none."""
        node = self.at(location)
        if names := node.get("enum"):
            return ", ".join(names)
        return ", ".join(text.format(node[name]) for name, text in BOUNDS.items() if name in node)

    @staticmethod
    def _child(node: dict, part: str | int) -> dict:
        if part in node.get("properties", {}):
            return node["properties"][part]
        if "items" in node:
            return node["items"]
        return node.get("additionalProperties") or next(iter(node["patternProperties"].values()))

    def _resolved(self, node: dict) -> dict[str, Any]:
        if "$ref" in node:
            return self._resolved(self.whole["$defs"][node["$ref"].rpartition("/")[2]])
        choices = [self._resolved(choice) for choice in node.get("anyOf", ())]
        merged = {key: value for choice in choices for key, value in choice.items()} | node
        return merged | {"types": [name for choice in choices for name in choice["types"]] or [node.get("type")]}


def shown(found: object) -> str:
    """On one line, shortened."""
    text = repr(found)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def nearest(found: str, allowed: Collection[str]) -> str:
    """The end of an error line: the valid name that `found` may have meant, and all valid names."""
    close = difflib.get_close_matches(found, allowed, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"; {hint}allowed: {', '.join(allowed) or 'none'}"
