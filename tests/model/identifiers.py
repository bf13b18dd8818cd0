"""Identifiers by definition (contract section 2): which are blocked, which are invalid, and which two are one."""

import re
import unicodedata
from typing import Final

INVISIBLE: Final = "\u200b\u200c\u200d\u2060\ufeff"
MAX_ID_CHARS: Final = 255
EMAIL_CHARS: Final = range(3, 321)
QUOTES: Final = "'\"`"
ASCII_TWINS: Final = "\u212a\u037e\u1fef"
"""KELVIN SIGN, GREEK QUESTION MARK and GREEK VARIA: all the characters outside ASCII whose NFC is ASCII."""

BLOCKED: Final = frozenset(
    [
        *("anonymous", "guest", "distinctid", "distinct_id", "id", "not_authenticated", "email", "undefined", "true", "false"),
        *("nan", "nil", "null", "none", "(null)", "<null>", "<nil>", "\\n", "n/a", "#n/a", "[object object]", "0", "-1"),
    ]
)
"""In any case."""
TEMPLATES: Final = (r"\$\{.*\}", r"\{\{.*\}\}", r"<%.*%>", r"%s")
ENDINGS: Final = re.compile(r".*[_\-:./](undefined|null|nan)", re.DOTALL)


class Rejected(Exception):
    """The event is refused; its text is the reason of section 7."""


def stripped(text: str) -> str:
    """Without white space and invisible characters at both ends."""
    while text != (text := text.strip().strip(INVISIBLE)):
        pass
    return text


def is_blocked(text: str) -> bool:
    """Whether it is an accident of a program and no identity."""
    text = stripped(text)
    while len(text) > 1 and text[0] == text[-1] and text[0] in QUOTES:
        text = stripped(text[1:-1])
    lower = text.lower()
    return (
        not text
        or lower in BLOCKED
        or re.fullmatch(r"[0-]+", text) is not None
        or any(re.search(template, text, re.DOTALL) for template in TEMPLATES)
        or ENDINGS.fullmatch(lower) is not None
        or all(unicodedata.category(character) in {"Cf", "Zs", "Cc"} for character in text)
    )


def checked_id(text: str) -> str:
    """An external id or visitor id as it is compared. Raises Rejected."""
    if is_blocked(text):
        raise Rejected("blocked-identifier")
    text = unicodedata.normalize("NFC", stripped(text))
    if len(text) > MAX_ID_CHARS:
        raise Rejected("invalid")
    return text


def checked_email(text: str) -> str:
    """An address as it was written, without what is stripped. Raises Rejected."""
    if is_blocked(text):
        raise Rejected("blocked-identifier")
    text = stripped(text)
    local, _, domain = text.partition("@")
    if text.count("@") == 1 and (is_blocked(local) or is_blocked(domain)):
        raise Rejected("blocked-identifier")
    bad = any(character.isspace() or character in INVISIBLE or unicodedata.category(character) == "Cc" for character in text)
    if len(text) not in EMAIL_CHARS or text.count("@") != 1 or bad:
        raise Rejected("invalid")
    return text


def email_key(text: str) -> str:
    """The address as it is compared."""
    local, _, domain = stripped(text).partition("@")
    return f"{_folded(_composed(local))}@{_label(domain)}"


def _composed(text: str) -> str:
    """NFC, but a character outside ASCII whose normal form is ASCII stays itself."""
    pieces = re.split(f"([{ASCII_TWINS}])", text)
    return "".join(piece if piece and piece in ASCII_TWINS else unicodedata.normalize("NFC", piece) for piece in pieces)


def _folded(text: str) -> str:
    """In lower case, within ASCII and within what is not, never across."""
    return "".join(lower if (lower := character.lower()).isascii() == character.isascii() else character for character in text)


def _label(domain: str) -> str:
    domain = domain.removesuffix(".")
    if domain.isascii():
        return domain.lower()
    try:
        return unicodedata.normalize("NFC", domain).encode("idna").decode().lower()
    except UnicodeError:
        return domain.lower()
