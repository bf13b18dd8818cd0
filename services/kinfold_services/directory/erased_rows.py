"""Removes erased people from a build (contract section 10): what is theirs, and what other contacts' rows show of them.

A replay may have separated a person from somebody who had their identifiers by mistake. Entries of the feed that showed this
have lost their bodies (`copy_feed.lua`). The same rows lose them here, even where the feed was trimmed since.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from kinfold_projections.directory_feed import ERASURE, REPLAY
from kinfold_schemas.contacts import Contact
from kinfold_schemas.identifiers import email_key
from kinfold_services.directory.tables import conflicts, contacts, identifiers, timeline, visitors

NO_ADDRESS: Final = "erased@erased.invalid"
"""Stands for the address of an erased person in conflicts that others had over it."""

_AT_ONCE: Final = 500
_OF_CONFLICTS: Final = frozenset({"IdentityConflict", "ConflictDismissed"})
_OF_VISITORS: Final = ("VisitorLinked", "VisitorUnlinked")


class Source(NamedTuple):
    """A build that knows the people's identifiers, and its tables."""

    build: int
    contacts: sa.Table = contacts
    visitors: sa.Table = visitors
    identifiers: sa.Table = identifiers


class _Theirs(NamedTuple):
    """What only the erased people had: identifiers as they are compared."""

    emails: set[str]
    external_ids: set[str]
    visitors: set[str]


def linked_visitors(connection: sa.Connection, build: int, ids: Iterable[str]) -> set[str]:
    """The visitors that were ever linked to one of these contacts."""
    its, found = visitors.c, set[str]()
    for some in _some(ids):
        linked = sa.select(its.visitor_id).where(its.build == build, its.contact_id.in_(some))
        found.update(connection.execute(linked).scalars())
    return found


def unlinked_visitors(connection: sa.Connection, build: int) -> set[str]:
    """The visitors that timelines show and that are linked to nobody now. It passes the whole timeline.

    A replay has taken some of them from somebody who had them by mistake. If their own person came and was erased while the
    directory was away, it was not told that they were linked again.
    """
    shown = sa.select(timeline.c.details["visitorId"].as_string())
    shown = shown.where(timeline.c.build == build, timeline.c.type.in_(_OF_VISITORS)).distinct()
    linked = sa.select(visitors.c.visitor_id).where(visitors.c.build == build)
    return set(connection.execute(shown).scalars()).difference(connection.execute(linked).scalars())


def erase(
    connection: sa.Connection,
    build: int,
    people: Mapping[str, Contact | None],
    visitors_gone: Iterable[str] = (),
    before: Source | None = None,
) -> None:
    """Remove every row about erased contacts but those of `contacts`, and what rows of other contacts show of the people.

    `people`: the contacts by id, as they were if that is known. `visitors_gone`: visitors without rows in `visitors` any more.
    `before`: the build that the past of this one is from.
    """
    theirs = _Theirs(set(), set(), set(visitors_gone))
    for contact in people.values():
        if contact is not None:
            _add(theirs, None if contact.email is None else email_key(contact.email), contact.external_id)
    for source in [Source(build)] if before is None else [Source(build), before]:
        for ids in _some(people):
            _add_stored(theirs, connection, source, ids)
    _leave_shared(connection, build, frozenset(people), theirs)
    _forget_others(connection, build, frozenset(people), theirs)
    for ids in _some(people):
        _remove(connection, build, ids)


# --- what is theirs -------------------------------------------------------------------------------------------------------


def _add_stored(found: _Theirs, connection: sa.Connection, source: Source, ids: Sequence[str]) -> None:
    """Add what a build knows of some of the people."""
    holders = _holders(connection, source, ids)
    its = source.contacts.c
    held = sa.select(its.email_key, its.external_id).where(its.build == source.build, its.id.in_(holders))
    for row in connection.execute(held):
        _add(found, *row)
    had = source.identifiers.c
    # An entry without its body, which the build has not known before, takes from a contact all that it had.
    of_them = sa.or_(had.contact_id.in_(ids), had.held_by.in_(ids), had.cause == ERASURE)
    former = sa.select(had.kind, had.value_key).where(had.build == source.build, had.kind != "contact_id", of_them)
    for kind, value in connection.execute(former):
        (found.emails if kind == "email" else found.external_ids).add(value)
    linked = source.visitors.c
    of_visitors = sa.select(linked.visitor_id).where(linked.build == source.build, linked.contact_id.in_(holders))
    found.visitors.update(connection.execute(of_visitors).scalars())


def _add(found: _Theirs, email: str | None, external_id: str | None) -> None:
    if email is not None:
        found.emails.add(email)
    if external_id is not None:
        found.external_ids.add(external_id)


def _holders(connection: sa.Connection, source: Source, ids: Sequence[str]) -> list[str]:
    """The contacts, and those that they had become in this build."""
    its = source.identifiers.c
    merged = sa.select(its.contact_id).where(its.build == source.build, its.kind == "contact_id", its.value_key.in_(ids))
    return [*ids, *connection.execute(merged).scalars()]


def _leave_shared(connection: sa.Connection, build: int, people: frozenset[str], found: _Theirs) -> None:
    """Take out what others have, or have had: it stays with them. What a replay took from them, they never had."""
    living, had, linked = contacts.c, identifiers.c, visitors.c
    for kind, values, column in (
        ("email", found.emails, living.email_key),
        ("external_id", found.external_ids, living.external_id),
    ):
        for some in _some(values):
            held = sa.select(column, living.id).where(living.build == build, column.in_(some))
            values.difference_update([value for value, holder in connection.execute(held) if holder not in people])
            former = sa.select(had.value_key, had.contact_id, had.held_by).where(
                had.build == build, had.kind == kind, had.value_key.in_(some), had.cause.not_in([REPLAY, ERASURE])
            )
            values.difference_update([value for value, *holders in connection.execute(former) if people.isdisjoint(holders)])
    for some in _some(found.visitors):
        shared = sa.select(linked.visitor_id).where(linked.build == build, linked.visitor_id.in_(some))
        found.visitors.difference_update(connection.execute(shared).scalars())


def _some(values: Iterable[str]) -> list[list[str]]:
    """The values, some at a time: a query has a limit of parameters."""
    ordered = sorted(values)
    return [ordered[first : first + _AT_ONCE] for first in range(0, len(ordered), _AT_ONCE)]


# --- what others show of it -----------------------------------------------------------------------------------------------


def _forget_others(connection: sa.Connection, build: int, people: frozenset[str], theirs: _Theirs) -> None:
    had, told = identifiers.c, conflicts.c
    others = set[str]()
    for kind, values in (("email", theirs.emails), ("external_id", theirs.external_ids)):
        for some in _some(values):
            former = had.build == build, had.kind == kind, had.value_key.in_(some)
            for row in connection.execute(sa.select(had.contact_id, had.held_by).where(*former)):
                others.update(row)
            connection.execute(sa.delete(identifiers).where(*former))
    connection.execute(sa.delete(identifiers).where(had.build == build, had.cause == ERASURE))
    for some in _some(people):
        held = sa.select(told.contact_id).where(told.build == build, told.held_by.in_(some))
        others.update(connection.execute(held).scalars())
    for some in _some(theirs.emails):
        over_it = told.build == build, told.email_key.in_(some)
        others.update(connection.execute(sa.select(told.contact_id).where(*over_it)).scalars())
        connection.execute(sa.delete(conflicts).where(*over_it))
    if theirs.visitors:
        others.update(_linked_once(connection, build, theirs.visitors))
    for each in others.difference(people):
        _forget_in_timeline(connection, build, each, people, theirs)


def _linked_once(connection: sa.Connection, build: int, gone: set[str]) -> set[str]:
    """The contacts in whose timelines these visitors were linked. It passes the whole timeline."""
    visitor_id = timeline.c.details["visitorId"].as_string()
    query = sa.select(timeline.c.contact_id, visitor_id).where(timeline.c.build == build, timeline.c.type.in_(_OF_VISITORS))
    if len(gone) <= _AT_ONCE:
        query = query.where(visitor_id.in_(sorted(gone)))
    return {contact_id for contact_id, visitor in connection.execute(query) if visitor in gone}


def _forget_in_timeline(
    connection: sa.Connection, build: int, contact_id: str, people: frozenset[str], theirs: _Theirs
) -> None:
    """Empty the rows from each one that shows what is theirs up to the replay that took it away: they may show more of it."""
    its = timeline.c
    query = sa.select(its.position_ms, its.position_seq, its.type, its.cause, its.details)
    query = query.where(its.build == build, its.contact_id == sa.literal(contact_id, sa.Text()))
    rows = connection.execute(query.order_by(its.position_ms, its.position_seq)).all()
    replays = [number for number, row in enumerate(rows) if row.cause == REPLAY]
    empty_until = -1
    for number, row in enumerate(rows):
        values: dict[str, Any] | None = None
        if row.type in _OF_CONFLICTS:
            if row.details.get("heldBy") in people or email_key(row.details.get("email", "")) in theirs.emails:
                values = {"details": {**row.details, "email": NO_ADDRESS}}
        else:
            if _shows(row.details, theirs):
                empty_until = next((each for each in replays if each >= number), number)
            if number <= empty_until:
                values = {"type": "ContactUpdated", "cause": ERASURE, "rule": "", "details": {}}
        if values is not None:
            at = its.build == build, its.position_ms == row.position_ms, its.position_seq == row.position_seq
            connection.execute(sa.update(timeline).where(*at).values(values))


def _shows(details: Mapping[str, Any], theirs: _Theirs) -> bool:
    """Whether a row shows an identifier of theirs as the contact's."""
    if details.get("visitorId") in theirs.visitors:
        return True
    for each in details.get("changed", ()):
        values = [value for side in ("before", "after") if isinstance(value := each.get(side), str)]
        if each["field"] == "email" and any(email_key(value) in theirs.emails for value in values):
            return True
        if each["field"] == "externalId" and any(value in theirs.external_ids for value in values):
            return True
    return False


def _remove(connection: sa.Connection, build: int, ids: Sequence[str]) -> None:
    for table in (timeline, visitors):
        connection.execute(sa.delete(table).where(table.c.build == build, table.c.contact_id.in_(ids)))
    for table in (identifiers, conflicts):
        of_them = sa.or_(table.c.contact_id.in_(ids), table.c.held_by.in_(ids))
        connection.execute(sa.delete(table).where(table.c.build == build, of_them))
