"""A command starts quickly: it loads a heavy library only if it needs it."""

import subprocess
import sys

HEAVY = ("faststream", "litestar", "pyarrow", "sqlalchemy", "uvicorn")


def test_command_line_loads_no_heavy_library_before_it_is_needed():
    script = f"import sys, kinfold_services.cli.commands; print([each for each in {HEAVY} if each in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True).stdout

    assert loaded == "[]\n"
