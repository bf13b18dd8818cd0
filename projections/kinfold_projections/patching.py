"""A patch of metadata by an event, within the limits of a contact or a visitor (contract sections 2 and 4)."""

from kinfold_projections.entries import Entry
from kinfold_projections.metadata import NO_METADATA, NOTHING, Metadata, changed_keys, same
from kinfold_projections.records import TRUSTED, ContactRecord
from kinfold_projections.state import State
from kinfold_schemas.events import MAX_METADATA_KEYS, MAX_UNTRUSTED_KEYS, IdentityCorrected, MetadataSet, VisitorIdentified
from kinfold_schemas.rejections import Rejection

_Patching = MetadataSet | VisitorIdentified | IdentityCorrected


def metadata_of(state: State, contact: ContactRecord | None) -> Metadata:
    """The metadata of a contact; NO_METADATA for a new one."""
    return NO_METADATA if contact is None else Metadata(contact.metadata, state.contact_stamps[contact.id].metadata)


def said_again(state: State, contact: ContactRecord, event: _Patching, stamp: int) -> bool:
    """Whether a patch sets only what the contact has already, as most patches do. If so, this moves the stamps of its keys.

    Such a patch is never rejected. Do not call this for a contact that may be too heavy: a patch makes it lighter.
    """
    values, own = event.metadata, contact.metadata
    if not values or event.unset:
        return False
    stamps = state.contact_stamps[contact.id].metadata
    for key, value in values.items():
        if not same(own.get(key, NOTHING), value) or stamp < stamps[key]:
            return False
    state.stamps_of(contact)
    for key in values:
        stamps[key] = stamp
    return True


def patched(
    metadata: Metadata, entry: Entry, event: _Patching, *, joins: bool = False
) -> tuple[Metadata, list[str], bool, int] | Rejection:
    """Metadata after an event's patch, the keys that changed, whether any came too late, and how many a page may not change.

    With `joins`, several records have come together, and the keys with the greatest stamps stay. Otherwise too many keys are a
    rejection.
    """
    values, unset, untrusted = event.metadata, event.unset, 0
    if entry.stamp < TRUSTED:
        values, unset, untrusted = metadata.permitted(values, unset)
    after, changed, late = metadata.patch(values, unset, entry.stamp)
    if joins:
        return after.bounded(), [], late, untrusted
    if len(after.values) > MAX_METADATA_KEYS or entry.stamp < TRUSTED:
        fitting = _fitting(after, entry)
        if type(fitting) is Rejection:
            return fitting
        if fitting is not after:
            after, changed = fitting, changed_keys(metadata.values, fitting.values)
    return after, changed, late, untrusted


def _fitting(metadata: Metadata, entry: Entry) -> Metadata | Rejection:
    """Fit the metadata of a contact or a visitor into its limits (contract section 2). Keys from pages make room for others."""
    count, untrusted = len(metadata.values), metadata.untrusted()
    if entry.stamp >= TRUSTED:
        if count - untrusted <= MAX_METADATA_KEYS:
            return metadata.bounded()
        expected, count = f"at most {MAX_METADATA_KEYS} keys in a contact", count - untrusted
    elif untrusted > MAX_UNTRUSTED_KEYS:
        expected, count = f"at most {MAX_UNTRUSTED_KEYS} keys from pages in a contact", untrusted
    elif count > MAX_METADATA_KEYS:
        expected = f"at most {MAX_METADATA_KEYS} keys in a contact"
    else:
        return metadata
    return Rejection("invalid", "metadata", expected, f"{count} keys")
