"""Everything held about one person, as a zip file (`kinfold subject`, `GET /v1/subjects`).

    subject.json   all of it, machine-readable (`docs/privacy.md` describes it)
    subject.html   the same to read and to print, without a script

What belongs to a person is what an erasure of them would remove (contract section 10). On a shared browser that is what
happened while the browser was theirs. Where one of their events names somebody else, that name is withheld. Where an event of
somebody else names them, the file says so, and nothing else about that event.

Both files are written entry by entry, so memory holds the folded log and not the file.
"""

import tempfile
import zipfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import IO, Any, Final, NamedTuple, cast

import msgspec

from kinfold_projections.entries import EVENT_FIELD, read_entries
from kinfold_projections.ownership import Belongings, Mention
from kinfold_projections.records import public_contact, public_visitor
from kinfold_projections.redaction import Kind, Redactor
from kinfold_schemas.identifiers import IdentifierRules, email_key
from kinfold_schemas.keys import key
from kinfold_services.connections import Client, RawEntry
from kinfold_services.log.baseline import read_baseline
from kinfold_services.log.pages import read_pages
from kinfold_services.log.streams import STREAM_PAGE_ENTRIES, pairs_of
from kinfold_services.privacy.person import FoldedLog, find_people, fold_ownership, own_entries
from kinfold_services.privacy.planning import kinds
from kinfold_services.privacy.subject_page import PAGE_END, page_head, page_row, page_section, time_of
from kinfold_services.rejects.entries import read_reject
from kinfold_services.settings import Settings
from kinfold_services.state.queries import Identifier
from kinfold_services.state.reader import StateReader

_NO_SALT: Final = "0" * 16
_IN_MEMORY_BYTES: Final = 1 << 22
_OTHERS: Final = ("previousContactId", "nextContactId", "heldBy")
"""Fields of a change that may name another person's contact."""
_encode: Final = msgspec.json.Encoder(order="deterministic").encode

DirectoryRows = Callable[[str], AsyncIterator[dict[str, Any]]]
"""What the directory holds of a contact, row by row. Raises DirectoryUnavailable."""


class Section(NamedTuple):
    """One list of the file."""

    name: str
    title: str
    items: AsyncIterator[dict[str, Any]]


class Subject:
    """Finds one person, and everything about them. `find` first."""

    def __init__(self, client: Client, settings: Settings) -> None:
        self._client: Final = client
        self._settings: Final = settings
        self._workspace: Final = settings.workspace
        self._log: FoldedLog
        self._owned: Belongings
        self._redactor: Redactor
        self.contact_id: str | None = None
        """Of the living contact; None for a visitor that nobody identified."""

    async def find(self, identifier: Identifier, progress: Callable[[int], None] = lambda _: None) -> bool:
        """Fold the log. Returns False if nobody is named so. Raises NoLog."""
        rules = IdentifierRules(await StateReader(self._client, self._workspace).blocked_identifiers())
        self._log = await fold_ownership(self._client, self._settings, rules, progress)
        people = find_people(self._log, [identifier])
        if people.missing and identifier.email is not None:  # an address that the person had before
            holder = self._log.ownership.former_holder(email_key(identifier.email))
            identifier = Identifier(contact=holder)
            people = find_people(self._log, [identifier] if holder is not None else [])
        if not people.found:
            return False
        self._owned = people.belongings
        self._redactor = Redactor(self._workspace, self._owned, _NO_SALT)
        found = people.found[identifier]
        self.contact_id = found if found in self._log.ownership.state.contacts else None
        return True

    async def facts(self, made_at: str) -> dict[str, Any]:
        """What there is one of."""
        state, baseline = self._log.ownership.state, await read_baseline(self._client, self._workspace)
        contact = None if self.contact_id is None else public_contact(state.contact(self.contact_id))
        return {
            "kinfold": "subject",
            "version": 1,
            "workspace": self._workspace,
            "madeAt": made_at,
            "position": self._log.upto,
            "logBeginsAfter": None
            if baseline is None
            else {"position": baseline.position, "madeAt": baseline.made_at, "entries": baseline.counts.entries},
            "contact": None if contact is None else msgspec.to_builtins(contact),
            "mergedContactIds": sorted(self._owned.contacts - {self.contact_id}),
            "emails": sorted(self._owned.emails),
            "externalIds": sorted(self._owned.external_ids),
        }

    def sections(self, directory: DirectoryRows | None) -> Iterator[Section]:
        """The lists, each to be read once, in this order."""
        yield Section("visitors", "Browsers and devices", self._visitors())
        yield Section("events", "What was recorded", self._events())
        yield Section("feed", "What was told to subscribers", self._feed())
        yield Section("rejects", "What was rejected", self._rejects())
        if directory is not None and self.contact_id is not None:
            yield Section("directory", "The directory", directory(self.contact_id))

    # --- the lists

    async def _visitors(self) -> AsyncGenerator[dict[str, Any]]:
        for visitor_id in sorted(self._owned.visitors):
            record = self._log.ownership.state.visitors.get(visitor_id)
            if record is None:
                continue
            shown: dict[str, Any] = msgspec.to_builtins(public_visitor(visitor_id, record))
            if visitor_id not in self._owned.shared_visitors:
                yield shown
                continue
            links = cast("list[dict[str, str]]", shown["links"])
            until = [*(link["since"] for link in links[1:]), None]
            own = [
                {**link, "until": end}
                for link, end in zip(links, until, strict=True)
                if link["contactId"] in self._owned.contacts
            ]
            brought = {name: shown[name] for name in ("name", "image", "metadata")} if links[0] == _without_end(own) else {}
            yield {"id": visitor_id, "isShared": True, "links": own, **brought}

    async def _events(self) -> AsyncGenerator[dict[str, Any]]:
        log, owned, redactor = self._log, self._owned, self._redactor
        kind_of = kinds(log)
        others, mentions = log.ownership.named_others(owned), _by_entry(owned.mentions)
        wanted = owned.entries | redactor.mentioned | mentions.keys() | kind_of.keys()
        async with aclosing(own_entries(self._client, self._workspace, wanted)) as pages:
            async for page in pages:
                for raw, entry in zip(page, read_entries(page, log.rules), strict=True):
                    if entry.id in mentions and entry.id not in owned.entries:
                        for each in mentions[entry.id]:
                            yield {"entry": entry.id, "at": time_of(entry.id), "names": {each.field: each.identifier}}
                        continue
                    kind = kind_of.get(entry.id, "folded")
                    if redactor.redacted(entry, kind, raw) is None:
                        continue
                    if kind == "idle" and entry.id not in owned.entries:
                        yield {"entry": entry.id, "at": time_of(entry.id), "names": {"all": ""}}
                    else:
                        yield _shown_entry(raw, "folded" if kind == "idle" else kind, others.get(entry.id, []))

    async def _feed(self) -> AsyncGenerator[dict[str, Any]]:
        contacts, own_emails = self._owned.contacts, self._owned.emails
        if not await self._client.exists(key(self._workspace, "changes")):
            return
        last = (await self._client.xinfo_stream(key(self._workspace, "changes")))["last-generated-id"].decode()
        async with aclosing(read_pages(self._client, self._workspace, "", last, "changes")) as pages:
            async for page in pages:
                for entry_id, fields in page:
                    change = _object(fields.get(b"change", b""))
                    if change.get("contactId") not in contacts and change.get("mergedContactId") not in contacts:
                        continue
                    withheld: list[str] = [name for name in _OTHERS if name in change and change[name] not in contacts]
                    if "heldBy" in withheld and change.get("email") not in own_emails:
                        withheld.append("email")
                    shown = {name: value for name, value in change.items() if name not in withheld}
                    yield _with_withheld({"entry": entry_id.decode(), "change": shown}, withheld)

    async def _rejects(self) -> AsyncGenerator[dict[str, Any]]:
        stream, first, idle = key(self._workspace, "rejects"), "-", set(self._log.ownership.idle)
        while True:
            reply = await self._client.xrange(stream, min=first, count=STREAM_PAGE_ENTRIES)
            page = cast("list[RawEntry]", reply)
            for reject_id, fields in page:
                reject = read_reject(pairs_of(fields))
                if reject is None:
                    continue
                raw = reject.entry.encode(), dict(reject.fields)
                is_theirs = reject.entry in self._owned.entries
                if not (is_theirs or self._redactor.names_them(raw)):
                    continue
                told = {"reject": reject_id.decode(), "reason": reject.reason}
                if not is_theirs and reject.entry in idle:  # another person's
                    yield {**told, "entry": reject.entry, "at": time_of(reject.entry), "names": {"all": ""}}
                else:
                    yield {**told, "detail": reject.detail, **_shown_entry(raw)}
            if len(page) < STREAM_PAGE_ENTRIES:
                return
            first = f"({page[-1][0].decode()}"


def _without_end(own: list[dict[str, Any]]) -> dict[str, str] | None:
    return {name: value for name, value in own[0].items() if name != "until"} if own else None


def _by_entry(mentions: list[Mention]) -> dict[str, list[Mention]]:
    found: dict[str, list[Mention]] = {}
    for mention in mentions:
        found.setdefault(mention.entry, []).append(mention)
    return found


def _shown_entry(raw: RawEntry, kind: Kind = "folded", others: list[Mention] | None = None) -> dict[str, Any]:
    entry_id, fields = raw[0].decode(), raw[1]
    shown: dict[str, Any] = {"entry": entry_id, "at": time_of(entry_id)}
    if kind != "folded":
        shown["outcome"] = "duplicate" if kind == "duplicate" else "rejected"
    event = _object(fields.get(EVENT_FIELD, b""))
    if not event:
        text = {name.decode(errors="replace"): value.decode(errors="replace") for name, value in fields.items()}
        return {**shown, "fields": text}
    withheld = sorted({str(mention.field) for mention in others or ()})
    if "all" in withheld:  # it did nothing, because of somebody else whom it names
        return {**shown, "withheld": ["all"]}
    shown["event"] = {name: value for name, value in event.items() if name not in withheld}
    return _with_withheld(shown, withheld)


def _with_withheld(shown: dict[str, Any], withheld: list[str]) -> dict[str, Any]:
    """`withheld`: fields that name somebody else."""
    return {**shown, "withheld": sorted(withheld)} if withheld else shown


def _object(data: bytes) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(data)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


# --- the file


async def write_subject(subject: Subject, file: IO[bytes], made_at: str, directory: DirectoryRows | None) -> dict[str, int]:
    """Write the zip file; return how many items each list has. `file` need not be seekable."""
    counts: dict[str, int] = {}
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
        tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES) as page,
    ):
        facts = await subject.facts(made_at)
        page.write(page_head(facts))
        with archive.open("subject.json", "w", force_zip64=True) as data:
            data.write(_encode(facts)[:-1])
            for name, title, items in subject.sections(directory):
                data.write(f',"{name}":['.encode())
                page.write(page_section(title))
                counts[name] = 0
                async for item in items:
                    data.write(b"," * (counts[name] > 0) + b"\n" + _encode(item))
                    page.write(page_row(item))
                    counts[name] += 1
                data.write(b"]")
                if not counts[name]:
                    page.write(b"<p>Nothing.</p>\n")
            data.write(b"}\n")
        page.write(PAGE_END)
        page.seek(0)
        with archive.open("subject.html", "w", force_zip64=True) as shown:
            while block := page.read(1 << 16):
                shown.write(block)
    return counts
