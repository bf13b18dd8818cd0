"""JSON Schemas of everything that is said, for producers and readers in other languages (`kinfold schema`)."""

from typing import Any

import msgspec

from kinfold_schemas.changes import Change
from kinfold_schemas.contacts import Contact, MergedContact, Visitor
from kinfold_schemas.events import Event


def schemas() -> dict[str, Any]:
    """One JSON Schema (2020-12) with `Event`, `Change`, `Contact`, `MergedContact` and `Visitor` among its `$defs`."""
    types = (Event, Change, Contact, MergedContact, Visitor)
    roots, components = msgspec.json.schema_components(types, ref_template="#/$defs/{name}")
    event, change, *_ = roots
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": {"Event": event, "Change": change, **components},
    }
