"""Finds a condition that few contacts meet, so that a query need not walk through all of them.

Everything here is a superset: the query itself tests every condition again, on the rows that are found.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from math import isqrt
from operator import itemgetter
from typing import Any, Final, NamedTuple, cast

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from kinfold_projections.contact_ids import ALPHABET
from kinfold_projections.directory import INDEXED_CHARS, NUMBER, STRING, fold_text, index_text, index_value
from kinfold_schemas.filters import And, Comparison, Contains, Dated, Exists, Field, Filter, Not, OneOf, Or, Value
from kinfold_schemas.identifiers import email_key, id_key, stripped
from kinfold_services.directory.conditions import COLUMNS, COMPARE, DOUBLE, Condition, Sql, Sqlite, bound
from kinfold_services.directory.tables import contacts, counts, metadata, search, trigrams

TRIGRAM: Final = 3
LEAST_SORTED: Final = 1000
"""Up to this many, contacts are always read and sorted."""
_ENOUGH: Final = 100
"""If a condition leaves no more contacts than this, no other one is looked at."""
_WORTH_READING: Final = 4
"""If fewer than one contact in this many match, reading them all is quicker than walking through the order."""
_IN_SEARCH_TEXT: Final = frozenset({"id", "externalId", "email", "name"})
_RANGES: Final = frozenset({"visitorCount", "firstSeenAt", "lastSeenAt", "createdAt", "updatedAt"})
_Leaf = Comparison | OneOf | Contains | Exists
_ENDS_OF_IDS: Final = frozenset(ALPHABET)
_LAST_CHARACTER: Final = "\U0010ffff"


Select = sa.Select[*tuple[Any, ...]]


class Most(NamedTuple):
    """Up to how many contacts a condition is of use: one that is quick to ask for them or to count, and another one."""

    quick: int
    other: int


# If k of all contacts match, a walk of the index of the sort passes `work / k` entries until the page is full; `work` is the
# number of rows on the page times that of all contacts. So the number up to which something else is quicker grows with the root
# of `work`. The factors are from measurements (benchmarks/directory_queries.py).


def most_sorted(sql: Sql, work: int) -> int:
    """Up to how many contacts are read and sorted. SQLite passes 50 entries in the time in which it reads a contact."""
    return max(LEAST_SORTED, isqrt(work // 25 if isinstance(sql, Sqlite) else work))


def most_found(sql: Sql, work: int) -> Most:
    """Up to how many contacts a condition is of use.

    SQLite walks and looks each entry up among the contacts that were found, without reading them. It gets numbers from the
    index of words more quickly than ids from that of keys. PostgreSQL sorts what was found. It has to read contacts to count
    those with a word, and once more to sort them.
    """
    if isinstance(sql, Sqlite):
        return Most(quick=max(LEAST_SORTED, isqrt(work * 100)), other=max(LEAST_SORTED, isqrt(work * 10)))
    most = most_sorted(sql, work)
    return Most(quick=most, other=most * 35 // 100)


class Found(msgspec.Struct, frozen=True):
    """A select of the contacts that meet a condition: its one column is `n` or `id`. `rows` is the most that it gives."""

    select: Select
    column: sa.Column[Any]
    rows: int
    word: str | None = None
    """The word that all of them have, and that need not be looked for again."""
    is_whole: bool = False
    """Whether to read all of them, however many they are: hardly any meets the other conditions, too."""


class _Candidate(msgspec.Struct, frozen=True):
    select: Select
    column: sa.Column[Any]
    values: Select | None = None
    """How many contacts each of its values has, from the table that keeps it."""
    word: str | None = None
    is_quick: bool = False
    """Whether many of these are still of use (`Most.quick`)."""


class Finder:
    """Looks for a rare condition in one build."""

    def __init__(self, connection: sa.Connection, sql: Sql, build: int, now_ms: int) -> None:
        self._connection = connection
        self._is_sqlite = isinstance(sql, Sqlite)
        self._sql = sql
        self._build = build
        self._now_ms = now_ms

    def rarest(self, conjuncts: Iterable[Filter], words: Iterable[str], sorted_by: Field | None, most: Most) -> Found | None:
        """The rarest condition, if no more than `most` contacts meet it.

        Ranges of the field that the query is sorted by are left out: walking its index is as good.
        """
        best: Found | None = None
        limit = max(most)
        candidates = sorted(self._candidates(conjuncts, words, sorted_by), key=lambda candidate: candidate.values is None)
        for candidate in candidates:
            upto = min(limit, most.quick if candidate.is_quick else most.other)
            rows = self._rows(candidate, upto)
            if rows <= upto:
                best, limit = Found(candidate.select, candidate.column, rows, candidate.word), rows - 1
            if limit < _ENOUGH:
                break
        return best

    def together(self, conjuncts: Iterable[Filter], contacts_there: int) -> Found | None:
        """For conditions that hardly ever meet: the contacts that have all values that they ask for, or the rarest one.

        To walk the index of a sort would pass everybody. SQLite takes the contacts of the rarest value, and looks up the others
        by key and contact. PostgreSQL's index of metadata finds those that have all values at once.
        """
        equal = [each for each in conjuncts if isinstance(each, Comparison) and each.operator == "=" and each.field.in_metadata]
        if not equal:
            return None
        counted = sorted(((self.counted(each.field.name, each.value), each) for each in equal), key=itemgetter(0))
        rows, rarest = counted[0]
        if len(equal) == 1 and rows > contacts_there // _WORTH_READING:
            return None
        if not self._is_sqlite:
            values = {each.field.name: each.value for each in equal}
            return Found(self._of_contacts(has_values(values)).select, contacts.c.n, rows, is_whole=True)
        select = self._equal(rarest.field.name, (rarest.value,)).select
        others = (has_value(self._build, each.field.name, each.value, metadata.c.contact_id) for _, each in counted[1:])
        return Found(select.where(*others), contacts.c.id, rows, is_whole=True)

    def with_word(self, word: str, contacts_there: int) -> Found | None:
        """The contacts with a word, of `contacts_there` in all, without counting them. None if no index knows the word."""
        candidate = next(self._with_word(word), None)
        return None if candidate is None else Found(candidate.select, candidate.column, contacts_there, word)

    def counted(self, key: str, value: Value) -> int:
        """How many contacts have this value of a metadata key, from the table that keeps it."""
        return self._rows(self._equal(key, (value,)), 1)

    def _rows(self, candidate: _Candidate, limit: int) -> int:
        """How many rows a candidate gives. If they are more than `limit`, any number above it."""
        if candidate.values is None:
            counted = sa.select(sa.func.count()).select_from(candidate.select.limit(limit + 1).subquery())
        else:  # each value has at least one contact
            values = candidate.values.limit(limit + 1).subquery()
            counted = sa.select(sa.func.sum(values.c.contacts))
        return int(self._connection.execute(counted).scalar() or 0)

    def _candidates(self, conjuncts: Iterable[Filter], words: Iterable[str], sorted_by: Field | None) -> Iterator[_Candidate]:
        for tree in conjuncts:
            if isinstance(tree, And | Or | Not | Dated) or (isinstance(tree, Comparison) and tree.operator == "!="):
                continue
            yield from self._by_metadata(tree, sorted_by) if tree.field.in_metadata else self._by_field(tree, sorted_by)
        for word in words:
            yield from self._with_word(word)

    def _by_metadata(self, tree: _Leaf, sorted_by: Field | None) -> Iterator[_Candidate]:
        key = tree.field.name
        match tree:
            case OneOf():
                yield self._equal(key, tree.values)
            case Comparison(operator="="):
                yield self._equal(key, (tree.value,))
            case Comparison():
                yield self._with_metadata(key, lambda table: _range(table, tree))
            case Exists() if tree.field != sorted_by:
                yield self._with_metadata(key, lambda _: sa.true())
            case _:
                pass

    def _by_field(self, tree: _Leaf, sorted_by: Field | None) -> Iterator[_Candidate]:
        name = tree.field.name
        match tree:
            case OneOf():
                yield from self._identified(tree.field, tree.values)
            case Comparison(operator="="):
                yield from self._identified(tree.field, (tree.value,))
            case Comparison() if name in _RANGES and tree.field != sorted_by:
                yield self._of_contacts(COMPARE[tree.operator](COLUMNS[name], bound(tree.value, self._now_ms)))
            case Contains() if name in _IN_SEARCH_TEXT:
                yield from self._with_word(fold_text(tree.part))
            case _:
                pass

    def _identified(self, field: Field, values: tuple[Value, ...]) -> Iterator[_Candidate]:
        texts = [value for value in values if isinstance(value, str)]
        keys = {"id": stripped, "externalId": id_key, "email": email_key, "name": index_text}
        if field.name in keys and len(texts) == len(values):
            column = {"email": contacts.c.email_key, "name": contacts.c.name_key}.get(field.name, COLUMNS[field.name])
            yield self._of_contacts(column.in_([keys[field.name](text) for text in texts]))

    def _equal(self, key: str, values: tuple[Value, ...]) -> _Candidate:
        indexed = [index_value(value) for value in values]  # type: ignore[arg-type]  # times are compared by before and after
        found = self._with_metadata(key, lambda table: _is_one_of(table, indexed))
        return msgspec.structs.replace(found, is_quick=not self._is_sqlite)

    def _with_metadata(self, key: str, condition: Callable[[sa.FromClause], Condition]) -> _Candidate:
        def of_key(table: sa.FromClause) -> Condition:
            return sa.and_(table.c.build == self._build, table.c.key == sa.literal(key, sa.Text()), condition(table))

        found = sa.select(metadata.c.contact_id).where(of_key(metadata))
        return _Candidate(found, contacts.c.id, sa.select(counts.c.contacts).where(of_key(counts)))

    def _with_word(self, word: str) -> Iterator[_Candidate]:
        if "\n" in word:
            return
        if len(word) < TRIGRAM:
            # The text's last character, which is the id's, begins no trigram. A walk is short: most ids have any of these.
            if self._is_sqlite and word not in _ENDS_OF_IDS:
                begins = trigrams.c.term >= word, trigrams.c.term < word + _LAST_CHARACTER
                yield _Candidate(sa.select(trigrams.c.doc).where(*begins), contacts.c.n, word=word)
        elif self._is_sqlite:
            quoted = '"' + word.replace('"', '""') + '"'
            found = sa.select(search.c.rowid).where(search.c.search_text.op("MATCH")(quoted))
            yield _Candidate(found, contacts.c.n, word=word, is_quick=True)
        else:
            yield self._of_contacts(self._sql.has_part(contacts.c.search_text, word))

    def _of_contacts(self, condition: Condition) -> _Candidate:
        return _Candidate(sa.select(contacts.c.n).where(contacts.c.build == self._build, condition), contacts.c.n)


def has_values(values: Mapping[str, Value]) -> Condition:
    """The contact has these metadata values. PostgreSQL has an index for it (GIN)."""
    document = sa.cast(sa.literal(msgspec.json.encode(values).decode(), sa.Text()), postgresql.JSONB)
    condition: Condition = contacts.c.metadata.op("@>", is_comparison=True)(document)
    return condition


def has_value(build: int, key: str, value: Value, contact_id: sa.Column[str] = contacts.c.id) -> Condition:
    """The index of keys has this value for the contact. So it holds for each contact that has the value."""
    own = metadata.alias("own")
    indexed = index_value(value)  # type: ignore[arg-type]  # times are compared by before and after
    of_key = own.c.build == build, own.c.key == sa.literal(key, sa.Text()), _is_one_of(own, [indexed])
    return sa.exists().where(*of_key, own.c.contact_id == contact_id)


def _is_one_of(table: sa.FromClause, values: list[tuple[int, float, str]]) -> Condition:
    its = table.c
    return sa.or_(*[sa.and_(its.kind == kind, its.number == number, its.text == text) for kind, number, text in values])


def _range(table: sa.FromClause, tree: Comparison) -> Condition:
    """Values in an order to another one. Where a string is long, its index text decides only that it can be."""
    its, value = table.c, tree.value
    if isinstance(value, int | float):
        return sa.and_(its.kind == NUMBER, COMPARE[tree.operator](its.number, sa.literal(value, DOUBLE)))
    value = cast("str", value)
    if len(value) < INDEXED_CHARS:
        in_order = COMPARE[tree.operator](its.text, value)
    elif tree.operator in {"<", "<="}:
        in_order = its.text <= value[:INDEXED_CHARS] + _LAST_CHARACTER
    else:
        in_order = its.text >= value[:INDEXED_CHARS]
    return sa.and_(its.kind == STRING, its.number == 0, in_order)
