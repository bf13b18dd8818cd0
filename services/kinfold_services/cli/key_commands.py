"""`kinfold keys`: who may use the gateway. A key is printed when it is made, and never again."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

import msgspec
import typer

from kinfold_services.cli.options import DataDir, RedisUrl, WorkspaceName, settings_from
from kinfold_services.cli.output import DONE, NO, complain, print_json, say
from kinfold_services.cli.transferring import say_if_not_served
from kinfold_services.connections import Client
from kinfold_services.gateway import keys
from kinfold_services.gateway.signatures import identity_secret, renew_identity_secret
from kinfold_services.servers import connected
from kinfold_services.settings import Settings

key_commands: Final = typer.Typer(help="Who may use the gateway.", no_args_is_help=True)


@key_commands.command()
def create(
    kind: Annotated[str, typer.Option(help="secret (does everything) or publishable (for browsers).")] = "secret",
    label: Annotated[str, typer.Option(help="What it is for, to recognise it by.")] = "",
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    workspace: WorkspaceName = None,
) -> int:
    """Makes a key of a workspace and prints it: it is not shown again."""
    if kind not in {"secret", "publishable"}:
        raise typer.BadParameter(f"kind: expected secret or publishable, got {kind!r}")
    chosen: keys.Kind = "publishable" if kind == "publishable" else "secret"
    settings = settings_from(redis_url=redis_url, data_dir=data_dir, workspace=workspace)

    async def make(client: Client) -> int:
        made = await keys.create_key(client, settings.workspace, chosen, label)
        print_json({"workspace": settings.workspace, "kind": kind, "label": label, "key": made})
        await say_if_not_served(client, settings.workspace)
        return DONE

    return _run(settings, make)


@key_commands.command(name="list")
def list_keys(redis_url: RedisUrl = None, data_dir: DataDir = None, workspace: WorkspaceName = None) -> int:
    """Prints a workspace's keys, one a line, without what is secret of them."""
    settings = settings_from(redis_url=redis_url, data_dir=data_dir, workspace=workspace)

    async def show(client: Client) -> int:
        found = await keys.list_keys(client, settings.workspace)
        if not found:
            say(f"no keys in workspace {settings.workspace}; `kinfold keys create` makes one")
        for each in found:
            fields: dict[str, Any] = msgspec.to_builtins(each)
            del fields["secretHash"]
            print_json(fields)
        return DONE

    return _run(settings, show)


@key_commands.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The id that `kinfold keys list` shows; it stands in the key.")],
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    workspace: WorkspaceName = None,
) -> int:
    """Revokes a key for good. Exit status 1: there is none with this id.

    Within a second nobody gets in with it, and within half a minute its open streams end.
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
def secret(
    *,
    renew: Annotated[bool, typer.Option("--renew", help="Make another: within 5 s old signatures are worth nothing.")] = False,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    workspace: WorkspaceName = None,
) -> int:
    """Prints what a backend signs identities with, for browsers with a publishable key."""
    settings = settings_from(redis_url=redis_url, data_dir=data_dir, workspace=workspace)

    async def show(client: Client) -> int:
        ask = renew_identity_secret if renew else identity_secret
        print_json({"workspace": settings.workspace, "identitySecret": await ask(client, settings.workspace)})
        return DONE

    return _run(settings, show)


def _run(settings: Settings, work: Callable[[Client], Awaitable[int]]) -> int:
    async def run() -> int:
        async with connected(settings) as client:
            return await work(client)

    return asyncio.run(run())
