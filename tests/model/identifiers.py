"""Identifiers by definition (contract section 2): which are blocked, which are invalid, and which are equal."""

import unicodedata
from typing import Final

MAX_ID_CHARS: Final = 255
EMAIL_CHARS: Final = range(3, 321)


def _characters(*ranges: int | tuple[int, int]) -> frozenset[str]:
    pairs = [each if isinstance(each, tuple) else (each, each) for each in ranges]
    return frozenset(chr(code) for first, last in pairs for code in range(first, last + 1))


WHITE: Final = _characters(
    (0x09, 0x0D), (0x1C, 0x20), 0x85, 0xA0, 0x1680, (0x2000, 0x200A), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000
)
ZERO_WIDTH: Final = _characters(0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF)
CONTROL: Final = _characters((0x00, 0x1F), (0x7F, 0x9F))
IGNORABLE: Final = _characters(
    *(0xAD, 0x34F, 0x61C, (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x200B, 0x200F), (0x202A, 0x202E)),
    *((0x2060, 0x206F), 0x2800, 0x3164, (0xFE00, 0xFE0F), 0xFEFF, 0xFFA0, (0xFFF0, 0xFFF8), (0x1BCA0, 0x1BCA3)),
    *((0x1D173, 0x1D17A), (0xE0000, 0xE0FFF)),
)
PLACEHOLDERS: Final = frozenset(
    ["anonymous", "guest", "distinctid", "distinct_id", "id", "not_authenticated", "email", "true", "false", "0", "-1"]
)
NO_VALUE: Final = frozenset(
    ["undefined", "null", "none", "nan", "nil", "(null)", "<null>", "<nil>", "\\n", "n/a", "#n/a", "[object object]"]
)
MAX_LABEL_CHARS: Final = 59


class Rejected(Exception):
    """The event is rejected; the text is the reason in section 7."""


# --- comparing


def shown(text: str) -> str:
    """The text without white space and zero-width characters at both ends."""
    return text.strip("".join(WHITE | ZERO_WIDTH))


def compared_id(text: str) -> str:
    """The form of a visitor id or an external id in which it is stored and compared."""
    return _composed(shown(text))


def email_key(text: str) -> str:
    """The form of an address in which it is compared."""
    text = shown(text).rstrip("".join(WHITE | ZERO_WIDTH | {"."}))
    local, at, domain = text.rpartition("@")
    local = _lower(local or text).replace("ς", "σ")  # the two forms of one letter
    return f"{local}@{'.'.join(_label(each) for each in _lower(domain).split('.'))}" if at else _lower(text).replace("ς", "σ")


def _composed(text: str) -> str:
    """Normal form C. A non-ASCII character whose NFC is ASCII stays as it is and separates the text before and after it."""
    done = run = ""
    for character in text:
        if not character.isascii() and unicodedata.normalize("NFC", character).isascii():
            done, run = done + unicodedata.normalize("NFC", run) + character, ""
        else:
            run += character
    return done + unicodedata.normalize("NFC", run)


def _lower(text: str) -> str:
    """Lower case. A non-ASCII character whose lower case contains ASCII stays as it is."""
    lower = ""
    for character in _composed(text):
        across = not character.isascii() and any(each.isascii() for each in character.lower())
        lower += character if across else character.lower()
    return _composed(lower)


def _label(label: str) -> str:
    """The A-label of one label of a domain."""
    return label if label.isascii() or len(label) > MAX_LABEL_CHARS else "xn--" + label.encode("punycode").decode()


# --- blocked identifiers


def address_parts(text: str) -> tuple[str, str] | None:
    """The local part and the domain; None if the text is not an address."""
    if text.count("@") != 1 or any(character in WHITE | ZERO_WIDTH | CONTROL for character in text):
        return None
    local, _, domain = text.partition("@")
    domain = domain.rstrip(".")
    return (local, domain) if local and domain else None


def _unquoted(text: str) -> str:
    while len(text) > 1 and text[0] == text[-1] and text[0] in "'\"`":
        text = shown(text[1:-1])
    return text


def _ends(text: str, *words: str) -> bool:
    """Whether the text ends with a separator and one of the words, ignoring the case of ASCII letters."""
    lower = "".join(character.lower() if character.isascii() else character for character in text)
    return any(lower.endswith(separator + word) for separator in "_-:./" for word in words)


def _is_template(text: str) -> bool:
    for begin, end in (("${", "}"), ("{{", "}}"), ("<%", "%>")):
        if end in text.partition(begin)[2]:
            return True
    behind = [text[place + 2 : place + 3] for place in range(len(text)) if text[place : place + 2] == "%s"]
    return any(not (each and each.isascii() and each.isalnum()) for each in behind)


def _is_invisible(text: str) -> bool:
    return all(character in WHITE | CONTROL | IGNORABLE for character in text)


def _is_no_value(text: str) -> bool:
    return text.lower() in NO_VALUE or _ends(text, "undefined", "null", "nan") or _is_template(text) or _is_invisible(text)


def _is_no_local_part(text: str) -> bool:
    """Whether the text cannot be a local part. `Nan` and `Nil` can, because they are given names."""
    text = _unquoted(text)
    return text.lower() in NO_VALUE - {"nan", "nil"} or _ends(text, "undefined") or _is_template(text) or _is_invisible(text)


def is_blocked(text: str) -> bool:
    """Whether the text comes from a bug in a program and identifies nobody."""
    text = _unquoted(text)
    if _is_no_value(text) or text.lower() in PLACEHOLDERS or all(character in "0-" for character in text):
        return True
    address = address_parts(text)
    return address is not None and (_is_no_local_part(address[0]) or _is_no_value(address[1]))


# --- both checks


def checked_id(text: str) -> str:
    """The key of an external id or visitor id. Raises Rejected."""
    text = compared_id(text)
    if len(text) > MAX_ID_CHARS:
        raise Rejected("invalid")
    if is_blocked(text):
        raise Rejected("blocked-identifier")
    return text


def checked_email(text: str) -> str:
    """An address as written, stripped. Raises Rejected."""
    text = shown(text)
    if len(text) >= EMAIL_CHARS.stop:
        raise Rejected("invalid")
    address = address_parts(text)
    if is_blocked(text) or (address is not None and is_blocked(address[1])):
        raise Rejected("blocked-identifier")
    if address is None or len(text) not in EMAIL_CHARS:
        raise Rejected("invalid")
    return text
