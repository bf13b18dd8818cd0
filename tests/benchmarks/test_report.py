"""`make bench` puts its tables where readers look."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
BEGINS: Final = "<!-- made by `make bench`: do not edit -->"
ENDS: Final = "<!-- end of what `make bench` made -->"
WRITE: Final = """
import sys
from pathlib import Path
import report
report.ROOT, report.CHART = Path(sys.argv[1]), Path(sys.argv[1], "docs/images/speed.svg")
report.PAGE, report.README = Path(sys.argv[1], "docs/explanation/benchmarks.md"), Path(sys.argv[1], "README.md")
sys.argv[1:] = []
report.main()
"""


@pytest.mark.slow
def test_the_stored_results_are_what_the_readme_and_the_docs_show(tmp_path: Path):
    """The pages in a scratch directory lose what stands between the marks, and get it back."""
    names = ("README.md", "docs/explanation/benchmarks.md")
    (tmp_path / "docs/images").mkdir(parents=True)
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        before, _, rest = (ROOT / name).read_text("utf-8").partition(BEGINS)
        (tmp_path / name).write_text(f"{before}{BEGINS}\n{ENDS}{rest.partition(ENDS)[2]}", "utf-8")

    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'benchmarks'}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, "-c", WRITE, tmp_path], env=environment, check=False, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert [(tmp_path / name).read_text("utf-8") for name in names] == [(ROOT / name).read_text("utf-8") for name in names]
    assert (tmp_path / "docs/images/speed.svg").exists()
