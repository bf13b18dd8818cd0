"""Corrections on the command line: what would change, before it is asked for and done (`kinfold correct`)."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kinfold_schemas.contacts import Contact
from kinfold_schemas.events import IdentityCorrected
from kinfold_schemas.identifiers import IdentifierRules
from kinfold_services.access.rights import REPLAY
from kinfold_services.cli.hints import warn_if_not_served
from kinfold_services.cli.output import DONE, NO, complain, print_json, say
from kinfold_services.cli.progress import progress
from kinfold_services.connections import Client
from kinfold_services.corrections.appending import Moved, Refused, append
from kinfold_services.corrections.preview import ContactChange, Preview, VisitorChange, preview
from kinfold_services.corrections.undoing import NotInLog, NotMerged, TakenBack, merging_entries, take_back
from kinfold_services.log.pages import NoLog, log_extent
from kinfold_services.replay.replay import WouldLose
from kinfold_services.runtime.garbage import collect_seldom
from kinfold_services.runtime.terminal import counted, visible
from kinfold_services.server.choice import connected
from kinfold_services.settings import Settings
from kinfold_services.state.position import Replaced
from kinfold_services.state.queries import StateQueries
from kinfold_services.state.reader import StateReader

_SHOWN: Final = 200
"""How many contacts a table shows at most."""


class How(NamedTuple):
    """Who corrects, why, and how it is asked for and printed."""

    by: str
    reason: str | None
    dry_run: bool
    yes: bool
    as_json: bool


async def correct(settings: Settings, event: IdentityCorrected, how: How) -> int:
    """Show what a correction would change, ask, and append it. Exit status 1: it is refused, or was not confirmed."""
    async with connected(settings, writes=True) as client:
        return await _correct(client, settings, event, how)


async def merge_holder(settings: Settings, event: IdentityCorrected, email: str, how: How) -> int:
    """Settle a conflict: merge the contact that has the address into the one that the event names."""
    async with connected(settings, writes=True) as client:
        holder = await StateQueries(client, settings.workspace).contact_by_email(email)
        if holder is None:
            return complain(f"e-mail: expected an address that another contact has, got {email!r}", NO)
        return await _correct(client, settings, msgspec.structs.replace(event, merge_contact_id=holder.id), how)


async def undo(settings: Settings, entries: Sequence[str], how: How) -> int:
    """Take entries of the log back. Exit status 1: it cannot be done, or was not confirmed."""
    collect_seldom()
    async with connected(settings, role=REPLAY) as client:
        return await _take_back(client, settings, list(entries), how)


async def unmerge(settings: Settings, merged: str, how: How) -> int:
    """Take back the events that merged a contact. Exit status 1: it is not merged, or it was not confirmed."""
    collect_seldom()
    async with connected(settings, role=REPLAY) as client:
        try:
            entries = await merging_entries(client, settings, await _rules(client, settings), merged)
        except (NotMerged, NoLog) as error:
            return complain(f"{error}; nothing was done", NO)
        return await _take_back(client, settings, entries, how)


async def _rules(client: Client, settings: Settings) -> IdentifierRules:
    return IdentifierRules(await StateReader(client, settings.workspace).blocked_identifiers())


async def _correct(client: Client, settings: Settings, event: IdentityCorrected, how: How) -> int:
    rules = await _rules(client, settings)
    found = await preview(client, settings.workspace, rules, event)
    if how.dry_run:
        _print(found, how)
        return DONE if found.rejection is None else NO
    if found.rejection is not None:
        return complain(f"{found.rejection.detail}; nothing was done", NO)
    if not how.yes:
        _say_table(found.contacts, found.visitor, found.notes)
    if found.changes_anything and not how.yes and not _is_confirmed():
        return complain("not confirmed; nothing was done", NO)
    try:
        appended = await append(client, settings.workspace, rules, event, if_version=found.version)
    except (Refused, Moved) as error:
        return complain(f"{error}; nothing was done", NO)
    print_json(appended)
    if appended.position is None:
        say("it would change nothing; nothing was appended")
    await warn_if_not_served(client, settings.workspace)
    return DONE


async def _take_back(client: Client, settings: Settings, entries: list[str], how: How) -> int:
    rules = await _rules(client, settings)
    extent = await log_extent(client, settings.workspace)

    async def attempt(*, dry_run: bool) -> TakenBack:
        with progress("replaying", extent.entries) as advance:
            return await take_back(
                client, settings, rules, entries, by=how.by, reason=how.reason, dry_run=dry_run, advance=advance
            )

    try:
        if how.dry_run or not how.yes:
            found = await attempt(dry_run=True)
            if how.dry_run:
                _print(found, how)
                return DONE
            _say_table(
                found.contacts,
                None,
                [f"{counted(len(entries), 'entry of the log is', 'entries of the log are')} left out from now on."],
            )
            if not _is_confirmed():
                return complain("not confirmed; nothing was done", NO)
        done = await attempt(dry_run=False)
    except (NotInLog, NoLog, WouldLose) as error:
        return complain(f"{error}; nothing was done", NO)
    except Replaced:
        return complain("another kinfold replay has taken over; it leaves the entries out as well, or the next one does", NO)
    print_json(done)
    return DONE


def _is_confirmed() -> bool:
    sys.stderr.write("Do this? [y/N] ")  # typer's question writes to standard output as well
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


# --- what would change --------------------------------------------------------------------------------------------------


def _print(found: Preview | TakenBack, how: How) -> None:
    if how.as_json:
        print_json(found)
        return
    console = Console()
    if isinstance(found, TakenBack):
        _table(console, found.contacts, None, ())
        return
    _table(console, found.contacts, found.visitor, found.notes)
    if found.rejection is not None:
        console.print(Text(visible(f"refused: {found.rejection.detail}")))


def _say_table(contacts: Sequence[ContactChange], visitor: VisitorChange | None, notes: Iterable[str]) -> None:
    _table(Console(stderr=True), contacts, visitor, notes)


def _table(console: Console, contacts: Sequence[ContactChange], visitor: VisitorChange | None, notes: Iterable[str]) -> None:
    rows = [row for each in contacts[:_SHOWN] for row in rows_of(each)]
    if visitor is not None:
        rows.append((visitor.visitor_id, "contact", visitor.before, visitor.after))
    if rows:
        table = Table(box=None, header_style="bold", pad_edge=False)
        for name in ("id", "field", "before", "after"):
            table.add_column(name, overflow="fold")
        for row in rows:
            table.add_row(*(Text(visible(_shown(cell))) for cell in row))
        console.print(table)
    else:
        console.print("no contact changes")
    if len(contacts) > _SHOWN:
        console.print(f"and {counted(len(contacts) - _SHOWN, 'more contact')}")
    for note in notes:
        console.print(Text(visible(f"note: {note}")))


def rows_of(change: ContactChange) -> Iterator[tuple[str, str, Any, Any]]:
    """The fields of a contact that differ: the id, the field, and its value before and after. None: it has none."""
    if change.merged_into is not None:
        yield change.contact_id, "merged into", None, change.merged_into
        return
    before, after = _fields(change.before), _fields(change.after)
    if not after:
        yield change.contact_id, "contact", change.contact_id, None
    elif not before:
        yield change.contact_id, "contact", None, change.contact_id
    for field in dict.fromkeys([*before, *after]):
        one, other = before.get(field), after.get(field)
        if one != other or type(one) is not type(other):
            yield change.contact_id, field, one, other


def _fields(contact: Contact | None) -> dict[str, Any]:
    if contact is None:
        return {}
    fields = {
        "externalId": contact.external_id,
        "email": contact.email,
        "name": contact.name,
        "image": contact.image,
        "visitorCount": contact.visitor_count,
    }
    return fields | {f"metadata.{name}": value for name, value in contact.metadata.items()}


def _shown(value: object) -> str:
    if value is None:
        return "–"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
