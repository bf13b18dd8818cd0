"""How the directory indexes contacts: text folded for searching, and metadata values in the order of their kinds.

Everything here defines stored rows. A change of any result is a new shape of the directory's tables (`SHAPE`).
"""

import hashlib
import unicodedata
import zlib
from typing import Any, Final

from kinfold_schemas.canonical import Primitive
from kinfold_schemas.contacts import Contact

NULL: Final = 0
BOOLEAN: Final = 1
NUMBER: Final = 2
STRING: Final = 3

Row = dict[str, Any]
"""Values by column, without `build`."""

IndexValue = tuple[int, float, str]
"""A value as it is indexed: kind, number, text. Tuples sort as values do: nulls, booleans, numbers, strings."""

INDEXED_CHARS: Final = 200
"""How many characters of a string are indexed as they are."""

SAMPLE: Final = 64
"""One contact in this many is in the sample from which large counts are estimated."""

_DIGEST_CHARS: Final = 16
# Letters with a stroke or without a dot, and ligatures, which Unicode does not decompose.
_BASE_LETTERS: Final = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ħ": "h", "ŧ": "t", "ı": "i", "æ": "ae", "œ": "oe"},
)


def fold_text(text: str) -> str:
    """Fold text for searching: without accents, compatibility forms and case. Folding twice changes nothing."""
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join([char for char in decomposed if not unicodedata.combining(char)]).casefold().translate(_BASE_LETTERS)


def index_value(value: Primitive) -> IndexValue:
    """The kind, number and text under which a metadata value is indexed. The number is 0 for nulls and strings."""
    if isinstance(value, str):
        return STRING, 0.0, index_text(value)
    if value is None:
        return NULL, 0.0, ""
    if isinstance(value, bool):
        return BOOLEAN, float(value), ""
    return NUMBER, value + 0.0, ""  # and -0.0 is 0.0


def index_text(text: str) -> str:
    """A string under which an index can hold `text`: the string itself, or its first 200 characters, `…` and a digest.

    A row of a PostgreSQL index has at most 2,704 bytes. Equal strings have equal index texts, and different strings different
    ones. Strings sort as their index texts do, except among those of more than 200 characters that begin with the same 200.
    """
    if len(text) <= INDEXED_CHARS:
        return text
    return f"{text[:INDEXED_CHARS]}…{hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_CHARS]}"


def search_text(contact: Contact) -> str:
    """What a search looks at: name, address, external id and contact id, one a line, folded.

    Since each line ends with a newline, any two characters of one begin a trigram, with which SQLite finds short words. So does
    any single character, except the last one of the id.
    """
    parts = (contact.name, contact.email, contact.external_id, contact.id)
    return fold_text("".join([f"{part}\n" for part in parts if part is not None]))


def folded_strings(contact: Contact) -> dict[str, str] | None:
    """The folded form of each string outside ASCII, by the name of its field as filters write it (`name`, `metadata.plan`).

    The folded form of an ASCII string is its lower case, which every database can compute. None if there is no other string.
    """
    fields = {"name": contact.name, "email": contact.email, "externalId": contact.external_id, "image": contact.image}
    strings = fields | {f"metadata.{key}": value for key, value in contact.metadata.items()}
    folded = {name: fold_text(text) for name, text in strings.items() if isinstance(text, str) and not text.isascii()}
    return folded or None


def is_sampled(contact_id: str) -> bool:
    """Whether a contact is in the sample: one in 64, by a hash of its id."""
    return zlib.crc32(contact_id.encode()) % SAMPLE == 0
