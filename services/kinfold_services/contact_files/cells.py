"""What the cells of a file mean as metadata: text, numbers and booleans.

A CSV cell becomes a number or a boolean only where nothing is lost: `12`, `-0.5`, `true`. The text `007`, `1.50`, `+49 30 1` or
`1,5` would not come back from a number as it was written. It stays text, and so does every other cell of its column: else a
column of postal codes would become numbers and text at random.
"""

import math
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any, Final, Literal

from kinfold_schemas.canonical import Primitive
from kinfold_schemas.events import MAX_INTEGER
from kinfold_schemas.rejections import found
from kinfold_services.contact_files.formulas import unescape

Kind = Literal["string", "number", "boolean"]
"""What `--as KEY=KIND` makes of a column."""

Convert = Callable[[Any], Primitive]
"""Makes a metadata value of a cell; None where the cell is empty. Raises WrongCell."""

_EXACT_DIGITS: Final = 15
"""A decimal number of at most this many digits survives the conversion to a double and back."""
_BOOLEANS: Final = {"true": True, "TRUE": True, "True": True, "false": False, "FALSE": False, "False": False}
"""As JSON, spreadsheets and Python write them."""
_ANSWERS: Final = {"true": True, "yes": True, "y": True, "t": True, "1": True} | {
    "false": False, "no": False, "n": False, "f": False, "0": False
}  # fmt: skip
"""What `--as KEY=boolean` accepts, in any case."""

_is_plain: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]*[1-9])?").fullmatch
is_decimal: Final = re.compile(r"[+-]?[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{1,3})?").fullmatch
_has_letter: Final = re.compile(r"[^\W\d_]").search
_has_digit: Final = re.compile(r"[0-9]").search


class WrongCell(ValueError):
    """A cell is not of the kind that its column has. Names what was expected and the cell."""

    def __init__(self, expected: str, cell: object) -> None:
        super().__init__(f"expected {expected}, got {found(cell)}")
        self.expected = expected
        self.got = found(cell)


def number_in(text: str) -> float | None:
    """The number that `text` writes, if the text can be made again from the number; else None."""
    if not _is_plain(text) or text == "-0":
        return None
    if "." not in text:
        value = int(text) if len(text) <= len(str(-MAX_INTEGER)) else MAX_INTEGER + 1
        return value if -MAX_INTEGER <= value <= MAX_INTEGER else None
    digits = text.lstrip("-0.").replace(".", "")
    number = float(text)
    return number if len(digits) <= _EXACT_DIGITS or repr(number) == text else None


def is_written_otherwise(text: str) -> bool:
    """Whether `text` has digits and no letters, or is a number, but `number_in` does not take it: `007`, `1.50`, `1e5`."""
    if _has_digit(text) is None or (_has_letter(text) is not None and not is_decimal(text)):
        return False
    return number_in(text) is None


def is_empty(cell: str) -> bool:
    """Whether a CSV cell holds nothing but white space."""
    return not cell or cell.isspace()


# --- CSV ----------------------------------------------------------------------------------------------------------------


def csv_text(cell: str) -> str | None:
    """The text of a CSV cell."""
    return None if is_empty(cell) else unescape(cell)


def csv_value(cell: str) -> Primitive:
    """The value of a CSV cell in a column whose numbers are all written in one way."""
    if is_empty(cell):
        return None
    if (answer := _BOOLEANS.get(cell)) is not None:
        return answer
    number = None if cell[0].isalpha() else number_in(cell)
    return unescape(cell) if number is None else number


def csv_number(cell: str) -> Primitive:
    """The value of a CSV cell in a column of numbers."""
    if is_empty(cell):
        return None
    text = cell.strip()
    number = float(text) if is_decimal(text) else math.inf
    if not math.isfinite(number):
        raise WrongCell("a number", cell)
    if not text.lstrip("+-").isdecimal():
        return _whole(number)
    if abs(number) > MAX_INTEGER:
        raise WrongCell("an integer within ±(2^53-1)", cell)
    return int(text)


def csv_boolean(cell: str) -> Primitive:
    """The value of a CSV cell in a column of booleans."""
    if is_empty(cell):
        return None
    if (answer := _ANSWERS.get(cell.strip().lower())) is None:
        raise WrongCell("a boolean (true, false, yes, no, 1 or 0)", cell)
    return answer


CSV_KINDS: Final[dict[Kind | None, Convert]] = {
    None: csv_value,
    "string": csv_text,
    "number": csv_number,
    "boolean": csv_boolean,
}


# --- Parquet ------------------------------------------------------------------------------------------------------------


def parquet_value(cell: object) -> Primitive:
    """The value of a Parquet cell; a time as RFC 3339, and one without a zone as UTC. NaN is an empty cell."""
    match cell:
        case int() if abs(cell) > MAX_INTEGER:
            raise WrongCell("an integer within ±(2^53-1)", str(cell))
        case None | str() | bool() | int():
            return cell
        case float():
            if math.isinf(cell):
                raise WrongCell("a finite number", cell)
            return None if math.isnan(cell) else _whole(cell)
        case Decimal():
            return _from_decimal(cell)
        case datetime():
            moment = cell.astimezone(UTC) if cell.tzinfo is not None else cell
            return f"{moment.replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"
        case date() | time():
            return cell.isoformat()
        case _:
            raise WrongCell("a string, a number, a boolean or a time", str(cell))


def parquet_text(cell: object) -> str | None:
    """The text of a Parquet cell."""
    if isinstance(cell, int | Decimal) and not isinstance(cell, bool):
        return str(cell)  # text holds more digits than a number
    value = parquet_value(cell)
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if value is not None and value != "" else None


def parquet_number(cell: object) -> Primitive:
    """The value of a Parquet cell in a column of numbers."""
    value = parquet_value(cell)
    if isinstance(value, bool):
        raise WrongCell("a number", value)
    return csv_number(value) if isinstance(value, str) else value


def parquet_boolean(cell: object) -> Primitive:
    """The value of a Parquet cell in a column of booleans."""
    value = parquet_value(cell)
    return value if isinstance(value, bool) or value is None else csv_boolean(str(value))


PARQUET_KINDS: Final[dict[Kind | None, Convert]] = {
    None: parquet_value,
    "string": parquet_text,
    "number": parquet_number,
    "boolean": parquet_boolean,
}


def _whole(number: float) -> float:
    """`1.0` is the number `1` (contract section 2, Normalising)."""
    return int(number) if abs(number) <= MAX_INTEGER and number == int(number) else number


def _from_decimal(cell: Decimal) -> Primitive:
    if not cell.is_finite():
        if cell.is_nan():
            return None
        raise WrongCell("a finite number", str(cell))
    if cell == cell.to_integral_value():
        return parquet_value(int(cell))
    number = float(cell)
    if Decimal(repr(number)) != cell:
        raise WrongCell("a number of at most 15 digits (or --as KEY=string)", str(cell))
    return number
