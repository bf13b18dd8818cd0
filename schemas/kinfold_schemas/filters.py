"""The filter language of the directory: text to a syntax tree, and back.

    where      = or ;  or = and {"or" and} ;  and = not {"and" not} ;  not = ["not"] (comparison | "(" or ")")
    comparison = field op value | field "in" "(" value {"," value} ")" | field "contains" string
               | field "exists" | "exists" field | field ("before" | "after") time
    op         = "=" | "!=" | "<" | "<=" | ">" | ">="
    field      = name | "metadata." key | 'metadata."any key"'
    value      = "quoted" | 'quoted' | number | true | false | null | bare word
    time       = RFC 3339 time | date | age: 30d, 12h, 15m, 90s, 4w

A bare name is a field of the contact if there is one of that name, and a metadata key otherwise. Types are JSON's: `1` is a
number, `"1"` and `pro` are strings. Quoted strings have JSON's escapes. Times and ages are whole milliseconds, and a date means
its first instant in UTC. Keywords may be in upper case.
"""

import json
import re
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Final, Literal, NoReturn

from kinfold_schemas.canonical import Primitive
from kinfold_schemas.filter_tokens import Token, WrongFilter, quoted, tokens
from kinfold_schemas.filter_tree import (
    FIELDS,
    TIME_PATTERN,
    UNITS,
    Age,
    And,
    Comparison,
    Contains,
    Dated,
    Exists,
    Field,
    FieldType,
    Filter,
    Moment,
    Not,
    OneOf,
    Operator,
    Or,
    Time,
    Value,
    is_age,
    parse_time,
    text_time_ms,
    time_ms,
)
from kinfold_schemas.rejections import json_type
from kinfold_schemas.times import EPOCH

__all__ = [
    "FIELDS",
    "TIME_PATTERN",
    "Age",
    "And",
    "Comparison",
    "Contains",
    "Dated",
    "Exists",
    "Field",
    "FieldType",
    "Filter",
    "Moment",
    "Not",
    "OneOf",
    "Operator",
    "Or",
    "Time",
    "Value",
    "WrongFilter",
    "all_of",
    "field",
    "field_text",
    "fields_of",
    "parse",
    "text_time_ms",
    "time_ms",
    "unparse",
]

MAX_COMPARISONS: Final = 64
MAX_BYTES: Final = 4096
MAX_DEPTH: Final = 16
"""How deep `not` and parentheses may be nested."""
MAX_KEY_CHARS: Final = 128


def parse(text: str) -> Filter:
    """Parse a filter. Raises WrongFilter."""
    if (bad := re.search("[\0\ud800-\udfff]", text)) is not None:
        raise WrongFilter(bad.start() + 1, "Unicode text without NUL", repr(bad[0]))
    if len(text.encode()) > MAX_BYTES:
        raise WrongFilter(1, f"at most {MAX_BYTES} bytes", str(len(text.encode())))
    return _Parser(text).filter()


def all_of(filters: Iterable[Filter]) -> Filter | None:
    """Join filters with `and`. None means no filter. Raises WrongFilter if there are too many comparisons together."""
    given = tuple(filters)
    if (comparisons := sum(map(_comparisons, given))) > MAX_COMPARISONS:
        raise WrongFilter(1, f"at most {MAX_COMPARISONS} comparisons", str(comparisons))
    return None if not given else given[0] if len(given) == 1 else And(given)


def field(text: str) -> Field:
    """Parse a field's name, as in `sort` and `by`. Raises WrongFilter."""
    parser = _Parser(text)
    parsed = parser.field()
    parser.end()
    return parsed


def fields_of(tree: Filter) -> list[Field]:
    """The fields that a filter compares, in the order of the text; one may be there several times."""
    if isinstance(tree, And | Or):
        return [each for part in tree.filters for each in fields_of(part)]
    return fields_of(tree.filter) if isinstance(tree, Not) else [tree.field]


def _comparisons(tree: Filter) -> int:
    if isinstance(tree, And | Or):
        return sum(map(_comparisons, tree.filters))
    return _comparisons(tree.filter) if isinstance(tree, Not) else 1


# --- parsing ------------------------------------------------------------------------------------------------------------


_KEYWORDS: Final = frozenset({"and", "or", "not", "in", "contains", "exists", "before", "after"})
_LITERALS: Final[dict[str, bool | None]] = {"true": True, "false": False, "null": None}
_is_number: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?").fullmatch
_is_like_number: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?").fullmatch
_MAX_EXACT: Final = 2**53 - 1
_EXACT_OPERATORS: Final = frozenset({"=", "!="})


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = tokens(text)
        self._next = next(self._tokens)
        self._comparisons = 0

    def filter(self) -> Filter:
        parsed = self._or(0)
        self.end()
        return parsed

    def end(self) -> None:
        if self._next.kind != "end":
            self._fail("'and', 'or' or the end")

    def _or(self, depth: int) -> Filter:
        return self._joined("or", lambda: self._joined("and", lambda: self._not(depth), And), Or)

    def _joined(self, keyword: str, part: Callable[[], Filter], join: type[And | Or]) -> Filter:
        parts = [part()]
        while self._takes(keyword):
            parts.append(part())
        return parts[0] if len(parts) == 1 else join(tuple(parts))

    def _not(self, depth: int) -> Filter:
        at = self._next
        if self._takes("not"):
            self._check_depth(depth + 1, at)
            return Not(self._operand(depth + 1))
        return self._operand(depth)

    def _operand(self, depth: int) -> Filter:
        at = self._next
        if not self._takes("(", kind="mark"):
            return self._comparison()
        self._check_depth(depth + 1, at)
        inner = self._or(depth + 1)
        self._expect(")", "'and', 'or' or ')'")
        return inner

    def _check_depth(self, depth: int, at: Token) -> None:
        if depth > MAX_DEPTH:
            raise WrongFilter(at.start + 1, f"at most {MAX_DEPTH} levels of 'not' and parentheses", "one more")

    def _comparison(self) -> Filter:
        self._comparisons += 1
        if self._comparisons > MAX_COMPARISONS:
            self._fail(f"at most {MAX_COMPARISONS} comparisons", "one more")
        return Exists(self.field()) if self._takes("exists") else self._comparison_of(self.field())

    def _comparison_of(self, compared: Field) -> Filter:
        if self._next.kind == "operator":
            return self._compared(compared)
        if self._takes("exists"):
            return Exists(compared)
        if self._takes("in"):
            return self._one_of(compared)
        if self._next_keyword() == "contains":
            return self._contains(compared)
        if self._next_keyword() in {"before", "after"}:
            return self._dated(compared)
        return self._fail("an operator (=, !=, <, <=, >, >=, in, contains, exists, before, after)")

    def _compared(self, compared: Field) -> Filter:
        operator: Operator = self._advance().text  # type: ignore[assignment]  # the token's pattern matches no others
        at = self._next
        value = self._value(compared)
        if operator not in _EXACT_OPERATORS:
            if value is None or isinstance(value, bool):
                self._fail(f"a number, a string or a time after {operator}", at=at)
            if at.kind == "word" and isinstance(value, str) and is_age(value) is not None:
                self._fail(f"'before' or 'after' in front of the age, or the string {quoted(value)} in quotes", at=at)
        return Comparison(compared, operator, value)

    def _one_of(self, compared: Field) -> Filter:
        self._expect("(")
        values = [self._value(compared)]
        while self._takes(",", kind="mark"):
            values.append(self._value(compared))
        self._expect(")", "',' or ')'")
        return OneOf(compared, tuple(values))

    def _contains(self, compared: Field) -> Filter:
        if compared.type not in {None, "string"}:
            self._fail(f"an operator for a {compared.type}, because {compared.name} is a {compared.type}")
        self._advance()
        at = self._next
        value = self._value(Field("", in_metadata=True))
        return Contains(compared, value) if isinstance(value, str) else self._fail("a string", at=at)

    def _dated(self, compared: Field) -> Filter:
        if compared.type not in {None, "time"}:
            self._fail(f"an operator for a {compared.type}, because {compared.name} is a {compared.type}")
        order: Literal["before", "after"] = "before" if self._advance().text.lower() == "before" else "after"
        time = self._time()
        if compared.in_metadata:
            return Dated(compared, order, time)
        return Comparison(compared, "<" if order == "before" else ">", time)

    def field(self) -> Field:
        at = self._next
        if at.kind != "word" or at.text.lower() in _KEYWORDS:
            hint = f" (a metadata key of that name is written metadata.{at.text})" if at.kind == "word" else ""
            self._fail(f"a field{hint}")
        self._advance()
        if at.text in FIELDS:
            return Field(at.text, in_metadata=False)
        if not at.text.startswith("metadata."):
            return self._key(at, at.text)
        key = at.text.removeprefix("metadata.")
        if not key and self._next.kind == "string" and self._next.start == at.end:
            key = self._advance().text
        return self._key(at, key)

    def _key(self, at: Token, key: str) -> Field:
        if not 1 <= len(key) <= MAX_KEY_CHARS:
            raise WrongFilter(at.start + 1, f"a metadata key of 1 to {MAX_KEY_CHARS} characters", str(len(key)))
        return Field(key, in_metadata=True)

    def _value(self, compared: Field) -> Value:
        """A value that the field can hold."""
        if compared.type == "time":
            return self._time()
        at = self._next
        value = self._primitive()
        if compared.type == "string" and not isinstance(value, str | None):
            self._fail(f"a string in quotes, because {compared.name} is a string", f"{at.text} ({json_type(value)})", at=at)
        if compared.type == "number" and (isinstance(value, bool) or not isinstance(value, int | float)):
            self._fail(f"a number, because {compared.name} is a number", at=at)
        return value

    def _primitive(self) -> Primitive:
        at = self._next
        if at.kind == "string":
            return self._advance().text
        if at.kind != "word" or at.text.lower() in _KEYWORDS:
            return self._fail("a value")
        if at.text.lower() in _LITERALS:
            if at.text not in _LITERALS:
                self._fail(f"{at.text.lower()}, or the string {quoted(at.text)} in quotes")
            return _LITERALS[self._advance().text]
        if _is_number(at.text) is not None:
            return self._number()
        if _is_like_number(at.text) is not None:
            self._fail(f"a number as JSON writes it, or the string {quoted(at.text)} in quotes")
        return self._advance().text

    def _number(self) -> int | float:
        number = float(self._next.text)
        if number in {float("inf"), float("-inf")}:
            self._fail("a number within ±1.8e308")
        self._advance()
        return int(number) if number.is_integer() and abs(number) <= _MAX_EXACT else number

    def _time(self) -> Time:
        time = parse_time(self._next.text) if self._next.kind in {"word", "string"} else None
        if time is None:
            self._fail("a time (2026-11-01T08:00:00Z), a date (2026-11-01) or an age (30d, 12h, 15m, 90s, 4w)")
        self._advance()
        return time

    # --- tokens

    def _takes(self, text: str, kind: str = "word") -> bool:
        if self._next.kind == kind and self._next.text.lower() == text:
            self._advance()
            return True
        return False

    def _next_keyword(self) -> str:
        return self._next.text.lower() if self._next.kind == "word" else ""

    def _expect(self, mark: str, expected: str = "") -> None:
        if not self._takes(mark, kind="mark"):
            self._fail(expected or repr(mark))

    def _advance(self) -> Token:
        taken = self._next
        if taken.kind != "end":
            self._next = next(self._tokens)
        return taken

    def _fail(self, expected: str, got: str = "", *, at: Token | None = None) -> NoReturn:
        token = at or self._next
        raise WrongFilter(token.start + 1, expected, got or str(token))


# --- writing ------------------------------------------------------------------------------------------------------------

_is_plain_key: Final = re.compile(r"[^\s\"'(),=<>!]+").fullmatch


def unparse(tree: Filter) -> str:
    """Write a filter as text. `parse(unparse(tree)) == tree` for every tree that `parse` returns."""
    match tree:
        case Comparison():
            text = f"{field_text(tree.field)} {tree.operator} {_value_text(tree.value)}"
        case OneOf():
            text = f"{field_text(tree.field)} in ({', '.join(map(_value_text, tree.values))})"
        case Contains():
            text = f"{field_text(tree.field)} contains {quoted(tree.part)}"
        case Exists():
            text = f"{field_text(tree.field)} exists"
        case Dated():
            text = f"{field_text(tree.field)} {tree.order} {_value_text(tree.time)}"
        case Not():
            text = f"not {_part(tree.filter)}"
        case And():
            text = " and ".join(map(_part, tree.filters))
        case Or():
            text = " or ".join(map(_part, tree.filters))
    return text


def _part(tree: Filter) -> str:
    return f"({unparse(tree)})" if isinstance(tree, And | Or | Not) else unparse(tree)


def field_text(named: Field) -> str:
    """Write a field as text: `lastSeenAt`, `metadata.plan`, `metadata."any key"`."""
    if not named.in_metadata:
        return named.name
    return f"metadata.{named.name if _is_plain_key(named.name) else quoted(named.name)}"


def _value_text(value: Value) -> str:
    if isinstance(value, Moment):
        return (EPOCH + timedelta(milliseconds=value.ms)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, Age):
        unit = next(unit for unit, ms in UNITS.items() if value.ms % ms == 0)
        return f"{value.ms // UNITS[unit]}{unit}"
    return quoted(value) if isinstance(value, str) else json.dumps(value)
