"""`/docs`: the OpenAPI document as one HTML page, without scripts and without further requests.

The framework's own pages load a viewer from another server. They are blank without internet access, and they run a foreign
script next to a service that needs keys.
"""

import base64
import hashlib
import re
from collections.abc import Iterable
from html import escape
from typing import Any, Final

from kinfold_services.gateway.web import script_element

Json = dict[str, Any]

_REF: Final = "#/components/schemas/"
_STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h2 { margin-top: 3rem; border-bottom: 1px solid #ccc }
h3 { margin: 2.5rem 0 .5rem }
code, pre, h3 { font-family: ui-monospace, monospace; font-size: .9rem }
pre { padding: .75rem; background: #f4f4f4; overflow-x: auto }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 }
td, th { border-top: 1px solid #ddd; padding: .25rem .75rem .25rem 0; text-align: left; vertical-align: top }
td { overflow-wrap: anywhere }
td:first-child { width: 12rem }
nav ul { columns: 20rem; padding-left: 1.25rem }
"""
STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
"""With this, a Content-Security-Policy permits the style (CSP Level 3, 6.7.3.3)."""
_START: Final = """
<p>For programs: <a href="openapi.json">openapi.json</a>. Every request except <a href="#operations">operations</a> needs a
key from <code>kinfold keys create</code>. The key also selects the workspace:</p>
<pre>curl -H 'Authorization: Bearer KEY' '{origin}/v1/contacts?limit=3'</pre>
<p>For pages, with a key of <code>kinfold keys create --kind publishable</code>:</p>
<pre>{script}</pre>
"""


def docs_page(document: Json, origin: str) -> str:
    """The document as HTML. `origin` is the URL of the gateway."""
    info, schemas = document["info"], document["components"]["schemas"]
    by_tag: dict[str, dict[str, list[tuple[str, Json]]]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():  # Segment's operations have several paths each
            same = by_tag.setdefault(operation["tags"][0], {}).setdefault(operation["summary"], [])
            same.append((f"{method.upper()} {path}", operation))
    titles = [*by_tag, "schemas"]
    return "\n".join(
        [
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(info["title"])}</title>',
            '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">',
            f"<style>{_STYLE}</style></head><body>",
            f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p>{escape(info['description'])}</p>",
            _START.format(origin=escape(origin), script=escape(script_element(origin, "KEY"))),
            "<nav><ul>" + "".join(f'<li><a href="#{title}">{title}</a></li>' for title in titles) + "</ul></nav>",
            *(_tag(tag, operations.values()) for tag, operations in by_tag.items()),
            '<h2 id="schemas">schemas</h2>',
            *(_schema(name, schemas[name]) for name in sorted(schemas)),
            "</body></html>",
        ]
    )


def _tag(tag: str, operations: Iterable[list[tuple[str, Json]]]) -> str:
    return f'<h2 id="{tag}">{tag}</h2>\n' + "\n".join(_operation(sorted(same)) for same in operations)


def _operation(same: list[tuple[str, Json]]) -> str:
    operation = same[0][1]
    head = f"<h3>{'<br>'.join(escape(route) for route, _ in same)}</h3>"
    parts = [head, f"<p><b>{_text(operation['summary'])}</b></p>", _paragraphs(operation.get("description", ""))]
    if parameters := operation.get("parameters"):
        kinds = [f"{each['in']}: {_kind(each['schema']).removesuffix(' or null')}" for each in parameters]
        rows = [(each["name"], kind, each.get("description", "")) for each, kind in zip(parameters, kinds, strict=True)]
        parts.append(_table("parameter", rows))
    if body := operation.get("requestBody"):
        parts.append(f"<p>Body: {_text(body['description'])}</p>{_table('type', _contents(body))}")
    answers = [
        (status, " or ".join(kind for _, kind, _ in _contents(answer)), answer["description"])
        for status, answer in sorted(operation["responses"].items())
    ]
    return "\n".join([*parts, _table("answer", answers)])


def _schema(name: str, schema: Json) -> str:
    required = schema.get("required", [])
    fields = [
        (field, _kind(each), " ".join(filter(None, ["Required." if field in required else "", _described(each)])))
        for field, each in schema.get("properties", {}).items()
    ]
    return f'<h3 id="{name}">{name}</h3>{_paragraphs(schema.get("description", ""))}{_table("field", fields)}'


def _contents(holder: Json) -> list[tuple[str, str, str]]:
    return [(media, _kind(content["schema"]), "") for media, content in holder.get("content", {}).items()]


def _kind(schema: Json) -> str:
    """The type of a value, as HTML."""
    if ref := schema.get("$ref"):
        name = ref.removeprefix(_REF)
        return f'<a href="#{name}">{name}</a>'
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(_kind(each) for each in schema[several]))
    if "enum" in schema:
        return " or ".join(f"<code>{escape(str(each))}</code>" for each in schema["enum"])
    kind: str | list[str] = schema.get("type", "any")
    if kind == "array":
        item = _kind(schema.get("items", {}))
        return f"array of ({item})" if " or " in item else f"array of {item}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_kind(schema['additionalProperties'])}"
    return escape(" or ".join(kind) if isinstance(kind, list) else schema.get("format", kind))


def _described(schema: Json) -> str:
    inner: list[Json] = schema.get("anyOf", [])
    return str(schema.get("description") or next((each["description"] for each in inner if "description" in each), ""))


def _table(first: str, rows: list[tuple[str, str, str]]) -> str:
    """A table. Each row has a name, HTML and text."""
    lines = [f"<tr><td><code>{escape(name)}</code></td><td>{kind}</td><td>{_text(text)}</td></tr>" for name, kind, text in rows]
    return f"<table><tr><th>{first}</th><th></th><th></th></tr>{''.join(lines)}</table>" if rows else ""


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{_text(each)}</p>" for each in text.split("\n\n") if each.strip())


def _text(text: str) -> str:
    """Text as HTML. Code is in backticks, as in docstrings."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
