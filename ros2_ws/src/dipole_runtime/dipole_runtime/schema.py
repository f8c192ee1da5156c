"""A validator for the part of JSON Schema (draft 2020-12) that the manifest's schema uses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from dipole_runtime.errors import shown

Schema = Mapping[str, Any]
Json = Any

SCHEMA_FILE = "manifest.schema.json"


@cache
def manifest_schema() -> Schema:
    """The schema that this package ships."""
    schema: Schema = json.loads(files("dipole_runtime").joinpath(SCHEMA_FILE).read_text(encoding="utf-8"))
    return schema


def first_problem(value: Json, schema: Schema) -> str | None:
    """The first place where ``value`` violates the schema; None if there is none.

    :param value: as ``json.loads`` returns it.
    :param schema: uses only the keywords in this module, and ``$ref`` only to its own ``$defs``.
    :return: "at <place>: found …, expected …".
    """
    return _problem(value, schema, schema, "")


def _problem(value: Json, schema: Schema, root: Schema, place: str) -> str | None:
    for keyword, rule in schema.items():
        if keyword in _ANNOTATIONS or keyword in ("then", "else"):
            continue
        if keyword == "if":
            branch = "then" if _problem(value, rule, root, place) is None else "else"
            found = _problem(value, schema[branch], root, place)
        elif keyword == "$ref":
            found = _problem(value, root["$defs"][rule.removeprefix("#/$defs/")], root, place)
        elif keyword in ("properties", "additionalProperties", "items"):
            found = _problem_inside(value, keyword, schema, root, place)
        else:
            expected = _RULES[keyword](value, rule)
            found = f"at {place or 'the top'}: found {shown(value)}, expected {expected}" if expected else None
        if found is not None:
            return found
    return None


def _problem_inside(value: Json, keyword: str, schema: Schema, root: Schema, place: str) -> str | None:
    rule = schema[keyword]
    if keyword == "items" and isinstance(value, list):
        entries = ((f"{place}[{index}]", item, rule) for index, item in enumerate(value))
    elif keyword == "properties" and isinstance(value, dict):
        unknown = [name for name in rule if rule[name] is False and name in value]
        if unknown:
            return f"at {place or 'the top'}: found the unknown key {shown(unknown[0])}"
        entries = ((_join(place, name), value[name], rule[name]) for name in rule if name in value)
    elif keyword == "additionalProperties" and isinstance(value, dict):
        # The schema only uses "false": a manifest may not contain unknown fields.
        unknown = [name for name in value if name not in schema["properties"]]
        return f"at {place or 'the top'}: found the unknown key {shown(unknown[0])}" if unknown else None
    else:
        return None
    return next((found for at, item, rule in entries if (found := _problem(item, rule, root, at)) is not None), None)


def _join(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_integer(value: Json) -> bool:
    return _is_number(value) and (isinstance(value, int) or value.is_integer())


_TYPES: dict[str, Callable[[Json], bool]] = {
    "null": lambda value: value is None,
    "string": lambda value: isinstance(value, str),
    "number": _is_number,
    "integer": _is_integer,
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}


def _equal(value: Json, constant: Json) -> bool:
    return bool(value == constant) and isinstance(value, bool) == isinstance(constant, bool)


def _type(value: Json, rule: str | list[str]) -> str | None:
    names = [rule] if isinstance(rule, str) else rule
    return None if any(_TYPES[name](value) for name in names) else f"type {' or '.join(names)}"


def _const(value: Json, rule: Json) -> str | None:
    return None if _equal(value, rule) else shown(rule)


def _enum(value: Json, rule: list[Json]) -> str | None:
    return None if any(_equal(value, one) for one in rule) else f"one of {', '.join(map(shown, rule))}"


def _required(value: Json, rule: list[str]) -> str | None:
    missing = [name for name in rule if name not in value] if isinstance(value, dict) else []
    return f"the key {shown(missing[0])} in it" if missing else None


def _minimum(value: Json, rule: float) -> str | None:
    return None if not _is_number(value) or value >= rule else f"at least {rule}"


def _maximum(value: Json, rule: float) -> str | None:
    return None if not _is_number(value) or value <= rule else f"at most {rule}"


def _exclusive_minimum(value: Json, rule: float) -> str | None:
    return None if not _is_number(value) or value > rule else f"more than {rule}"


def _exclusive_maximum(value: Json, rule: float) -> str | None:
    return None if not _is_number(value) or value < rule else f"less than {rule}"


def _min_items(value: Json, rule: int) -> str | None:
    return None if not isinstance(value, list) or len(value) >= rule else f"at least {rule} items"


def _max_items(value: Json, rule: int) -> str | None:
    return None if not isinstance(value, list) or len(value) <= rule else f"at most {rule} items"


def _min_length(value: Json, rule: int) -> str | None:
    return None if not isinstance(value, str) or len(value) >= rule else f"at least {rule} characters"


def _max_length(value: Json, rule: int) -> str | None:
    return None if not isinstance(value, str) or len(value) <= rule else f"at most {rule} characters"


def _pattern(value: Json, rule: str) -> str | None:
    return None if not isinstance(value, str) or re.search(rule, value) else f"a string that matches {rule}"


_RULES: dict[str, Callable[[Json, Any], str | None]] = {
    "type": _type,
    "const": _const,
    "enum": _enum,
    "required": _required,
    "minimum": _minimum,
    "maximum": _maximum,
    "exclusiveMinimum": _exclusive_minimum,
    "exclusiveMaximum": _exclusive_maximum,
    "minItems": _min_items,
    "maxItems": _max_items,
    "minLength": _min_length,
    "maxLength": _max_length,
    "pattern": _pattern,
}

_ANNOTATIONS = frozenset({"$schema", "$id", "$defs", "title", "description"})
