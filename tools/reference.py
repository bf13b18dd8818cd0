"""The generated parts of the reference: a page of `docs/` asks for one by a comment, as in `<!-- generated: cli -->`.

MkDocs loads this file as a hook. Each part comes from what the programs themselves use, so the page cannot contradict the code.
"""

import ast
import importlib
import inspect
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import typer.main
from litestar import Litestar

import kinfold
from kinfold_services import settings
from kinfold_services.cli.commands import app
from kinfold_services.gateway.app import ROUTES
from kinfold_services.gateway.metrics import Metrics
from kinfold_services.gateway.openapi import openapi_config
from kinfold_services.settings import Settings

_MARK: Final = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)
_CLIENT_MODULES: Final = ("kinfold.asgi", "kinfold.wsgi", "kinfold.django", "kinfold.testing")
_UNPACKED: Final = re.compile(r"\*<class '[\w.]*?(\w+)'>")
"""How `inspect` shows `**options: Unpack[ProducerOptions]`."""
_METHODS: Final = ("get", "post", "put", "patch", "delete")


def on_page_markdown(markdown: str, **_: object) -> str:
    """Fill in a page's generated parts; MkDocs calls it for every page. Raises KeyError for a part that does not exist."""
    return _MARK.sub(lambda mark: PARTS[mark[1]](), markdown)


# --- the command line


def cli() -> str:
    """Every command with its options, from typer."""
    return "\n".join(_commands(typer.main.get_command(app), "kinfold"))


def _commands(command: Any, name: str) -> Iterator[str]:
    context = command.make_context(name, [], resilient_parsing=True)
    inner = getattr(command, "commands", None)
    if inner is not None:
        for each in sorted(inner):
            if not inner[each].hidden:
                yield from _commands(inner[each], f"{name} {each}")
        return
    yield f"## {name}\n"
    yield f"    {name} {' '.join(command.collect_usage_pieces(context))}\n"
    yield f"{inspect.cleandoc(command.help or '')}\n"
    yield "| | |\n|---|---|"
    for each in command.params:
        if getattr(each, "hidden", False):
            continue
        title = ", ".join(each.opts) if each.param_type_name == "option" else each.metavar
        yield f"| `{title}` | {_cell(each.help or '')} |"
    yield ""


# --- the gateway


def http() -> str:
    """Every route of the OpenAPI document: what it takes, and what it answers."""
    # The document needs the routes alone. The application as it runs would want a connection to Redis.
    document = Litestar(route_handlers=ROUTES, openapi_config=openapi_config("", ROUTES)).openapi_schema.to_schema()
    lines: list[str] = []
    for path, item in sorted(document["paths"].items()):
        for method in _METHODS:
            if method in item:
                lines += _operation(f"{method.upper()} {path}", item[method])
    return "\n".join(lines)


def _operation(title: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f"## {title}\n"
    yield f"{operation.get('description', operation.get('summary', ''))}\n"
    if parameters := operation.get("parameters"):
        yield "| parameter | in | |\n|---|---|---|"
        for each in parameters:
            yield f"| `{each['name']}` | {each['in']} | {_cell(each.get('description', ''))} |"
        yield ""
    if body := operation.get("requestBody"):
        yield f"Body: {body.get('description', '')} ({', '.join(f'`{each}`' for each in body['content'])})\n"
    yield "| status | |\n|---|---|"
    for status, answer in sorted(operation["responses"].items()):
        yield f"| {status} | {_cell(answer.get('description', ''))} |"
    yield ""


# --- settings and metrics


def settings_table() -> str:
    """Every setting, by its name in the environment, with its default and its docstring."""
    told = _attribute_docs(settings, "Settings")
    lines = ["| variable | default | |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        lines.append(f"| `KINFOLD_{name.upper()}` | {_default(field.default)} | {_cell(told.get(name, ''))} |")
    return "\n".join(lines)


def _default(value: object) -> str:
    if value is None or value == frozenset():
        return "none"
    return f"`{value}`"


def _attribute_docs(module: Any, class_name: str) -> dict[str, str]:
    """The strings below a class's attributes, by attribute: Python itself drops them."""
    tree = ast.parse(inspect.getsource(module))
    (found,) = (each for each in tree.body if isinstance(each, ast.ClassDef) and each.name == class_name)
    told: dict[str, str] = {}
    for line, following in zip(found.body, found.body[1:], strict=False):
        match line, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str() as text)):
                told[name] = text
            case _:
                pass
    return told


def metrics() -> str:
    """Every metric that `/metrics` has, with its labels."""
    lines = ["| metric | type | labels | |", "|---|---|---|---|"]
    for name, kind, labels, meaning in sorted(_metrics()):
        shown = f"{name}_total" if kind == "counter" else name
        lines.append(f"| `{shown}` | {kind} | {', '.join(f'`{each}`' for each in labels)} | {_cell(meaning)} |")
    return "\n".join(lines)


def _metrics() -> Iterator[tuple[str, str, tuple[str, ...], str]]:
    registry: Any = vars(Metrics())["_registry"]
    for collector in registry._collector_to_names:  # noqa: SLF001  the registry's own list has samples, and no labels
        for family in collector.collect():
            labels: Any = getattr(collector, "_labelnames", None) or getattr(family, "_labelnames", ())
            yield family.name, family.type, tuple(labels), family.documentation


# --- the client


def python() -> str:
    """Every public name of the client, with its signature and its docstring."""
    lines: list[str] = []
    for name in kinfold.__all__:
        lines += _documented(f"kinfold.{name}", getattr(kinfold, name))
    for module_name in _CLIENT_MODULES:
        module = importlib.import_module(module_name)
        for name, value in vars(module).items():
            if not name.startswith("_") and getattr(value, "__module__", "") == module_name and callable(value):
                lines += _documented(f"{module_name}.{name}", value)
    return "\n".join(lines)


def _documented(name: str, value: Any) -> Iterator[str]:
    yield f"## {name}\n"
    yield f"{_signature(name.rpartition('.')[2], value)}\n{_docstring(value)}\n"
    if not inspect.isclass(value):
        return
    for each in dir(value):
        member = inspect.getattr_static(value, each)
        function = member.fget if isinstance(member, property) else member
        if each.startswith("_") or not getattr(function, "__doc__", None) or not inspect.isfunction(function):
            continue
        shown = f"    {each}\n" if isinstance(member, property) else _signature(each, function)
        yield f"### {name.rpartition('.')[2]}.{each}\n"
        yield f"{shown}\n{_docstring(function)}\n"


def _signature(name: str, value: Any) -> str:
    try:
        text = str(inspect.signature(value))
    except (TypeError, ValueError):  # a class without a signature of its own
        text = ""
    text = _UNPACKED.sub(r"Unpack[\1]", text).replace("~", "")
    return f"    {name}{text}\n"


def _docstring(value: Any) -> str:
    """As Markdown: what is typed into Python becomes a block."""
    lines: list[str] = []
    in_example = False
    for line in (inspect.getdoc(value) or "").splitlines():
        if line.startswith(">>> ") and not in_example:
            in_example = True
            lines += ["", "```pycon"]
        elif in_example and not line.strip():
            in_example = False
            lines.append("```")
        lines.append(line)
    return "\n".join([*lines, "```"] if in_example else lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


PARTS: Final[dict[str, Callable[[], str]]] = {
    "cli": cli,
    "http": http,
    "python": python,
    "settings": settings_table,
    "metrics": metrics,
}

if __name__ == "__main__":
    print(json.dumps({name: part() for name, part in PARTS.items()}, indent=2))
