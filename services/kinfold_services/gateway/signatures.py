"""Signatures: how a backend vouches for an identity that a browser sends with a publishable key.

Without them anybody who reads the key in a page's source could be anybody. The workspace's backend signs with the identity
secret (`kinfold keys identity-secret`), HMAC-SHA256 in lower-case hex, and the browser sends the result in the event:

| the event names | `signature` is the HMAC of | `emailSignature` is the HMAC of |
|---|---|---|
| `externalId` | the external id | – |
| `email` | the address's key | – |
| both | the external id | the external id, a NUL, the address's key |

Identifiers are signed as they are compared (contract section 2, Comparing). An external id is stripped and in normal form C,
and its case counts. The key of an address in ASCII is the address in lower case, without white space around it and without a
dot at its end. `kinfold_schemas.identifiers.email_key` makes the key of any address. A backend that makes keys itself must not
turn a character outside ASCII into an ASCII one (KELVIN SIGN into k): it would sign for somebody else's address.

The second signature proves the pair: an address that was signed for one person cannot be put beside another's external id, and
no single signature can pass for it, since a NUL stands in no identifier. What is there has to be signed, blank or blocked as it
may be.

One signature alone does not say whether it was made for an external id or an address. So where users choose their external ids
themselves, do not let them choose somebody's address.
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
    """What an event brings beside its own fields."""

    signature: str | None = None
    email_signature: str | None = None


async def identity_secret(client: Client, workspace: str) -> str:
    """The secret that the workspace's backend signs with; made when it is first asked for."""
    name = key(workspace, "identity-secret")
    await client.set(name, secrets.token_hex(32), nx=True)
    return cast("bytes", await cast("Awaitable[object]", client.get(name))).decode()


async def renew_identity_secret(client: Client, workspace: str) -> str:
    """Makes another secret: what the old one signed is worth nothing once the gateways have looked again, within 5 s."""
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
    """The field of a wrong signature, what it has to be, and what it is."""

    field: str
    expected: str
    got: str


def why_not_signed(secret: str, event: VisitorIdentified, given: Signatures) -> BadSignature | None:
    """Check the event's signatures. Returns None if every identifier is signed."""
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
