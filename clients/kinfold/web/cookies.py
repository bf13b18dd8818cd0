"""The cookie of a visitor: which name it has, and how the application recognises the ones that it made.

Its value is `{visitor id}.{person}.{signature}`. `person` is empty, or stands for the identity that the visitor has in this
browser. Both it and the signature are HMACs with the application's secret, so they tell nobody anything. A value without a
valid signature is not adopted: somebody else could have chosen the id, and would share it with the visitor.
"""

import base64
import hashlib
import hmac
import re
import secrets
from typing import Final, NamedTuple

YEAR_S: Final = 400 * 24 * 3600
"""The longest time that browsers keep a cookie (RFC 6265bis, 5.5)."""
HOST_PREFIX: Final = "__Host-"
"""A browser accepts such a cookie over TLS only, from the very host that it belongs to (RFC 6265bis, 4.1.3.2)."""
MIN_SECRET_CHARS: Final = 16

_ID_BYTES: Final = 16
_TAG_BYTES: Final = 16
_VALUE: Final = re.compile(r"(v_[A-Za-z0-9_-]{22})\.([A-Za-z0-9_-]{22})?\.([A-Za-z0-9_-]{22})\Z")
_LOOPBACK: Final = re.compile(r"(?:(?:[^:]+\.)?localhost|127\.0\.0\.1|\[::1\])(?::\d+)?\Z", re.IGNORECASE)


class Cookie(NamedTuple):
    """The name and the scope of the cookie."""

    name: str
    domain: str | None
    secure: bool

    def on(self, host: str) -> "Cookie":
        """The cookie on a host. Its name has the prefix `__Host-` if that can be: not on localhost, which has no TLS."""
        if self.domain or not self.secure or self.name.startswith(HOST_PREFIX) or _LOOPBACK.match(host):
            return self
        return self._replace(name=HOST_PREFIX + self.name)

    def header(self, value: str, max_age_s: int) -> str:
        """A Set-Cookie header."""
        domain = f"; Domain={self.domain}" if self.domain else ""
        secure = "; Secure" if self.secure else ""
        return f"{self.name}={value}; Max-Age={max_age_s}; Path=/{domain}{secure}; HttpOnly; SameSite=Lax"


class Browser(NamedTuple):
    """What a cookie says: the visitor, and whom the application has identified with it (empty: nobody yet)."""

    visitor_id: str
    person: str = ""


class Signer:
    """Makes and recognises values of cookies. Raises TypeError for a secret that is too short."""

    def __init__(self, secret: object) -> None:
        if not isinstance(secret, str) or len(secret) < MIN_SECRET_CHARS:
            expected = f"a text of at least {MIN_SECRET_CHARS} characters that all processes of the application share"
            found = f"{len(secret)} characters" if isinstance(secret, str) else type(secret).__name__
            raise TypeError(f"secret: expected {expected}, got {found}")
        self._key: Final = secret.encode()

    def value(self, browser: Browser) -> str:
        """The value of a cookie."""
        return f"{browser.visitor_id}.{browser.person}.{self._tag('cookie', *browser)}"

    def read(self, value: str) -> Browser | None:
        """What a cookie says, or None if this application did not make it."""
        match = _VALUE.match(value)
        if match is None:
            return None
        browser = Browser(match[1], match[2] or "")
        return browser if hmac.compare_digest(self._tag("cookie", *browser), match[3]) else None

    def person(self, external_id: str | None, email: str | None) -> str:
        """What stands for an identity. It is as good as random for anybody else."""
        return self._tag("person", *(("external id", external_id) if external_id else ("email", email or "")))

    def _tag(self, *parts: str) -> str:
        digest = hmac.digest(self._key, "\n".join(("kinfold", *parts)).encode("utf-8", "surrogatepass"), hashlib.sha256)
        return base64.urlsafe_b64encode(digest[:_TAG_BYTES]).rstrip(b"=").decode()


def new_visitor_id() -> str:
    """A random id of 128 bits."""
    return f"v_{secrets.token_urlsafe(_ID_BYTES)}"


def values_of(header: str, name: str) -> list[str]:
    """The values of all cookies with a name, in a Cookie header. A page of another subdomain may have added one."""
    pairs = (part.strip().partition("=") for part in header.split(";"))
    return [value.strip('"') for key, equals, value in pairs if equals and key == name]
