"""Sessions of people who signed in to the screen, and the links that sign in once.

A session is the text of a cookie: `{payload}.{signature}`. The payload is a `Session` as JSON in URL-safe Base64. The signature
is its HMAC-SHA256 with the workspace's session secret (`kinfold:{W}:session-secret`), in hex. Nothing of a session is stored,
so a session ends when it expires or when its key is revoked. The same secret makes the opaque hashes that pages read. The hash
`sign-in-links` maps the SHA-256 of a link's token to a `SignInLink` as JSON.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable
from typing import Final, NamedTuple, cast

import msgspec

from kinfold_schemas.keys import check_workspace, key
from kinfold_services.access.keys import Caller, KeyRing, Kind
from kinfold_services.connections import Client

SESSION_S: Final = 12 * 60 * 60
LINK_S: Final = 60 * 60
MAX_NAME_CHARS: Final = 80

KINDS: Final[frozenset[Kind]] = frozenset({"secret", "read"})
"""The kinds of key that may sign in."""

_FRESH_S: Final = 5.0
_MAX_CHARS: Final = 2048
_MAX_SEEN: Final = 10_000
_SECRET_BYTES: Final = 32


class Session(msgspec.Struct, frozen=True, array_like=True):
    """Who signed in, with which key, and until when. `nonce` makes every session another one."""

    workspace: str
    key_id: str
    by: str
    """The name that was given at sign-in: the author of changes made by hand."""
    expires_at_ms: int
    nonce: str


class SignedIn(NamedTuple):
    """A valid session."""

    session: Session
    kind: Kind
    """The kind of its key."""
    csrf: str
    """The token that every form of the session contains."""


class SignInLink(msgspec.Struct, frozen=True, rename="camel"):
    """A stored link. `sealed_secret` is the key's secret, readable only with the link's token; null if it is not known."""

    key_id: str
    by: str
    expires_at_ms: int
    sealed_secret: str | None = None


class Opened(NamedTuple):
    """A link that was followed: who signs in, with which key, and the key itself if the link contains it."""

    workspace: str
    key_id: str
    by: str
    presented: str | None


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Session).decode
_decode_link: Final = msgspec.json.Decoder(SignInLink).decode


class Sessions:
    """Starts and reads sessions. Caches each workspace's secret for 5 s."""

    def __init__(self, client: Client, keys: KeyRing) -> None:
        self._client: Final = client
        self._keys: Final = keys
        self._secrets: Final[dict[str, tuple[float, bytes]]] = {}
        self._seen: Final[OrderedDict[str, None]] = OrderedDict()

    def has_seen(self, text: str) -> bool:
        """Whether this cookie was valid when it was read the last time."""
        return text in self._seen

    async def start(self, caller: Caller, by: str) -> str:
        """Start a session of a key's holder, and return the cookie's text."""
        secret = await self._ensure_secret(caller.workspace)
        expires = _now_ms() + SESSION_S * 1000
        session = Session(caller.workspace, caller.key_id, by, expires, secrets.token_urlsafe(9))
        payload = base64.urlsafe_b64encode(_encode(session)).rstrip(b"=").decode()
        return f"{payload}.{_mac(secret, 'session', payload)}"

    async def read(self, text: str) -> SignedIn | None:
        """The session of a cookie, or None: forged, expired, or its key was revoked. Raises RedisError."""
        payload, _, signature = text.partition(".")
        session = _decoded(payload) if len(text) <= _MAX_CHARS else None
        if session is None or session.expires_at_ms <= _now_ms():
            return None
        secret = await self._secret(session.workspace)
        if secret is None or not hmac.compare_digest(
            _mac(secret, "session", payload).encode(), signature.encode(errors="surrogatepass")
        ):
            return None
        caller = await self._keys.holder(session.workspace, session.key_id)
        self._seen.pop(text, None)
        if caller is None or caller.kind not in KINDS:
            return None
        self._seen[text] = None
        if len(self._seen) > _MAX_SEEN:
            self._seen.popitem(last=False)
        return SignedIn(session, caller.kind, _mac(secret, "csrf", payload))

    async def opaque(self, workspace: str, text: str) -> str:
        """A tag of a text that only this workspace's gateways can make, so that nobody can test a guess of the text."""
        return _mac(await self._ensure_secret(workspace), "opaque", text)

    async def _ensure_secret(self, workspace: str) -> bytes:
        if (secret := await self._secret(workspace)) is None:
            name = key(workspace, "session-secret")
            await self._client.set(name, secrets.token_hex(_SECRET_BYTES), nx=True)
            if (secret := await self._secret(workspace)) is None:
                raise RuntimeError(f"{name} was deleted while it was being created")
        return secret

    async def _secret(self, workspace: str) -> bytes | None:
        known = self._secrets.get(workspace)
        if known is not None and time.monotonic() < known[0]:
            return known[1]
        stored = await cast("Awaitable[bytes | None]", self._client.get(key(workspace, "session-secret")))
        if stored is not None:  # so the cache contains workspaces only, not the names that forged cookies give
            self._secrets[workspace] = (time.monotonic() + _FRESH_S, stored)
        return stored


async def create_link(client: Client, workspace: str, key_id: str, by: str, presented: str | None = None) -> str:
    """Create a link for the holder of a key, and return its token, which starts with the workspace.

    The first page after signing in may show the key `presented`, if it is given.
    """
    token = secrets.token_hex(_SECRET_BYTES)
    sealed = None if presented is None else _xor(presented.rpartition("_")[2], token)
    name = key(check_workspace(workspace), "sign-in-links")
    stored = await cast("Awaitable[dict[bytes, bytes]]", client.hgetall(name))
    old = [each for each, data in stored.items() if _decode_link(data).expires_at_ms <= _now_ms()]
    if old:
        await client.hdel(name, *cast("list[str]", old))
    link = SignInLink(key_id, by, _now_ms() + LINK_S * 1000, sealed)
    await client.hset(name, _hash(token), cast("str", _encode(link)))
    return f"{workspace}.{token}"


async def look_at_link(client: Client, token: str) -> SignInLink | None:
    """The link with this token, or None if it was used, has expired or never existed."""
    workspace, _, secret = token.partition(".")
    try:
        name = key(workspace, "sign-in-links")
    except ValueError:
        return None
    stored = await cast("Awaitable[bytes | None]", client.hget(name, _hash(secret)))
    link = None if stored is None else _decode_link(stored)
    return link if link is not None and link.expires_at_ms > _now_ms() else None


async def use_link(client: Client, token: str) -> Opened | None:
    """Use a link up. None if it was used, has expired or never existed."""
    link = await look_at_link(client, token)
    workspace, _, secret = token.partition(".")
    if link is None or await client.hdel(key(workspace, "sign-in-links"), _hash(secret)) != 1:
        return None  # of two requests at once, only one deletes it
    presented = None if link.sealed_secret is None else f"kf_sk_{workspace}_{link.key_id}_{_xor(link.sealed_secret, secret)}"
    return Opened(workspace, link.key_id, link.by, presented)


def _decoded(payload: str) -> Session | None:
    try:
        session = _decode(base64.b64decode(payload.encode("ascii") + b"=" * (-len(payload) % 4), altchars=b"-_", validate=True))
        check_workspace(session.workspace)
    except (UnicodeEncodeError, binascii.Error, msgspec.MsgspecError, ValueError):
        return None
    return session


def _mac(secret: bytes, purpose: str, payload: str) -> str:
    return hmac.new(secret, f"{purpose}:{payload}".encode(), hashlib.sha256).hexdigest()


def _xor(hex_secret: str, token: str) -> str:
    """Seal the 32 bytes of a key's secret, or open them again. The token is random and seals nothing else."""
    pad = hmac.digest(token.encode(), b"seal", "sha256")
    return bytes(one ^ other for one, other in zip(bytes.fromhex(hex_secret), pad, strict=True)).hex()


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
