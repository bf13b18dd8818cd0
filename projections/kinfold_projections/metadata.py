"""Metadata: last write wins by effective time, a key at a time (contract sections 3 and 4).

Values and their stamps stand in two mappings. The stamps also hold removed keys, or a late event would bring them back; the
`MAX_METADATA_KEYS` removed most recently are kept, which bounds what a contact can weigh.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from kinfold_projections.records import NEVER
from kinfold_schemas.canonical import Primitive
from kinfold_schemas.events import MAX_METADATA_KEYS


class Metadata(msgspec.Struct, frozen=True, gc=False):
    """Values, and the effective time in ms at which each key was set or removed. Every operation makes a new one."""

    values: dict[str, Primitive]
    stamps: dict[str, int]

    def patch(
        self, values: Mapping[str, Primitive] | None, unset: Iterable[str] | None, at_ms: int
    ) -> tuple["Metadata", list[str], bool]:
        """Sets `values` and removes `unset` as of `at_ms`; a key in both is set.

        Also returns the keys that differ now, and whether anything came too late. An equal value keeps its place and moves its
        stamp. The result may hold more than `MAX_METADATA_KEYS`.
        """
        new_values = own_values = self.values
        new_stamps = self.stamps.copy()
        changed: list[str] = []
        late = False
        for key in unset or ():
            if values and key in values:
                continue
            if at_ms < new_stamps.get(key, NEVER):
                late = True
                continue
            new_stamps[key] = at_ms
            if key in new_values:
                new_values = {name: value for name, value in new_values.items() if name != key}
                changed.append(key)
        for key, value in values.items() if values else ():
            if at_ms < new_stamps.get(key, NEVER):
                late = True
                continue
            new_stamps[key] = at_ms
            old = new_values.get(key, _NOTHING)
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
        """Both, each key as the later stamp has it; at equal times as this one has it.

        The result may hold more than `MAX_METADATA_KEYS`, and removed keys without a bound: see `bounded`.
        """
        if not other.stamps:
            return self
        values, stamps = self.values.copy(), self.stamps.copy()
        for key, at_ms in other.stamps.items():
            if at_ms <= stamps.get(key, NEVER):
                continue
            stamps[key] = at_ms
            if key in other.values:
                values[key] = other.values[key]
            else:
                values.pop(key, None)
        return Metadata(values, stamps)

    def bounded(self) -> "Metadata":
        """The keys that were set most recently, and those removed most recently: what stays where contacts come together."""
        values, stamps = self.values, self.stamps
        if len(values) > MAX_METADATA_KEYS:
            values, stamps = values.copy(), stamps.copy()
            for key in sorted(values, key=lambda key: (stamps[key], key))[:-MAX_METADATA_KEYS]:
                del values[key], stamps[key]
        return Metadata(values, _forget_long_removed(values, stamps))


_NOTHING: Final = object()

NO_METADATA: Final = Metadata({}, {})


def same(one: object, other: object) -> bool:
    """Whether two values are the same JSON value: `true` is not `1`, and numbers come here in their one form."""
    return one.__class__ is other.__class__ and one == other


def changed_keys(before: Mapping[str, Primitive], after: Mapping[str, Primitive]) -> list[str]:
    """The keys that differ, in order of their names."""
    if before is after:
        return []
    changed = [key for key, value in after.items() if (old := before.get(key, _NOTHING)) is not value and not same(old, value)]
    changed += [key for key in before if key not in after]
    return sorted(changed)


def _forget_long_removed(values: Mapping[str, Primitive], stamps: dict[str, int]) -> dict[str, int]:
    if len(stamps) - len(values) <= MAX_METADATA_KEYS:
        return stamps
    removed = sorted((key for key in stamps if key not in values), key=lambda key: (stamps[key], key))
    return {key: at_ms for key, at_ms in stamps.items() if key not in set(removed[:-MAX_METADATA_KEYS])}
