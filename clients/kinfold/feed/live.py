"""Every contact of a workspace, kept current in the background."""

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Self

from kinfold.feed.reader import Item, Reached, Reader, Received, SnapshotStarts
from kinfold_schemas.changes import Change, ContactErased, ContactGone, ContactsMerged
from kinfold_schemas.contacts import Contact
from kinfold_schemas.identifiers import email_key, id_key

log = logging.getLogger("kinfold")

_CHILD_WAIT_S: Final = 10.0
"""How long the first read in a forked child waits for a snapshot; after that it uses the contacts from before the fork."""


class LiveContacts(Mapping[str, Contact]):
    """The result of `Feed.contacts`: a mapping from contact ids to contacts, for any thread.

    A contact does not change: a new value replaces it. If the feed cannot be followed any more, every read raises the reason.
    `close` ends the background thread. A forked child starts its own thread at its first read.

    >>> with kinfold.Feed("redis://localhost:6379/0", workspace="feed").contacts() as contacts:
    ...     [contact.external_id for contact in contacts.values()]
    ['u-1']
    """

    def __init__(self, make_reader: Callable[[], Reader]) -> None:
        self._make_reader: Final = make_reader
        self._index = _Index()
        self._position: str | None = None
        self._starting: Final = threading.Lock()
        self._closed = False
        self._start()

    def _start(self) -> None:
        self._reader = self._make_reader()
        self._new_index: _Index | None = None
        self._complete = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="kinfold-contacts", daemon=True)
        self._thread.start()
        self._pid = os.getpid()

    @property
    def position(self) -> str | None:
        """The position in the feed up to which the mapping is current.

        >>> with kinfold.Feed("redis://localhost:6379/0", workspace="feed").contacts() as contacts:
        ...     contacts.position.count("-")
        1
        """
        return self._position

    def __getitem__(self, contact_id: str) -> Contact:
        return self._current().contacts[contact_id]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._current().contacts))

    def __len__(self) -> int:
        return len(self._current().contacts)

    def by_external_id(self, external_id: str) -> Contact | None:
        """The contact with this external id, or None.

        >>> with kinfold.Feed("redis://localhost:6379/0", workspace="feed").contacts() as contacts:
        ...     contacts.by_external_id("u-unknown") is None
        True
        """
        index = self._current()
        return index.contacts.get(index.external_ids.get(id_key(external_id), ""))

    def by_email(self, email: str) -> Contact | None:
        """The contact with this e-mail address, in any spelling, or None.

        >>> with kinfold.Feed("redis://localhost:6379/0", workspace="feed").contacts() as contacts:
        ...     contacts.by_email("unknown@example.org") is None
        True
        """
        index = self._current()
        return index.contacts.get(index.emails.get(email_key(email), ""))

    def wait_until_whole(self, timeout_s: float) -> None:
        """Wait for the snapshot. Raises TimeoutError, or the error that ended the reading."""
        if not self._complete.wait(timeout_s):
            self.close()
            raise TimeoutError(f"the snapshot of contacts was not complete after {timeout_s:g} s")
        self._current()

    def close(self, timeout_s: float = 2.0) -> None:
        """End the background thread; the mapping stays as it is.

        >>> contacts = kinfold.Feed("redis://localhost:6379/0", workspace="feed").contacts()
        >>> contacts.close()
        """
        self._closed = True
        if self._pid == os.getpid():
            self._reader.stop()
            self._thread.join(timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _current(self) -> "_Index":
        if self._pid != os.getpid() and not self._closed:  # after a fork the thread exists only in the parent
            with self._starting:
                if self._pid != os.getpid():
                    self._start()
            self._complete.wait(_CHILD_WAIT_S)
        if self._error is not None:
            raise self._error
        return self._index

    def _run(self) -> None:
        try:
            for item in self._reader.items():
                self._apply(item)
        except BaseException as error:  # every later read raises it
            log.exception("the contacts are no longer kept current")
            self._error = error
            self._complete.set()

    def _apply(self, item: Item) -> None:
        if isinstance(item, SnapshotStarts):
            self._new_index = _Index()  # the old one stays readable until the new one is complete
        elif isinstance(item, Received):
            (self._index if self._new_index is None else self._new_index).apply(item.change)
            if item.position is not None:
                self._position = item.position
        elif isinstance(item, Reached):
            self._position = item.position
            if item.is_snapshot_end:
                self._index, self._new_index = self._new_index or _Index(), None
                self._complete.set()


class _Index:
    def __init__(self) -> None:
        self.contacts: dict[str, Contact] = {}
        self.external_ids: dict[str, str] = {}
        self.emails: dict[str, str] = {}

    def apply(self, change: Change) -> None:
        if isinstance(change, ContactGone | ContactErased):
            self._remove(change.contact_id)
            return
        if isinstance(change, ContactsMerged):
            self._remove(change.merged_contact_id)
        contact = change.contact
        # Regardless of its version, which may be lower than before after a replay.
        self._remove_names(self.contacts.get(contact.id))
        self.contacts[contact.id] = contact
        if contact.external_id is not None:
            self.external_ids[contact.external_id] = contact.id
        if contact.email is not None:
            self.emails[email_key(contact.email)] = contact.id

    def _remove(self, contact_id: str) -> None:
        self._remove_names(self.contacts.pop(contact_id, None))

    def _remove_names(self, contact: Contact | None) -> None:
        if contact is None:
            return
        if contact.external_id is not None and self.external_ids.get(contact.external_id) == contact.id:
            del self.external_ids[contact.external_id]
        if contact.email is not None and self.emails.get(email_key(contact.email)) == contact.id:
            del self.emails[email_key(contact.email)]
