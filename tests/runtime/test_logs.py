"""What a line of the log shows (`runtime.logs`)."""

import json

import pytest
import structlog

from kinfold_services.runtime.logs import configure_logs


@pytest.fixture(autouse=True)
def _restore() -> object:
    """Leave the configuration as it was."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_long_text_is_cut(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What a line shows may come from outside: an error, an id, a key."""
    configure_logs(log_format, "info")
    structlog.get_logger().warning("workspace not served", error="x" * 1_000_000, count=3)
    line = capsys.readouterr().err
    assert 2000 < len(line) < 2500
    assert "x... (1000000 characters)" in line
    if log_format == "json":
        assert json.loads(line)["count"] == 3


def test_what_all_workspaces_report_at_once_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """In an outage, a thousand workspaces try again several times a second."""
    configure_logs("json", "info")
    log = structlog.get_logger()
    for number in range(1000):
        log.warning("log not read", log=f"w{number}", seldom=True)
    log.warning("batch was too large")
    log.warning("batch was too large")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["event"] for line in lines if line["event"] != "log not read"] == ["batch was too large"] * 2
    assert len(lines) < 100
    assert "seldom" not in lines[0]
