"""API keys: `kf_sk_{workspace}_{id}_{secret}` (secret), `kf_rk_…` (read), `kf_pk_…` (publishable), `kf_dk_…` (development).

A read key may send every query and follow the feed, and changes nothing.

A key contains its workspace and its id, so one lookup finds it: the workspace's hash `api-keys` maps the id to an `ApiKey` as
JSON, with the SHA-256 of the secret. The secret has 256 random bits, so a fast hash is as safe as a slow one. It is shown
once, when the key is created. Fields may be added to `ApiKey`, but none removed.

The hash `api-keys-used` maps the id to when a gateway last saw the key. Each gateway writes that at most once a minute.
"""

import asyncio
import contextlib
import hashlib
import hmac
import math
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable
from typing import Final, Literal, NamedTuple, cast

import msgspec

from kinfold_schemas.keys import check_workspace, key
from kinfold_schemas.times import to_text
from kinfold_services.connections import SERVER_ERRORS, Client

Kind = Literal["secret", "read", "publishable", "development"]

_MARKS: Final[dict[Kind, str]] = {"secret": "sk", "read": "rk", "publishable": "pk", "development": "dk"}
_KINDS: Final[dict[str, Kind]] = {mark: kind for kind, mark in _MARKS.items()}
_KEY: Final = re.compile(r"kf_(sk|rk|pk|dk)_([a-z0-9][a-z0-9_-]{0,62})_([0-9a-f]{12})_([0-9a-f]{64})\Z")

POWERS: Final[dict[Kind, str]] = {
    "secret": "send every event, read everything, follow the feed, sign in to the screen",
    "read": "read everything, follow the feed, sign in to the screen",
    "publishable": "send what a visitor does, identify the visitor with a token of your backend, read its own name and image",
    "development": "the same as publishable, without tokens, on the gateway's machine and on pages of KINFOLD_GATEWAY_ORIGINS",
}
"""What a key of each kind may do."""

USED_EVERY_S: Final = 60.0
"""How often the time of the last use is written at most."""
_CACHE_S: Final = 1.0
"""How long a key is accepted without asking Redis again: a revoked key stops working within this time."""
_MAX_CACHED: Final = 10_000
_NO_HASH: Final = "0" * 64


class ApiKey(msgspec.Struct, frozen=True, rename="camel"):
    """A stored key."""

    id: str
    kind: Kind
    label: str
    secret_hash: str
    created_at: str
    revoked_at: str | None = None
    shows_metadata: bool = False
    """For a publishable key: whether a page may read the metadata of its own visitor's contact."""


class Caller(NamedTuple):
    """The holder of a valid key."""

    workspace: str
    key_id: str
    kind: Kind
    shows_metadata: bool = False


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(ApiKey).decode


async def create_key(client: Client, workspace: str, kind: Kind, label: str = "", *, shows_metadata: bool = False) -> str:
    """Create a key and return it. The key cannot be shown again."""
    key_id, secret = secrets.token_hex(6), secrets.token_hex(32)
    stored = ApiKey(key_id, kind, label, _hash(secret), _now(), shows_metadata=shows_metadata)
    await _hset(client, check_workspace(workspace), stored)
    return f"kf_{_MARKS[kind]}_{workspace}_{key_id}_{secret}"


def id_of(presented: str) -> str:
    """The id that is part of a key."""
    return presented.split("_")[-2]


async def list_keys(client: Client, workspace: str) -> list[ApiKey]:
    """The workspace's keys, revoked ones included, oldest first."""
    stored = await cast("Awaitable[dict[bytes, bytes]]", client.hgetall(key(workspace, "api-keys")))
    return sorted((_decode(each) for each in stored.values()), key=lambda each: (each.created_at, each.id))


async def last_used(client: Client, workspace: str) -> dict[str, str]:
    """When each key was last used, by its id, as RFC 3339. Keys that were never used are missing."""
    stored = await cast("Awaitable[dict[bytes, bytes]]", client.hgetall(key(workspace, "api-keys-used")))
    return {key_id.decode(): at.decode() for key_id, at in stored.items()}


async def revoke_key(client: Client, workspace: str, key_id: str) -> ApiKey | None:
    """Revoke a key for good. Returns None if no key has this id."""
    stored = await _get(client, workspace, key_id)
    if stored is not None and stored.revoked_at is None:
        stored = msgspec.structs.replace(stored, revoked_at=_now())
        await _hset(client, workspace, stored)
    return stored


class KeyRing:
    """Recognises keys, and caches them for a second."""

    def __init__(self, client: Client) -> None:
        self._client: Final = client
        self._cache: Final[OrderedDict[str, tuple[float, Caller]]] = OrderedDict()
        """The callers by the key that they sent."""
        self._holders: Final[OrderedDict[str, tuple[float, Caller]]] = OrderedDict()
        """The callers by workspace and id. Apart from the keys: callers know these names without knowing the key."""
        self._noted: Final[OrderedDict[str, float]] = OrderedDict()
        """When the use of a key was last written, by workspace and id."""
        self._writing: Final[set[asyncio.Task[None]]] = set()

    def has_seen(self, presented: str) -> bool:
        """Whether the key was valid when it was last looked up."""
        return presented in self._cache

    async def recognise(self, presented: str) -> Caller | None:
        """The caller with this key, or None for an unknown or revoked key. Raises RedisError."""
        cached = self._cache.get(presented)
        if cached is not None and time.monotonic() < cached[0]:
            return cached[1]
        caller = await self._look_up(presented)
        self._remember(self._cache, presented, caller)
        return caller

    async def holder(self, workspace: str, key_id: str) -> Caller | None:
        """The holder of the key with this id, or None if no such key is valid. For sessions: it proves nothing by itself."""
        name = f"{workspace}/{key_id}"
        cached = self._holders.get(name)
        if cached is not None and time.monotonic() < cached[0]:
            return cached[1]
        stored = await _get(self._client, workspace, key_id)
        caller = Caller(workspace, key_id, stored.kind) if stored is not None and stored.revoked_at is None else None
        self._remember(self._holders, name, caller)
        return caller

    def _remember(self, cache: OrderedDict[str, tuple[float, Caller]], name: str, caller: Caller | None) -> None:
        cache.pop(name, None)
        if caller is not None:
            cache[name] = (time.monotonic() + _CACHE_S, caller)
            if len(cache) > _MAX_CACHED:
                cache.popitem(last=False)
            self._note_use(caller)

    def _note_use(self, caller: Caller) -> None:
        """Write in the background that a key is in use, unless that was done within the last minute."""
        name = f"{caller.workspace}/{caller.key_id}"
        now = time.monotonic()
        if now < self._noted.get(name, -math.inf) + USED_EVERY_S:
            return
        self._noted.pop(name, None)
        self._noted[name] = now
        if len(self._noted) > _MAX_CACHED:
            self._noted.popitem(last=False)
        task = asyncio.create_task(self._write_use(caller))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _write_use(self, caller: Caller) -> None:
        with contextlib.suppress(*SERVER_ERRORS, OSError):  # the next minute does it
            await self._client.hset(key(caller.workspace, "api-keys-used"), caller.key_id, _now())

    async def _look_up(self, presented: str) -> Caller | None:
        parts = _KEY.match(presented)
        if parts is None:
            return None
        mark, workspace, key_id, secret = parts.groups()
        stored = await _get(self._client, workspace, key_id)
        # Compared even if the key does not exist, so that the response time reveals nothing.
        same = hmac.compare_digest(stored.secret_hash if stored else _NO_HASH, _hash(secret))
        if stored is None or not same or stored.revoked_at is not None or stored.kind != _KINDS[mark]:
            return None
        return Caller(workspace, key_id, stored.kind, stored.shows_metadata)


async def _get(client: Client, workspace: str, key_id: str) -> ApiKey | None:
    stored = await cast("Awaitable[bytes | None]", client.hget(key(workspace, "api-keys"), key_id))
    return None if stored is None else _decode(stored)


async def _hset(client: Client, workspace: str, stored: ApiKey) -> None:
    await client.hset(key(workspace, "api-keys"), stored.id, cast("str", _encode(stored)))


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _now() -> str:
    return to_text(time.time_ns() // 1_000_000)
