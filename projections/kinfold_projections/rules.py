"""The rules of the contract, by section and in words, as `kinfold explain` and the directory's timeline name them."""

from typing import Final

from kinfold_schemas.changes import Correction

MAX_MERGES: Final = 25
"""How many contacts ordinary events may merge into one. Without a limit, a junk identifier that no rule knows would collect
everybody."""

NEW_CONTACT: Final = "5, first table: a new contact"
GAINS_EXTERNAL_ID: Final = "5, first table: gains the external id"
ADDRESS: Final = "5, second table: the address"
LAST_WRITE: Final = "3: last write wins by effective time"
LINKED: Final = "5, Linking: from the effective time on"
MOVES_ON: Final = "5, Linking: the visitor moves on"
OTHER_ORDER: Final = "5, Linking: the visitors linked most recently come first"
MERGED: Final = "5, second table: the event names both"
HELD: Final = "5, second table: held by a contact with another external id"
FUSE: Final = f"5, the fuse: {MAX_MERGES} contacts were merged already"
REPLAY: Final = "9: a replay folded the log again"


def corrected(correction: Correction) -> str:
    """The rule behind a correction by hand (section 5, Corrections): who made it, and why."""
    reason = f": {correction.reason}" if correction.reason else ""
    return f"corrected by {correction.by}{reason}"
