"""Every contact, kept current in the background."""

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Final, Self

from kinfold.reading import At, Item, Reader, SnapshotBegins, Told
from kinfold_schemas.changes import Change, ContactGone, ContactsMerged
from kinfold_schemas.contacts import Contact
from kinfold_schemas.identifiers import email_key, id_key

log = logging.getLogger("kinfold")

_WHOLE_S: Final = 10.0
"""How long a forked child that reads contacts for the first time waits for a snapshot; then it has those of the fork."""


class LiveContacts(Mapping[str, Contact]):
    """What `Feed.contacts` returns: contact id → contact, as the feed tells it; any thread may read.

    Contacts are values: one that was looked up does not change, it is replaced. Where the feed could not be followed any more,
    every reading raises why. `close` ends the background thread. A forked child gets one of its own when it first reads.

    >>> with kinfold.Feed("redis://localhost:6379/0", workspace="feed").contacts() as contacts:
    ...     [contact.external_id for contact in contacts.values()]
    ['u-1']
    """

    def __init__(self, make_reader: Callable[[], Reader]) -> None:
        self._make_reader: Final = make_reader
        self._index = _Index()
        self._position: str | None = None
        self._beginning: Final = threading.Lock()
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        self._reader = self._make_reader()
        self._building: _Index | None = None
        self._whole = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="kinfold-contacts", daemon=True)
        self._thread.start()
        self._pid = os.getpid()

    @property
    def position(self) -> str | None:
        """The feed entry up to which the mapping is current.

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
        """Who has this id in the application's own data.

        >>> with kinfold.Feed("redis://localhost:6379/0", workspace="feed").contacts() as contacts:
        ...     contacts.by_external_id("u-unknown") is None
        True
        """
        index = self._current()
        return index.contacts.get(index.external_ids.get(id_key(external_id), ""))

    def by_email(self, email: str) -> Contact | None:
        """Who has this address, however it is written.

        >>> with kinfold.Feed("redis://localhost:6379/0", workspace="feed").contacts() as contacts:
        ...     contacts.by_email("nobody@example.org") is None
        True
        """
        index = self._current()
        return index.contacts.get(index.emails.get(email_key(email), ""))

    def wait_until_whole(self, timeout_s: float) -> None:
        """Waits until the snapshot is there. Raises TimeoutError, or what ended the reading."""
        if not self._whole.wait(timeout_s):
            self.close()
            raise TimeoutError(f"contacts: found no whole snapshot after {timeout_s:g} s")
        self._current()

    def close(self, timeout_s: float = 2.0) -> None:
        """Ends the background thread; what is there stays as it is.

        >>> contacts = kinfold.Feed("redis://localhost:6379/0", workspace="feed").contacts()
        >>> contacts.close()
        """
        self._closed = True
        if self._pid == os.getpid():
            self._reader.stop()
            self._thread.join(timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _current(self) -> "_Index":
        if self._pid != os.getpid() and not self._closed:  # after a fork: the thread is the parent's alone
            with self._beginning:
                if self._pid != os.getpid():
                    self._begin()
            self._whole.wait(_WHOLE_S)
        if self._error is not None:
            raise self._error
        return self._index

    def _run(self) -> None:
        try:
            for item in self._reader.items():
                self._apply(item)
        except BaseException as error:  # it is raised where the contacts are read
            log.exception("the contacts are no longer kept current")
            self._error = error
            self._whole.set()

    def _apply(self, item: Item) -> None:
        if isinstance(item, SnapshotBegins):
            self._building = _Index()  # beside: what is there stays readable until the new one is whole
        elif isinstance(item, Told):
            (self._index if self._building is None else self._building).apply(item.change)
            if item.position is not None:
                self._position = item.position
        elif isinstance(item, At):
            self._position = item.position
            if item.is_snapshot_end:
                self._index, self._building = self._building or _Index(), None
                self._whole.set()


class _Index:
    def __init__(self) -> None:
        self.contacts: dict[str, Contact] = {}
        self.external_ids: dict[str, str] = {}
        self.emails: dict[str, str] = {}

    def apply(self, change: Change) -> None:
        if isinstance(change, ContactGone):
            self._remove(change.contact_id)
            return
        if isinstance(change, ContactsMerged):
            self._remove(change.merged_contact_id)
        contact = change.contact
        # Whatever its version: after a replay that is what the log makes it, and may be lower than before.
        self._unname(self.contacts.get(contact.id))
        self.contacts[contact.id] = contact
        if contact.external_id is not None:
            self.external_ids[contact.external_id] = contact.id
        if contact.email is not None:
            self.emails[email_key(contact.email)] = contact.id

    def _remove(self, contact_id: str) -> None:
        self._unname(self.contacts.pop(contact_id, None))

    def _unname(self, contact: Contact | None) -> None:
        if contact is None:
            return
        if contact.external_id is not None and self.external_ids.get(contact.external_id) == contact.id:
            del self.external_ids[contact.external_id]
        if contact.email is not None and self.emails.get(email_key(contact.email)) == contact.id:
            del self.emails[email_key(contact.email)]
