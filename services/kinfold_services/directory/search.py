"""Search, count and count by value in the directory.

A query walks the index of its sort and tests the rest of the filter on each row until the page is full. If a condition that
must hold is rare, it takes the few contacts that meet it and sorts them. In between, SQLite walks the index and reads only the
contacts that meet the condition. So a page is quick if matches are frequent and if they are rare, at any depth.

Call these in a transaction of `Database.reading`, which shows one state and bounds the time.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final, TypeGuard

import msgspec
import sqlalchemy as sa

from kinfold_projections.directory import INDEXED_CHARS, SAMPLE, STRING, fold_text, index_value
from kinfold_schemas.canonical import Primitive
from kinfold_schemas.filters import And, Comparison, Field, Filter, unparse
from kinfold_services.directory.builds import Build, current_build
from kinfold_services.directory.conditions import COLUMNS, Condition, Conditions, sql_of
from kinfold_services.directory.errors import WrongQuery
from kinfold_services.directory.query import MAX_LIMIT, MAX_Q_CHARS, Count, Counts, Page, Query
from kinfold_services.directory.rare import Finder, Found, Most, Select, has_value, most_found, most_sorted
from kinfold_services.directory.sorting import (
    Cursor,
    Segment,
    indexed_column,
    page_values,
    read_cursor,
    segments,
    walk_of_everybody,
    write_cursor,
)
from kinfold_services.directory.tables import contacts, counts, metadata

EXACT: Final = 10_000
"""Counts up to this are exact."""

_FEW: Final = 2 * EXACT
"""Up to this many, contacts are counted one by one. A larger estimate never comes from `EXACT` contacts or fewer."""
MANY: Final = 20_000
"""With fewer contacts, any walk is short."""
_SELDOM: Final = 4
"""With fewer in the sample (of a million: fewer than one in 4,000), a walk would take more than a few tenths of a second."""
_SIMILAR: Final = ("0.6", "0.3")
"""How similar a word has to be, of 1: two letters that changed places leave 0.33 of a word of seven."""
_LEAST_SIMILAR: Final = 4
"""How long the words have to be: with three letters, every word that begins alike is similar."""
_MOST_SIMILAR: Final = 2000
"""How many contacts are compared in each turn."""
_SEEN_CHARS: Final = INDEXED_CHARS + 1
"""How much of a long string `count_by` shows: its beginning, and `…`."""

_OF_KEY: Final = sa.and_(counts.c.build == sa.bindparam("build"), counts.c.key == sa.bindparam("key"))
_MOST_FREQUENT: Final = (
    sa.select(counts.c.kind, counts.c.number, counts.c.text, counts.c.contacts)
    .where(_OF_KEY)
    .order_by(counts.c.contacts.desc(), counts.c.kind, counts.c.number, counts.c.text)
    .limit(sa.bindparam("rows"))
)
_TOTAL: Final = sa.select(sa.func.sum(counts.c.contacts)).where(_OF_KEY)


def search(connection: sa.Connection, workspace: str, query: Query, now_ms: int) -> Page:
    """Return a page of the contacts that match, in the order of `query.sort`.

    If no contact has the words, PostgreSQL looks for similar ones.

    Raises:
        NoDirectory: the workspace has no current build.
        WrongQuery: the cursor is of another query, or no cursor; or `q` or `limit` is out of bounds.

    """
    if not 1 <= query.limit <= MAX_LIMIT:
        raise WrongQuery(f"limit: expected 1 to {MAX_LIMIT}, got {query.limit}")
    run = _QueryRun(connection, workspace, query, now_ms)
    page = run.page()
    if page.records or query.cursor is not None or connection.dialect.name != "postgresql":
        return page
    is_long = bool(run.words) and min(map(len, run.words)) >= _LEAST_SIMILAR
    return run.similar_page() if is_long else page


def count(connection: sa.Connection, workspace: str, query: Query, now_ms: int) -> Count:
    """Count the contacts that match `q` and `where`: exactly up to 10,000, and estimated beyond.

    Raises:
        NoDirectory: the workspace has no current build.
        WrongQuery: `q` is out of bounds.

    """
    run = _QueryRun(connection, workspace, query, now_ms)
    counted, is_exact = run.count()
    return Count(counted, is_exact, run.build.position)


def count_by(  # noqa: PLR0913, PLR0917  one more than `search` has
    connection: sa.Connection, workspace: str, field: Field, query: Query, limit: int, now_ms: int
) -> Counts:
    """Count the contacts that match `q` and `where` by their value of a field: the `limit` most frequent values, and the rest.

    Equally frequent values are in the order of values. Strings of more than 200 characters count as one value if they are
    equal, and are shown cut off.

    Raises:
        NoDirectory: the workspace has no current build.
        WrongQuery: `q` or `limit` is out of bounds.

    """
    if not 1 <= limit <= MAX_LIMIT:
        raise WrongQuery(f"limit: expected 1 to {MAX_LIMIT}, got {limit}")
    run = _QueryRun(connection, workspace, query, now_ms)
    if field.in_metadata and run.is_everybody:
        return run.counts_of_key(field.name, limit)
    return run.counts_by(field, limit)


class _QueryRun:
    """A query that runs on one build."""

    def __init__(self, connection: sa.Connection, workspace: str, query: Query, now_ms: int) -> None:
        self._connection = connection
        self._query = query
        self.words: Final = _words(query.q)
        self._sql: Final = sql_of(connection)
        self.build: Final[Build] = current_build(connection, workspace)
        self._hash: Final = _hash(workspace, self.words, query)
        self._segments: Final = segments(query.sort, self._sql, self.build.id)
        self._cursor: Final = None if query.cursor is None else read_cursor(query.cursor, self._hash, self._segments)
        self._now_ms: Final = now_ms if self._cursor is None else self._cursor.now_ms

    @property
    def is_everybody(self) -> bool:
        """Whether every contact matches."""
        return self._query.where is None and not self.words

    @property
    def _is_indexed_word(self) -> bool:
        """Whether SQLite can count those who match without reading contacts: they have one word."""
        return self._query.where is None and len(self.words) == 1 and not self._sql.knows_words

    # --- pages

    def page(self) -> Page:
        rows = self._rows()
        limit = self._query.limit
        cursor = None
        if len(rows) > limit:
            segment, (*values, _) = rows[limit - 1]
            cursor = write_cursor(Cursor(self._hash, self._now_ms, segment, tuple(values)))
        return self._page([row[-1] for _, row in rows[:limit]], cursor)

    def _page(self, records: list[str], next_cursor: str | None = None, *, approximate: bool = False) -> Page:
        return Page([record.encode() for record in records], next_cursor, approximate, self.build.position)

    def similar_page(self) -> Page:
        """The contacts whose words are the most similar, the best first (PostgreSQL).

        Words that are like `com` or `example` are like one in nearly every address. So only some of the less similar contacts
        are looked at, and only if there are not enough of the others.
        """
        best: dict[str, str] = {}
        for threshold in _SIMILAR:
            for contact_id, record in self._similar(threshold):
                best.setdefault(contact_id, record)
            if len(best) >= self._query.limit:
                break
        return self._page(list(best.values())[: self._query.limit], approximate=True)

    def _similar(self, threshold: str) -> list[tuple[str, str]]:
        """The ids and records of contacts whose words are at least so similar, the best of those that are looked at first."""
        setting = sa.func.set_config("pg_trgm.word_similarity_threshold", threshold, sa.true())
        self._connection.execute(sa.select(setting, sa.func.set_config("enable_sort", "on", sa.true())))
        words = [sa.literal(word, sa.Text()) for word in self.words]
        similarity: Any = sum(sa.func.word_similarity(word, contacts.c.search_text) for word in words)
        some = sa.select(contacts.c.id, contacts.c.record, similarity.label("similarity"))
        some = some.where(contacts.c.build == self.build.id, *self._filter(None))
        some = some.where(*[word.op("<%", is_comparison=True)(contacts.c.search_text) for word in words])
        found = some.limit(_MOST_SIMILAR).subquery()
        select = sa.select(found.c.id, found.c.record).order_by(found.c.similarity.desc(), found.c.id)
        return [(row[0], row[1]) for row in self._connection.execute(select.limit(self._query.limit)).all()]

    def _rows(self) -> list[tuple[int, tuple[Any, ...]]]:
        """One row more than the page has, if there are as many: the segment; and the values of its keys, and the record."""
        limit = self._query.limit
        found = self._found(most_found(self._sql, limit * self.build.contacts), self._query.sort.field)
        rows: list[tuple[int, tuple[Any, ...]]] = []
        first = 0 if self._cursor is None else self._cursor.segment
        for number, segment in enumerate(self._segments[first:], first):
            after = self._cursor.values if self._cursor is not None and number == first else None
            if segment.from_metadata and self._is_few(found):
                part = self._sorted_here(found, after, limit + 1 - len(rows))
            else:
                part = self._walked(number, found, after, limit + 1 - len(rows))
            rows += [(number, row) for row in part]
            if len(rows) > limit:
                break
        return rows

    def _is_few(self, found: Found | None) -> TypeGuard[Found]:
        """Whether to read what was found and sort it, instead of walking the index of the sort."""
        if found is None:
            return False
        return found.is_whole or found.rows <= most_sorted(self._sql, self._query.limit * self.build.contacts)

    def _walked(self, number: int, found: Found | None, after: tuple[Any, ...] | None, limit: int) -> list[tuple[Any, ...]]:
        """The rows of a segment in the order of its index; or those of a rare condition, sorted."""
        if found is None and self.is_everybody:
            select = walk_of_everybody(self._sql, self._query.sort, self.build.id, number, goes_on=after is not None)
        else:
            select = self._walk(self._segments[number], found, goes_on=after is not None)
        return list(map(tuple, self._connection.execute(select, page_values(limit, after)).all()))

    def _walk(self, segment: Segment, found: Found | None, *, goes_on: bool) -> Select:
        is_few = self._is_few(found)
        if segment.from_metadata and found is not None and not is_few:
            # The index of keys tells the contact's id, and not its number.
            found = None if found.column is contacts.c.n else msgspec.structs.replace(found, column=metadata.c.contact_id)
        select = self._matching(segment.select(), found, indexed_column(self._query.sort), walks=not is_few)
        if not is_few and self._query.where is not None and not (self.words and self._sql.knows_words):
            self._sql.prefer_order(self._connection)
        keys = [self._sql.unindexed(key) for key in segment.keys] if is_few else segment.keys
        return segment.page_of(select, keys, descending=self._query.sort.descending, goes_on=goes_on)

    def _sorted_here(self, found: Found, after: tuple[Any, ...] | None, limit: int) -> list[tuple[Any, ...]]:
        """The few contacts of a rare condition, sorted by a metadata key. The index of keys cannot be asked for a contact."""
        key, descending = self._query.sort.field.name, self._query.sort.descending
        select: Select = sa.select(contacts.c.id, contacts.c.metadata).where(self._sql.is_set(key))
        rows = self._connection.execute(self._matching(select, found, None)).all()
        keys = sorted([(*index_value(values[key]), contact_id) for contact_id, values in rows], reverse=descending)
        if after is not None:
            keys = [each for each in keys if (each < after if descending else each > after)]
        keys = keys[:limit]
        wanted = sa.select(contacts.c.id, contacts.c.record).where(
            contacts.c.build == self.build.id, contacts.c.id.in_([contact_id for *_, contact_id in keys])
        )
        records: dict[str, str] = {row.id: row.record for row in self._connection.execute(wanted).all()}
        return [(*each, records[each[-1]]) for each in keys]

    # --- what matches

    def _matching(self, select: Select, found: Found | None, indexed: sa.Column[Any] | None, *, walks: bool = False) -> Select:
        """The select, of contacts that match. With `walks`, it reads them in an order and not as they are found."""
        text = self._sql.unindexed(contacts.c.search_text)
        words = [self._sql.has_part(text, word) for word in self.words if found is None or word != found.word]
        conditions = [*self._filter(indexed), *words]
        by_number = found is not None and not walks and found.column is contacts.c.n
        is_read = bool(conditions) or select.selected_columns.keys() != ["n"]
        # If SQLite is to read the contacts by number, it must not take an index for the build.
        build = self._sql.unindexed(contacts.c.build) if by_number and is_read else contacts.c.build
        select = select.where(build == self.build.id)
        if found is None:
            return select.where(*(self._sql.probed(conditions, self._probes()) if walks else conditions))
        few = found.select.cte("few").prefix_with("MATERIALIZED")
        column = self._sql.unindexed(found.column) if walks else found.column
        return select.where(column.in_(sa.select(few.c[0])), *conditions)

    def _probes(self) -> list[Condition]:
        """What the index of keys knows of each contact about the values that the filter asks for."""
        equal = [tree for tree in _conjuncts(self._query.where) if isinstance(tree, Comparison) and tree.operator == "="]
        return [has_value(self.build.id, tree.field.name, tree.value) for tree in equal if tree.field.in_metadata]

    def _filter(self, indexed: sa.Column[Any] | None) -> Iterator[Condition]:
        if self._query.where is not None:
            yield Conditions(self._sql, self._now_ms, indexed).of(self._query.where)

    def _found(self, most: Most, sorted_by: Field | None) -> Found | None:
        """A condition that at most `most` contacts meet; or conditions that hardly ever meet."""
        words = () if sorted_by is not None and self._sql.knows_words else self.words
        conjuncts = list(_conjuncts(self._query.where))
        found = self._finder().rarest(conjuncts, words, sorted_by, most)
        if found is None and len(conjuncts) + len(self.words) > 1 and self.build.contacts >= MANY and self._meet_seldom():
            return self._finder().together(conjuncts, self.build.contacts)
        return found

    def _meet_seldom(self) -> bool:
        """Whether hardly any contact in the sample meets all conditions. Many are found after a few contacts."""
        some = self._matching(sa.select(contacts.c.n), None, None).where(contacts.c.sampled).limit(_SELDOM)
        return self._counted(some) < _SELDOM

    def _finder(self) -> Finder:
        return Finder(self._connection, self._sql, self.build.id, self._now_ms)

    # --- counts

    def count(self) -> tuple[int, bool]:
        if self.is_everybody:
            return self.build.contacts, True
        known = self._known()
        if known is not None:
            return known, True
        found = self._found(Most(_FEW, _FEW), None)
        estimate = 0 if found is not None else self._estimate()
        if estimate > _FEW:
            return estimate, False
        if found is None and self._is_indexed_word:
            found = self._finder().with_word(self.words[0], self.build.contacts)
        if found is not None:
            return self._counted(self._matching(sa.select(contacts.c.n), found, None)), True
        counted = self._counted(self._matching(sa.select(contacts.c.n), None, None).limit(EXACT + 1))
        return (counted, True) if counted <= EXACT else (max(counted, estimate), False)

    def _counted(self, select: Select) -> int:
        return int(self._connection.execute(sa.select(sa.func.count()).select_from(select.subquery())).scalar_one())

    def _known(self) -> int | None:
        """The number that the directory keeps, if the filter is one value of one metadata key."""
        where = self._query.where
        if self.words or not isinstance(where, Comparison) or where.operator != "=" or not where.field.in_metadata:
            return None
        return self._finder().counted(where.field.name, where.value)

    def _estimate(self) -> int:
        """About how many contacts match; 0 if there are few contacts at all."""
        if self.build.contacts <= _FEW:
            return 0
        sampled = self._matching(sa.select(sa.func.count()), None, None).where(contacts.c.sampled)
        return SAMPLE * int(self._connection.execute(sampled).scalar_one())

    def counts_of_key(self, key: str, limit: int) -> Counts:
        """The counts of a metadata key, from the table that keeps them."""
        of_key = {"build": self.build.id, "key": key}
        rows = self._connection.execute(_MOST_FREQUENT, {**of_key, "rows": limit}).all()
        values = [(_shown(kind, number, text), times) for kind, number, text, times in rows]
        total = sum(times for _, times in values)
        if len(values) == limit:  # there may be others
            total = int(self._connection.execute(_TOTAL, of_key).scalar() or 0)
        other = total - sum(times for _, times in values)
        return Counts(values, other, self.build.contacts - total, True, self.build.position)  # noqa: FBT003  is_exact

    def counts_by(self, field: Field, limit: int) -> Counts:
        """The counts of any field, from all that match if they are few, else from the sample."""
        found = self._found(Most(_FEW, _FEW), None)
        is_exact = found is not None or self._estimate() <= _FEW
        column = contacts.c.metadata if field.in_metadata else COLUMNS[field.name]
        select = self._matching(sa.select(column), found, None)
        if not is_exact:
            select = select.where(contacts.c.sampled)
        counted: Counter[tuple[int, float, str] | None] = Counter()
        for (value,) in self._connection.execute(select).all():
            if field.in_metadata:
                counted[index_value(value[field.name]) if field.name in value else None] += 1
            else:
                counted[index_value(value) if value is not None else None] += 1
        weight = 1 if is_exact else SAMPLE
        missing = counted.pop(None, 0) * weight
        ordered = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
        values = [(_shown(*value), times * weight) for value, times in ordered[:limit] if value is not None]
        other = sum(times for _, times in ordered[limit:]) * weight
        return Counts(values, other, missing, is_exact, self.build.position)


def _words(q: str | None) -> tuple[str, ...]:
    """The words of `q`, folded, each once."""
    if q is None:
        return ()
    if len(q) > MAX_Q_CHARS:
        raise WrongQuery(f"q: expected at most {MAX_Q_CHARS} characters, got {len(q)}")
    if "\0" in q or (not q.isprintable() and any("\ud800" <= char <= "\udfff" for char in q)):
        raise WrongQuery(f"q: expected Unicode text without NUL, got {q!r}")
    return tuple(dict.fromkeys(fold_text(q).split()))


def _hash(workspace: str, words: tuple[str, ...], query: Query) -> str:
    where = "" if query.where is None else unparse(query.where)
    text = msgspec.json.encode([workspace, words, where, query.sort])
    return hashlib.sha256(text).hexdigest()[:16]


def _conjuncts(tree: Filter | None) -> Iterator[Filter]:
    """The conditions that must hold."""
    if isinstance(tree, And):
        for part in tree.filters:
            yield from _conjuncts(part)
    elif tree is not None:
        yield tree


def _shown(kind: int, number: float, text: str) -> Primitive:
    """The value of an index value."""
    if kind == STRING:
        return text if len(text) <= INDEXED_CHARS else text[:_SEEN_CHARS]
    if kind == 0:
        return None
    if kind == 1:
        return bool(number)
    return int(number) if number.is_integer() and abs(number) < 2**53 else number
