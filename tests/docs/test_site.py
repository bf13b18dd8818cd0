"""`make docs`: the site builds without a warning, loads nothing from another host, and has what is generated in it."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final, get_args

import pytest

import kinfold
from kinfold_schemas.keys import PrivateName, PublicName
from kinfold_services.cli.commands import app
from kinfold_services.settings import Settings

ROOT: Final = Path(__file__).parents[2]
LOADED: Final = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(?:https?:)?//|"""
    r"""<link\b[^>]*\brel=["']?(?:stylesheet|preconnect|preload|icon)["']?[^>]*\bhref=["']?(?:https?:)?//"""
)

FILLED_IN: Final = re.compile(r"^(<!-- generated: |--8<-- )", re.MULTILINE)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does it: a warning, a dead link or an anchor that does not exist is an error."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(target)]
    built = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return target


def read(site: Path, page: str) -> str:
    return (site / page).read_text("utf-8")


def test_page_with_a_generated_part_says_how_to_see_it():
    """On GitHub the part is missing."""
    pages = [page for page in (ROOT / "docs").rglob("*.md") if FILLED_IN.search(page.read_text())]

    assert len(pages) > 5
    assert [page.name for page in pages if "`make docs`" not in page.read_text()] == []


@pytest.mark.slow
def test_no_page_loads_anything_from_another_host(site: Path):
    pages = [*site.rglob("*.html")]

    assert len(pages) > 20
    assert [page.name for page in pages if LOADED.search(page.read_text("utf-8"))] == []
    assert [sheet.name for sheet in site.rglob("*.css") if re.search(r"url\(['\"]?https?:", sheet.read_text("utf-8"))] == []


@pytest.mark.slow
def test_every_command_is_in_the_reference(site: Path):
    page = read(site, "reference/cli.html")
    names = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]

    assert len(names) > 10
    assert [name for name in names if f"kinfold {name}" not in page] == []


@pytest.mark.slow
def test_every_setting_is_in_the_reference(site: Path):
    page = read(site, "reference/settings.html")

    assert [name for name in Settings.model_fields if f"<code>KINFOLD_{name.upper()}</code>" not in page] == []


@pytest.mark.slow
def test_the_routes_are_in_the_reference(site: Path):
    page = read(site, "reference/http.html")
    routes = ["POST /v1/events", "GET /v1/changes", "GET /v1/contacts/{contact_id}", "POST /v1/batch"]

    assert [route for route in routes if route not in page] == []


@pytest.mark.slow
def test_the_metrics_are_in_the_reference(site: Path):
    page = read(site, "reference/metrics.html")

    assert "<code>kinfold_lag_entries</code>" in page
    assert "<code>kinfold_entries_total</code>" in page


@pytest.mark.slow
def test_every_public_name_of_the_client_is_in_the_reference(site: Path):
    page = read(site, "reference/python.html")

    assert [name for name in kinfold.__all__ if f"kinfold.{name}" not in page] == []


@pytest.mark.slow
def test_the_contract_is_in_the_reference(site: Path):
    assert 'id="5-identity"' in read(site, "reference/contract.html")


@pytest.mark.slow
def test_every_redis_key_is_on_the_page_of_keys(site: Path):
    page = read(site, "explanation/keys.html")

    assert [name for name in (*get_args(PublicName), *get_args(PrivateName)) if f"<code>{name}</code>" not in page] == []
