"""All that the directory holds of one contact: its timeline, and the identifiers that it had."""

from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from kinfold_services.directory.lineage import read_lineage
from kinfold_services.directory.reading import NoContact, read_timeline

_PAGE: Final = 500
_OTHERS: Final = ("previousContactId", "nextContactId", "heldBy")
"""Details that may name another person's contact."""

Ask = Callable[[Callable[[sa.Connection], Any]], Any]
"""Runs a query, in a transaction of its own."""


def held_rows(ask: Ask, workspace: str, contact_id: str) -> Iterator[dict[str, Any]]:
    """The rows, the timeline's from the newest on. Contacts of other people are left out. Raises DirectoryUnavailable."""
    lineage = ask(lambda connection: read_lineage(connection, workspace, contact_id))
    own = {contact_id, *(each.value for each in lineage.former if each.kind == "contact_id")}
    for former in lineage.former:
        yield {"table": "identifiers", **msgspec.to_builtins(former)}
    cursor: str | None = None
    while True:
        at = cursor
        try:
            page = ask(lambda connection: read_timeline(connection, workspace, contact_id, _PAGE, at))  # noqa: B023  asked at once
        except NoContact:
            return
        for entry in page.timeline:
            shown: dict[str, Any] = {"table": "timeline", **msgspec.to_builtins(entry)}
            shown["details"] = {name: value for name, value in entry.details.items() if name not in _OTHERS or value in own}
            if entry.type == "IdentityConflict" and entry.details.get("heldBy") not in own:
                shown["details"].pop("email", None)
            yield shown
        cursor = page.next_cursor
        if cursor is None:
            return
