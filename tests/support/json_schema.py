"""Validate JSON against the schemas of `msgspec.json.schema`: the subset of JSON Schema 2020-12 that it uses.

An unknown keyword raises, so that none is skipped.
"""

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, cast

_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "object": (dict,),
    "array": (list,),
}
_NOT_CHECKED: Final = {"$defs", "title", "description", "default", "discriminator"}


def errors(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any] | None = None, path: str = "$") -> list[str]:
    """Return the errors of the value; an empty list means that it is valid."""
    root = root or schema
    if "$ref" in schema:
        return errors(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, path)
    found: list[str] = []
    for keyword, rule in schema.items():
        if keyword in _NOT_CHECKED:
            continue
        found += _KEYWORDS[keyword](value, rule, root, path)
        if keyword == "additionalProperties" and isinstance(value, dict):
            values = cast("dict[str, Any]", value)
            for key in values.keys() - schema.get("properties", {}).keys():
                found += errors(values[key], rule, root, f"{path}.{key}")
    return found


Rule = Callable[[Any, Any, Mapping[str, Any], str], list[str]]


def _holds(holds: Callable[[Any, Any], bool], applies_to: tuple[type, ...] = (object,)) -> Rule:
    def check(value: Any, rule: Any, _root: Mapping[str, Any], path: str) -> list[str]:
        return [f"{path}: {value!r} against {rule!r}"] if isinstance(value, applies_to) and not holds(value, rule) else []

    return check


def _is_type(value: Any, rule: str) -> bool:
    return isinstance(value, _TYPES[rule]) and (rule == "boolean" or not isinstance(value, bool))


def _is_time(value: str, rule: str) -> bool:
    return rule == "date-time" and datetime.fromisoformat(value).tzinfo is not None


def _any_of(value: Any, rule: Any, root: Mapping[str, Any], path: str) -> list[str]:
    each = [errors(value, option, root, path) for option in rule]
    return [] if [] in each else [f"{path}: none of {len(each)}: {each}"]


def _properties(value: Any, rule: Any, root: Mapping[str, Any], path: str) -> list[str]:
    inner = [errors(value[key], rule[key], root, f"{path}.{key}") for key in rule if key in value]
    return [error for each in inner for error in each]


def _property_names(value: Any, rule: Any, root: Mapping[str, Any], path: str) -> list[str]:
    return [error for key in value for error in errors(key, rule, root, f"{path}.{key}")]


def _items(value: Any, rule: Any, root: Mapping[str, Any], path: str) -> list[str]:
    return [error for index, item in enumerate(value) for error in errors(item, rule, root, f"{path}[{index}]")]


def _nothing(_value: Any, _rule: Any, _root: Mapping[str, Any], _path: str) -> list[str]:
    return []


_KEYWORDS: Final[Mapping[str, Rule]] = {
    "type": _holds(_is_type),
    "enum": _holds(lambda value, rule: value in rule),
    "minLength": _holds(lambda value, rule: len(value) >= rule, (str,)),
    "maxLength": _holds(lambda value, rule: len(value) <= rule, (str,)),
    "maxProperties": _holds(lambda value, rule: len(value) <= rule, (dict,)),
    "minimum": _holds(lambda value, rule: value >= rule, (int, float)),
    "maximum": _holds(lambda value, rule: value <= rule, (int, float)),
    "pattern": _holds(lambda value, rule: re.search(rule, value) is not None, (str,)),
    "format": _holds(_is_time, (str,)),
    "required": _holds(lambda value, rule: set(rule) <= value.keys(), (dict,)),
    "anyOf": _any_of,
    "properties": _properties,
    "propertyNames": _property_names,
    "items": _items,
    "additionalProperties": _nothing,  # checked in `errors`, which knows the properties
}
