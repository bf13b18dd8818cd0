"""Every public name has a docstring with an example, and every example works against a real server."""

import asyncio
import doctest
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import kinfold

URL: Final = "redis://localhost:6379/0"
GATEWAY: Final = '"http://localhost:8000", key="kf_sk_secret"'
MODULES: Final = ("asgi", "calls", "contacts", "django", "testing", "wsgi")
FRAMEWORKS: Final = frozenset(["asgi", "django", "testing", "wsgi"])
# Values and errors of the contract, which the schemas define: examples would add nothing.
DATA: Final = frozenset(["Conflict", "Contact", "ContactCount", "ContactCounts", "EventError", "TimelineEntry", "ValueCount"])


def public_objects() -> Iterator[tuple[str, object]]:
    """Every name that an application may use."""
    for name in kinfold.__all__:
        yield f"kinfold.{name}", getattr(kinfold, name)
    for module_name in MODULES:
        module = importlib.import_module(f"kinfold.{module_name}")
        own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        for name in getattr(module, "__all__", own):
            value = getattr(module, name)
            if not name.startswith("_") and callable(value) and value.__module__.startswith("kinfold"):
                yield f"kinfold.{module_name}.{name}", value


OBJECTS: Final = dict(public_objects())


@pytest.mark.parametrize("name", OBJECTS)
def test_every_public_name_has_an_example(name: str):
    documented = inspect.getdoc(OBJECTS[name])
    assert documented, name
    if name.rpartition(".")[2] not in DATA:
        assert ">>> " in documented, name


def test_every_public_name_has_its_type_checked():
    """`make lint` runs mypy and pyright on that file; this test checks that it is complete."""
    checked = (Path(__file__).parents[1] / "typing" / "public_names.py").read_text()
    names = {f"kinfold.{name}" for name in kinfold.__all__}
    names |= {name.removeprefix("kinfold.") for name in OBJECTS if name.split(".")[1] in FRAMEWORKS}
    assert {name for name in names if not re.search(rf"\b{re.escape(name)}\b", checked)} == set()


@pytest.mark.parametrize("name", OBJECTS)
def test_every_example_works(name: str, folding_url: str, workspace: str, request: pytest.FixtureRequest):
    """The examples use the URL of a local server or gateway; here it is replaced by that of the tests."""
    gateway = ""
    if GATEWAY in inspect.getsource(sys.modules[OBJECTS[name].__module__]):
        gateway = ada_behind_a_gateway(request)
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL)
    for test in finder.find(OBJECTS[name], name, globs={"kinfold": kinfold, "asyncio": asyncio}):
        for example in test.examples:
            example.source = example.source.replace(URL, folding_url).replace(GATEWAY, gateway)
            for given in ("feed", "acme"):
                example.source = example.source.replace(f'workspace="{given}"', f'workspace="{given}-{workspace[-8:]}"')
        report: list[str] = []
        runner.run(test, out=report.append)
        assert not report, "".join(report)


def ada_behind_a_gateway(request: pytest.FixtureRequest) -> str:
    """The arguments for a gateway whose directory has one contact."""
    url, key, visitors = [request.getfixturevalue(name) for name in ("gateway_url", "api_key", "visitors")]
    visitors.identify("v-1", external_id="u-1", name="Ada", metadata={"plan": "pro", "mrr": 99})
    with kinfold.Contacts(url, key=key) as contacts:
        assert contacts.count(after=visitors.flush()).count == 1
    return f'"{url}", key="{key}"'


@pytest.fixture(autouse=True)
def _a_contact(request: pytest.FixtureRequest) -> None:
    if "folding_url" in request.fixturenames:
        workspace = f"feed-{request.getfixturevalue('workspace')[-8:]}"
        with kinfold.Producer(request.getfixturevalue("folding_url"), workspace=workspace, suppress_entries=0) as visitors:
            visitors.identify("v-1", external_id="u-1", name="Ada")
            position = visitors.flush()
        with kinfold.Contacts(request.getfixturevalue("folding_url"), workspace=workspace, wait_s=60) as contacts:
            assert contacts.by_external_id("u-1", after=position)
