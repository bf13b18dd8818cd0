"""`kinfold erase`: forgets people, and shows what was forgotten."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from kinfold_services.access.rights import ERASE
from kinfold_services.cli.output import DONE, NO, USAGE, complain, print_json, say
from kinfold_services.cli.progress import progress
from kinfold_services.connections import Client
from kinfold_services.log.pages import log_extent
from kinfold_services.privacy.eraser import Eraser
from kinfold_services.privacy.person import FoldedLog, People
from kinfold_services.privacy.planning import Plan
from kinfold_services.privacy.receipt_page import receipt_page
from kinfold_services.privacy.records import Receipt
from kinfold_services.replay.replay import WouldLose
from kinfold_services.runtime.garbage import collect_seldom
from kinfold_services.runtime.terminal import counted
from kinfold_services.server.choice import connected
from kinfold_services.settings import Settings
from kinfold_services.state.position import Replaced
from kinfold_services.state.queries import Identifier

_NAMED: int = 20


class Request:
    """What the user asks for."""

    def __init__(self, *, by: str | None, reason: str | None, dry_run: bool, yes: bool, receipt: Path | None) -> None:
        self.by, self.reason, self.dry_run, self.yes, self.receipt = by, reason, dry_run, yes, receipt


async def erase(settings: Settings, identifiers: Sequence[Identifier], request: Request) -> int:
    """Erase people, and print the receipt. Exit status 1 if an identifier names nobody."""
    collect_seldom()
    async with connected(settings, role=ERASE) as client:
        with progress("reading the log", (await log_extent(client, settings.workspace)).entries) as advance:
            log, people = await Eraser(client, settings, advance).find(identifiers)
        for identifier in people.missing[:_NAMED]:
            complain(f"{identifier} names nobody in workspace {settings.workspace}", NO)
        if len(people.missing) > _NAMED:
            say(f"and {counted(len(people.missing) - _NAMED, 'more identifier names', 'more identifiers name')} nobody")
        if not people.found:
            return NO
        eraser = Eraser(client, settings)
        plan = await eraser.preview(log, people)
        _tell(people, plan)
        if request.dry_run:
            print_json(_summary(people, plan))
            say("nothing was erased")
            return NO if people.missing else DONE
        if not request.yes and (refusal := _confirm()) is not None:
            return refusal
        recorded = await eraser.request(list(people.found), by=request.by, reason=request.reason)
        status = await _finish(client, settings, log, recorded.erasure, request.receipt)
        return NO if people.missing and status == DONE else status


async def resume(settings: Settings) -> int:
    """Finish the erasures that are pending, and print their receipts."""
    collect_seldom()
    async with connected(settings, role=ERASE) as client:
        try:
            receipts = await Eraser(client, settings).finish_pending()
        except (WouldLose, Replaced) as error:
            return complain(str(error), NO)
    for receipt in receipts:
        print_json(receipt)
    say(f"{counted(len(receipts), 'erasure was', 'erasures were')} finished")
    return DONE


async def list_erasures(settings: Settings) -> int:
    """Print the receipts of all erasures, pending ones included."""
    async with connected(settings) as client:
        receipts = await Eraser(client, settings).records.receipts()
    for receipt in receipts:
        print_json(receipt)
    if not receipts:
        say(f"no erasures in workspace {settings.workspace}")
    return DONE


async def _finish(client: Client, settings: Settings, log: FoldedLog, erasure: str, page: Path | None) -> int:
    try:
        with progress("erasing", (await log_extent(client, settings.workspace)).entries) as advance:
            eraser = Eraser(client, settings, advance)
            await eraser.finish_pending(log)
    except (WouldLose, Replaced) as error:
        return complain(f"{error}; the erasure {erasure} is pending: kinfold erase --resume finishes it", NO)
    receipt = await eraser.records.receipt(erasure)
    if receipt is None:
        return complain(f"the receipt of {erasure} is gone", NO)
    print_json(receipt)
    if page is not None:
        try:
            await asyncio.to_thread(page.write_text, receipt_page(receipt), encoding="utf-8")
        except OSError as error:
            return complain(f"{page}: cannot be written ({error.strerror})", NO)
    return _judge(receipt)


def _judge(receipt: Receipt) -> int:
    """Exit status 1 where a search still found something."""
    left = [check.place for check in receipt.checks if check.found]
    if left:
        return complain(f"identifiers were found afterwards in: {', '.join(left)}", NO)
    return DONE


def _summary(people: People, plan: Plan) -> dict[str, object]:
    """What an erasure would remove, for the person who has to decide."""
    return {
        "people": len(set(people.found.values())),
        "contactIds": sorted(plan.belongings.contacts),
        "externalIds": sorted(plan.belongings.external_ids),
        "emails": sorted(plan.belongings.emails),
        "visitors": sorted(plan.belongings.visitors),
        "shared": sorted(plan.belongings.shared_visitors | plan.belongings.shared_emails),
        "removed": plan.removed,
    }


def _tell(people: People, plan: Plan) -> None:
    """Say in words what goes."""
    removed = plan.removed
    count = len(set(people.found.values()))
    say(f"{counted(count, 'person', 'people')} with {counted(removed.contacts, 'contact id')} to erase:")
    entries, visitors = counted(removed.entries, "log entry", "log entries"), counted(removed.visitors, "visitor")
    say(f"  {entries}, {visitors}, {counted(removed.emails, 'address', 'addresses')}")
    if removed.contacts > count:
        say("  contacts that were merged are one person: all of them go")
    if removed.shared_visitors or removed.shared_emails:
        visitors, emails = counted(removed.shared_visitors, "visitor"), counted(removed.shared_emails, "address", "addresses")
        say(f"  {visitors} and {emails} stay with other people who share them")
    if removed.redacted_entries:
        entries = counted(removed.redacted_entries, "entry of other people loses", "entries of other people lose")
        say(f"  {entries} what names them")


def _confirm() -> int | None:
    """Ask; return an exit status if the answer is no."""
    say("This cannot be undone.")
    if not sys.stdin.isatty():
        return complain("expected --yes, because there is no terminal to ask; nothing was erased", USAGE)
    sys.stderr.write("Type `erase` to go on: ")
    sys.stderr.flush()
    if sys.stdin.readline().strip() == "erase":
        return None
    return complain("nothing was erased", NO)
