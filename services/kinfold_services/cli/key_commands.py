"""`kinfold keys`: the API keys of the gateway, and the identity secrets.

A key is shown only when it is created, and on a terminal (`secret_output.py`).
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

import msgspec
import typer

from kinfold_services.access import keys
from kinfold_services.access.identity_tokens import (
    IdentitySecret,
    ensure_identity_secret,
    identity_secrets,
    retire_identity_secret,
    rotate_identity_secret,
)
from kinfold_services.cli.hints import warn_if_not_served
from kinfold_services.cli.options import DataDir, RedisUrl, WorkspaceName, settings_from
from kinfold_services.cli.output import DONE, NO, USAGE, complain, print_json, say
from kinfold_services.cli.secret_output import shown_or_written
from kinfold_services.connections import Client
from kinfold_services.server.choice import connected
from kinfold_services.settings import Settings

ShowsMetadata = Annotated[
    bool,
    typer.Option("--shows-metadata", help="Let pages with a publishable key read the metadata of their own visitor's contact."),
]

key_commands: Final = typer.Typer(help="Manage the API keys of the gateway, and the identity secrets.", no_args_is_help=True)


@key_commands.command()
def create(  # noqa: PLR0913, PLR0917  each is an option
    kind: Annotated[
        keys.Kind,
        typer.Option(
            help="secret (full access), read (queries and the feed), publishable (for browsers) or development (for "
            "browsers, without proof)."
        ),
    ] = "secret",
    label: Annotated[str, typer.Option(help="A note that tells what the key is for.")] = "",
    shows_metadata: ShowsMetadata = False,  # noqa: FBT002  an option
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    workspace: WorkspaceName = None,
) -> int:
    """Create a key for a workspace and print it. It is not shown again.

    If standard output is not a terminal, the key is in a file that only you can read, and `keyFile` names it. Logs get no key.

    In a script: KEY=$(cat "$(kinfold keys create | jq -r .keyFile)")
    """
    settings = settings_from(redis_url=redis_url, data_dir=data_dir, workspace=workspace)
    if shows_metadata and kind != "publishable":
        return complain(f"--shows-metadata: expected --kind publishable, got {kind}", USAGE)

    async def make(client: Client) -> int:
        made = await keys.create_key(client, settings.workspace, kind, label, shows_metadata=shows_metadata)
        name = f"{settings.workspace}-{kind}-{keys.id_of(made)}"
        shown = shown_or_written(made, "key", name, settings.data_dir)
        print_json({"workspace": settings.workspace, "kind": kind, "label": label, **shown})
        if kind == "development":
            say("anyone who can read this key can claim to be anyone: do not use it on a site that is open to the public")
        await warn_if_not_served(client, settings.workspace)
        return DONE

    return _run(settings, make)


@key_commands.command(name="list")
def list_keys(redis_url: RedisUrl = None, data_dir: DataDir = None, workspace: WorkspaceName = None) -> int:
    """Print the keys of a workspace, one per line, without their secrets.

    `may` tells what a key is for, and `lastUsedAt` when a gateway last saw it, to the minute (null: never).
    """
    settings = settings_from(redis_url=redis_url, data_dir=data_dir, workspace=workspace)

    async def show(client: Client) -> int:
        found = await keys.list_keys(client, settings.workspace)
        used = await keys.last_used(client, settings.workspace)
        if not found:
            say(f"no keys in workspace {settings.workspace}; `kinfold keys create` creates one")
        for each in found:
            fields: dict[str, Any] = msgspec.to_builtins(each)
            del fields["secretHash"]
            may = keys.POWERS[each.kind] + (", read its own metadata" if each.shows_metadata else "")
            print_json({**fields, "lastUsedAt": used.get(each.id), "may": may})
        return DONE

    return _run(settings, show)


@key_commands.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The id that `kinfold keys list` shows; it is part of the key.")],
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    workspace: WorkspaceName = None,
) -> int:
    """Revoke a key permanently. Exit status 1: there is no key with this id.

    The gateway refuses the key within a second, and ends its open streams within half a minute.
    """
    settings = settings_from(redis_url=redis_url, data_dir=data_dir, workspace=workspace)

    async def end(client: Client) -> int:
        revoked = await keys.revoke_key(client, settings.workspace, key_id)
        if revoked is None:
            return complain(f"key {key_id!r}: no such key in workspace {settings.workspace}", NO)
        print_json({"id": revoked.id, "revokedAt": revoked.revoked_at})
        return DONE

    return _run(settings, end)


@key_commands.command(name="identity-secret")
def identity_secret(redis_url: RedisUrl = None, data_dir: DataDir = None, workspace: WorkspaceName = None) -> int:
    """Print the secret with which a backend signs identity tokens, for browsers with a publishable key.

    Prints two lines while one secret replaces another; the first is the one to sign with. If standard output is not a terminal,
    the secret is in a file that only you can read, and `identitySecretFile` names it.
    """
    settings = settings_from(redis_url=redis_url, data_dir=data_dir, workspace=workspace)

    async def show(client: Client) -> int:
        for each in await ensure_identity_secret(client, settings.workspace):
            _print_secret(settings, each)
        return DONE

    return _run(settings, show)


@key_commands.command(name="rotate-identity")
def rotate_identity(redis_url: RedisUrl = None, data_dir: DataDir = None, workspace: WorkspaceName = None) -> int:
    """Add an identity secret beside the present one, and print it. Exit status 1: two are valid already.

    Both are valid until `kinfold keys retire-identity` ends one. Let 5 s pass before you sign with the new one: gateways read
    the secrets that often.
    """
    settings = settings_from(redis_url=redis_url, data_dir=data_dir, workspace=workspace)

    async def rotate(client: Client) -> int:
        made = await rotate_identity_secret(client, settings.workspace)
        if made is None:
            kids = ", ".join(each.kid for each in await identity_secrets(client, settings.workspace))
            expected = f"expected at most one valid secret in workspace {settings.workspace}, got {kids}"
            return complain(f"identity secret: {expected}; `kinfold keys retire-identity KID` ends one", NO)
        _print_secret(settings, made)
        return DONE

    return _run(settings, rotate)


@key_commands.command(name="retire-identity")
def retire_identity(
    kid: Annotated[str, typer.Argument(metavar="KID", help="The kid that `kinfold keys identity-secret` shows.")],
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    workspace: WorkspaceName = None,
) -> int:
    """End an identity secret permanently: within 5 s its tokens are rejected. Exit status 1: no valid secret has this kid."""
    settings = settings_from(redis_url=redis_url, data_dir=data_dir, workspace=workspace)

    async def retire(client: Client) -> int:
        if not await retire_identity_secret(client, settings.workspace, kid):
            return complain(f"identity secret {kid!r}: no such secret in workspace {settings.workspace}", NO)
        print_json({"workspace": settings.workspace, "retired": kid})
        return DONE

    return _run(settings, retire)


def _print_secret(settings: Settings, each: IdentitySecret) -> None:
    name = f"{settings.workspace}-identity-{each.kid}"
    shown = shown_or_written(each.identity_secret, "identitySecret", name, settings.data_dir)
    print_json({"workspace": settings.workspace, "kid": each.kid, **shown, "createdAt": each.created_at})


def _run(settings: Settings, work: Callable[[Client], Awaitable[int]]) -> int:
    async def run() -> int:
        async with connected(settings) as client:
            return await work(client)

    return asyncio.run(run())
