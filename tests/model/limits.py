"""Gives the fold the small limits of a random log, so that it reaches them soon."""

from collections.abc import Generator
from contextlib import contextmanager

import pytest

from kinfold_projections import (
    corrections,
    duplicates,
    fold,
    identifications,
    identity,
    linking,
    links,
    members,
    metadata,
    patching,
    state,
    weights,
)
from tests.model.contract import Limits


@contextmanager
def limited(limits: Limits) -> Generator[None]:
    """Give the fold the log's limits. Its behaviour at them is the same as at 65,536, 256, 100, 64 and 25."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "WINDOW_ENTRIES", limits.window)
        patch.setattr(members, "LISTED_VISITORS", limits.listed)
        for module in (metadata, patching):
            patch.setattr(module, "MAX_METADATA_KEYS", limits.keys)
            patch.setattr(module, "MAX_UNTRUSTED_KEYS", limits.untrusted_keys)
        patch.setattr(identity, "MAX_MERGES", limits.merges)
        patch.setattr(links, "KEPT", limits.kept)
        for module in (links, linking):
            patch.setattr(module, "MAX_LINKS", limits.links)
            patch.setattr(module, "TIMED_LINKS", limits.timed)
        patch.setattr(members, "LISTED_BYTES", limits.listed_bytes)
        if limits.listed_bytes != Limits().listed_bytes:
            patch.setattr(members, "_SURELY_SHOWN", 0)
        patch.setattr(state, "MAX_CONTACT_BYTES", limits.contact_bytes)
        for module in (corrections, fold, identifications, weights):
            patch.setattr(module, "MAX_CONTACT_BYTES", limits.contact_bytes)
        for module in (fold, weights):
            patch.setattr(module, "MAX_VISITOR_BYTES", limits.visitor_bytes)
        if limits.contact_bytes != Limits().contact_bytes or limits.visitor_bytes != Limits().visitor_bytes:
            patch.setattr(state, "LIGHT_BYTES", -1)
            for module in (fold, identifications):
                patch.setattr(module, "LARGE_EVENT_BYTES", -1)
            for name in ("LARGE_CONTEXT_BYTES", "DESCRIBED_BYTES"):
                patch.setattr(fold, name, -1)
        yield
