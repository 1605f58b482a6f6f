"""What all settings share: strict classes, the types of their fields, and errors about keys that must agree."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

T = TypeVar("T")


class Settings(BaseModel):
    """Settings are taken as written: an unknown key or a value of another type is an error, never converted."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)


def disagreement(key: str, message: str) -> PydanticCustomError:
    """The error that a validator raises where keys contradict each other.

    `key` is the path, within the class, of the key to change; it is empty where the whole entry is meant.
    """
    return PydanticCustomError("disagreement", "{message}", {"key": key, "message": message})


@dataclass(frozen=True)
class Matching:
    """In an Annotated type: text that matches a pattern from its first to its last character."""

    pattern: str
    allowed: str
    """what an error says is allowed"""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict:
        unnamed = re.sub(r"\?P<\w+>", "", self.pattern)
        return handler(schema) | {"pattern": f"^({unnamed})$"}

    def _check(self, value: str) -> str:
        if not re.fullmatch(self.pattern, value):
            raise PydanticCustomError("allowed", "{allowed}", {"allowed": self.allowed})
        return value


class Unique:
    """In an Annotated type: a list in which nothing occurs twice."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict:
        return handler(schema) | {"uniqueItems": True}

    @staticmethod
    def _check(values: tuple) -> tuple:
        if len(set(values)) < len(values):
            raise PydanticCustomError("allowed", "{allowed}", {"allowed": "each of them once"})
        return values


@dataclass(frozen=True)
class OrWord:
    """In an Annotated type of numbers: one word is allowed in place of a number."""

    word: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        as_it_is = core_schema.plain_serializer_function_ser_schema(lambda value: value)
        return core_schema.no_info_wrap_validator_function(self._checked, handler(source), serialization=as_it_is)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict:
        return {"anyOf": [handler(schema), {"const": self.word, "type": "string"}]}

    def _checked(self, value: Any, check: core_schema.ValidatorFunctionWrapHandler) -> Any:
        if isinstance(value, str) and value != self.word:
            raise PydanticCustomError("allowed", "{allowed}", {"allowed": f"a number, or {self.word}"})
        return value if value == self.word else check(value)


class AsWritten:
    """In an Annotated type: a number stays the integer or float that was written, since artifacts record it."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(
            self._checked,
            handler(source),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda value: value),
        )

    @staticmethod
    def _checked(value: Any, check: core_schema.ValidatorFunctionWrapHandler) -> Any:
        check(value)
        return value


Positive = Annotated[float, Field(gt=0), AsWritten()]
NotNegative = Annotated[float, Field(ge=0), AsWritten()]
Fraction = Annotated[float, Field(gt=0, le=1), AsWritten()]
# YAML and JSON have lists and no tuples: only this container is converted, not what is in it.
Listed = Annotated[tuple[T, ...], Field(strict=False)]
Distinct = Annotated[tuple[T, ...], Field(strict=False), Unique()]

Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Name = Annotated[
    str,
    Matching(
        r"(?!(?:none|reference)$)[A-Za-z0-9][A-Za-z0-9_-]{0,79}",
        "names of at most 80 letters, digits, - and _, a letter or digit first (but not: none, reference)",
    ),
]
PathText = Annotated[
    str,
    Matching(
        r"[^-~{}\x00-\x1f\x7f][^{}\x00-\x1f\x7f]*",
        "a path without line breaks, { and }, and without - or ~ at its beginning",
    ),
]
Line = Annotated[str, Matching(r"[^\x00-\x1f\x7f]*", "one line of text")]
