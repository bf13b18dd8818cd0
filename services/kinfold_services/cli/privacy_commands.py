"""The commands about personal data, with their options."""

import getpass
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from kinfold_services.cli import erasing
from kinfold_services.cli.options import (
    ContactOption,
    DataDir,
    EmailOption,
    ExternalIdOption,
    RedisUrl,
    VisitorOption,
    WorkspaceName,
    check_text,
    identifier_from,
    settings_from,
)
from kinfold_services.cli.replaying import lines_of
from kinfold_services.state.queries import Identifier

_FROM = "--from"


def erase(
    visitor: VisitorOption = None,
    external_id: ExternalIdOption = None,
    email: EmailOption = None,
    contact: ContactOption = None,
    from_file: Annotated[
        Path | None,
        typer.Option(
            _FROM,
            exists=True,
            dir_okay=False,
            help="Erase many at once: one on each line, such as `email ada@example.org` (or external-id, visitor, contact).",
        ),
    ] = None,
    reason: Annotated[str | None, typer.Option(callback=check_text, help="For the receipt. Name no person.")] = None,
    by: Annotated[str | None, typer.Option(callback=check_text, help="Who erases. Default: your login name.")] = None,
    receipt: Annotated[
        Path | None, typer.Option(metavar="FILE", dir_okay=False, help="Also write the receipt as an HTML page.")
    ] = None,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    workspace: WorkspaceName = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would go, and erase nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Finish the erasures that were interrupted.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="Print the receipts of all erasures, pending and done.")] = False,
) -> int:
    """Erase everything about a person, from the log on, and print the receipt. This cannot be undone.

    Exit status 1: an identifier names nobody.
    """
    settings = settings_from(redis_url=redis_url, data_dir=data_dir, workspace=workspace)
    named = any(each is not None for each in (visitor, external_id, email, contact))
    if sum((resume, list_, from_file is not None, named)) != 1:
        raise typer.BadParameter("expected one person, --from, --resume or --list")
    if list_:
        return uvloop.run(erasing.list_erasures(settings))
    if resume:
        return uvloop.run(erasing.resume(settings))
    identifiers = [identifier_from(visitor, external_id, email, contact)] if named else _read(from_file)
    request = erasing.Request(by=by or _login(), reason=reason, dry_run=dry_run, yes=yes, receipt=receipt)
    return uvloop.run(erasing.erase(settings, identifiers, request))


def _read(path: Path | None) -> list[Identifier]:
    """The identifiers in a file. Raises BadParameter."""
    identifiers: list[Identifier] = []
    for number, line in enumerate(lines_of(path, _FROM), start=1):
        kind, _, value = line.partition(" ")
        field = kind.replace("-", "_")
        if field not in Identifier._fields or not value.strip():
            expected = "external-id, email, visitor or contact, and a value"
            raise typer.BadParameter(f"{path}, line {number}: expected {expected}, got {line[:80]!r}", param_hint=_FROM)
        identifiers.append(Identifier(**{field: value.strip()}))
    if not identifiers:
        raise typer.BadParameter(f"{path}: expected one person per line, got none", param_hint=_FROM)
    return identifiers


def _login() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None


def subject(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", dir_okay=False, help="The zip file to write.")],
    visitor: VisitorOption = None,
    external_id: ExternalIdOption = None,
    email: EmailOption = None,
    contact: ContactOption = None,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    workspace: WorkspaceName = None,
) -> int:
    """Write everything held about one person to a zip file, as JSON and as a page to read.

    Exit status 1: the identifier names nobody.
    """
    settings = settings_from(redis_url=redis_url, data_dir=data_dir, workspace=workspace)
    from kinfold_services.cli import subjects  # noqa: PLC0415  SQLAlchemy loads slowly

    return uvloop.run(subjects.subject(settings, identifier_from(visitor, external_id, email, contact), output))


PRIVACY_COMMANDS = (erase, subject)
