"""Bytes for fuzzing: nothing but noise, and valid examples that were damaged a little, which get further."""

import json
from typing import Any, Final

from hypothesis import strategies as st

_NOISE: Final = [
    *(
        b"",
        b"\0",
        b"\n",
        b"\r\n",
        b" ",
        b'"',
        b"'",
        b"\\",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b".",
        b"/",
        b"%",
        b"%00",
        b"&",
        b"=",
    ),
    *(b"null", b"true", b"NaN", b"-0", b"1e999", b"9" * 40, b"-1", b"0", b"1.5", b"\\u0000", b"\\ud800", b"\\ud83d\\ude00"),
    *(
        b"\xff",
        b"\xc0\xaf",
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf",
        "ä".encode(),
        "\u212a".encode(),
        "\u200b".encode(),
        b"\x9b",
        b"\x1b[2J",
    ),
    *(
        b"visitorId",
        b"externalId",
        b"email",
        b"metadata",
        b"token",
        b"source",
        b"type",
        b"id",
        b"at",
        b"sentAt",
        b"hash",
        b"unset",
    ),
    *(
        b"VisitorSeen",
        b"VisitorIdentified",
        b"MetadataSet",
        b"EventsExcluded",
        b"__proto__",
        b"[" * 300,
        b'{"a":' * 300,
        b"x" * 300,
    ),
    *(
        b"2026-11-27T08:00:00Z",
        b"0000-00-00T00:00:00Z",
        b"9999-12-31T23:59:60+99:99",
        b"1-0",
        b"18446744073709551615-0",
        b"(",
        b")",
    ),
    *(b"and", b"or", b"not", b"in", b"~", b">=", b"before", b"exists", b"30d", b"${x}", b"<%", b"../", b";", b"--", b"/*"),
]
_places: Final = st.integers(0, 1 << 16)
_edits: Final = st.lists(st.tuples(st.integers(0, 4), _places, _places, st.sampled_from(_NOISE)), max_size=5)


def damaged(examples: list[bytes]) -> st.SearchStrategy[bytes]:
    """An example with up to five places damaged, two examples in one, or noise."""
    return st.one_of(
        st.builds(_damage, st.sampled_from(examples), _edits, st.sampled_from(examples)),
        st.builds(_damage, st.sampled_from(examples), _edits, st.sampled_from(examples)),
        st.builds(_damage, st.sampled_from(examples), _edits, st.sampled_from(examples)),
        st.binary(max_size=200),
        st.lists(st.sampled_from(_NOISE), max_size=12).map(b"".join),
    )


def _damage(data: bytes, edits: list[tuple[int, int, int, bytes]], other: bytes) -> bytes:
    for kind, first, second, noise in edits:
        start, end = sorted((first % (len(data) + 1), second % (len(data) + 1)))
        end = min(end, start + 40)
        match kind:
            case 0:
                data = data[:start] + noise + data[end:]
            case 1:
                data = data[:start] + noise + data[start:]
            case 2:
                data = data[:start] + data[end:]
            case 3:
                data = data[:end] + data[start:]
            case _:
                data = data[:start] + other[second % (len(other) + 1) :]
    return data


def damaged_text(examples: list[str]) -> st.SearchStrategy[str]:
    """The same as text: what is not UTF-8 becomes other characters."""
    return damaged([each.encode() for each in examples]).map(lambda data: data.decode("utf-8", "replace"))


def as_json(*values: Any) -> list[bytes]:
    """Values as JSON."""
    return [json.dumps(value, ensure_ascii=False).encode() for value in values]
