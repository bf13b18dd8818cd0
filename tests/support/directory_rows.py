"""Rows of the directory's tables, for tests that write them without a feed."""

from typing import Any

import sqlalchemy as sa

from kinfold_services.directory import tables

AT = "2026-11-01T08:00:00.000Z"
LATER = "2026-11-01T08:00:00.001Z"


def add_build(connection: sa.Connection, workspace: str = "w", state: str = "current", shape: int = tables.SHAPE) -> int:
    values = {"workspace": workspace, "state": state, "shape": shape, "position": "7-1", "contacts": 2, "updated_at": AT}
    added = connection.execute(tables.builds.insert().values(values).returning(tables.builds.c.id))
    build: int = added.scalar_one()
    return build


def contact(build: int, contact_id: str, **more: Any) -> dict[str, Any]:
    times = dict.fromkeys(["first_seen_at", "last_seen_at", "created_at", "updated_at"], AT)
    return {
        "build": build,
        "id": contact_id,
        "metadata": {},
        "visitor_count": 0,
        "version": 1,
        "record": "{}",
        "search_text": contact_id,
        "sampled": False,
        **times,
        **more,
    }


def timeline_row(build: int, seq: int, contact_id: str, **more: Any) -> dict[str, Any]:
    return {
        "build": build,
        "position_ms": 7,
        "position_seq": seq,
        "contact_id": contact_id,
        "type": "ContactUpdated",
        "at": AT,
        "cause": "5-0",
        "rule": "3",
        "details": {"changed": []},
        **more,
    }


def merged(build: int, contact_id: str, into: str) -> dict[str, Any]:
    return {
        "build": build,
        "kind": "contact_id",
        "value_key": contact_id,
        "value": contact_id,
        "held_by": contact_id,
        "contact_id": into,
        "position_ms": 8,
        "position_seq": 0,
        "until": AT,
        "cause": "6-0",
    }
