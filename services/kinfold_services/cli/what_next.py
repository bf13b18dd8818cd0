"""The text that `kinfold up` prints when it is ready: addresses, commands to try, where the key is, and how to sign in."""

import shlex
import sys
from typing import Final, NamedTuple

from kinfold_services.access.keys import id_of
from kinfold_services.cli.gateway_process import Port, first_key, is_local, is_proxied
from kinfold_services.cli.options import repeated_options, shown_url
from kinfold_services.cli.secret_output import secret_file, write_secret
from kinfold_services.cli.signing_in import secret_key_ids, sign_in_url
from kinfold_services.settings import Settings

_INDENT: Final = " " * 17


def what_next(settings: Settings, url: str, gateway: str, port: Port, *, detached: bool) -> str:
    """The text. Creates a link to the screen, and the first API key of the workspace if it has none."""
    new_key = first_key(url, settings.workspace)
    program = shlex.quote(sys.argv[0]) if sys.argv[0].endswith("kinfold") else "kinfold"
    with_options = repeated_options(settings, "redis_url", "data_dir", "workspace")
    stop = "Ctrl-C"
    if settings.redis_url is None:
        stop = f"{program} down{repeated_options(settings, 'data_dir')}{'' if detached else ' (or Ctrl-C)'}"
    for_now = new_key is not None and not is_local(settings.gateway_host)
    notes = [f"on {settings.gateway_host} from the next start on, because there is a key now"] if for_now else []
    if port.why:
        notes.append(port.why)
    directly = " --noproxy '*'" if is_proxied(gateway) else ""
    ids = secret_key_ids(url, settings.workspace) if new_key is None else [id_of(new_key)]
    shown = _shown_key(settings, ids, new_key, f"`{program} keys create{with_options}`")
    link = sign_in_url(gateway, url, settings.workspace, ids[0], new_key) if ids else None
    again = f"`{program} up --detach{with_options}` prints" if settings.redis_url is None else "the next `kinfold up` prints"
    return f"""\
kinfold is up.
  the log        {shown_url(url)}
  the gateway    {gateway}{"".join(f" ({note})" for note in notes)}
  its key        {shown.key}
  publish        {program} publish events.ndjson{with_options}
                 echo '{{"type":"VisitorSeen","visitorId":"v-1"}}' | {program} publish{with_options}
  look           {program} show --visitor v-1{with_options}
                 {program} contacts{with_options}
                 {program} status{with_options}
  follow         {program} tail{with_options}
  open           {_shown_link(settings, gateway, link, again)}
{_INDENT}{gateway}/docs (the API)
  run            curl{directly} -H {shown.header} '{gateway}/v1/contacts?limit=3'
  stop           {stop}"""


class _Key(NamedTuple):
    """How the text shows a key, and the header with it."""

    key: str
    header: str


def _shown_key(settings: Settings, ids: list[str], new_key: str | None, create: str) -> _Key:
    """The new key itself on a terminal. Anywhere else the text stays in a log: there it names the file with a key.

    The file of an older key is named, too. `ids` are those of the valid secret keys, oldest first; `create` is the command that
    creates another one. With an embedded server the file is also written on a terminal: anybody who can read the data dir can
    create keys on that server anyway.
    """
    is_shown = sys.stderr.isatty()
    if new_key is not None and (settings.redis_url is None or not is_shown):
        write_secret(new_key, _file_name(settings, id_of(new_key)), settings.data_dir)
    if new_key is not None and is_shown:
        return _Key(new_key, f"'Authorization: Bearer {new_key}'")
    for each in ids:
        path = secret_file(_file_name(settings, each), settings.data_dir)
        if path.exists():
            cat = f"$(cat {shlex.quote(str(path))})"
            return _Key(f'"{cat}"', f'"Authorization: Bearer {cat}"')
    why = "was shown only when it was created" if ids else "there is no valid secret key"
    return _Key(f"{why}; {create} creates {'another' if ids else 'one'}", "'Authorization: Bearer KEY'")


def _file_name(settings: Settings, key_id: str) -> str:
    """The name of a key's file, as `kinfold keys create` names it."""
    return f"{settings.workspace}-secret-{key_id}"


def _shown_link(settings: Settings, gateway: str, link: str | None, again: str) -> str:
    """The address of the screen: with a link that signs in on a terminal, else with the file that has it."""
    if link is None:
        return f"{gateway}\n{_INDENT}(the screen; sign in with a secret or a read key)"
    if not sys.stderr.isatty():
        link = f'"$(cat {shlex.quote(str(write_secret(link, f"{settings.workspace}-link", settings.data_dir)))})"'
    return f"""\
{link}
{_INDENT}(the screen; this new link signs in once, within an hour.
{_INDENT}To sign in again, use the key, or another link: {again} one)"""
