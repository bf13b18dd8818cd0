"""`kinfold correct`: the options of its commands. `correcting` does the work."""

import asyncio
import getpass
import sys
from collections.abc import Coroutine
from typing import Annotated, Any, Final

import msgspec
import typer
import uvloop
from msgspec import UNSET, UnsetType

from kinfold_schemas.canonical import Primitive
from kinfold_schemas.events import IdentityCorrected
from kinfold_services.cli import correcting
from kinfold_services.cli.correcting import How
from kinfold_services.cli.options import DataDir, RedisUrl, WorkspaceName, check_text, settings_from

correct_commands: Final = typer.Typer(
    help="Correct contacts by hand: each correction is an event in the log. Shows what would change, and asks first.",
    no_args_is_help=True,
)

_MAX_BY_CHARS: Final = 255

_Contact = Annotated[str, typer.Argument(metavar="CONTACT", callback=check_text, help="The id of the contact.")]
_By = Annotated[
    str | None, typer.Option("--by", callback=check_text, help="Who makes the correction. Default: your login name.")
]
_Reason = Annotated[str | None, typer.Option("--reason", callback=check_text, help="Why: the timeline shows it.")]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")]
_Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
_Json = Annotated[bool, typer.Option("--json", help="Print what would change as JSON, also on a terminal.")]
_Text = Annotated[str | None, typer.Option(callback=check_text)]


@correct_commands.command()
def merge(
    contact: _Contact,
    other: Annotated[
        str, typer.Argument(metavar="OTHER", callback=check_text, help="The id of the contact that is merged into it.")
    ],
    by: _By = None,
    reason: _Reason = None,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    workspace: WorkspaceName = None,
    *,
    dry_run: _DryRun = False,
    yes: _Yes = False,
    json: _Json = False,
) -> int:
    """Merge a contact into another one. This is the only way to merge two that have different external ids."""
    how = _how(by, reason, dry_run=dry_run, yes=yes, as_json=json)
    event = IdentityCorrected(by=how.by, reason=reason, contact_id=contact, merge_contact_id=other)
    return _correct(redis_url, data_dir, workspace, event, how)


@correct_commands.command()
def unlink(
    contact: _Contact,
    visitor: Annotated[str, typer.Argument(metavar="VISITOR", callback=check_text, help="The id of the visitor.")],
    by: _By = None,
    reason: _Reason = None,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    workspace: WorkspaceName = None,
    *,
    dry_run: _DryRun = False,
    yes: _Yes = False,
    json: _Json = False,
) -> int:
    """Unlink a visitor from a contact. From now on it is anonymous, until an event identifies it."""
    how = _how(by, reason, dry_run=dry_run, yes=yes, as_json=json)
    event = IdentityCorrected(by=how.by, reason=reason, contact_id=contact, unlink_visitor_id=visitor)
    return _correct(redis_url, data_dir, workspace, event, how)


@correct_commands.command(name="set")
def set_values(
    contact: _Contact,
    external_id: Annotated[str | None, typer.Option(callback=check_text)] = None,
    email: _Text = None,
    name: _Text = None,
    image: _Text = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Set a metadata key; can be repeated. The value is JSON, or else text."),
    ] = None,
    unset: Annotated[list[str] | None, typer.Option(metavar="KEY", help="Remove a metadata key; can be repeated.")] = None,
    by: _By = None,
    reason: _Reason = None,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    workspace: WorkspaceName = None,
    *,
    no_external_id: Annotated[bool, typer.Option("--no-external-id", help="Remove the external id.")] = False,
    no_email: Annotated[bool, typer.Option("--no-email", help="Remove the e-mail address.")] = False,
    no_name: Annotated[bool, typer.Option("--no-name", help="Remove the name.")] = False,
    no_image: Annotated[bool, typer.Option("--no-image", help="Remove the image.")] = False,
    take: Annotated[
        bool, typer.Option("--take", help="Take the external id or the address from the contact that has it.")
    ] = False,
    dry_run: _DryRun = False,
    yes: _Yes = False,
    json: _Json = False,
) -> int:
    """Set or remove identifiers, name, image and metadata of a contact."""
    how = _how(by, reason, dry_run=dry_run, yes=yes, as_json=json)
    event = IdentityCorrected(
        by=how.by,
        reason=reason,
        contact_id=contact,
        external_id=_value("external-id", external_id, removed=no_external_id),
        email=_value("email", email, removed=no_email),
        name=_value("name", name, removed=no_name),
        image=_value("image", image, removed=no_image),
        metadata=dict(map(_pair, metadata)) if metadata else None,
        unset=unset or None,
        take=take,
    )
    return _correct(redis_url, data_dir, workspace, event, how)


@correct_commands.command()
def settle(
    contact: _Contact,
    email: Annotated[str, typer.Argument(metavar="EMAIL", callback=check_text, help="The address of the conflict.")],
    by: _By = None,
    reason: _Reason = None,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    workspace: WorkspaceName = None,
    *,
    take: Annotated[bool, typer.Option("--take", help="The contact gets the address.")] = False,
    merge: Annotated[bool, typer.Option("--merge", help="Merge the contact that has the address into this one.")] = False,
    dismiss: Annotated[bool, typer.Option("--dismiss", help="Both keep what they have; it is not reported again.")] = False,
    dry_run: _DryRun = False,
    yes: _Yes = False,
    json: _Json = False,
) -> int:
    """Settle a conflict: an event named an address for this contact that another one has."""
    if take + merge + dismiss != 1:
        raise typer.BadParameter("expected exactly one of --take, --merge and --dismiss")
    how = _how(by, reason, dry_run=dry_run, yes=yes, as_json=json)
    event = IdentityCorrected(
        by=how.by,
        reason=reason,
        contact_id=contact,
        email=email if take else UNSET,
        take=take,
        dismiss_conflict=email if dismiss else None,
    )
    settings = settings_from(redis_url=redis_url, data_dir=data_dir, workspace=workspace)
    if merge:
        return asyncio.run(correcting.merge_holder(settings, event, email, how))
    return asyncio.run(correcting.correct(settings, event, how))


@correct_commands.command()
def unmerge(
    merged: Annotated[
        str, typer.Argument(metavar="MERGED", callback=check_text, help="The id of the contact that was merged.")
    ],
    by: _By = None,
    reason: _Reason = None,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    workspace: WorkspaceName = None,
    *,
    dry_run: _DryRun = False,
    yes: _Yes = False,
    json: _Json = False,
) -> int:
    """Take the merge of a contact back: every replay leaves out the events that merged it. Folds the whole log."""
    how = _how(by, reason, dry_run=dry_run, yes=yes, as_json=json)
    return _folding(correcting.unmerge(_settings(redis_url, data_dir, workspace), merged, how))


@correct_commands.command()
def undo(
    entries: Annotated[
        list[str],
        typer.Argument(
            metavar="ENTRY...", help="The ids of log entries: of corrections, or of the `EventsExcluded` that took one back."
        ),
    ],
    by: _By = None,
    reason: _Reason = None,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    workspace: WorkspaceName = None,
    *,
    dry_run: _DryRun = False,
    yes: _Yes = False,
    json: _Json = False,
) -> int:
    """Take corrections back: every replay leaves them out. Folds the whole log."""
    how = _how(by, reason, dry_run=dry_run, yes=yes, as_json=json)
    return _folding(correcting.undo(_settings(redis_url, data_dir, workspace), entries, how))


def _settings(redis_url: Any, data_dir: Any, workspace: Any) -> Any:
    return settings_from(redis_url=redis_url, data_dir=data_dir, workspace=workspace)


def _correct(redis_url: Any, data_dir: Any, workspace: Any, event: IdentityCorrected, how: How) -> int:
    return asyncio.run(correcting.correct(_settings(redis_url, data_dir, workspace), event, how))


def _folding(work: Coroutine[Any, Any, int]) -> int:
    return uvloop.run(work)


def _how(by: str | None, reason: str | None, *, dry_run: bool, yes: bool, as_json: bool) -> How:
    """How to correct. Raises BadParameter if nobody could confirm it, or it is not known who corrects."""
    if not dry_run and not yes and not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise typer.BadParameter("expected --yes or --dry-run, or a terminal on which to ask")
    try:
        by = by if by is not None else getpass.getuser()
    except (KeyError, OSError):
        raise typer.BadParameter("--by: expected a name, since this user has no login name") from None
    if not 0 < len(by) <= _MAX_BY_CHARS:
        raise typer.BadParameter(f"--by: expected 1 to {_MAX_BY_CHARS} characters, got {len(by)}")
    return How(by, reason, dry_run, yes, as_json or not sys.stdout.isatty())


def _value(option: str, value: str | None, *, removed: bool) -> str | UnsetType | None:
    if value is not None and removed:
        raise typer.BadParameter(f"expected --{option} or --no-{option}, got both")
    return None if removed else UNSET if value is None else value


def _pair(text: str) -> tuple[str, Primitive]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise typer.BadParameter(f"--metadata: expected KEY=VALUE, got {text!r}")
    try:
        return name, msgspec.json.decode(value.encode(), type=Primitive)
    except (msgspec.DecodeError, UnicodeError):
        return name, value
