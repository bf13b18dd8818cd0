"""Contact ids (contract section 5): `ct_` and Crockford base32. They sort by creation, and a replay gives the same ids."""

import hashlib
from typing import Final

ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
"""What an id consists of, after `ct_`."""
_PAIRS: Final = [one + other for one in ALPHABET for other in ALPHABET]
_MAX_MS: Final = 2**48 - 1


def make_contact_id(workspace: str, entry_id: str) -> str:
    """The id of the contact that a log entry creates.

    48 bits of the entry's milliseconds, then the first 80 bits of the SHA-256 of workspace, NUL and entry id.
    """
    digest = hashlib.sha256(f"{workspace}\0{entry_id}".encode()).digest()
    number = min(int(entry_id.partition("-")[0]), _MAX_MS) << 80 | int.from_bytes(digest[:10])
    return "ct_" + "".join([_PAIRS[number >> shift & 1023] for shift in range(120, -10, -10)])
