"""Rejects query parameters that a route does not have, or has once: a misspelt or lost filter would return the wrong contacts.

The parameters of a route come from its handler, as they do in the OpenAPI document.
"""

import re
from difflib import get_close_matches
from typing import Final

from litestar.handlers.base import BaseRouteHandler
from litestar.params import QueryParameter
from litestar.typing import FieldDefinition

from kinfold_services.gateway.problems import Connection, Problem

ANY_PARAMETERS: Final = "any_parameters"
"""The option of a route that ignores parameters that it does not have."""

MAX_PARAMETERS: Final = 1000
"""A reader of the feed may name as many contacts."""

_NEAR: Final = 0.75
"""The similarity, from 0 to 1, from which one name counts as a misspelling of another."""
_is_plain: Final = re.compile(r"[\w.-]{1,64}").fullmatch

_COMPARED_CHARS: Final = 64
"""The time for a comparison grows with the square of the length. No parameter is this long."""


async def only_known_parameters(connection: Connection, handler: BaseRouteHandler) -> None:
    """Guard of every route. Raises Problem (400) for the first query parameter that the route does not have, or has only once.

    So it does for more than `MAX_PARAMETERS`.

    A route with the option `ANY_PARAMETERS` ignores such parameters.
    """
    query = connection.scope["query_string"]
    if not query:
        return
    if query.count(b"&") >= MAX_PARAMETERS:  # before it is parsed
        raise Problem(400, f"query: expected at most {MAX_PARAMETERS} parameters, got {query.count(b'&') + 1}")
    if handler.opt.get(ANY_PARAMETERS):
        return
    known = query_parameters(handler)
    for name, value in connection.query_params.items():
        if name not in known:
            raise Problem(400, _refusal(name, value, known))
    for name in single_parameters(handler):
        if len(given := connection.query_params.getall(name, [])) > 1:
            raise Problem(400, f"{name}: expected it once, got {len(given)} values")


def single_parameters(handler: BaseRouteHandler) -> list[str]:
    """The names of a route's query parameters that take one value. Of several, all but one would be lost."""
    return [name for name, field in _declared(handler) if not field.is_non_string_sequence]


def query_parameters(handler: BaseRouteHandler) -> list[str]:
    """The names of a route's query parameters, sorted."""
    return sorted(name for name, _ in _declared(handler))


def _declared(handler: BaseRouteHandler) -> list[tuple[str, FieldDefinition]]:
    fields = handler.parsed_fn_signature.parameters.values()
    declared = [(field.kwarg_definition, field) for field in fields]
    return [(kwarg.name or field.name, field) for kwarg, field in declared if isinstance(kwarg, QueryParameter)]


def _refusal(name: str, value: str, known: list[str]) -> str:
    name = name[:_COMPARED_CHARS]
    if not known:
        return f"query: expected no parameters, got {name!r}"
    (nearest,) = get_close_matches(name, known, n=1, cutoff=0)
    refusal = f"query: expected parameters among {', '.join(known)}, got {name!r}; the nearest is {nearest!r}"
    if "where" not in known or get_close_matches(name, known, n=1, cutoff=_NEAR):
        return refusal
    example = f"{name}={value}" if _is_plain(name) and _is_plain(value) else "plan=pro"
    return f"{refusal}; to filter contacts by a field or a metadata key, write where={example}"
