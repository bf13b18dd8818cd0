"""Identifiers: their keys, their limits, and which are blocked (contract section 2).

A blocked identifier (`null`, `undefined`, `[object Object]`) comes from a bug in a program. It does not identify anyone, and
would merge everybody who hit the same bug into one contact.

The same log must fold to the same bytes on every machine. Therefore white space and invisible characters are listed here
rather than taken from Python, and the validity of a domain is not checked. Normal form C and lower case do depend on Python's
version of Unicode. Unicode's stability policies keep both unchanged for assigned characters, so only characters newer than
Unicode 14.0 (Python 3.11, the oldest supported version) can get a different key.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from typing import Any, Final, Protocol, cast

from kinfold_schemas.rejections import Rejection, found

MAX_ID_CHARS: Final = 255
MIN_EMAIL_CHARS: Final = 3
MAX_EMAIL_CHARS: Final = 320
_MAX_NORMALISED_CHARS: Final = 4 * MAX_EMAIL_CHARS
"""A longer text cannot be an identifier, because one character in normal form comes from at most four. It is not normalised,
because that takes quadratic time."""
REMEMBERED_IDENTIFIERS: Final = 65_536
"""How many results of each kind a fold caches."""

# --- the keys of identifiers --------------------------------------------------------------------------------------------

_WHITE: Final = (
    "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
_ZERO_WIDTH: Final = "\u200b\u200c\u200d\u2060\ufeff"
_AROUND: Final = _WHITE + _ZERO_WIDTH
_AROUND_OR_DOT: Final = _AROUND + "."
_WHITE_ASCII_OR_DOT: Final = "\t\n\v\f\r\x1c\x1d\x1e\x1f ."

_MAX_LABEL_CHARS: Final = 59
"""A DNS label has at most 63 octets. Four are `xn--`, and every character takes at least one."""

_replace_runs: Final = re.compile("[^\u037e\u1fef\u212a]+").sub
"""Matches runs without GREEK QUESTION MARK, GREEK VARIA and KELVIN SIGN: the three characters whose normal form is ASCII."""


def stripped(text: str) -> str:
    """Strip white space and zero-width characters from both ends of `text`."""
    return text.strip() if text.isascii() else text.strip(_AROUND)


def id_key(identifier: str) -> str:
    """Return the key of a visitor id or an external id: how it is stored and compared (contract section 2, Comparing).

    The key is stripped and in normal form C. Case matters. Every text has a key, and `id_key(id_key(text)) == id_key(text)`.
    Two stripped texts have the same key only if they are canonically equivalent. A non-ASCII character never becomes ASCII. A
    text that is too long for an identifier is not brought into normal form.
    """
    return identifier.strip() if identifier.isascii() else _nfc(identifier.strip(_AROUND))


def email_key(email: str) -> str:
    """Return the key of an address as written: addresses with the same key are equal (contract section 2, Comparing).

    The domain is in lower case, without a trailing dot, with its non-ASCII labels as A-labels (RFC 5890). The case of the
    local part is folded. Every text has a key, and `email_key(email_key(text)) == email_key(text)`. A local part with a
    non-ASCII character never becomes pure ASCII, so a look-alike cannot impersonate the owner of an ASCII address.
    """
    if email.isascii():
        return email.lower().lstrip().rstrip(_WHITE_ASCII_OR_DOT)
    local, at, domain = email.lstrip(_AROUND).rstrip(_AROUND_OR_DOT).rpartition("@")
    if not at:
        local, domain = domain, ""
    labels = [label if label.isascii() else _a_label(label) for label in _lower(domain).split(".")]
    return _lower(local).replace("ς", "σ") + at + ".".join(labels)  # Σ has two small forms


def _nfc(text: str) -> str:
    if len(text) > _MAX_NORMALISED_CHARS:
        return text
    return _replace_runs(lambda run: unicodedata.normalize("NFC", run[0]), text)


def _lower(text: str) -> str:
    """Lower case in normal form C, without turning a non-ASCII character into an ASCII one.

    It works character by character, because `str.lower` treats Σ differently at the end of a word.
    """
    if text.isascii():
        return text.lower()
    return _nfc("".join([each if each in "\u0130\u212a" else each.lower() for each in _nfc(text)]))


def _a_label(label: str) -> str:
    """Encode a label in lower case and normal form C as an A-label; a label that is too long stays as it is.

    A valid label gets its IDNA 2008 A-label. Validity is not checked: distinct labels get distinct A-labels anyway, and
    validity depends on a table that changes with each version of Unicode. The package `idna` contains that table, so keys
    would depend on its version. The standard library's codec `idna` implements IDNA 2003, which maps straße.example to
    strasse.example, possibly the domain of another owner.
    """
    return label if len(label) > _MAX_LABEL_CHARS else "xn--" + label.encode("punycode").decode("ascii")


# --- blocked identifiers ------------------------------------------------------------------------------------------------

_PLACEHOLDERS: Final = frozenset(
    ["anonymous", "guest", "distinctid", "distinct_id", "id", "not_authenticated", "email", "true", "false", "0", "-1"]
)
_NO_VALUE: Final = frozenset(
    ["undefined", "null", "none", "nan", "nil", "(null)", "<null>", "<nil>", "\\n", "n/a", "#n/a", "[object object]"]
)
_NO_LOCAL_PART: Final = _NO_VALUE - {"nan", "nil"}  # these are given names: nil@company.example can be a person
_ENDING: Final = re.compile(r"[_\-:./](?:undefined|null|nan)\Z", re.ASCII | re.IGNORECASE)
_LOCAL_ENDING: Final = re.compile(r"[_\-:./]undefined\Z", re.ASCII | re.IGNORECASE)
"""Without `null` and `nan`, which are family names: ada.null@company.example can be a person."""
_ENDING_CHARS: Final = len("_undefined")

_TEMPLATES: Final = (("${", "}"), ("{{", "}}"), ("<%", "%>"))
_FORMAT: Final = re.compile(r"%s(?![A-Za-z0-9])")
_ZEROS_AND_DASHES: Final = re.compile(r"[0-]+\Z")
_QUOTES: Final = "\"'`"
_INSIDE: Final = re.compile(f"[{_AROUND}\x00-\x1f\x7f-\x9f]")
"""Matches what an address may not contain: white space, zero-width and control characters."""
_INVISIBLE: Final = re.compile(
    f"[{_WHITE}\x00-\x1f\x7f-\x9f"
    # Default_Ignorable_Code_Point of Unicode 16.0, and the blank pattern of braille
    "\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]*\\Z"
)

_WORDS: Final = _PLACEHOLDERS | _NO_VALUE
_LONGEST_WORD: Final = max(map(len, _WORDS))
_is_plain_id: Final = re.compile(
    r"[A-Za-z1-9][A-Za-z0-9_.:/+=-]{0,254}+(?<![nN][eE][dD])(?<![uU][lL][lL])(?<![nN][aA][nN])"
).fullmatch
"""Matches nearly every id. A match is stripped, short enough, in normal form, and not blocked unless it is in `_WORDS`."""
_is_plain_email: Final = re.compile(
    r"[A-Za-z0-9_.+-]{1,64}+(?<![nN][eE][dD])(?<![uU][lL][lL])(?<![nN][oO][nN][eE])@"
    r"(?:[A-Za-z0-9-]{1,63}+\.){1,3}+(?![uU][nN][dD]|[nN][uU][lL]|[nN][aA][nN])[A-Za-z]{2,63}"
).fullmatch
"""Matches nearly every address. A match is stripped, short enough, well-formed and not blocked."""


class BadPattern(ValueError):
    """A pattern among a workspace's blocked identifiers is not a regular expression that RE2 supports."""


class IdentifierRules:
    """The rules for identifiers in one workspace: those of the contract, and the workspace's own blocked identifiers.

    `blocked` holds exact values, and patterns between slashes (`/^test-/`) that match anywhere in the identifier. RE2
    matches patterns in linear time: anybody could send an identifier that keeps Python's `re` searching for minutes. Raises
    BadPattern, also for features that RE2 lacks (look-around and backreferences).

    `visitor_id` and `external_id` return the key of an id (`id_key`). `email` returns the address as written but stripped; its
    key is `email_key`. Each returns a Rejection if the identifier is blocked or invalid.
    """

    visitor_id: Callable[[str], str | Rejection]
    external_id: Callable[[str], str | Rejection]
    email: Callable[[str], str | Rejection]

    def __init__(self, blocked: Iterable[str] = (), *, remembered: int = 0) -> None:
        """`remembered`: how many results of each kind are cached, for a fold that sees the same identifiers often."""
        self.blocked: Final = tuple(sorted(blocked))
        is_pattern = re.compile(r"/.+/\Z", re.DOTALL).match
        self._exact: Final = frozenset(_nfc(item) for item in self.blocked if not is_pattern(item))
        self._patterns: Final = tuple(_compiled(item) for item in self.blocked if is_pattern(item))
        self.remembered: Final = remembered
        self.visitor_names: Final[dict[str, Any]] = {}
        """The results of `names.named_by` for events that name only a visitor, as most do. They cache visitor ids, too."""
        self.visitor_id = partial(self._id, "visitorId")
        self.external_id = _remembering(partial(self._id, "externalId"), remembered)
        self.email = _remembering(self._email, remembered)

    def _id(self, field: str, raw: str) -> str | Rejection:
        if not self.blocked and _is_plain_id(raw) and (len(raw) > _LONGEST_WORD or raw.lower() not in _WORDS):
            return raw
        value = id_key(raw)
        if len(value) > MAX_ID_CHARS:
            return Rejection("invalid", field, _ID, _seen(value))
        if _is_accident(value) or (self.blocked and self._is_own(value)):
            return _blocked(field, raw)
        if "\0" in value:
            return Rejection("invalid", field, _ID, _seen(value))
        return value

    def _email(self, raw: str) -> str | Rejection:
        if not self.blocked and _is_plain_email(raw):
            return raw
        value = stripped(raw)
        if len(value) > MAX_EMAIL_CHARS:
            return Rejection("invalid", "email", _ADDRESS, _seen(value))
        parts = _parts_of(value)
        is_blocked = _is_accident(value) or (parts is not None and _is_accident(parts[1]))
        if is_blocked or (self.blocked and self._is_own(_nfc(value))):
            return _blocked("email", raw)
        if parts is None or len(value) < MIN_EMAIL_CHARS:
            return Rejection("invalid", "email", _ADDRESS, _seen(value))
        return value

    def _is_own(self, value: str) -> bool:
        """Whether the workspace itself blocks `value` (a key), with or without quotes."""
        return (
            value in self._exact or _unquoted(value) in self._exact or any(pattern.search(value) for pattern in self._patterns)
        )


_Judge = Callable[[str], str | Rejection]


def _remembering(judge: _Judge, remembered: int) -> _Judge:
    return _Judgements(judge, remembered).__getitem__ if remembered else judge


class _Judgements(dict[str, str | Rejection]):
    """A cache of the result for each identifier as written. It is cleared when it is full."""

    def __init__(self, judge: _Judge, remembered: int) -> None:
        super().__init__()
        self._judge: Final = judge
        self._remembered: Final = remembered

    def __missing__(self, raw: str) -> str | Rejection:
        judged = self._judge(raw)
        if type(judged) is str and len(raw) <= MAX_EMAIL_CHARS:  # a rejection is rare, and may be long
            if len(self) >= self._remembered:
                self.clear()
            self[raw] = judged
        return judged


CONTRACT_RULES: Final = IdentifierRules()
"""The contract's rules alone, for producers, which do not know the rules of a workspace."""


class _Pattern(Protocol):
    def search(self, text: str, /) -> object: ...


def _compiled(item: str) -> _Pattern:
    # Part of the extra `service`: a producer does not know a workspace's patterns, so it needs no engine.
    engine: Any = import_module("re2")
    options = engine.Options()
    options.log_errors = False
    try:
        return cast("_Pattern", engine.compile(item[1:-1], options))
    except (engine.error, UnicodeEncodeError) as error:
        why = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else str(error)
        message = f"blocked identifiers: expected a regular expression of RE2 between slashes, got {found(item)} ({why})"
        raise BadPattern(message) from error


def _is_accident(value: str) -> bool:
    """Whether `value` (stripped) comes from a bug in a program, or is an address with such a part."""
    value = _unquoted(value)
    parts = _parts_of(value)
    return (
        _is_no_value(value)
        or value.lower() in _PLACEHOLDERS
        or _ZEROS_AND_DASHES.match(value) is not None
        or (parts is not None and _is_no_value(_unquoted(parts[0]), _NO_LOCAL_PART, _LOCAL_ENDING))
        or (parts is not None and _is_no_value(parts[1]))
    )


def _is_no_value(value: str, words: frozenset[str] = _NO_VALUE, ending: re.Pattern[str] = _ENDING) -> bool:
    """Whether `value` is how a program writes a missing value."""
    return (
        value.lower() in words
        or ending.search(value, max(0, len(value) - _ENDING_CHARS)) is not None
        or _INVISIBLE.match(value) is not None
        or any((at := value.find(begin)) >= 0 and value.find(end, at + len(begin)) >= 0 for begin, end in _TEMPLATES)
        or _FORMAT.search(value) is not None
    )


def _parts_of(email: str) -> tuple[str, str] | None:
    """The local part and the domain (without a trailing dot) of an address, or None if it is not well-formed."""
    local, _, domain = email.partition("@")
    domain = domain.rstrip(".")
    if not local or not domain or "@" in domain or _INSIDE.search(email) is not None:
        return None
    return local, domain


def _unquoted(value: str) -> str:
    while len(value) > 1 and value[0] == value[-1] and value[0] in _QUOTES:
        value = stripped(value[1:-1])
    return value


def _blocked(field: str, raw: str) -> Rejection:
    return Rejection("blocked-identifier", field, f"an identifier of one {_OF[field]}", f"{found(raw)}, which is blocked")


_ID: Final = "1 to 255 characters without NUL"
_ADDRESS: Final = (
    "3 to 320 characters with one @, a local part and a domain, and without white space, control or zero-width characters"
)
_OF: Final = {"visitorId": "device", "externalId": "person", "email": "person"}


def _seen(value: str) -> str:
    return f"{found(value)} ({len(value)} characters)"
