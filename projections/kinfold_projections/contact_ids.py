"""Contact ids (contract section 5): `ct_` and Crockford base32; they sort by creation, and a replay gives them again."""

import hashlib
from typing import Final

from kinfold_projections.entries import Stamp

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS: Final = [one + other for one in _ALPHABET for other in _ALPHABET]
_MAX_MS: Final = 2**48 - 1


def make_contact_id(workspace: str, stamp: Stamp) -> str:
    """The id of the contact that the entry with this stamp creates: 48 bits of its milliseconds, 80 bits of a hash."""
    _, entry_ms, seq = stamp
    digest = hashlib.sha256(f"{workspace}\0{entry_ms}-{seq}".encode()).digest()
    number = min(entry_ms, _MAX_MS) << 80 | int.from_bytes(digest[:10])
    return "ct_" + "".join([_PAIRS[number >> shift & 1023] for shift in range(120, -10, -10)])
