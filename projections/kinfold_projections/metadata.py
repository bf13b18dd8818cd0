"""Metadata: the greater stamp wins, key by key (contract sections 3 and 4; `records` explains stamps).

Values and their stamps are in two mappings. The stamps also hold removed keys, or a late event would bring them back. The
`MAX_METADATA_KEYS` keys removed most recently are kept, which bounds the size of a contact.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from kinfold_projections.records import NEVER, TRUSTED, encode_record
from kinfold_schemas.canonical import Primitive
from kinfold_schemas.events import MAX_METADATA_KEYS, MAX_UNTRUSTED_KEYS


class Metadata(msgspec.Struct, frozen=True, gc=False):
    """Values, and the stamp with which each key was set or removed. Every operation returns a new object."""

    values: dict[str, Primitive]
    stamps: dict[str, int]

    def patch(
        self, values: Mapping[str, Primitive] | None, unset: Iterable[str] | None, stamp: int
    ) -> tuple["Metadata", list[str], bool]:
        """Set `values` and remove `unset` with `stamp`; a key in both is set.

        Also returns the keys that changed, and whether anything came too late. An equal value keeps its place and moves its
        stamp. The result may hold more than `MAX_METADATA_KEYS`.
        """
        new_values = own_values = self.values
        new_stamps = self.stamps.copy()
        changed: list[str] = []
        late = False
        for key in unset or ():
            if values and key in values:
                continue
            if stamp < new_stamps.get(key, NEVER):
                late = True
                continue
            new_stamps[key] = stamp
            if key in new_values:
                new_values = {name: value for name, value in new_values.items() if name != key}
                changed.append(key)
        for key, value in values.items() if values else ():
            if stamp < new_stamps.get(key, NEVER):
                late = True
                continue
            new_stamps[key] = stamp
            old = new_values.get(key, NOTHING)
            if old == value and type(old) is type(value):
                continue
            if new_values is own_values:
                new_values = own_values.copy()
            new_values[key] = value
            changed.append(key)
        if unset:
            new_stamps = _forget_long_removed(new_values, new_stamps)
        return Metadata(new_values, new_stamps), changed, late

    def combine(self, other: "Metadata") -> "Metadata":
        """Combine both, each key from the side with the greater stamp; at equal stamps from this one.

        The result may hold more than `MAX_METADATA_KEYS`, and removed keys without a bound: see `bounded`.
        """
        if not other.stamps:
            return self
        values, stamps = self.values.copy(), self.stamps.copy()
        for key, stamp in other.stamps.items():
            if stamp <= stamps.get(key, NEVER):
                continue
            stamps[key] = stamp
            if key in other.values:
                values[key] = other.values[key]
            else:
                values.pop(key, None)
        return Metadata(values, stamps)

    def bounded(self) -> "Metadata":
        """Keep the keys with the greatest stamps, and the removed ones likewise: what stays when contacts come together.

        So keys from trusted sources stay before keys from pages. At most `MAX_UNTRUSTED_KEYS` keys from pages stay.
        """
        values, stamps = self.values, self.stamps
        if len(values) > MAX_UNTRUSTED_KEYS:
            in_order = sorted(values, key=lambda key: (stamps[key], key))
            untrusted = bisect_left(in_order, TRUSTED, key=stamps.__getitem__)
            leaving = max(len(values) - MAX_METADATA_KEYS, untrusted - MAX_UNTRUSTED_KEYS)
            if leaving > 0:
                values, stamps = values.copy(), stamps.copy()
                for key in in_order[:leaving]:
                    del values[key], stamps[key]
        return Metadata(values, _forget_long_removed(values, stamps))

    def lightened(self, excess: int, *, trusted_too: bool = False) -> tuple["Metadata", int]:
        """This without the keys that go where a record is `excess` bytes too heavy, and the excess that is left.

        The keys with the least stamps go, one after the other; those of trusted sources only with `trusted_too`.
        """
        values, stamps = self.values.copy(), self.stamps.copy()
        for key in sorted(values, key=lambda key: (stamps[key], key)):
            if excess <= 0 or (stamps[key] >= TRUSTED and not trusted_too):
                break
            excess -= len(encode_record({key: values.pop(key)})) - 2 + bool(values)  # with the comma, without the braces
            del stamps[key]
        return (Metadata(values, stamps) if len(values) < len(self.values) else self), excess

    def permitted(
        self, values: Mapping[str, Primitive] | None, unset: Iterable[str] | None
    ) -> tuple[dict[str, Primitive], list[str], int]:
        """The part of a patch that a page may set and remove.

        Also how many of the other keys would change: a trusted source has set or removed those.
        """
        values, unset = values or {}, dict.fromkeys(unset or ())
        trusted = {key for key in (*values, *unset) if self.stamps.get(key, NEVER) >= TRUSTED}
        differing = [key for key in trusted if not same(self.values.get(key, NOTHING), values.get(key, NOTHING))]
        permitted = {key: value for key, value in values.items() if key not in trusted}
        return permitted, [key for key in unset if key not in trusted and key not in values], len(differing)

    def untrusted(self) -> int:
        """How many keys were set by pages."""
        return sum([self.stamps[key] < TRUSTED for key in self.values])


NOTHING: Final = object()

NO_METADATA: Final = Metadata({}, {})


def same(one: object, other: object) -> bool:
    """Whether two values are the same JSON value. `true` is not `1`. Numbers are already in their one form."""
    return one.__class__ is other.__class__ and one == other


def changed_keys(before: Mapping[str, Primitive], after: Mapping[str, Primitive]) -> list[str]:
    """The keys that differ, sorted by name."""
    if before is after:
        return []
    changed = [key for key, value in after.items() if (old := before.get(key, NOTHING)) is not value and not same(old, value)]
    changed += [key for key in before if key not in after]
    return sorted(changed)


def _forget_long_removed(values: Mapping[str, Primitive], stamps: dict[str, int]) -> dict[str, int]:
    if len(stamps) - len(values) <= MAX_METADATA_KEYS:
        return stamps
    removed = sorted((key for key in stamps if key not in values), key=lambda key: (stamps[key], key))
    return {key: at_ms for key, at_ms in stamps.items() if key not in set(removed[:-MAX_METADATA_KEYS])}
