"""Rejects query parameters that a route does not have: a misspelt filter would return the wrong contacts.

The parameters of a route come from its handler, as they do in the OpenAPI document.
"""

from difflib import get_close_matches
from typing import Final

from litestar.handlers.base import BaseRouteHandler
from litestar.params import QueryParameter

from kinfold_services.gateway.problems import Connection, Problem

ANY_PARAMETERS: Final = "any_parameters"
"""The option of a route that ignores parameters that it does not have."""

_COMPARED_CHARS: Final = 64
"""The time for a comparison grows with the square of the length. No parameter is this long."""


async def only_known_parameters(connection: Connection, handler: BaseRouteHandler) -> None:
    """Guard of every route. Raises Problem (400) for the first query parameter that the route does not have.

    A route with the option `ANY_PARAMETERS` ignores such parameters.
    """
    if not connection.scope["query_string"] or handler.opt.get(ANY_PARAMETERS):
        return
    known = query_parameters(handler)
    for name in connection.query_params:
        if name not in known:
            raise Problem(400, _refusal(name, known))


def query_parameters(handler: BaseRouteHandler) -> list[str]:
    """The names of a route's query parameters, sorted."""
    fields = handler.parsed_fn_signature.parameters.values()
    declared = [(field.kwarg_definition, field.name) for field in fields]
    return sorted(kwarg.name or name for kwarg, name in declared if isinstance(kwarg, QueryParameter))


def _refusal(name: str, known: list[str]) -> str:
    name = name[:_COMPARED_CHARS]
    if not known:
        return f"query: expected no parameters, got {name!r}"
    (nearest,) = get_close_matches(name, known, n=1, cutoff=0)
    return f"query: expected parameters among {', '.join(known)}, got {name!r}; the nearest is {nearest!r}"
