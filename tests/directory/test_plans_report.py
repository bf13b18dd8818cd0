"""`examples/plans_report.sql` joins the user's own orders with kinfold's views, in one PostgreSQL database."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa

from kinfold_schemas.times import to_ms, to_text
from kinfold_services.directory import shapes, tables
from kinfold_services.directory.database import Database
from kinfold_services.settings import Settings
from tests.support.directory_rows import add_build, contact
from tests.support.postgres import PostgresServer

SCRIPT: Final = Path(__file__).parents[2] / "examples" / "plans_report.sql"
NOW: Final = datetime.now(UTC)

# user_id, email, total, days ago
ORDERS: Final = [
    ("u-1", "ada@example.org", "100.00", 1),
    ("u-1", "ada@example.org", "50.50", 10),
    ("u-2", "lin@example.org", "30.00", 2),
    ("u-3", "bo@example.org", "7.00", 3),
    ("u-3", "bo@example.org", "900.00", 60),
    ("u-unknown", "x@example.org", "1000.00", 1),
    (None, "ADA@old.example", "5.00", 400),
    (None, "lin@example.org", "6.00", 400),
    (None, "stranger@example.org", "8.00", 400),
]
SEEN_DAYS_AGO: Final = {"ct_1": 1, "ct_2": 40, "ct_3": 31, "ct_4": 100, "ct_5": 100, "ct_6": 1}


def ago(days: int) -> str:
    return to_text(to_ms(NOW - timedelta(days=days)))


@pytest.fixture
def url(postgres: PostgresServer, postgres_url: str, tmp_path: Path) -> str:
    """Give a database with orders, and with the directory of two workspaces."""
    database = Database(Settings(data_dir=tmp_path, directory_url=postgres_url))
    try:
        with database.writing() as connection:
            shapes.create_tables(connection)
            add_contacts(connection)
    finally:
        database.close()
    postgres.execute(f"ALTER DATABASE {urlsplit(postgres_url).path[1:]} SET timezone TO 'UTC'", postgres_url)
    postgres.execute("CREATE TABLE orders (user_id text, email text, total numeric, ordered_at timestamptz)", postgres_url)
    rows = [
        f"({'NULL' if user_id is None else repr(user_id)}, {email!r}, {total}, {ago(days)!r})"
        for user_id, email, total, days in ORDERS
    ]
    postgres.execute(f"INSERT INTO orders VALUES {', '.join(rows)}", postgres_url)  # noqa: S608  literals of this file
    return postgres_url


def add_contacts(connection: sa.Connection) -> None:
    build, other = add_build(connection, "default"), add_build(connection, "other")
    for each in (
        contact(build, "ct_1", external_id="u-1", email="ada@example.org", name="Ada", metadata={"plan": "pro", "seats": 40}),
        contact(build, "ct_2", external_id="u-2", email="lin@example.org", name="Lin", metadata={"plan": "pro", "seats": 3}),
        contact(build, "ct_3", external_id="u-3", name="Bo"),
        contact(build, "ct_4", external_id="u-4", name="Cy", metadata={"plan": "team", "seats": "unlimited"}),
        contact(build, "ct_5", email="guest@example.org", metadata={"plan": "free", "seats": None}),
        contact(other, "ct_6", external_id="u-1", name="Eve", metadata={"plan": "spy", "seats": 99}),
    ):
        connection.execute(tables.contacts.insert(), each | {"last_seen_at": ago(SEEN_DAYS_AGO[each["id"]])})
    former = {"kind": "email", "value": "ada@old.example", "value_key": "ada@old.example", "held_by": "ct_1"}
    place = {"build": build, "contact_id": "ct_1", "position_ms": 1, "position_seq": 0, "until": ago(90), "cause": "1-0"}
    connection.execute(tables.identifiers.insert(), former | place)


def reports(printed: str) -> dict[str, list[str]]:
    """The rows of each table, below its title, with the headings."""
    return {title: rows for title, *rows in (each.splitlines() for each in printed.strip().split("\n\n"))}


def day(days: int) -> str:
    return (NOW - timedelta(days=days)).date().isoformat()


def test_reports_join_orders_with_contacts(postgres: PostgresServer, url: str) -> None:
    printed = postgres.run_script(SCRIPT.read_text("utf-8"), url)

    assert reports(printed) == {
        "Revenue of the last 30 days by plan": [
            "plan,customers,revenue,revenue_per_customer",
            "pro,2,180.50,90.25",
            "(none),1,7.00,7.00",
        ],
        "Customers who have not been here for 30 days, the most valuable first": [
            "external_id,name,last_seen,revenue,last_order",
            f"u-3,Bo,{day(31)},907.00,{day(3)}",
            f"u-2,Lin,{day(40)},30.00,{day(2)}",
        ],
        "Plans of 10 seats or more without an order in the last 90 days": [
            "external_id,name,plan,seats",
            "u-4,Cy,team,unlimited",
        ],
        "Orders of guests whom kinfold knows, by their present or a former address": [
            "email,total,external_id,name",
            "ADA@old.example,5.00,u-1,Ada",
            "lin@example.org,6.00,u-2,Lin",
        ],
    }


def test_another_workspace_is_chosen_by_a_variable(postgres: PostgresServer, url: str) -> None:
    printed = postgres.run_script(SCRIPT.read_text("utf-8"), url, workspace="other")

    assert "spy,1,150.50,150.50" in printed
    assert "pro" not in printed
