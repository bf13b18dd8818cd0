"""Request bodies: decompresses them, and splits them into events without changing an event's bytes."""

import zlib
from codecs import BOM_UTF8
from typing import Any, Final

import msgspec
from litestar import Request

from kinfold_schemas.rejections import found
from kinfold_services.gateway.problems import Problem

MAX_MEMBERS: Final = 16
"""A gzip stream may consist of several members. Each costs a decompressor, even if it is empty."""

_WHITE: Final = b" \t\r\n"
_NDJSON: Final = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"})
_GZIP: Final = 31  # zlib's `wbits` for a gzip header

_decode_array: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_one: Final = msgspec.json.Decoder(msgspec.Raw).decode


async def read_body(request: Request[Any, Any, Any], limit: int) -> bytes:
    """The request's body, decompressed.

    Raises Problem: 400 or 415 if it is not gzip, 413 if it takes more than `limit` bytes, as it was sent or decompressed. No
    more than that is read or decompressed.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"identity", "gzip", "x-gzip"}:
        raise Problem(415, f"Content-Encoding: expected gzip or none, got {found(encoding)}")
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise _too_large(limit)
    return bytes(body) if encoding == "identity" else _decompress(bytes(body), limit)


def split_events(body: bytes, content_type: str) -> list[bytes]:
    """Split a body into events: one object, an array, or NDJSON. Does not check the events themselves.

    Skips a byte order mark at the beginning, as RFC 8259 section 8.1 allows. Raises Problem (400) if the body is empty or not a
    valid array.
    """
    body = body.removeprefix(BOM_UTF8).strip(_WHITE)
    if not body:
        raise Problem(400, "body: expected an event, an array of events, or one event per line, got nothing")
    if content_type.partition(";")[0].strip().lower() in _NDJSON:
        events = _lines(body)
    elif body.startswith(b"["):
        events = _array(body)
    else:
        events = _one_or_lines(body)
    return events


def _array(body: bytes) -> list[bytes]:
    try:
        return [bytes(raw) for raw in _decode_array(body)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        why = str(error).removeprefix("JSON is malformed: ")
        raise Problem(400, f"body: expected an array of events, got text that is not JSON ({why})") from error


def _one_or_lines(body: bytes) -> list[bytes]:
    first, _, rest = body.partition(b"\n")
    if rest and _is_json(first):
        return _lines(body)
    return [body]


def _lines(body: bytes) -> list[bytes]:
    return [line for each in body.split(b"\n") if (line := each.strip(_WHITE))]


def _is_json(data: bytes) -> bool:
    try:
        _decode_one(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _decompress(compressed: bytes, limit: int) -> bytes:
    """Decompress gzip, and stop at the limit: a small body can decompress to gigabytes."""
    decompressed: list[bytes] = []
    room = limit
    try:
        while compressed:
            if len(decompressed) == MAX_MEMBERS:
                raise Problem(400, f"body: expected at most {MAX_MEMBERS} gzip members, got more")
            member = zlib.decompressobj(_GZIP)
            decompressed.append(member.decompress(compressed, room + 1))
            room -= len(decompressed[-1])
            if room < 0 or member.unconsumed_tail:
                raise Problem(413, f"body: expected at most {limit} bytes once decompressed, got more")
            if not member.eof:
                raise Problem(400, "body: expected a complete gzip stream, got one that ends early")
            compressed = member.unused_data
    except zlib.error as error:
        raise Problem(400, f"body: expected gzip, as Content-Encoding says, got something else ({error})") from error
    return b"".join(decompressed)


def _too_large(limit: int) -> Problem:
    return Problem(413, f"body: expected at most {limit} bytes, got more")
