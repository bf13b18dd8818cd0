"""The least rights of the server's users, by program (docs/how-to/rights.md), and the check of them at a program's start.

A program that finds out in the middle of its work that it may not write has done half of it. `redis.acl_check_cmd`, which any
script may call, tells what a user may do without doing it; ACL DRYRUN would be a right of administrators.
"""

from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Final, NamedTuple

import msgspec

import kinfold_services
from kinfold_schemas.keys import STATE, WORKSPACES, PrivateName, PublicName, Staging, key
from kinfold_services.connections import Client, ServerUnfit

_RIGHTS: Final = files(kinfold_services).joinpath("rights.lua").read_text()
_KEYLESS: Final = frozenset({"exec", "info", "multi", "ping", "script|load", "time"})
_STREAMS: Final = {"xread": ["xread", "streams", "", "0"]}
_encode: Final = msgspec.json.Encoder().encode


class MissingRights(ServerUnfit):
    """The user may not do what the program needs."""


class Role(NamedTuple):
    """What a program does: its commands, as ACL rules name them, and its keys of a workspace.

    A script needs the rights for each command that it calls. EVALSHA is not listed: the check itself is one.
    """

    name: str
    commands: tuple[str, ...]
    keys: tuple[PublicName | PrivateName, ...]
    staged: tuple[Staging, ...] = ()
    """The staging areas where it writes a state, too."""


_Names = tuple[PublicName | PrivateName, ...]

_AROUND: Final[_Names] = ("changes", "rejects", "events", "hold")
_COMMIT: Final = (
    *("exists", "get", "hdel", "hget", "hgetall", "hmget", "hset", "info"),
    *("script|load", "smembers", "xadd", "zadd", "zrem"),
)
_REBUILD: Final = (*_COMMIT, "exec", "hscan", "multi", "unlink", "xinfo|stream", "xrange", "zrange")
_SHOWN: Final[_Names] = ("contacts", "visitors", "external-ids", "emails", "members", "recent", "created", "position")

VERIFY: Final = Role("verify", _REBUILD, (*STATE, *_AROUND, "blocked-identifiers"), ("verify",))
REPLAY: Final = Role(
    "replay",
    (*_REBUILD, "del", "lindex", "lrange", "pexpire", "rename", "rpush", "sadd", "set", "xrevrange"),
    VERIFY.keys,
    ("replay",),
)
PROJECTOR: Final = Role(
    "projector",
    (
        *REPLAY.commands,  # it rebuilds a state that does not belong to its log
        *("hincrby", "hincrbyfloat", "hlen", "ping", "pttl", "time", "xgroup|create", "xgroup|setid", "xread", "zcard"),
    ),
    (*REPLAY.keys, "owner", "projector"),
    REPLAY.staged,
)
GATEWAY: Final = Role(
    "gateway",
    (
        *("exec", "exists", "get", "hget", "hgetall", "hlen", "hmget", "info", "multi", "script|load", "set", "smembers"),
        *("xadd", "xinfo|groups", "xinfo|stream", "xlen", "xrange", "xread", "zcount", "zrange", "zrevrank", "zscore"),
    ),
    (*_SHOWN, "events", "changes", "projector", "blocked-identifiers", "api-keys", "identity-secret"),
)


async def check_rights(client: Client, role: Role, workspace: str) -> None:
    """Raises MissingRights, which names what is missing as ACL SETUSER takes it.

    It finds a command that is allowed on none of the keys, and a key that is allowed with none of the commands: where rights
    are cut finer than those of the docs (by selectors), it does not second-guess them.
    """
    names = [key(workspace, name) for name in role.keys]
    names += [key(workspace, name, staging) for staging in role.staged for name in STATE]
    commands = [_with_arguments(command) for command in role.commands]
    lacks_commands, lacks_keys = await _ask(client, commands, names)
    if len(lacks_keys) == len(names):  # then every command is refused for its key
        missing = [f"~kinfold:{{{workspace}}}:*"]
    else:
        missing = [f"+{role.commands[number - 1]}" for number in lacks_commands]
        missing += [f"~{names[number - 1]}" for number in lacks_keys]
    if missing:
        raise MissingRights(_sentence(role, missing))


async def check_right_to_workspaces(client: Client, role: Role) -> None:
    """Raises MissingRights where the user may not read the list of workspaces."""
    lacks_commands, _ = await _ask(client, [["smembers", ""]], [WORKSPACES])
    if lacks_commands:
        raise MissingRights(_sentence(role, ["+smembers", f"~{WORKSPACES}"]))


async def _ask(client: Client, commands: list[list[str]], names: list[str]) -> tuple[list[int], list[int]]:
    # The keys are arguments: a script that declares a key which the user has no right to is refused as a whole.
    reply: Any = await client.register_script(_RIGHTS)(args=[_encode(commands), _encode(names)])
    return reply[0], reply[1]


def _sentence(role: Role, missing: Sequence[str]) -> str:
    return (
        f"user: expected the rights of a {role.name}, got one without {' '.join(missing)}; "
        "docs/how-to/rights.md lists what each program needs"
    )


def _with_arguments(command: str) -> list[str]:
    """A command with the least arguments that tell which key it is about."""
    if command in _STREAMS:
        return _STREAMS[command]
    words = command.split("|")
    return words if command in _KEYLESS else [*words, "", ""]
