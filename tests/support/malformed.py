"""Malformed log entries of every kind in the contract, each with the reason of its rejection."""

import json
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from kinfold_schemas.rejections import Reason


class Malformed(NamedTuple):
    """The fields of a log entry, and the reason with which it is rejected."""

    reason: Reason
    fields: dict[bytes, bytes]


def _event(reason: Reason, data: bytes) -> Malformed:
    return Malformed(reason, {b"event": data})


def _json(reason: Reason, **fields: Any) -> Malformed:
    return _event(reason, json.dumps(fields).encode())


def malformed(number: int) -> Malformed:
    """Return malformed entry `number`: the kinds in turn, each with different bytes."""
    return _KINDS[number % len(_KINDS)](number)


_KINDS: Final[list[Callable[[int], Malformed]]] = [
    # not UTF-8
    lambda n: _event("not-json", b'{"type":"VisitorSeen","visitorId":"\xff%d"}' % n),
    lambda n: _event("not-json", b'{"type":"VisitorSeen","visitorId":"v","x":"\xed\xa0\x80%d"}' % n),
    lambda n: _event("not-json", f'{{"type":"VisitorSeen","visitorId":"v{n}"}}'.encode("utf-16")),
    lambda n: _event("not-json", bytes(range(256)) + b"%d" % n),
    # not JSON
    lambda n: _event("not-json", b"hello %d" % n),
    lambda n: _event("not-json", b'{"type":"VisitorSeen","visitorId":"v%d"' % n),
    lambda n: _event("not-json", b'{"type":"VisitorSeen","visitorId":"v"} {%d' % n),
    lambda _: _event("not-json", b""),
    # not a JSON number
    lambda n: _event("not-json", b'{"type":"MetadataSet","visitorId":"v%d","metadata":{"a":NaN}}' % n),
    lambda n: _event("not-json", b'{"type":"MetadataSet","visitorId":"v%d","metadata":{"a":-Infinity}}' % n),
    lambda n: _event("invalid", b'{"type":"MetadataSet","visitorId":"v%d","metadata":{"a":1e400}}' % n),
    lambda n: _event("invalid", b'{"type":"MetadataSet","visitorId":"v%d","metadata":{"a":9007199254740992}}' % n),
    # no field
    lambda n: Malformed("no-event-field", {b"Event": b"{}", b"n": b"%d" % n}),
    lambda n: Malformed("no-event-field", {b"entry": b"%d" % n, b"reason": b"mine", b"detail": b"\xff"}),
    # not an object; fields of wrong types
    lambda n: _event("invalid", b"[%d]" % n),
    lambda n: _event("invalid", b'"%d"' % n),
    lambda n: _json("invalid", type="VisitorSeen", visitorId=n),
    lambda n: _json("invalid", type="VisitorSeen", x=n),
    lambda n: _json("invalid", type="VisitorSeen", visitorId="v", context=[n]),
    lambda n: _json("invalid", type="VisitorIdentified", externalId={"id": n}),
    lambda n: _json("invalid", type="VisitorSeen", visitorId=f"v{n}", at="yesterday"),
    lambda n: _json("invalid", type="VisitorSeen", visitorId=f"v{n}", at="2026-01-01T00:00:00"),
    lambda n: _json("invalid", x=n),
    # nested
    lambda n: _json("invalid", type="MetadataSet", visitorId="v", metadata={"a": {"b": n}}),
    lambda n: _json("invalid", type="MetadataSet", visitorId="v", metadata={"a": [n]}),
    lambda n: _event("invalid", b'{"type":"VisitorSeen","visitorId":"v%d","x":%s1%s}' % (n, b"[" * 260, b"]" * 260)),
    # too large, too long, too many
    lambda n: _event("too-large", b'{"type":"VisitorSeen","visitorId":"v%d","x":"%s"}' % (n, b"x" * 70 * 1024)),
    lambda n: _json("invalid", type="VisitorSeen", visitorId=f"{n:0256}x"),
    lambda n: _json("invalid", type="MetadataSet", visitorId="v", metadata={f"k{n}": "x" * 8193}),
    lambda n: _json("invalid", type="MetadataSet", visitorId="v", metadata={f"{n}-{key}": key for key in range(257)}),
    # NUL and lone surrogates
    lambda n: _json("invalid", type="VisitorSeen", visitorId=f"v\0{n}"),
    lambda n: _json("invalid", type="VisitorSeen", visitorId="v", future={"x": f"\0{n}"}),
    lambda n: _json("invalid", type="VisitorSeen", visitorId=f"v\ud800{n}"),
    # an unknown type
    lambda n: _json("unknown-type", type=f"Visitor{n}", visitorId="v"),
    # a correction that a page sent
    lambda n: _json("not-allowed", type="IdentityCorrected", source="browser", by="ada", contactId="ct_1", name=f"{n}"),
    # blocked; no identifier left
    lambda n: _json("blocked-identifier", type="VisitorSeen", visitorId="[object Object]", context={"n": n}),
    lambda n: _json("blocked-identifier", type="VisitorIdentified", externalId="Undefined", name=f"{n}"),
    lambda n: _json("blocked-identifier", type="VisitorIdentified", externalId="u", visitorId='"undefined"', name=f"{n}"),
    lambda n: _json("no-identifier", type="VisitorIdentified", visitorId=f"v{n}"),
    lambda n: _json("no-identifier", type="MetadataSet", metadata={"n": n}),
    lambda n: _json("invalid", type="MetadataSet", visitorId="v", externalId=f"{n}", metadata={}),
    lambda n: _json("invalid", type="VisitorIdentified", email=f"{n}"),
    # unknown contact
    lambda n: _json("unknown-contact", type="MetadataSet", contactId=f"ct_{n:026}", metadata={"n": n}),
    # wrong hash
    lambda n: _json("hash-mismatch", type="MetadataSet", visitorId="v", metadata={"n": n}, hash="0" * 64),
]

KINDS: Final = len(_KINDS)
MALFORMED: Final = [malformed(number) for number in range(KINDS)]
"""One entry of each kind."""
