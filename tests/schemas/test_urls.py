"""Redis URLs, for clients and services alike (contract section 8)."""

import re

import pytest

from kinfold_schemas.urls import RedisUrl, parse_redis_url

SENTINELS = (("a", 26379), ("b", 1))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://", RedisUrl("server", "redis://")),
        ("redis://localhost", RedisUrl("server", "redis://localhost")),
        ("rediss://me:s%2Fecret@localhost:6380/3", RedisUrl("server", "rediss://me:s%2Fecret@localhost:6380/3")),
        ("redis://[::1]:6379/", RedisUrl("server", "redis://[::1]:6379/")),
        ("redis://h?db=2&client_name=shop", RedisUrl("server", "redis://h?db=2&client_name=shop")),
        (
            "rediss://h?ssl_cert_reqs=none&ssl_ca_certs=/ca.pem",
            RedisUrl("server", "rediss://h?ssl_cert_reqs=none&ssl_ca_certs=/ca.pem"),
        ),
        ("unix:///run/a%20b/redis.sock?db=1", RedisUrl("server", "unix:///run/a%20b/redis.sock?db=1")),
        ("unix://me:secret@/run/redis.sock", RedisUrl("server", "unix://me:secret@/run/redis.sock")),
        ("redis+cluster://h:1", RedisUrl("cluster", "redis://h:1")),
        ("rediss+cluster://h:1/0", RedisUrl("cluster", "rediss://h:1/0")),
        ("redis+sentinel://a,b:1/main", RedisUrl("sentinel", "redis://primary", SENTINELS, "main")),
        ("redis+sentinel://[::1]:5/main", RedisUrl("sentinel", "redis://primary", (("::1", 5),), "main")),
        (
            "rediss+sentinel://me:pw@a,b:1/ma%20in/3?ssl_cert_reqs=required",
            RedisUrl("sentinel", "rediss://me:pw@primary/3?ssl_cert_reqs=required", SENTINELS, "ma in"),
        ),
    ],
)
def test_url_is_parsed(url: str, expected: RedisUrl) -> None:
    """`plain` has a scheme that a Redis library knows."""
    assert parse_redis_url(url) == expected


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "expected the scheme redis, redis+cluster, redis+sentinel, rediss, rediss+cluster, rediss+sentinel, unix, got ''"),
        ("http://localhost", "got 'http'"),
        ("redis+http://h", "got 'redis+http'"),
        ("localhost:6379", "got 'localhost'"),
        ("redis:/localhost", "got 'redis'"),
        ("redis://h\n", "expected no white space around it and no control characters"),
        (" redis://h", "expected no white space around it"),
        ("redis://[::1", "expected a URL, got: Invalid IPv6 URL"),
        ("redis://h:x", "expected a host and a port from 1 to 65535"),
        ("redis://h:0", "expected a host and a port from 1 to 65535"),
        ("redis://h:65536", "expected a host and a port from 1 to 65535"),
        ("redis://.example", "expected a host and a port from 1 to 65535"),
        ("redis://h#1", "expected no '#', got one (in a password it is written %23)"),
        ("redis://h/zzz", "expected a number as its database, got 'zzz'"),
        ("redis://h/3/4", "expected a number as its database, got '3/4'"),
        ("redis://h/-1", "expected a number as its database, got '-1'"),
        ("redis://h/²", "expected a number as its database, got '²'"),
        ("redis://h?db=x", "expected a number as db, got 'x'"),
        ("redis://h?db=", "expected a value for 'db', got none"),
        ("redis://h/1?db=2", "expected one database, got 1 in the path and 2 in the query"),
        ("redis://h?db=1&db=2", "expected each option once, got 'db' twice"),
        ("redis://h?decode_responses=true", "expected the options client_name, db, got 'decode_responses'"),
        ("redis://h?protocol=3", "expected the options client_name, db, got 'protocol'"),
        ("redis://h?tiemout=1", "expected the options client_name, db, got 'tiemout'"),
        ("unix:///s?socket_timeout=60", "expected the options client_name, db, got 'socket_timeout'"),
        ("redis+sentinel://h/main?protocol=3", "got 'protocol'"),
        ("redis+cluster://h?retry_on_timeout=1", "got 'retry_on_timeout'"),
        ("rediss://h?tiemout=1", "client_name, db, ssl_ca_certs, ssl_ca_data, ssl_cert_reqs, ssl_certfile, ssl_check_hostname"),
        ("redis://h?ssl_cert_reqs=none", "expected TLS options only with rediss, got 'ssl_cert_reqs' with redis"),
        ("rediss://h?ssl_cert_reqs=non", "expected none, optional, required as ssl_cert_reqs, got 'non'"),
        ("rediss://h?ssl_check_hostname=maybe", "as ssl_check_hostname, got 'maybe'"),
        ("unix://", "expected the path of a socket, got none"),
        ("unix:///", "expected the path of a socket, got none"),
        ("redis+cluster://h/1", "expected database 0, which is all that a cluster has, got 1"),
        ("redis+cluster://", "expected the host of a node, got none"),
        ("redis+sentinel://h:1", "expected the name of the primary behind the sentinels, got none"),
        ("redis+sentinel://h:1/", "expected the name of the primary behind the sentinels, got none"),
        ("redis+sentinel://h:1/main/x", "expected a number as its database, got 'x'"),
        ("redis+sentinel://h:x/main", "expected a host and a port from 1 to 65535"),
        ("redis+sentinel://h,/main", "expected the host of each sentinel, got an empty one"),
    ],
)
def test_invalid_url_is_rejected(url: str, message: str) -> None:
    """The error is one sentence that says what is wrong and shows valid forms."""
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        parse_redis_url(url)
    assert "; a Redis URL is redis[s]://host:port/0, unix://" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://me:secret@h:x",
        "redis://:sec/ret@h",
        "redis://:sec?ret@h",
        "redis://:sec#ret@h",
        "redis://:s@ecret@h:x",
        "redis://:12?sec@h",
        "redis://h?password=secret",
    ],
)
def test_error_never_contains_the_password(url: str) -> None:
    """Not even a part of a password with unescaped characters."""
    with pytest.raises(ValueError, match="expected") as raised:
        parse_redis_url(url)
    assert not re.search("sec|ret", str(raised.value).partition("; a Redis URL is")[0].replace("…", ""))
