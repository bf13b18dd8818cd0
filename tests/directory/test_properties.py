"""What holds for every log: the directory's rows are the contacts of the fold, and the counts are as counted by hand."""

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kinfold_projections.directory_feed import read_entry
from kinfold_projections.fold import fold
from kinfold_projections.records import encode_record, public_contact
from kinfold_projections.state import State
from kinfold_schemas.changes import Change, ContactsMerged, encode_change
from kinfold_schemas.contacts import MergedContact
from kinfold_schemas.identifiers import email_key
from kinfold_services.directory import building, shapes, store, tables
from kinfold_services.directory.database import Database
from kinfold_services.directory.transactions import now
from kinfold_services.replay.differences import as_change
from kinfold_services.settings import Settings
from tests.support.directories import must_equal_rows, rows_of
from tests.support.strategies import Log, crowded_logs, logs, read

EXAMPLES = {"sqlite": 60, "postgresql": 12}
UNHEALTHY = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
any_logs = st.one_of(logs(), logs(), crowded_logs())
merging_logs = st.one_of(crowded_logs(), crowded_logs(), logs())
sizes = st.lists(st.integers(1, 7), max_size=8)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """Give a database for all examples: each has a build of its own."""
    url = None
    if request.param == "postgresql":
        url = request.getfixturevalue("shared_postgres_url")
    database = Database(Settings(data_dir=tmp_path_factory.mktemp("data"), directory_url=url))
    with database.writing() as connection:
        shapes.create_tables(connection)
    yield database
    database.close()


class Reader:
    """Applies changes to a build, in pages of some sizes."""

    def __init__(self, connection: sa.Connection, sizes: list[int]) -> None:
        self.connection = connection
        self.build = building.begin_build(connection, "w", building.BEGINNING, now()).id
        self._sizes = sizes
        self._position = 0

    def apply(self, changes: list[Change]) -> None:
        while changes:
            size = self._sizes.pop(0) if self._sizes else len(changes)
            before, self._position = self._position, self._position + size
            entries = [read_entry(f"{before + n}-1", encode_change(change)) for n, change in enumerate(changes[:size], 1)]
            page = store.Page(_position(before), _position(self._position), entries)
            store.apply(self.connection, self.build, page, {}, now())
            changes = changes[size:]

    def must_be(self, state: State) -> None:
        """Assert that the rows are those of the state."""
        living = {contact.id: encode_record(contact) for contact in state.living_contacts()}
        must_equal_rows(self.connection, self.build, living)
        assert building.read_build(self.connection, self.build).contacts == len(living)
        self._must_lead_to_living(state)
        self._open_conflicts_must_be(state)

    def _must_lead_to_living(self, state: State) -> None:
        merged = {each for each, record in state.contacts.items() if isinstance(record, MergedContact)}
        rows = rows_of(self.connection, tables.identifiers, self.build)
        found = [row["value"] for row in rows if row["kind"] == "contact_id"]
        assert len(found) == len(set(found))
        assert merged <= set(found)
        # No change tells that a replay does not make a contact at all that was merged before.
        assert (set(found) - merged).isdisjoint(state.contacts)
        for row in rows:
            if row["held_by"] in state.contacts:
                assert row["contact_id"] == state.find(row["held_by"]), row

    def _open_conflicts_must_be(self, state: State) -> None:
        for row in rows_of(self.connection, tables.conflicts, self.build):
            if row["settled_at"] is None:
                assert state.emails[row["email_key"]] == row["held_by"] != row["contact_id"]
                assert not isinstance(state.contacts[row["contact_id"]], MergedContact)


def _position(number: int) -> str:
    return f"{number}-1" if number else building.BEGINNING


def fresh_connection(database: Database) -> Iterator[sa.Connection]:
    """A transaction that is rolled back."""
    with database.engine.connect() as connection, connection.begin() as transaction:
        yield connection
        transaction.rollback()


def told(log: Log, state: State) -> list[Change]:
    """What the feed tells of a log."""
    return [change for outcome in fold(state, read(log)) for change in outcome.changes]


def differences(living: State, rebuilt: State) -> list[Change]:
    """What a replay tells of two states, in its order."""
    changes: dict[str, Change] = {}
    for each in living.contacts.keys() | rebuilt.contacts.keys():
        old, new = (encode_record(state.contacts[each]) if each in state.contacts else None for state in (living, rebuilt))
        is_merged = isinstance(rebuilt.contacts.get(each), MergedContact)
        survivor = public_contact(rebuilt.contact(each)) if is_merged else None
        if (change := as_change(each, old, new, survivor)) is not None:
            changes[each] = change
    return [changes[each] for each in sorted(changes, key=lambda each: (isinstance(changes[each], ContactsMerged), each))]


def check_log(database: Database, log: Log, sizes: list[int]) -> None:
    for connection in fresh_connection(database):
        reader, state = Reader(connection, sizes), State("w")
        reader.apply(told(log, state))
        reader.must_be(state)
        for row in rows_of(connection, tables.contacts, reader.build):
            assert row["email_key"] == (row["email"] and email_key(row["email"]))


def check_replay(database: Database, log: Log, left_out: set[int], later: Log, sizes: list[int]) -> None:
    for connection in fresh_connection(database):
        reader, state, rebuilt = Reader(connection, sizes), State("w"), State("w")
        reader.apply(told(log, state))
        told([entry for number, entry in enumerate(log) if number not in left_out], rebuilt)
        reader.apply(differences(state, rebuilt))
        reader.must_be(rebuilt)
        reader.apply(told([(b"9" + entry_id, fields) for entry_id, fields in later], rebuilt))
        reader.must_be(rebuilt)


def examples(database: Database) -> settings:
    return settings(max_examples=EXAMPLES[database.engine.dialect.name], deadline=None, suppress_health_check=UNHEALTHY)


def test_the_rows_are_the_contacts_of_the_fold(database: Database) -> None:
    @examples(database)
    @given(any_logs, sizes)
    def check(log: Log, sizes: list[int]) -> None:
        check_log(database, log, sizes)

    check()


def test_after_a_replay_the_rows_are_the_new_contacts(database: Database) -> None:
    """A replay without some entries may undo merges, merge others, and let contacts go."""

    @examples(database)
    @given(merging_logs, st.lists(st.integers(0, 39), max_size=12).map(set), logs(max_size=8), sizes)
    def check(log: Log, left_out: set[int], later: Log, sizes: list[int]) -> None:
        check_replay(database, log, left_out, later, sizes)

    check()
