"""Fills a build from a snapshot of the state, if the feed does not hold every change.

What the state does not tell comes from the build before: the timeline, former identifiers and settled conflicts. Its last rows
may be of changes that a failover took away, and these are left out: rows after the last one that the feed still has.

Between the build before and the snapshot, the timeline has a gap: the new build has `timeline_since`.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from kinfold_projections.directory_feed import decode_contact
from kinfold_projections.directory_rows import Living, Rows
from kinfold_schemas.contacts import ERASED, Link
from kinfold_schemas.keys import key
from kinfold_schemas.positions import position_key
from kinfold_schemas.times import LAST_MS
from kinfold_services.connections import Client
from kinfold_services.directory import building, store
from kinfold_services.directory.contact_writes import load_contacts, write_contacts
from kinfold_services.directory.erased_rows import Source, erase, unlinked_visitors
from kinfold_services.directory.shapes import earlier_table
from kinfold_services.directory.store import Overtaken
from kinfold_services.directory.tables import SHAPE, builds, conflicts, contacts, identifiers, timeline, visitors
from kinfold_services.directory.transactions import Transactions, now
from kinfold_services.log.feed import read_feed_page
from kinfold_services.state.scans import absent_visitors, scan_links, scan_tombstones
from kinfold_services.state.snapshot import SnapshotReader, Stored

CAUSE: Final = "snapshot"
"""The cause of a merge that is known from the state alone."""

_SOME_ROWS: Final = 2000
_LOOK_AT: Final = 200


class _Source(NamedTuple):
    """The build that the past is copied from."""

    id: int
    shape: int
    position: str


class SnapshotBuild:
    """Fills one build. Raises RedisError, FeedOverran, DirectoryUnavailable, and Overtaken if the build was removed."""

    def __init__(self, client: Client, workspace: str, write: Transactions, build: int, since: str) -> None:
        """`since` is when the build began."""
        self._client: Final = client
        self._workspace: Final = workspace
        self._write: Final = write
        self._build: Final = build
        self._since: Final = since
        self._source: _Source | None = None
        self._merged: Final[dict[str, str]] = {}
        self._erased: Final[list[str]] = []

    async def fill(self) -> int | None:
        """Fill the build. At the end it has the snapshot's position, and the changes from there on may be applied.

        Returns the id of the build that it has the past from. It may take the place of that one alone.
        """
        self._source = await self._write(self._earlier)
        if self._source is not None:
            await self._carry_over(self._source)
        reader = SnapshotReader(self._client, self._workspace)
        async for page in reader.pages():
            await self._fill(partial(self._put, page=page))
        async for page in reader.corrections():
            await self._fill(partial(self._put, page=page))
        async for found in scan_tombstones(self._client, self._workspace):
            self._merged.update((each, into) for each, into in found.items() if into != ERASED)
            self._erased.extend(each for each, into in found.items() if into == ERASED)
        await self._copy_links()
        gone = list[str]()
        if self._erased:  # the build before may not have been told
            unlinked = await self._write(lambda connection: unlinked_visitors(connection, self._build))
            gone = await absent_visitors(self._client, self._workspace, unlinked)
        position = reader.position
        await self._write(lambda connection: self._complete(connection, position, gone))
        return None if self._source is None else self._source.id

    async def _fill(self, work: Callable[[sa.Connection], None]) -> None:
        def fill(connection: sa.Connection) -> None:
            building.touch_build(connection, self._build, now())
            work(connection)

        await self._write(fill)

    def _put(self, connection: sa.Connection, page: Sequence[Stored]) -> None:
        contacts_now = {each: None if data is None else Living(decode_contact(data), data.decode()) for each, data in page}
        known = load_contacts(connection, self._build, contacts_now)
        write_contacts(connection, self._build, Rows(known, contacts_now), known)

    async def _copy_links(self) -> None:
        async for links in scan_links(self._client, self._workspace):
            if links:
                await self._fill(partial(self._link, links=links))

    def _link(self, connection: sa.Connection, links: Mapping[str, Sequence[Link]]) -> None:
        store.add_links(connection, self._build, links)

    # --- the build before

    def _earlier(self, connection: sa.Connection) -> _Source | None:
        """The current build."""
        query = sa.select(builds.c.id, builds.c.shape, builds.c.position)
        query = query.where(builds.c.workspace == self._workspace, builds.c.state == "current")
        row = connection.execute(query.order_by(builds.c.shape.desc()).limit(1)).first()
        return None if row is None else _Source(*row)

    def _check_source(self, connection: sa.Connection) -> None:
        """Raise Overtaken if another directory has replaced the build before, or found more of the feed for it.

        A build of an older shape may go on: an older kinfold follows the feed until this one has every workspace.
        """
        if self._source is None:
            return
        same = [builds.c.id == self._source.id, builds.c.state == "current"]
        if self._source.shape == SHAPE:
            same.append(builds.c.position == self._source.position)
        if connection.execute(sa.select(builds.c.id).where(*same).with_for_update(read=True)).first() is None:
            raise Overtaken(f"build {self._source.id} was replaced or went on while its past was copied")

    async def _carry_over(self, earlier: _Source) -> None:
        """Copy what the build before knows of the past. Tables that an older shape had not are left out."""
        upto: tuple[int, int] | None = None
        for table in (timeline, identifiers, conflicts):
            source = await self._write(partial(earlier_table, table=table, shape=earlier.shape))
            if source is None:
                continue
            if upto is None:
                upto = await self._last_in_feed(source, earlier.id)
            await self._copy(_Copy(source, table, earlier.id, self._build, upto))

    async def _copy(self, copy: "_Copy") -> None:
        last: tuple[Any, ...] | None = None
        while True:
            last = await self._write(partial(self._copy_some, copy=copy, after=last))
            if last is None:
                return

    def _copy_some(self, connection: sa.Connection, copy: "_Copy", after: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        building.touch_build(connection, self._build, now())
        self._check_source(connection)  # the rows of a build that was replaced are removed
        return copy.some(connection, after)

    async def _last_in_feed(self, source: sa.Table, build: int) -> tuple[int, int]:
        """The last position of the build before that the feed has, or has trimmed."""
        feed = key(self._workspace, "changes")
        extent = (await read_feed_page(self._client, feed, building.BEGINNING, 1)).extent
        last_ms, last_seq = position_key(extent.last)
        first = position_key(extent.first) if extent.first else (last_ms, last_seq + 1)
        before = (LAST_MS, 0)
        while True:
            found = await self._write(partial(_positions_before, source=source, build=build, before=before))
            if not found:
                return (0, 0)
            pipeline = self._client.pipeline(transaction=True)
            for ms, seq in found:
                pipeline.xrange(feed, min=f"{ms}-{seq}", max=f"{ms}-{seq}")
            for position, entry in zip(found, await pipeline.execute(), strict=True):
                if entry or position < first:
                    return position
            before = found[-1]

    # --- the end

    def _complete(self, connection: sa.Connection, position: str, visitors_gone: Sequence[str]) -> None:
        """Give what was carried over to the living contacts, and add the merges that only the state tells of.

        `visitors_gone`: visitors that the past shows and that do not exist any more.
        """
        self._check_source(connection)
        for each in load_contacts(connection, self._build, self._merged):
            del self._merged[each]  # it was merged after the snapshot's position: the feed tells it
        if self._erased:
            before = self._tables_before(connection)
            erase(connection, self._build, dict.fromkeys(self._erased), visitors_gone, before)
        roots = {each: self._root(each) for each in self._merged}
        self._complete_identifiers(connection, roots, position)
        self._complete_conflicts(connection, roots)
        # The timeline lacks what happened while the snapshot was read, too.
        building.touch_build(connection, self._build, at := now(), position=position, timeline_since=at)

    def _tables_before(self, connection: sa.Connection) -> Source | None:
        if self._source is None:
            return None
        found = [earlier_table(connection, each, self._source.shape) for each in (contacts, visitors, identifiers)]
        return Source(self._source.id, *(each for each in found if each is not None)) if None not in found else None

    def _root(self, contact_id: str) -> str:
        """The contact that a merged one has become.

        The merges were not read at one time. A replay in between may have turned some round, so they may lead in a circle. Then
        any contact of the circle will do: the feed tells what the replay did.
        """
        seen = set[str]()
        while (into := self._merged.get(contact_id)) is not None and contact_id not in seen:
            seen.add(contact_id)
            contact_id = into
        return contact_id

    def _complete_identifiers(self, connection: sa.Connection, roots: Mapping[str, str], position: str) -> None:
        table, ours = identifiers, identifiers.c.build == self._build
        is_merged = sa.and_(ours, table.c.kind == "contact_id")
        merges = connection.execute(sa.select(table.c.value_key, table.c.merged_into).where(is_merged))
        known: dict[str, str] = {row.value_key: row.merged_into for row in merges}
        undone = [{"v": each} for each, into in known.items() if self._merged.get(each) != into]
        if undone:
            connection.execute(sa.delete(table).where(is_merged, table.c.value_key == sa.bindparam("v")), undone)
        connection.execute(sa.update(table).where(ours).values(contact_id=table.c.held_by))
        moved = [{"one": each, "other": root} for each, root in roots.items()]
        if not moved:
            return
        one, other = _moving()
        connection.execute(sa.update(table).where(ours, table.c.contact_id == one).values(contact_id=other), moved)
        ms, seq = position_key(position)
        added = [
            {
                "build": self._build,
                "kind": "contact_id",
                "value_key": each,
                "position_ms": ms,
                "position_seq": seq,
                "value": each,
                "contact_id": roots[each],
                "held_by": each,
                "merged_into": into,
                "until": self._since,
                "cause": CAUSE,
            }
            for each, into in self._merged.items()
            if known.get(each) != into
        ]
        if added:
            connection.execute(sa.insert(table), added)

    def _complete_conflicts(self, connection: sa.Connection, roots: Mapping[str, str]) -> None:
        table = conflicts
        is_open = sa.and_(table.c.build == self._build, table.c.settled_at.is_(None))
        if roots:
            one, other = _moving()
            moved = [{"one": each, "other": root} for each, root in roots.items()]
            for column in (table.c.contact_id, table.c.held_by):
                connection.execute(sa.update(table).where(is_open, column == one).values({column: other}), moved)

        def living(column: sa.Column[str]) -> sa.Exists:
            return sa.exists().where(contacts.c.build == table.c.build, contacts.c.id == column)

        still_holds = living(table.c.held_by).where(contacts.c.email_key == table.c.email_key)
        is_over = sa.or_(~still_holds, ~living(table.c.contact_id), table.c.contact_id == table.c.held_by)
        connection.execute(sa.update(table).where(is_open, is_over).values(settled_at=self._since))


def _positions_before(
    connection: sa.Connection, source: sa.Table, build: int, before: tuple[int, int]
) -> list[tuple[int, int]]:
    """Some positions of a timeline, the last one first."""
    columns = source.c.position_ms, source.c.position_seq
    query = sa.select(*columns).where(source.c.build == build, sa.tuple_(*columns) < sa.tuple_(*map(sa.literal, before)))
    query = query.order_by(*(column.desc() for column in columns)).limit(_LOOK_AT)
    return [(ms, seq) for ms, seq in connection.execute(query)]


def _moving() -> tuple[sa.BindParameter[str], sa.BindParameter[str]]:
    return sa.bindparam("one"), sa.bindparam("other")


class _Copy:
    """Copies rows of a build to another one, some at a time, in the order of the primary key."""

    def __init__(self, source: sa.Table, target: sa.Table, earlier: int, build: int, upto: tuple[int, int]) -> None:
        """Rows after the position `upto` are left out."""
        self._source: Final = source
        self._target: Final = target
        self._build: Final = build
        self._key: Final = [source.c[column.name] for column in target.primary_key if column.name != "build"]
        position = sa.tuple_(source.c.position_ms, source.c.position_seq)
        self._is_wanted: Final = sa.and_(source.c.build == earlier, position <= sa.tuple_(*map(sa.literal, upto)))

    def some(self, connection: sa.Connection, after: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        """Copy the next rows. Returns the key of the last one; None if no row is left."""
        key = sa.tuple_(*self._key)
        is_next = self._is_wanted if after is None else sa.and_(self._is_wanted, key > sa.tuple_(*map(sa.literal, after)))
        ordered = sa.select(*self._key).where(is_next).order_by(*self._key)
        last = connection.execute(ordered.limit(1).offset(_SOME_ROWS - 1)).first()
        if last is not None:
            is_next = sa.and_(is_next, key <= sa.tuple_(*map(sa.literal, last)))
        names = [column.name for column in self._target.columns if column.name != "build"]
        rows = sa.select(sa.literal(self._build), *(self._source.c[name] for name in names)).where(is_next)
        connection.execute(sa.insert(self._target).from_select(["build", *names], rows))
        return None if last is None else tuple(last)
