"""Parse and check Redis URLs, for clients and services alike (contract section 8).

This module does not import a Redis library, so both can use it before they connect to anything.
"""

from typing import Final, Literal, NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit, urlunsplit

REDIS_SCHEMES: Final = frozenset(
    ["redis", "rediss", "unix", "redis+cluster", "rediss+cluster", "redis+sentinel", "rediss+sentinel"]
)
REDIS_URLS: Final = "redis[s]://host:port/0, unix:///path?db=0, redis[s]+cluster://host:port or redis[s]+sentinel://host:port,host:port/master/0"
"""The forms of a Redis URL, for error messages."""

_TLS_OPTIONS: Final = ("ssl_ca_certs", "ssl_ca_data", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_keyfile")
_CERT_REQS: Final = ("none", "optional", "required")
_BOOLEANS: Final = ("true", "false", "yes", "no", "1", "0")
_SENTINEL_PORT: Final = 26379
_NO_ADDRESS: Final = (
    "expected a host and a port from 1 to 65535, got something else (in a password '/', '?', '#' and '@' are written %2F, %3F, "
    "%23 and %40)"
)
"""The message does not repeat the value, which may be part of a password."""

Kind = Literal["server", "cluster", "sentinel"]


class RedisUrl(NamedTuple):
    """A parsed Redis URL.

    `plain` is the URL with a scheme that every Redis library knows (`redis`, `rediss`, `unix`). It is the URL of the server,
    of one node of the cluster, or of the primary behind Sentinel (with a placeholder as its host). `sentinels` holds
    (host, port) pairs and `primary` the name to ask them for; both are empty for other kinds.
    """

    kind: Kind
    plain: str
    sentinels: tuple[tuple[str, int], ...] = ()
    primary: str = ""


def parse_redis_url(url: str) -> RedisUrl:
    """Parse and check a Redis URL. Raises ValueError with one sentence, which does not contain the password.

    The query may contain `client_name` and `db` and, with TLS, `ssl_ca_certs`, `ssl_ca_data`, `ssl_cert_reqs`, `ssl_certfile`,
    `ssl_check_hostname` and `ssl_keyfile`. The database is given once, in the query or in the path; a cluster has only
    database 0. Other options of Redis libraries change the form of replies or timeouts, which kinfold sets itself.
    """
    try:
        return _parse(url)
    except ValueError as error:
        raise ValueError(f"{hide_password(url)!r}: {error}; a Redis URL is {REDIS_URLS}") from None


def hide_password(url: str) -> str:
    """Return the URL for messages, without its credentials and the values of its query."""
    head, at, tail = url.rpartition("@")
    shown = f"{head.partition('//')[0]}//…@{tail}" if at else url
    plain, question, _ = shown.partition("?")
    return f"{plain}?…" if question else plain


def _parse(url: str) -> RedisUrl:
    if url != url.strip() or any(ord(each) < ord(" ") for each in url):  # urlsplit silently drops some of these
        raise ValueError("expected no white space around it and no control characters, got some (a line end?)")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ValueError(f"expected a URL, got: {error}") from None
    scheme = parts.scheme
    if scheme not in REDIS_SCHEMES or not url.lower().startswith(f"{scheme}://"):
        raise ValueError(f"expected the scheme {', '.join(sorted(REDIS_SCHEMES))}, got {scheme!r}")
    if parts.fragment or url.endswith("#"):
        raise ValueError("expected no '#', got one (in a password it is written %23)")
    if scheme != "unix" and "@" in parts.path + parts.query:
        raise ValueError(_NO_ADDRESS)
    base = scheme.partition("+")[0]
    database = _database_of_query(parts, is_tls=base == "rediss")
    if scheme == "unix":
        if not parts.path.strip("/"):
            raise ValueError("expected the path of a socket, got none")
        return RedisUrl("server", url)
    if scheme.endswith("+sentinel"):
        return _sentinel(parts._replace(scheme=base), database)
    _host_and_port(parts.netloc.rpartition("@")[2])
    _one_database(parts.path, database, is_cluster=scheme.endswith("+cluster"))
    kind: Kind = "cluster" if scheme.endswith("+cluster") else "server"
    if kind == "cluster" and not parts.hostname:
        raise ValueError("expected the host of a node, got none")
    return RedisUrl(kind, base + url[len(scheme) :])


def _sentinel(parts: SplitResult, database: str | None) -> RedisUrl:
    login, at, hosts = parts.netloc.rpartition("@")
    primary, _, path = parts.path.lstrip("/").partition("/")
    if not primary:
        raise ValueError("expected the name of the primary behind the sentinels, got none")
    _one_database(path, database)
    sentinels = tuple((host, port or _SENTINEL_PORT) for host, port in map(_host_and_port, hosts.split(",")))
    if not all(host for host, _ in sentinels):
        raise ValueError("expected the host of each sentinel, got an empty one")
    plain = parts._replace(netloc=f"{login}{at}primary", path=f"/{path.strip('/')}".rstrip("/"))
    return RedisUrl("sentinel", urlunsplit(plain), sentinels, unquote(primary))


def _host_and_port(text: str) -> tuple[str, int | None]:
    """Parse `host`, `host:port` or `[IPv6]:port`; the port may be None."""
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname or "", parts.port
        host.encode("idna")  # as name resolution does; UnicodeError for an empty or too long label
    except ValueError:
        raise ValueError(_NO_ADDRESS) from None
    if port == 0:
        raise ValueError(_NO_ADDRESS)
    return host, port


def _one_database(path: str, of_query: str | None, *, is_cluster: bool = False) -> None:
    of_path = path.strip("/")
    if of_path and not (of_path.isascii() and of_path.isdecimal()):  # redis-py would use database 0
        raise ValueError(f"expected a number as its database, got {unquote(of_path)!r}")
    if of_path and of_query is not None:
        raise ValueError(f"expected one database, got {of_path} in the path and {of_query} in the query")
    database = of_path or of_query or "0"
    if is_cluster and int(database):
        raise ValueError(f"expected database 0, which is all that a cluster has, got {database}")


def _database_of_query(parts: SplitResult, *, is_tls: bool) -> str | None:
    """Check the whole query and return its database, if it has one."""
    allowed = ("client_name", "db", *_TLS_OPTIONS) if is_tls else ("client_name", "db")
    options: dict[str, str] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name in _TLS_OPTIONS and not is_tls:
            raise ValueError(f"expected TLS options only with rediss, got {name!r} with {parts.scheme}")
        if name not in allowed:
            raise ValueError(f"expected the options {', '.join(allowed)}, got {name!r}")
        if name in options:
            raise ValueError(f"expected each option once, got {name!r} twice")
        if not value:
            raise ValueError(f"expected a value for {name!r}, got none")
        options[name] = value
    database = options.get("db")
    if database is not None and not (database.isascii() and database.isdecimal()):
        raise ValueError(f"expected a number as db, got {database!r}")
    _one_of(options, "ssl_cert_reqs", _CERT_REQS)
    _one_of(options, "ssl_check_hostname", _BOOLEANS)
    return database


def _one_of(options: dict[str, str], name: str, allowed: tuple[str, ...]) -> None:
    value = options.get(name)
    if value is not None and value.lower() not in allowed:
        raise ValueError(f"expected {', '.join(allowed)} as {name}, got {value!r}")
