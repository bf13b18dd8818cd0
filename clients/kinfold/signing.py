"""Identity tokens, for pages that identify visitors with a publishable key."""

import base64
import hashlib
import hmac
import json
import re
import time
from typing import Any, Final

from kinfold_schemas.identifiers import CONTRACT_RULES
from kinfold_schemas.rejections import EventError, Rejection

HOUR_S: Final = 3600
_SECRET: Final = re.compile(r"kf_is_([0-9a-f]{12})_[0-9a-f]{64}")


def sign(
    identity_secret: str,
    *,
    external_id: str | None = None,
    email: str | None = None,
    visitor_id: str | None = None,
    expires_in_s: float = HOUR_S,
) -> str:
    """Make the token with which a page may identify its visitor. Pass it to the page as `token`.

    `identity_secret` is the text that `kinfold keys identity-secret` prints. With `visitor_id`, the token is worth nothing for
    another visitor. Without it, a visitor whom another contact holds is not linked. Sign verified addresses only.

    The token is a JWT (RFC 7519, HS256) that any JWT library makes as well. It needs no request and no dependency.

    Raises EventError if the identity is missing, blocked or invalid, and ValueError if the secret is not one.

    >>> secret = "kf_is_" + "0" * 12 + "_" + "0" * 64  # from your configuration
    >>> token = kinfold.sign(secret, external_id="u-1", email="ada@example.org", visitor_id="v-1")
    >>> token.count(".")
    2
    """
    found = _SECRET.fullmatch(identity_secret)
    if found is None:
        raise ValueError("identity_secret: expected a secret that `kinfold keys identity-secret` prints, got another text")
    if external_id is None and email is None:
        raise EventError(Rejection("no-identifier", "external_id, email", "at least one of them", "neither"))
    judged = (
        ("sub", None if external_id is None else CONTRACT_RULES.external_id(external_id)),
        ("email", None if email is None else CONTRACT_RULES.email(email)),
        ("visitorId", None if visitor_id is None else CONTRACT_RULES.visitor_id(visitor_id)),
    )
    claims: dict[str, Any] = {"exp": int(time.time() + expires_in_s)}
    for name, value in judged:
        if isinstance(value, Rejection):
            raise EventError(value)
        if value is not None:
            claims[name] = value
    signed = f"{_part({'alg': 'HS256', 'typ': 'JWT', 'kid': found[1]})}.{_part(claims)}"
    return f"{signed}.{_base64(hmac.digest(identity_secret.encode(), signed.encode(), hashlib.sha256))}"


def _part(fields: dict[str, Any]) -> str:
    return _base64(json.dumps(fields, separators=(",", ":")).encode())


def _base64(data: bytes) -> str:
    """Base64url without padding (RFC 7515, 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
