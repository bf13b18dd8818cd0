"""Identity tokens: they prove that a backend approved an identity that a browser sends with a publishable key.

Without them, anyone who reads the key in a page's source could claim any identity. A token is a JWT (RFC 7519), signed with
HS256. Its header has `kid`, and its claims are:

| claim | says |
|---|---|
| `exp` | when it expires; required |
| `sub` | the external id |
| `email` | the address |
| `visitorId` | the only visitor that it may be used for |

An event may name what its token names:

- `externalId` must be the token's `sub`, and `email` the token's `email`, in any spelling (contract section 2, Comparing).
- A token with `sub` needs an event with `externalId`. So an address that was signed as a property of one person cannot
  identify the person who holds the address. A token without `sub` proves an address alone.
- The event may leave out the `email` of a token with `sub`: it then claims less than was proven.
- A token with `visitorId` needs an event with this `visitorId`. A token without it may be used for any visitor. The fold links
  such a visitor only if no other contact holds it (contract section 5): the gateway's view of the state is late.
- A blocked or blank identifier cannot be proven.

A workspace has one identity secret, or two while one replaces the other. The whole text of a secret (`kf_is_{kid}_{random}`)
is the HMAC key, and it contains its `kid`.
"""

import re
import secrets
import time
from collections.abc import Awaitable, Mapping
from importlib.resources import files
from typing import Any, Final, NamedTuple, cast

import jwt
import msgspec

import kinfold_services.access
from kinfold_schemas.events import VisitorIdentified
from kinfold_schemas.identifiers import email_key, id_key
from kinfold_schemas.keys import key
from kinfold_schemas.names import Names
from kinfold_schemas.rejections import found
from kinfold_schemas.times import from_text, to_text
from kinfold_services.connections import Client

MAX_SECRETS: Final = 2
"""How many identity secrets of a workspace are valid at once."""

LEEWAY_S: Final = 60
"""How far the clocks of backend and gateway may differ."""

MAX_TOKEN_CHARS: Final = 8 * 1024
"""Fits the longest identifiers, escaped. A longer text is not parsed."""

_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\Z")
_ADD: Final = files(kinfold_services.access).joinpath("add_secret.lua").read_text()


class IdentitySecret(msgspec.Struct, frozen=True, rename="camel"):
    """A secret with which the workspace's backend signs."""

    kid: str
    identity_secret: str
    created_at: str


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(IdentitySecret).decode


async def identity_secrets(client: Client, workspace: str) -> list[IdentitySecret]:
    """The valid secrets of a workspace, the newest first."""
    stored = await cast("Awaitable[dict[bytes, bytes]]", client.hgetall(_key(workspace)))
    return sorted((_decode(each) for each in stored.values()), key=lambda each: (each.created_at, each.kid), reverse=True)


async def ensure_identity_secret(client: Client, workspace: str) -> list[IdentitySecret]:
    """The valid secrets of a workspace, the newest first. Creates the first one."""
    if not await identity_secrets(client, workspace):
        await _add(client, workspace, at_most=1)
    return await identity_secrets(client, workspace)


async def rotate_identity_secret(client: Client, workspace: str) -> IdentitySecret | None:
    """Add a secret beside the present one. Returns None if two are valid already. Gateways know the secret within 5 s."""
    return await _add(client, workspace, at_most=MAX_SECRETS)


async def retire_identity_secret(client: Client, workspace: str, kid: str) -> bool:
    """Remove a secret. Returns whether it was valid. Gateways reject tokens signed with it within 5 s."""
    return bool(await client.hdel(_key(workspace), kid))


async def _add(client: Client, workspace: str, *, at_most: int) -> IdentitySecret | None:
    # Later than the present one, so that the order is right although clocks differ.
    after_ms = [from_text(each.created_at) + 1 for each in await identity_secrets(client, workspace)]
    kid = secrets.token_hex(6)
    created_at = to_text(max(time.time_ns() // 1_000_000, *after_ms, 0))
    made = IdentitySecret(kid, f"kf_is_{kid}_{secrets.token_hex(32)}", created_at)
    is_added = await client.register_script(_ADD)(keys=[_key(workspace)], args=[at_most, kid, _encode(made)])
    return made if is_added else None


def _key(workspace: str) -> str:
    return key(workspace, "identity-secrets")


class Proof(NamedTuple):
    """What a valid token proves besides the identity."""

    visitor: bool
    """Whether the token was made for this visitor."""


class BadToken(NamedTuple):
    """What was expected of a token, and what it was."""

    expected: str
    got: str


def prove(token: object, secrets_by_kid: Mapping[str, str], event: VisitorIdentified, names: Names) -> Proof | BadToken:
    """What `token` proves of an event that has these names, or why it proves nothing."""
    claims = _claims(token, secrets_by_kid)
    if isinstance(claims, BadToken):
        return claims
    if (wrong := _wrong_identity(claims, event, names)) is not None:
        return wrong
    visitor_id = claims.get("visitorId")
    if visitor_id is not None and (not isinstance(visitor_id, str) or names.visitor_id != id_key(visitor_id)):
        return BadToken(f"a token for the event's visitor, {_seen(names.visitor_id)}", f"one for visitor {_seen(visitor_id)}")
    return Proof(visitor=visitor_id is not None)


def _claims(token: object, secrets_by_kid: Mapping[str, str]) -> dict[str, Any] | BadToken:
    """The claims of a token that a valid secret has signed and that has not expired."""
    if token is None or token == "":
        return BadToken("a token that the workspace's backend has signed (kinfold.sign)", "none")
    if not isinstance(token, str) or len(token) > MAX_TOKEN_CHARS or not _COMPACT.match(token):
        return BadToken(f"a JWT of at most {MAX_TOKEN_CHARS} characters", "another value")
    try:
        kid = jwt.get_unverified_header(token).get("kid")
        secret = secrets_by_kid.get(kid) if isinstance(kid, str) else None
        if secret is None:
            return BadToken("a token whose header has the kid of a valid identity secret", f"kid {_seen(kid)}")
        return jwt.decode(token, secret, algorithms=["HS256"], leeway=LEEWAY_S, options={"require": ["exp"]})
    except jwt.ExpiredSignatureError:
        return BadToken("a token that has not expired", "an expired one")
    except (jwt.PyJWTError, ValueError, RecursionError) as error:  # a payload may be any bytes that somebody signed
        return BadToken("a token with exp, signed with HS256 and the identity secret of its kid", f"another one ({error})")


def _wrong_identity(claims: Mapping[str, Any], event: VisitorIdentified, names: Names) -> BadToken | None:
    sub, email = claims.get("sub"), claims.get("email")
    if event.external_id is None:
        if sub is not None:
            return BadToken("an event with the externalId that the token proves", "an event without externalId")
    elif names.external_id is None or not isinstance(sub, str) or names.external_id != id_key(sub):
        return BadToken(f"a token whose sub is the externalId, {_seen(event.external_id)}", f"sub {_seen(sub)}")
    if event.email is not None and (
        names.email_key is None or not isinstance(email, str) or names.email_key != email_key(email)
    ):
        return BadToken(f"a token whose email is the event's, {_seen(event.email)}", f"email {_seen(email)}")
    return None


def _seen(value: object) -> str:
    return "none" if value is None else found(value)
