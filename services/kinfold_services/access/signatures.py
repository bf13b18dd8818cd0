"""Signatures: they prove that a backend approved an identity that a browser sends with a publishable key.

Without them, anyone who reads the key in a page's source could claim any identity. The workspace's backend signs with the
identity secret (`kinfold keys identity-secret`), HMAC-SHA256 in lower-case hex, and the browser sends the result in the event:

| the event names | `signature` is the HMAC of | `emailSignature` is the HMAC of |
|---|---|---|
| `externalId` | the external id | – |
| `email` | the address's key | – |
| both | the external id | the external id, a NUL, the address's key |

Identifiers are signed in the form in which they are compared (contract section 2, Comparing). An external id is stripped and
in normal form C; its case counts. The key of an ASCII address is the address in lower case, without surrounding white space and
without a trailing dot. `kinfold_schemas.identifiers.email_key` returns the key of any address. A backend that computes keys
itself must not map a character outside ASCII to an ASCII one (KELVIN SIGN to k): it would sign another person's address.

The second signature proves the pair, so an address that was signed for one person cannot be combined with another person's
external id. A single signature cannot pass for it, because no identifier contains a NUL. Every identifier of the event must be
signed, even one that is blank or blocked.

A single signature does not say whether it was made for an external id or an address. If your users choose their own external
ids, do not let them choose another person's address.
"""

import hashlib
import hmac
import secrets
from collections.abc import Awaitable
from typing import Final, NamedTuple, cast

import msgspec

from kinfold_schemas.events import VisitorIdentified
from kinfold_schemas.identifiers import email_key, id_key
from kinfold_schemas.keys import key
from kinfold_services.connections import Client

_PAIR: Final = "\0"


class Signatures(msgspec.Struct, frozen=True, rename="camel"):
    """The signatures of an event."""

    signature: str | None = None
    email_signature: str | None = None


async def identity_secret(client: Client, workspace: str) -> str:
    """The secret with which the workspace's backend signs. Created on first use."""
    name = key(workspace, "identity-secret")
    await client.set(name, secrets.token_hex(32), nx=True)
    return cast("bytes", await cast("Awaitable[object]", client.get(name))).decode()


async def renew_identity_secret(client: Client, workspace: str) -> str:
    """Replace the secret. Gateways read it again within 5 s, and then reject signatures made with the old one."""
    await client.delete(key(workspace, "identity-secret"))
    return await identity_secret(client, workspace)


def sign(secret: str, external_id: str | None, email: str | None) -> Signatures:
    """The signatures that an event with these identifiers needs."""
    external_id = None if external_id is None else id_key(external_id)
    email = None if email is None else email_key(email)
    if external_id is None:
        return Signatures(None if email is None else _hmac(secret, email))
    return Signatures(_hmac(secret, external_id), None if email is None else _hmac(secret, external_id + _PAIR + email))


class BadSignature(NamedTuple):
    """The field of a wrong signature, what was expected, and what it got."""

    field: str
    expected: str
    got: str


def why_not_signed(secret: str, event: VisitorIdentified, given: Signatures) -> BadSignature | None:
    """The first wrong signature of an event, or None if every identifier is signed."""
    needed = sign(secret, event.external_id, event.email)
    if not _same(needed.signature, given.signature):
        signed = "the external id" if event.external_id is not None else "the key of the e-mail address (its lower case)"
        hmac_of = f"the HMAC-SHA256, in hex, of {signed} under the identity secret"
        return BadSignature("signature", hmac_of, _seen(given.signature))
    if needed.email_signature is not None and not _same(needed.email_signature, given.email_signature):
        signed = "the external id, a NUL and the key of the e-mail address (its lower case)"
        return BadSignature("emailSignature", f"the HMAC-SHA256, in hex, of {signed}", _seen(given.email_signature))
    return None


def _hmac(secret: str, message: str) -> str:
    return hmac.new(secret.encode(), message.encode(errors="surrogatepass"), hashlib.sha256).hexdigest()


def _same(needed: str | None, given: str | None) -> bool:
    return needed is not None and given is not None and hmac.compare_digest(needed.encode(), given.encode())


def _seen(signature: str | None) -> str:
    return "nothing" if signature is None else "another value"
