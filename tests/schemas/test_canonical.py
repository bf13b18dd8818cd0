"""Canonical JSON and the metadata hash (contract section 4), compared with RFC 8785 and another implementation."""

import hashlib
import struct
from typing import Final

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from kinfold_schemas.canonical import EMPTY_HASH, Primitive, canonical_json, metadata_hash

APPENDIX_B: Final = {
    "0000000000000000": "0",
    "8000000000000000": "0",
    "0000000000000001": "5e-324",
    "8000000000000001": "-5e-324",
    "7fefffffffffffff": "1.7976931348623157e+308",
    "ffefffffffffffff": "-1.7976931348623157e+308",
    "4340000000000000": "9007199254740992",
    "c340000000000000": "-9007199254740992",
    "4430000000000000": "295147905179352830000",
    "44b52d02c7e14af5": "9.999999999999997e+22",
    "44b52d02c7e14af6": "1e+23",
    "44b52d02c7e14af7": "1.0000000000000001e+23",
    "444b1ae4d6e2ef4e": "999999999999999700000",
    "444b1ae4d6e2ef4f": "999999999999999900000",
    "444b1ae4d6e2ef50": "1e+21",
    "3eb0c6f7a0b5ed8c": "9.999999999999997e-7",
    "3eb0c6f7a0b5ed8d": "0.000001",
    "41b3de4355555553": "333333333.3333332",
    "41b3de4355555554": "333333333.33333325",
    "41b3de4355555555": "333333333.3333333",
    "41b3de4355555556": "333333333.3333334",
    "41b3de4355555557": "333333333.33333343",
    "becbf647612f3696": "-0.0000033333333333333333",
    "43143ff3c1cb0959": "1424953923781206.2",
}
"""RFC 8785, appendix B: the bits of a number, and its canonical text."""

texts = st.text(st.characters(exclude_categories=["Cs"]))
above_the_bmp = st.text(st.sampled_from("a\ue000\uffff\U00010000\U0001f600\U0010ffff"), max_size=4)
numbers = st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**53) + 1, 2**53 - 1))
objects = st.dictionaries(st.one_of(texts, above_the_bmp), st.one_of(texts, numbers, st.booleans(), st.none()))


@settings(max_examples=500, deadline=None)
@given(objects)
def test_bytes_equal_those_of_another_implementation(metadata: dict[str, Primitive]) -> None:
    """The package `rfc8785` encodes every object of primitives alike."""
    assert canonical_json(metadata) == rfc8785.dumps(metadata)


@settings(max_examples=1000, deadline=None)
@given(st.integers(0, 2**64 - 1).map(lambda bits: struct.unpack(">d", bits.to_bytes(8))[0]))
def test_numbers_equal_those_of_another_implementation(number: float) -> None:
    """Floats are drawn by their bits, to cover every exponent."""
    if number - number == 0:  # finite
        assert canonical_json({"n": number}) == rfc8785.dumps({"n": number})


@pytest.mark.parametrize(("bits", "text"), APPENDIX_B.items())
def test_numbers_of_appendix_b(bits: str, text: str) -> None:
    (number,) = struct.unpack(">d", bytes.fromhex(bits))
    assert canonical_json({"n": number}) == f'{{"n":{text}}}'.encode()


@pytest.mark.parametrize("bits", ["7fffffffffffffff", "7ff0000000000000", "fff0000000000000"])
def test_nan_and_infinity_raise(bits: str) -> None:
    """RFC 8785, appendix B: JSON cannot represent them."""
    (number,) = struct.unpack(">d", bytes.fromhex(bits))
    with pytest.raises(ValueError, match="expected a finite number"):
        canonical_json({"n": number})


def test_values_of_section_3_2_2() -> None:
    """RFC 8785, 3.2.2: numbers, a string with all escapes, and literals (from its arrays)."""
    metadata: dict[str, Primitive] = {
        "a": 333333333.33333329,
        "b": 1e30,
        "c": 4.50,
        "d": 2e-3,
        "e": 0.000000000000000000000000001,
        "string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"/",
        "x": None,
        "y": True,
        "z": False,
    }
    assert (
        canonical_json(metadata)
        == (
            '{"a":333333333.3333333,"b":1e+30,"c":4.5,"d":0.002,"e":1e-27,'
            '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/","x":null,"y":true,"z":false}'
        ).encode()
    )


def test_string_bytes_of_section_3_2_4() -> None:
    """RFC 8785, 3.2.4: the UTF-8 bytes of that string."""
    data = canonical_json({"string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"/"})
    assert data.hex(" ") == (
        "7b 22 73 74 72 69 6e 67 22 3a 22 e2 82 ac 24 5c 75 30 30 30 66 5c 6e 41 27 42 5c 22 5c 5c 5c 5c 5c 22 2f 22 7d"
    )


def test_keys_of_section_3_2_3() -> None:
    """RFC 8785, 3.2.3: keys sort by UTF-16 code units, so the emoji comes before the Hebrew letter."""
    metadata: dict[str, Primitive] = {
        "\u20ac": "Euro Sign",
        "\r": "Carriage Return",
        "\ufb33": "Hebrew Letter Dalet With Dagesh",
        "1": "One",
        "\U0001f600": "Emoji: Grinning Face",
        "\u0080": "Control",
        "\u00f6": "Latin Small Letter O With Diaeresis",
    }
    text = canonical_json(metadata).decode()
    in_order = [
        "Carriage Return",
        "One",
        "Control",
        "Latin Small Letter O With Diaeresis",
        "Euro Sign",
        "Emoji: Grinning Face",
        "Hebrew Letter Dalet With Dagesh",
    ]
    assert sorted(metadata.values(), key=lambda name: text.index(f'"{name}"')) == in_order


def test_lone_surrogate_raises() -> None:
    """RFC 8785, 3.2.2.2."""
    with pytest.raises(UnicodeEncodeError):
        canonical_json({"a": "\ud800"})


def test_hash_is_sha_256_in_lower_case_hex() -> None:
    assert metadata_hash({"b": 1, "a": "é"}) == hashlib.sha256('{"a":"é","b":1}'.encode()).hexdigest()
    assert metadata_hash({}) == EMPTY_HASH == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
