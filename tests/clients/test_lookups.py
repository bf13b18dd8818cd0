"""Lookups: one contact, as of an event that the caller has just published."""

import subprocess
import sys
from typing import Any, cast

import pytest

import kinfold


def test_lookup_waits_for_the_given_position(visitors: kinfold.Producer, folding_url: str, workspace: str):
    with kinfold.Contacts(folding_url, workspace=workspace, wait_s=5) as contacts:
        for number in range(20):
            visitors.set_metadata(external_id="u-1", metadata={"n": number})
            found = contacts.by_external_id("u-1", after=visitors.flush())
            assert found is not None
            assert found.metadata == {"n": number}


def test_number_as_an_identifier_is_rejected(folding_url: str, workspace: str):
    """Such as the id in a table of the application."""
    with (
        kinfold.Contacts(folding_url, workspace=workspace) as contacts,
        pytest.raises(TypeError, match="externalId: expected a string, got 5"),
    ):
        contacts.by_external_id(cast("Any", 5))


def test_lookup_does_not_wait_forever(folding_url: str, workspace: str):
    with (
        kinfold.Contacts(folding_url, workspace=workspace, wait_s=0.05) as contacts,
        pytest.raises(kinfold.NotFolded, match=r"position 99999999999999-0 was not folded within 0\.05 s"),
    ):
        contacts.get("ct_1", after="99999999999999-0")


def test_async_lookups_work_in_one_event_loop_after_another(visitors: kinfold.Producer, folding_url: str, workspace: str):
    """A WSGI server runs each asynchronous view in a new event loop."""
    visitors.identify("v-1", external_id="u-1")
    script = """
import asyncio, sys, kinfold
contacts = kinfold.AsyncContacts(sys.argv[1], workspace=sys.argv[2])
for _ in range(3):
    print(asyncio.run(contacts.by_visitor("v-1", after=sys.argv[3])).external_id, len(contacts._redis._clients))
"""
    command = [sys.executable, "-c", script, folding_url, workspace, visitors.flush() or ""]
    done = subprocess.run(command, check=False, timeout=200, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("u-1 1\n" * 3, "")
