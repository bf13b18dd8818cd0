"""What a parameter of a route has to be, for the message of a wrong one.

A parameter's type and limits come from its handler, as they do in the OpenAPI document.
"""

from typing import Any, Literal, get_args, get_origin

from litestar.handlers.base import BaseRouteHandler
from litestar.typing import FieldDefinition


def expected_value(handler: BaseRouteHandler, name: str) -> str:
    """What the query parameter or the header `name` of a route has to be: "an integer from 1 to 500"."""
    for field in handler.parsed_fn_signature.parameters.values():
        if field.kwarg_definition is not None and getattr(field.kwarg_definition, "name", None) == name:
            return _expectation(field)
    return "what /docs describes"


def _expectation(field: FieldDefinition) -> str:
    limits: Any = field.kwarg_definition
    kinds = [kind for kind in (get_args(field.annotation) if field.is_union else (field.annotation,)) if kind is not type(None)]
    if get_origin(kinds[0]) is Literal:
        names = [repr(each) for each in get_args(kinds[0])]
        return names[0] if len(names) == 1 else f"one of {', '.join(names)}"
    if kinds[0] is bool:
        return "true or false"
    if kinds[0] is int:
        return (
            f"an integer from {limits.ge} to {limits.le}" if limits.ge is not None and limits.le is not None else "an integer"
        )
    return f"at most {limits.max_length} characters" if limits.max_length is not None else "text"
