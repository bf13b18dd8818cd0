"""Unknown query parameters (`services.gateway.parameters`), on every route, over HTTP and WebSocket."""

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest
import websockets
from litestar.handlers import HTTPRouteHandler, WebsocketRouteHandler

from kinfold_services.gateway.app import ROUTES
from kinfold_services.gateway.events.segment import BATCH_PATHS, CALL_PATHS
from tests.support.gateways import Gateway

ID: Final = "x"
SETTINGS: Final = ("GET", "/sourceConfig")
PAGES: Final = [("GET", "/docs"), ("GET", "/openapi.json")]
"""The routes that the framework adds."""


def served() -> Iterator[tuple[str, str]]:
    """Method and path of every HTTP route."""
    for route in ROUTES:
        if isinstance(route, HTTPRouteHandler):
            yield from ((method, _filled(path)) for method in sorted(route.http_methods) for path in sorted(route.paths))
    yield from PAGES


@pytest.mark.parametrize("caller", ["secret", "publishable", "anonymous"])
async def test_unknown_query_parameter_is_rejected(unfolded: Gateway, caller: str):
    """For every caller: `?external_id=u-1` would otherwise list all contacts. An SDK may ask for its settings as it likes."""
    keys = {"secret": unfolded.secret, "publishable": unfolded.publishable, "anonymous": None}
    async with unfolded.client_of(keys[caller]) as client:
        answered = {route: await client.request(*route, params={"no_such_parameter": "1"}, json={}) for route in served()}

    assert len(answered) >= 25
    assert {route: answer.status_code for route, answer in answered.items() if answer.status_code != 400} == {SETTINGS: 200}
    for (method, path), answer in answered.items():
        if method != "HEAD" and (method, path) != SETTINGS:
            assert "'no_such_parameter'" in answer.json()["detail"]


async def test_documented_query_parameters_are_accepted(unfolded: Gateway):
    """The document and the check use the same declarations."""
    document = (await unfolded.client.get("/openapi.json")).json()
    asked = 0
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            for parameter in operation.get("parameters", []):
                if parameter["in"] == "query":
                    asked += 1
                    params = {"since": "nonsense", parameter["name"]: "nonsense"}  # otherwise the feed never ends
                    if path != "/v1/changes":
                        del params["since"]
                    answer = await unfolded.client.request(method, _filled(path), params=params, json={})
                    assert "query: expected" not in answer.text, (path, parameter["name"])
    assert asked > 30


@pytest.mark.parametrize(
    ("path", "given", "nearest"),
    [
        ("/v1/contacts", "external_id", "externalId"),
        ("/v1/contacts", "externalid", "externalId"),
        ("/v1/contacts", "mail", "email"),
        ("/v1/visitors/v", "att", "at"),
        ("/v1/changes", "accessToken", "access_token"),
        ("/v1/changes", "contact_id", "contactId"),
        ("/v1/contacts", "x" * 5000, ""),
    ],
)
async def test_error_names_the_nearest_parameter(unfolded: Gateway, path: str, given: str, nearest: str):
    """It also names the given parameter, and all parameters of the route."""
    answer = await unfolded.client.get(path, params={given: "u-1"})

    assert (answer.status_code, answer.json()["error"]) == (400, "bad-request")
    detail = answer.json()["detail"]
    assert detail.startswith("query: expected parameters among ")
    assert f"got {given[:64]!r}; the nearest is '{nearest}" in detail


WRONG_VALUES: Final = [
    ("/v1/contacts", "limit=abc", "limit: expected an integer from 1 to 500, got 'abc'"),
    ("/v1/contacts", "limit=0", "limit: expected an integer from 1 to 500, got '0'"),
    ("/v1/contacts", "limit=1e3", "limit: expected an integer from 1 to 500, got '1e3'"),
    ("/v1/contacts", f"limit={'9' * 80}", f"limit: expected an integer from 1 to 500, got '{'9' * 57}...'"),
    ("/v1/contacts", "limit=", "limit: expected an integer from 1 to 500, got ''"),
    ("/v1/contacts", "count=yes", "count: expected true or false, got 'yes'"),
    ("/v1/contacts", "order=name", "order: expected 'created', got 'name'"),
    ("/v1/contacts", f"after={'1' * 65}", f"after: expected at most 64 characters, got '{'1' * 57}...'"),
    ("/v1/contacts", "after=x", "after: expected a log entry's id such as 1732262400000-0, got 'x'"),
    ("/v1/changes", "since=x", "since: expected a log entry's id such as 1732262400000-0, got 'x'"),
    ("/v1/conflicts", "status=settled", "status: expected one of 'open', 'all', got 'settled'"),
    ("/v1/contacts", "limit=1&limit=2", "limit: expected it once, got 2 values"),
    ("/v1/contacts", "email=a@b.org&email=c@d.org", "email: expected it once, got 2 values"),
    ("/v1/contacts", "limit=1&limit=", "limit: expected it once, got 2 values"),
    ("/v1/changes", "since=0&since=0", "since: expected it once, got 2 values"),
]
"""A path, its query, and the sentence."""


@pytest.mark.parametrize(("path", "query", "detail"), WRONG_VALUES)
async def test_wrong_value_is_rejected_with_what_is_expected(unfolded: Gateway, path: str, query: str, detail: str):
    """The sentence names the type and the limits. One value of several would be taken, and the others lost."""
    answer = await unfolded.client.get(f"{path}?{query}")

    assert (answer.status_code, answer.json()["detail"]) == (400, detail)


async def test_filter_may_be_repeated(unfolded: Gateway):
    """Parameters that are lists take every value."""
    answer = await unfolded.client.get("/v1/changes?since=x&type=ContactCreated&type=ContactUpdated")

    assert answer.json()["detail"].startswith("since: ")


async def test_error_says_that_a_route_has_no_parameters(unfolded: Gateway):
    """There is no nearest parameter to name."""
    answer = await unfolded.client.get("/healthz", params={"verbose": ""})

    assert answer.json()["detail"] == "query: expected no parameters, got 'verbose'"


async def test_websocket_is_rejected_with_the_same_error(unfolded: Gateway):
    """The status and the body are those of an HTTP request, for other errors too."""
    paths = [path for route in ROUTES if isinstance(route, WebsocketRouteHandler) for path in route.paths]
    assert paths == ["/v1/changes/ws"]
    token = f"access_token={unfolded.secret}"
    refused: dict[str, Any] = {}
    for query in (f"{token}&snapshots=1", f"{token}&since=x", f"{token}&snapshot=maybe", ""):
        with pytest.raises(websockets.InvalidStatus) as caught:
            await websockets.connect(unfolded.url.replace("http", "ws") + f"{paths[0]}?{query}")
        response = caught.value.response
        body = json.loads(response.body)
        assert response.headers["Content-Type"] == "application/json"
        assert body["requestId"] == response.headers["X-Request-Id"]
        refused[query.removeprefix(token)] = (response.status_code, body["error"], body["detail"])

    known = "access_token, contactId, since, snapshot, type"
    assert refused["&snapshots=1"] == (
        400,
        "bad-request",
        f"query: expected parameters among {known}, got 'snapshots'; the nearest is 'snapshot'",
    )
    assert refused["&since=x"][:2] == (400, "bad-request")
    assert refused["&since=x"][2].startswith("since: ")
    assert refused["&snapshot=maybe"][2].startswith("snapshot: expected true or false, got 'maybe'")
    assert refused[""][:2] == (401, "unauthorized")


@pytest.mark.parametrize("path", [*BATCH_PATHS, *CALL_PATHS])
async def test_segment_paths_accept_the_key_in_the_query(unfolded: Gateway, path: str):
    """`?writeKey=` of RudderStack's beacons, which cannot set headers."""
    call: dict[str, Any] = {"anonymousId": "v-1", "traits": {}}

    async with unfolded.client_of(None) as client:
        answer = await client.post(path, params={"writeKey": unfolded.secret}, json={"batch": [], **call})

    assert answer.status_code == 200, answer.text


def _filled(path: str) -> str:
    return path.partition("{")[0] + (ID + path.partition("}")[2] if "{" in path else "")
