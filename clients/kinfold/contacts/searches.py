"""Searches, counts, timelines and conflicts: the queries that a gateway answers from the directory."""

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Literal, NoReturn
from urllib.parse import quote

import msgspec

from kinfold.contacts.gateway_lookups import GatewayLookups
from kinfold_schemas.contacts import Contact
from kinfold_schemas.directory import Conflict, ContactCount, ContactCounts, TimelineEntry
from kinfold_schemas.filter_tokens import quoted
from kinfold_schemas.filters import FIELDS, Field, field_text
from kinfold_schemas.identifiers import stripped

Condition = str | float | bool | datetime | Sequence[Any] | Mapping[str, Any] | None
"""A value, a list of values, or an object of operators and values."""
Where = str | Mapping[str, Condition]
"""A filter as text, or conditions by field, which must all hold."""
Status = Literal["open", "all"]

_OPERATORS: Final = ("=", "!=", "<", "<=", ">", ">=")
_WORDS: Final = ("contains", "before", "after")
_MILLISECOND: Final = timedelta(milliseconds=1)


class _Contacts(msgspec.Struct, rename="camel"):
    contacts: list[Contact]
    next_cursor: str | None

    @property
    def items(self) -> list[Contact]:
        return self.contacts


class _Timeline(msgspec.Struct, rename="camel"):
    timeline: list[TimelineEntry]
    next_cursor: str | None

    @property
    def items(self) -> list[TimelineEntry]:
        return self.timeline


class _Conflicts(msgspec.Struct, rename="camel"):
    conflicts: list[Conflict]
    next_cursor: str | None

    @property
    def items(self) -> list[Conflict]:
        return self.conflicts


_decode_contacts: Final = msgspec.json.Decoder(_Contacts).decode
_decode_timeline: Final = msgspec.json.Decoder(_Timeline).decode
_decode_conflicts: Final = msgspec.json.Decoder(_Conflicts).decode
_decode_count: Final = msgspec.json.Decoder(ContactCount).decode
_decode_counts: Final = msgspec.json.Decoder(ContactCounts).decode


class Searches:
    """The queries to one gateway. Iterators yield pages. All of them raise NotFolded, Unreachable or Refused."""

    def __init__(self, gateway: GatewayLookups) -> None:
        self._gateway: Final = gateway

    def search(
        self, q: str | None, where: Where | None, sort: str | None, limit: int | None, after: str | None
    ) -> Iterator[Sequence[Contact]]:
        """Pages of the contacts that match."""
        # Without a sort and without conditions, the gateway would list the contacts without the directory.
        query = _query(q=q, where=where_text(where), sort=sort or "-createdAt", after=after)
        return self._gateway.pages("/v1/contacts", query, _decode_contacts, _limit(limit))

    def count(self, q: str | None, where: Where | None, after: str | None) -> ContactCount:
        """How many contacts match."""
        return self._gateway.count(_query(q=q, where=where_text(where), after=after), _decode_count)

    def counts(self, q: str | None, where: Where | None, by: str, limit: int | None, after: str | None) -> ContactCounts:
        """How many of the contacts that match have each value."""
        limit_text = None if limit is None else str(limit)
        query = _query(q=q, where=where_text(where), by=by, limit=limit_text, after=after)
        return self._gateway.count(query, _decode_counts)

    def timeline(self, contact_id: str, limit: int | None, after: str | None) -> Iterator[Sequence[TimelineEntry]]:
        """Pages of a contact's changes, newest first."""
        path = f"/v1/contacts/{quote(stripped(contact_id), safe='')}/timeline"
        return self._gateway.pages(path, _query(after=after), _decode_timeline, _limit(limit))

    def conflicts(self, status: Status, limit: int | None, after: str | None) -> Iterator[Sequence[Conflict]]:
        """Pages of conflicts, newest first."""
        return self._gateway.pages("/v1/conflicts", _query(status=status, after=after), _decode_conflicts, _limit(limit))


def _query(**parameters: str | None) -> dict[str, str]:
    return {name: value for name, value in parameters.items() if value is not None}


def _limit(limit: int | None) -> int | None:
    if limit is not None and limit < 1:
        raise ValueError(f"limit: expected at least 1, got {limit}")
    return limit


# --- filters ------------------------------------------------------------------------------------------------------------


def where_text(where: Where | None) -> str | None:
    """The text of a filter; None for no filter.

    Values are quoted, so a value from a form cannot change the filter. Raises ValueError or TypeError for wrong conditions. The
    gateway checks text.
    """
    if where is None or isinstance(where, str):
        return where
    return " and ".join([part for name, condition in where.items() for part in _conditions(name, condition)]) or None


def _conditions(name: str, condition: Condition) -> Iterator[str]:
    if name in FIELDS:
        field = field_text(Field(name, in_metadata=False))
    else:
        field = field_text(Field(name.removeprefix("metadata."), in_metadata=True))
    if isinstance(condition, Mapping):
        if not condition:
            raise ValueError(f"where: expected an operator and a value for {name!r}, got none")
        for operator, value in condition.items():
            yield _operation(name, field, operator, value)
    elif _is_list(condition):
        yield _operation(name, field, "in", condition)
    else:
        yield _operation(name, field, "=", condition)


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _operation(name: str, field: str, operator: str, value: Any) -> str:
    if operator in _OPERATORS or operator in _WORDS:
        return f"{field} {operator} {_value(name, value)}"
    if operator == "in":
        if not _is_list(value) or not value:
            raise ValueError(f"where: expected a list of values for {name!r}, got {value!r}")
        return f"{field} in ({', '.join([_value(name, each) for each in value])})"
    if operator == "exists":
        return f"{field} exists" if value else f"not {field} exists"
    known = ", ".join((*_OPERATORS, *_WORDS, "in", "exists"))
    raise ValueError(f"where: expected an operator among {known} for {name!r}, got {operator!r}")


def _value(name: str, value: Any) -> str:
    match value:
        case None | bool():
            return {None: "null", True: "true", False: "false"}[value]
        case str():
            return quoted(value)
        case int():
            return str(value)
        case float():
            return repr(value) if math.isfinite(value) else _wrong_value(name, "a finite number", value)
        case datetime():
            return (
                quoted(value.isoformat())
                if value.tzinfo is not None
                else _wrong_value(name, "a datetime with a time zone", value)
            )
        case timedelta():
            return f"{value // _MILLISECOND}ms" if value >= timedelta() else _wrong_value(name, "an age of 0 or more", value)
        case _:
            raise TypeError(f"where: expected a string, a number, a bool, None or a time for {name!r}, got {value!r}")


def _wrong_value(name: str, expected: str, value: object) -> NoReturn:
    raise ValueError(f"where: expected {expected} for {name!r}, got {value!r}")
