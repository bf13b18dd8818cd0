"""Statements for many rows.

SQLAlchemy handles each value of each row, which takes longer than the database. A `Bulk` is compiled by SQLAlchemy once for
each kind of database, and its rows go to the driver as they are. So JSON has to be encoded (`encode_json`), and times are text.
"""

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, Final, cast

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

Values = tuple[Any, ...]


class Bulk:
    """A statement, and the names of its parameters in the order in which rows have them."""

    def __init__(self, names: Sequence[str], make: Callable[[Any], sa.Executable]) -> None:
        """`make` gets the function that makes the database's kind of INSERT: of SQLite, or of PostgreSQL."""
        self._names: Final = list(names)
        self._make: Final = make
        self._compiled: Final[dict[str, tuple[str, Callable[[Values], Values] | None]]] = {}

    def run(self, connection: sa.Connection, rows: list[Values]) -> None:
        """Run the statement for each row, in their order."""
        if not rows:
            return
        kind = connection.dialect.name
        if (compiled := self._compiled.get(kind)) is None:
            compiled = self._compiled[kind] = self._compile(connection)
        statement, arranged = compiled
        connection.exec_driver_sql(statement, rows if arranged is None else [arranged(row) for row in rows])

    def _compile(self, connection: sa.Connection) -> tuple[str, Callable[[Values], Values] | None]:
        is_sqlite = connection.dialect.name == "sqlite"
        statement: Any = self._make(sqlite.insert if is_sqlite else postgresql.insert)
        dialect = cast("Any", type(connection.dialect))(paramstyle="qmark" if is_sqlite else "format")
        compiled = statement.compile(dialect=dialect)
        places = [self._names.index(name) for name in compiled.positiontup]
        return str(compiled), None if places == list(range(len(self._names))) else itemgetter(*places)


def insert_into(table: sa.Table, names: Sequence[str]) -> Bulk:
    """Insert rows that have these columns, in this order."""
    return Bulk(names, lambda insert: insert(table).values(bound(table, names)))


def bound(table: sa.Table, names: Sequence[str]) -> dict[str, sa.BindParameter[Any]]:
    """Parameters with the names and types of columns."""
    return {name: sa.bindparam(name, type_=table.c[name].type) for name in names}
