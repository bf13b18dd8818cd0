"""Canonical JSON (RFC 8785, JCS) and the metadata hash (contract section 4).

Only objects of strings, numbers, booleans and nulls are supported, because metadata holds nothing else.
"""

import hashlib
from collections.abc import Mapping
from typing import Final

import msgspec

Primitive = str | int | float | bool | None
"""A metadata value: `string | number | boolean | null`."""

_encode = msgspec.json.Encoder().encode
_encode_sorted = msgspec.json.Encoder(order="deterministic").encode

EMPTY_HASH: Final = hashlib.sha256(b"{}").hexdigest()
"""The hash of a contact without metadata."""


def canonical_json(metadata: Mapping[str, Primitive]) -> bytes:
    """Encode an object of primitives as RFC 8785 JSON.

    Raises ValueError for NaN and the infinities, and UnicodeEncodeError for a lone surrogate (RFC 8785, 3.2.2.2).
    """
    if float not in map(type, metadata.values()):
        data = _encode_sorted(metadata)  # msgspec escapes exactly as RFC 8785, 3.2.2.2
        if data.isascii():
            return data
    keys = sorted(metadata) if all(map(str.isascii, metadata)) else sorted(metadata, key=_utf16)
    members = [_encode(key) + b":" + _value(metadata[key]) for key in keys]
    return b"{" + b",".join(members) + b"}"


def metadata_hash(metadata: Mapping[str, Primitive]) -> str:
    """Return the SHA-256 of the canonical JSON as 64 lower-case hex digits."""
    return hashlib.sha256(canonical_json(metadata)).hexdigest() if metadata else EMPTY_HASH


def _utf16(key: str) -> bytes:
    # RFC 8785, 3.2.3 sorts by UTF-16 code units and Python by code points. The two differ above the BMP.
    return key.encode("utf-16-be")


def _value(value: Primitive) -> bytes:
    if isinstance(value, float):
        return _ecmascript_number(value).encode()
    return _encode(value)


def _ecmascript_number(value: float) -> str:
    """ECMAScript's Number::toString (RFC 8785, 3.2.2.3). Python computes the same digits but formats them differently."""
    if value != value or value in {float("inf"), float("-inf")}:  # noqa: PLR0124  a test for NaN
        raise ValueError(f"canonical JSON: expected a finite number, got {value}")
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    mantissa, _, exponent = f"{abs(value)!r}".partition("e")
    whole, _, fraction = mantissa.partition(".")
    fraction = fraction if fraction != "0" else ""
    point = len(whole) + int(exponent or 0)  # the place of the decimal point in `digits`
    digits = whole + fraction
    point -= len(digits) - len(digits.lstrip("0"))
    digits = digits.strip("0")
    return sign + _layout(digits, point)


def _layout(digits: str, point: int) -> str:
    # The bounds 21 and -6 are those of ECMA-262, Number::toString.
    if len(digits) <= point <= 21:  # noqa: PLR2004
        return digits + "0" * (point - len(digits))
    if 0 < point <= 21:  # noqa: PLR2004
        return f"{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:  # noqa: PLR2004
        return f"0.{'0' * -point}{digits}"
    mantissa = digits if len(digits) == 1 else f"{digits[0]}.{digits[1:]}"
    return f"{mantissa}e{point - 1:+d}"
