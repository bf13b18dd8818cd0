"""The Redis rights that each program needs (docs/how-to/rights.md), and the check of them when a program starts.

A program that misses a right halfway leaves its work half done. Scripts may call `redis.acl_check_cmd`, which tells whether
a user may run a command. ACL DRYRUN would need the rights of an administrator.
"""

from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Final, NamedTuple

import msgspec

import kinfold_services.access
from kinfold_schemas.keys import STATE, WORKSPACES, AreaName, PrivateName, PublicName, key
from kinfold_services.connections import Client, ServerUnfit

_RIGHTS: Final = files(kinfold_services.access).joinpath("rights.lua").read_text()
_KEYLESS: Final = frozenset({"exec", "info", "multi", "ping", "script|load", "time", "unwatch"})
_STREAMS: Final = {"xread": ["xread", "streams", "", "0"], "scan": ["scan", "0"]}
_encode: Final = msgspec.json.Encoder().encode


class MissingRights(ServerUnfit):
    """The Redis user lacks rights that the program needs."""


class Role(NamedTuple):
    """What a program needs: its commands, as ACL rules name them, and its keys in a workspace.

    A script needs the right to each command that it calls. EVALSHA is not listed, since the check itself uses it.
    """

    name: str
    commands: tuple[str, ...]
    keys: tuple[PublicName | PrivateName, ...]
    staged: tuple[AreaName, ...] = ()
    """The staging areas in which the program writes a state."""


_Names = tuple[PublicName | PrivateName, ...]

_AROUND: Final[_Names] = ("changes", "events", "hold")
_BASELINE: Final[_Names] = ("baseline", "baseline-pieces")
_SHOWN: Final[_Names] = ("contacts", "visitors", "external-ids", "emails", "members", "created", "position")

VERIFY: Final = Role(
    "verify",
    (
        *("exec", "exists", "hget", "hgetall", "hmget", "hscan", "info", "lrange", "multi"),
        *("script|load", "smembers", "xinfo|stream", "xrange"),
    ),
    (
        *("contacts", "visitors", "external-ids", "emails", "position", "rejects", "events", "blocked-identifiers"),
        *("erased-entries", "erasures-pending"),
        *_BASELINE,
        "retention",
    ),
)
REPLAY: Final = Role(
    "replay",
    (
        *VERIFY.commands,
        *("get", "hdel", "hset", "pexpire", "rename", "rpush", "sadd", "set", "unlink", "watch"),
        *("xadd", "zadd", "zmscore", "zrem", "zscan"),
    ),
    (*STATE, *_AROUND, "blocked-identifiers", *_BASELINE, "retention", "erased-entries", "erasures-pending"),
    ("replay",),
)
ERASE: Final = Role(
    "erase",
    (
        *REPLAY.commands,  # it rewrites the log without a person, and rebuilds the state
        *("expire", "hkeys", "persist", "scan", "smismember", "sscan", "type"),
        *("xgroup|create", "xinfo|groups", "xrevrange", "xsetid"),
    ),
    (*REPLAY.keys, "erasing", "erasure-secret", "erasures", "snapshots"),
    REPLAY.staged,
)
RETENTION: Final = Role(
    "retention",
    (
        *REPLAY.commands,  # it rewrites the log without visitors that go
        *("expire", "hkeys", "llen", "persist", "scan", "smismember", "time", "xgroup|create", "xinfo|groups", "xrevrange"),
        *("xsetid", "xtrim"),
    ),
    (
        *(*REPLAY.keys, "retention-receipts", "snapshots"),
        *("erased-entries", "erasing", "erasure-secret", "erasures-pending"),
    ),
    REPLAY.staged,
)
PROJECTOR: Final = Role(
    "projector",
    (
        *RETENTION.commands,  # it also rebuilds a state that does not belong to its log
        *("sscan", "type"),  # it also finishes erasures, which search every key
        *("del", "hincrby", "hincrbyfloat", "hlen", "ping", "pttl", "unwatch"),
        *("xgroup|setid", "xread", "zcard", "zrange"),
    ),
    (*RETENTION.keys, "erasures", "owner", "projector"),
    REPLAY.staged,
)
GATEWAY: Final = Role(
    "gateway",
    (
        *("exec", "exists", "get", "hdel", "hget", "hgetall", "hlen", "hmget", "hset", "info", "lrange", "multi"),
        *("script|load", "set"),
        "smembers",
        *("xadd", "xinfo|groups", "xinfo|stream", "xlen", "xrange", "xread", "xrevrange", "zrange"),
    ),
    (
        *_SHOWN,
        "events",
        "changes",
        "contact-stamps",
        "visitor-stamps",
        "corrected",
        "projector",
        "directory",
        "rejects",
        "settled-rejects",
        "blocked-identifiers",
        "erasures",
        "erasures-pending",
        *_BASELINE,
        "api-keys",
        "api-keys-used",
        "identity-secrets",
        "session-secret",
        "sign-in-links",
    ),
)
DIRECTORY: Final = Role(
    "directory",
    (
        *("exec", "hmget", "hscan", "hset", "info", "multi", "script|load", "smembers"),
        *("xinfo|stream", "xrange", "xread", "xrevrange", "zcard", "zrange"),
    ),
    ("changes", "contacts", "created", "directory", "visitors"),
)


async def check_rights(client: Client, role: Role, workspace: str) -> None:
    """Raise MissingRights if the user lacks rights. The error names them in the syntax of ACL SETUSER.

    The check finds a command that is allowed on none of the keys, and a key that is allowed with none of the commands. It does
    not judge combinations that ACL selectors forbid.
    """
    names = [key(workspace, name) for name in role.keys]
    names += [key(workspace, name, staging) for staging in role.staged for name in STATE]
    commands = [_with_arguments(command) for command in role.commands]
    lacks_commands, lacks_keys = await _ask(client, commands, names)
    if len(lacks_keys) == len(names):  # so every command failed because of its key
        missing = [f"~kinfold:{{{workspace}}}:*"]
    else:
        missing = [f"+{role.commands[number - 1]}" for number in lacks_commands]
        missing += [f"~{names[number - 1]}" for number in lacks_keys]
    if missing:
        raise MissingRights(_sentence(role, missing))


async def check_right_to_workspaces(client: Client, role: Role) -> None:
    """Raise MissingRights if the user may not read the list of workspaces."""
    lacks_commands, _ = await _ask(client, [["smembers", ""]], [WORKSPACES])
    if lacks_commands:
        raise MissingRights(_sentence(role, ["+smembers", f"~{WORKSPACES}"]))


async def _ask(client: Client, commands: list[list[str]], names: list[str]) -> tuple[list[int], list[int]]:
    # The keys are passed as arguments: a script that declares a key without the right to it does not run at all.
    reply: Any = await client.register_script(_RIGHTS)(args=[_encode(commands), _encode(names)])
    return reply[0], reply[1]


def _sentence(role: Role, missing: Sequence[str]) -> str:
    return (
        f"user: expected the rights of a {role.name}, got one without {' '.join(missing)}; "
        "docs/how-to/rights.md lists what each program needs"
    )


def _with_arguments(command: str) -> list[str]:
    """A command with the fewest arguments that contain its key."""
    if command in _STREAMS:
        return _STREAMS[command]
    words = command.split("|")
    return words if command in _KEYLESS else [*words, "", ""]
