"""The wheel, installed in a clean environment next to an application with packages of the same generic names."""

import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Final

import hiredis
import msgspec
import pytest
import redis

ROOT: Final = Path(__file__).parents[2]
APPLICATION: Final = {
    "schemas/__init__.py": "NAME = 'the application'\n",
    "services/__init__.py": "from schemas import NAME\n",
    "projections/__init__.py": "from services import NAME\n",
    "main.py": """
import sys
import projections, schemas, services
import kinfold, kinfold.testing, kinfold.asgi, kinfold.wsgi, kinfold.web

assert projections.NAME == services.NAME == schemas.NAME == "the application"
assert kinfold.__file__.startswith(sys.prefix), kinfold.__file__
recorder = kinfold.testing.Recorder()
recorder.identify("v-1", external_id="u-1", metadata={"plan": "pro"})
assert recorder.contact(external_id="u-1").metadata["plan"] == "pro"
kinfold.Producer("redis://localhost:1/0").close()
kinfold.Feed("http://localhost:1", key="k"), kinfold.Contacts("http://localhost:1", key="k")
heavy = {"faststream", "litestar", "pydantic", "structlog", "typer"} & set(sys.modules)
assert not heavy, heavy
print(sorted(name for name in sys.modules if name.startswith("kinfold") and "." not in name))
""",
}


@pytest.mark.slow
def test_wheel_does_not_collide_with_the_application(tmp_path: Path):
    """The base dependencies are linked from the current environment, so no network is needed.

    The command line lacks its dependencies, and says so.
    """
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=ROOT, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=False)
    (packages,) = environment.glob("lib/python*/site-packages")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(environment / "bin" / "python")]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    for module in (msgspec, redis, hiredis):
        source = Path(module.__file__ or "").parent
        (packages / source.name).symlink_to(source)
    installed = {path.name for path in packages.iterdir()}
    assert not installed & {"schemas", "services", "projections", "clients", "tests"}

    for name, text in APPLICATION.items():
        path = tmp_path / "application" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    done = subprocess.run(
        [environment / "bin" / "python", "-W", "error", "main.py"],
        cwd=tmp_path / "application",
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == "['kinfold', 'kinfold_projections', 'kinfold_schemas']"

    status = subprocess.run([environment / "bin" / "kinfold", "status"], check=False, capture_output=True, text=True)
    assert (status.returncode, status.stdout) == (2, "")
    assert status.stderr.endswith("in a clone, pip install '.[service]'\n")
    assert status.stderr.count("\n") == 1
