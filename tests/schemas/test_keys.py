"""Workspaces and their keys (contract section 1)."""

import pytest

from kinfold_schemas.keys import DEFAULT_WORKSPACE, WORKSPACES, check_workspace, key


def test_everything_of_a_workspace_has_one_hash_tag() -> None:
    """One transaction can touch all of it, on a cluster too."""
    assert key("acme", "events") == "kinfold:{acme}:events"
    assert key(DEFAULT_WORKSPACE, "external-ids") == "kinfold:{default}:external-ids"
    assert WORKSPACES == "kinfold:workspaces"


@pytest.mark.parametrize("name", ["default", "0", "a-b_c", "a" * 63])
def test_a_good_name(name: str) -> None:
    """Letters in lower case, digits, `_` and `-`."""
    assert check_workspace(name) == name


@pytest.mark.parametrize("name", ["", "-a", "_a", "A", "a" * 64, "a b", "a}", "ä", "a\n"])
def test_a_bad_name_is_told_with_what_is_allowed(name: str) -> None:
    """Nothing else comes into a key, so nothing crosses workspaces."""
    with pytest.raises(ValueError, match=r"workspace: expected 1 to 63 .* got "):
        key(name, "events")
