"""`kinfold.sign` makes JWTs that any library reads."""

import time
from typing import Any, Final

import jwt
import pytest

import kinfold

SECRET: Final = f"kf_is_{'0a' * 6}_{'1b' * 32}"


@pytest.mark.parametrize(
    ("given", "claims"),
    [
        ({"external_id": "u-1"}, {"sub": "u-1"}),
        ({"email": " Ada@Example.org"}, {"email": "Ada@Example.org"}),
        ({"external_id": "ä😀"}, {"sub": "ä😀"}),
        ({"external_id": "u", "email": "a@x.org", "visitor_id": "v-1"}, {"sub": "u", "email": "a@x.org", "visitorId": "v-1"}),
    ],
)
def test_token_is_a_jwt(given: dict[str, Any], claims: dict[str, Any]):
    """With the secret's kid. It expires after an hour."""
    before = int(time.time())
    token = kinfold.sign(SECRET, **given)
    read = jwt.decode(token, SECRET, algorithms=["HS256"])

    assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "JWT", "kid": "0a" * 6}
    assert before + 3600 <= read.pop("exp") <= int(time.time()) + 3600
    assert read == claims


def test_token_expires_when_told_to():
    token = kinfold.sign(SECRET, external_id="u-1", expires_in_s=-1)

    with pytest.raises(jwt.ExpiredSignatureError):
        jwt.decode(token, SECRET, algorithms=["HS256"])


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, "no-identifier"),
        ({"visitor_id": "v-1"}, "no-identifier"),
        ({"external_id": "null"}, "blocked-identifier"),
        ({"external_id": " "}, "blocked-identifier"),
        ({"external_id": "u-1", "email": "undefined"}, "blocked-identifier"),
        ({"external_id": "u-1", "email": "ada"}, "invalid"),
        ({"external_id": "u" * 256}, "invalid"),
        ({"external_id": "u-1", "visitor_id": "null"}, "blocked-identifier"),
    ],
)
def test_identity_that_the_gateway_would_reject_is_not_signed(given: dict[str, Any], reason: str):
    with pytest.raises(kinfold.EventError) as raised:
        kinfold.sign(SECRET, **given)
    assert raised.value.rejection.reason == reason


@pytest.mark.parametrize("secret", ["", "password", "1b" * 32, f"kf_sk_default_{'0a' * 6}_{'1b' * 32}", f"{SECRET}\n"])
def test_text_that_is_not_an_identity_secret_is_rejected(secret: str):
    """An API key, for example. The error does not repeat it."""
    with pytest.raises(ValueError, match="expected a secret that `kinfold keys identity-secret` prints") as raised:
        kinfold.sign(secret, external_id="u-1")
    assert not secret or secret not in str(raised.value)
