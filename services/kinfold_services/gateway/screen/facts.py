"""The facts of a contact, side by side with those of another moment."""

from typing import Any, NamedTuple

from kinfold_schemas.contacts import Contact


class Fact(NamedTuple):
    """A fact at two moments. `None` is one that is not known."""

    label: str
    then: Any
    now: Any
    is_same: bool


def compared(then: Contact | None, now: Contact) -> list[Fact]:
    """The facts of both: name, identifiers and metadata, those of then first."""
    fields = [
        ("Name", None if then is None else then.name, now.name),
        ("E-mail", None if then is None else then.email, now.email),
        ("External id", None if then is None else then.external_id, now.external_id),
        ("Image", None if then is None else then.image, now.image),
    ]
    facts = [Fact(label, one, other, one == other) for label, one, other in fields if one is not None or other is not None]
    metadata = {} if then is None else then.metadata
    for name in [*sorted(metadata), *sorted(now.metadata.keys() - metadata.keys())]:
        one, other = metadata.get(name), now.metadata.get(name)
        is_same = name in metadata and name in now.metadata and one == other and one.__class__ is other.__class__
        facts.append(Fact(name, one, other, is_same))
    return facts
