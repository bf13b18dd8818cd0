"""Workspaces and their keys (contract section 1)."""

import pytest

from kinfold_schemas.keys import DEFAULT_WORKSPACE, WORKSPACES, check_workspace, key


def test_keys_of_a_workspace_share_one_hash_tag() -> None:
    """So one transaction can touch all of them, on a cluster too."""
    assert key("acme", "events") == "kinfold:{acme}:events"
    assert key(DEFAULT_WORKSPACE, "external-ids") == "kinfold:{default}:external-ids"
    assert WORKSPACES == "kinfold:workspaces"


@pytest.mark.parametrize("name", ["default", "0", "a-b_c", "a" * 63])
def test_valid_workspace_name_is_accepted(name: str) -> None:
    """Lower-case letters, digits, `_` and `-`."""
    assert check_workspace(name) == name


@pytest.mark.parametrize("name", ["", "-a", "_a", "A", "a" * 64, "a b", "a}", "ä", "a\n"])
def test_invalid_workspace_name_is_rejected(name: str) -> None:
    """So no name can produce the key of another workspace."""
    with pytest.raises(ValueError, match=r"workspace: expected 1 to 63 .* got "):
        key(name, "events")
