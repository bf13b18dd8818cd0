"""What is stored of an erasure: what is pending of it, and its receipt at the end (contract section 10).

    erasures-pending   id → Pending      JSON; gone when the erasure is done
    erasures           id → Receipt      JSON; kept, and without personal data
    erased-entries     entry id → the event that took its place
    erasure-secret     the key of the hashes

A pending erasure is in one of three stages, so that it can be finished after any crash:

    pending     nothing was done
    swapped     log, feed and state are rewritten; the identifiers are still there, for the last search
    forgotten   the identifiers are forgotten; the server's files may still hold them
"""

import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Final, Literal, cast

import msgspec

from kinfold_schemas.keys import key
from kinfold_schemas.positions import position_key
from kinfold_services.connections import Client
from kinfold_services.state.queries import Identifier

_SALT_CHARS: Final = 16

Stage = Literal["pending", "swapped", "forgotten"]


class Removed(msgspec.Struct, rename="camel"):
    """How much was removed."""

    contacts: int = 0
    visitors: int = 0
    external_ids: int = 0
    emails: int = 0
    entries: int = 0
    """Log entries that were theirs, or that nobody could fold and that named them."""
    redacted_entries: int = 0
    """Log entries of other people that named them, and name them no more."""
    feed_entries: int | None = None
    """Entries of the feed that lost their body. Null before the erasure, which counts them."""
    shared_visitors: int = 0
    """Visitors that other people share, and that stay with those."""
    shared_emails: int = 0
    """Former addresses that other people hold now, and that stay with those."""


class Check(msgspec.Struct, rename="camel"):
    """A place that was searched for the identifiers afterwards."""

    place: str
    found: int
    """How many identifiers were found there."""
    note: str | None = None


class Receipt(msgspec.Struct, rename="camel"):
    """What an erasure did. Without personal data."""

    erasure: str
    workspace: str
    requested_at: str
    state: Literal["pending", "done"] = "pending"
    stage: Stage | None = None
    people: int = 0
    unknown: int = 0
    """How many of the identifiers named nobody."""
    erased_at: str | None = None
    finished_at: str | None = None
    by: str | None = None
    reason: str | None = None
    contact_ids: list[str] = []
    identifiers: list[str] = []
    """Keyed hashes."""
    removed: Removed | None = None
    checks: list[Check] = []
    elsewhere: list[dict[str, str]] = []
    """Places that this program cannot reach, and what to do there."""


class Pending(msgspec.Struct, rename="camel", omit_defaults=True):
    """An erasure that is not done."""

    receipt: Receipt
    stage: Stage = "pending"
    identifiers: list[Identifier] = msgspec.field(default_factory=list[Identifier], name="whiches")
    """Whom to erase. Empty once they are forgotten. `whiches` is its name in erasures that were stored before."""
    texts: list[str] = []
    """What is searched for afterwards. Empty once it is forgotten."""


_decode_pending: Final = msgspec.json.Decoder(Pending).decode
_decode_receipt: Final = msgspec.json.Decoder(Receipt).decode
encode: Final = msgspec.json.Encoder().encode


class Records:
    """The stored erasures of a workspace."""

    def __init__(self, client: Client, workspace: str) -> None:
        self._client: Final[Any] = client
        self._pending: Final = key(workspace, "erasures-pending")
        self._done: Final = key(workspace, "erasures")
        self._secret: Final = key(workspace, "erasure-secret")

    async def request(self, pending: Pending) -> None:
        """Record an erasure before anything is done."""
        await self._client.hset(self._pending, pending.receipt.erasure, encode(pending))

    async def pending(self) -> list[Pending]:
        """Those that are not done, the oldest first."""
        stored: Mapping[bytes, bytes] = await self._client.hgetall(self._pending)
        return sorted(map(_decode_pending, stored.values()), key=lambda each: each.receipt.requested_at)

    async def receipt(self, erasure: str) -> Receipt | None:
        """The receipt of an erasure, done or not."""
        for name in (self._done, self._pending, self._done):  # it may be finished between the first two
            stored = await cast("Awaitable[bytes | None]", self._client.hget(name, erasure))
            if stored is not None:
                return _decode_receipt(stored) if name == self._done else shown(_decode_pending(stored))
        return None

    async def receipts(self) -> list[Receipt]:
        """All receipts, the oldest first, and then those of pending erasures."""
        stored: Mapping[bytes, bytes] = await self._client.hgetall(self._done)
        done = sorted(map(_decode_receipt, stored.values()), key=lambda each: each.requested_at)
        return [*done, *map(shown, await self.pending())]

    async def advance(self, pending: Pending) -> None:
        """Record the stage of an erasure."""
        await self.request(pending)

    async def finish(self, receipt: Receipt) -> None:
        """Record that an erasure is done."""
        pipeline = self._client.pipeline(transaction=True)
        pipeline.hset(self._done, receipt.erasure, encode(receipt))
        pipeline.hdel(self._pending, receipt.erasure)
        await pipeline.execute()

    async def secret(self) -> bytes:
        """The key of the hashes of the workspace; made when it is first needed."""
        await self._client.set(self._secret, secrets.token_hex(32), nx=True)
        return cast("bytes", await self._client.get(self._secret))


def shown(pending: Pending) -> Receipt:
    """The receipt of an erasure that is not done."""
    return msgspec.structs.replace(pending.receipt, stage=pending.stage)


def salt_of(secret: bytes) -> str:
    """The key of the hashes in the log, which the fold has to know. It does not tell the secret."""
    return hmac.new(secret, b"salt", hashlib.sha256).hexdigest()[:_SALT_CHARS]


def hashed(secret: bytes, kind: str, identifier: str) -> str:
    """The keyed hash of an identifier."""
    return hmac.new(secret, f"{kind}\0{identifier}".encode(), hashlib.sha256).hexdigest()


def in_order(entries: Sequence[str] | set[str]) -> list[str]:
    """Entry ids in the log's order."""
    return sorted(entries, key=position_key)
