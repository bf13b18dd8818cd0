"""The state of a log in which some entries are replaced, without folding the whole log again (contract section 10).

An entry reads and changes only the records that it names, and those that these refer to (`needs.py`). So a log falls into parts
with no record in common, and where some entries are replaced, only the parts with these entries come out differently. They are
folded by themselves, with and without the replacement, and the result takes the place of what the state holds of them.

The fold of a part as it was has to give what the state holds. If it does not, the state stays as it is, and the caller has to
fold the whole log.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Final

import msgspec

from kinfold_projections.counts import Counts
from kinfold_projections.duplicates import Occurrence
from kinfold_projections.entries import BadEntry, Entry
from kinfold_projections.fold import evolve
from kinfold_projections.outcomes import FOLDED, Outcome
from kinfold_projections.state import State, StateChanges
from kinfold_schemas.rejections import Rejection

_Named = tuple[str | None, str | None, str | None, str | None, str | None]
"""A visitor, an external id, the key of an address, and two contacts."""


class Parts:
    """Which entries of a log have to do with the same records."""

    def __init__(self) -> None:
        self._of_visitors: Final[dict[str, list[str]]] = defaultdict(list)
        """By visitor: those that name only that, as most do."""
        self._others: Final[dict[_Named, list[str]]] = defaultdict(list)
        """By what they name."""

    def note(self, entries: Sequence[Entry | BadEntry]) -> None:
        """Note the next entries of the log."""
        for entry in entries:
            if type(entry) is not Entry:
                continue
            names = entry.names
            visitor, external_id, email, contact = names.visitor_id, names.external_id, names.email_key, names.contact_id
            if visitor is not None and external_id is email is contact is None:
                self._of_visitors[visitor].append(entry.id)
            else:
                self._others[visitor, external_id, email, contact, names.merge_contact_id].append(entry.id)

    def around(self, entries: Collection[str], entries_of: Mapping[str, Sequence[str]]) -> set[str]:
        """These entries, and all that have to do with the same records.

        `entries_of`: the entries of each contact. The first one created it.
        """
        groups = [*self._of_visitors.values(), *self._others.values()]
        unions, of_visitors = _Unions(len(groups)), {each: index for index, each in enumerate(self._of_visitors)}
        first: tuple[dict[str, int], ...] = (of_visitors, {}, {}, {})
        for index, named in enumerate(self._others, len(of_visitors)):
            for seen, each in zip((*first, first[-1]), named, strict=True):
                if each is not None and (other := seen.setdefault(each, index)) != index:
                    unions.join(index, other)
        created = {entries_of[each][0]: index for each, index in first[-1].items() if each in entries_of}
        for index, group in enumerate(groups) if created else ():
            for each in created.keys() & group:
                unions.join(index, created[each])
        sought = set(entries)
        wanted = {unions.root(index) for index, group in enumerate(groups) if not sought.isdisjoint(group)}
        found = (each for index, group in enumerate(groups) if unions.root(index) in wanted for each in group)
        return sought.union(found)


class _Unions:
    """Numbers, joined to sets."""

    def __init__(self, count: int) -> None:
        self._parents: Final = list(range(count))

    def join(self, one: int, other: int) -> None:
        self._parents[self.root(one)] = self.root(other)

    def root(self, number: int) -> int:
        """The number that stands for the set of this one."""
        parents = self._parents
        while parents[number] != number:
            parents[number] = number = parents[parents[number]]
        return number


class Folding(msgspec.Struct):
    """The fold of a log, or of a part of it."""

    state: State
    members: set[str] = msgspec.field(default_factory=set[str])
    """The content of the sorted set `members`."""
    counts: Counts = msgspec.field(default_factory=Counts)
    rejections: dict[str, Rejection] = msgspec.field(default_factory=dict[str, Rejection])
    """By entry."""
    occurred: dict[str, Occurrence] = msgspec.field(default_factory=dict[str, Occurrence])
    """The entries that were not new, and what they were."""

    def note(self, entries: Sequence[Entry | BadEntry], outcomes: Sequence[Outcome], excluded: int = 0) -> None:
        """Note the outcomes of the next entries, and how many others were excluded."""
        self.counts = self.counts.after(outcomes, StateChanges(), excluded)
        for entry, outcome in zip(entries, outcomes, strict=True):
            if outcome is FOLDED:
                continue
            if outcome.rejection is not None:
                self.rejections[entry.id] = outcome.rejection
            if outcome.kind == "duplicate":
                self.occurred[entry.id] = "duplicate"
            elif outcome.id_reused:
                self.occurred[entry.id] = "id-reused"

    def fold(self, entries: Sequence[Entry | BadEntry], occurred: Mapping[str, Occurrence]) -> None:
        """Fold the next entries of a part. `occurred`: those that are not new in the whole log, and what they are there."""
        self.note(entries, [evolve(self.state, each, occurred.get(each.id, "new")) for each in entries])

    def take_changes(self) -> None:
        """Bring counts and members up to date, and forget the changes. Call it now and then, to save memory."""
        changes = self.state.take_changes()
        self.counts = self.counts.after((), changes, 0)
        self.members.update(each for each, is_in in changes.members.items() if is_in)
        self.members.difference_update(each for each, is_in in changes.members.items() if not is_in)

    def replace(self, before: "Folding", after: "Folding") -> bool:
        """Put a part in the place of what it was before. False if the state holds something else; then nothing is changed."""
        members = (self.members - before.members) | after.members
        if self.counts.linked and not members:  # was anybody linked whom no part has as a member any more?
            return False
        if not (before.members <= self.members and self.state.replace(before.state, after.state)):
            return False
        self.members = members
        self.counts = self.counts.replaced(before.counts, after.counts)
        for each in before.rejections:
            del self.rejections[each]
        self.rejections |= after.rejections
        return True
