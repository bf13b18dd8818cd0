"""Which field each column fills: by `--map`, or by its heading."""

import pytest

from kinfold_services.contact_files.columns import WrongColumns, columns_of, parse_maps


def fields(headings: list[str], *maps: str, only_mapped: bool = False) -> dict[str, str]:
    """Heading -> field, of the columns that are used."""
    columns = columns_of(headings, parse_maps(maps), only_mapped=only_mapped)
    return {each.heading: each.field for each in columns.used}


def test_headings_name_the_fields_and_other_columns_are_metadata() -> None:
    assert fields(["E-Mail", "external_id", "Name", "image", "Plan", "metadata.seats", "at"]) == {
        "E-Mail": "email",
        "external_id": "externalId",
        "Name": "name",
        "image": "image",
        "Plan": "metadata.Plan",
        "metadata.seats": "metadata.seats",
        "at": "metadata.at",
    }


@pytest.mark.parametrize(
    "heading", ["externalId", "external_id", "External ID", "external-id", "userId", "user_id", "id", "ID"]
)
def test_headings_of_the_external_id(heading: str) -> None:
    assert fields([heading, "plan"])[heading] == "externalId"


def test_id_is_metadata_where_another_column_is_the_external_id() -> None:
    assert fields(["id", "externalId"]) == {"id": "metadata.id", "externalId": "externalId"}
    assert fields(["id", "user_id"]) == {"id": "metadata.id", "user_id": "externalId"}
    assert fields(["user_id", "external_id"]) == {"user_id": "metadata.user_id", "external_id": "externalId"}
    assert fields(["id", "user"], "external-id=user") == {"id": "metadata.id", "user": "externalId"}


def test_map_wins_over_the_heading() -> None:
    assert fields(["email", "Work mail", "When"], "email=Work mail", "metadata.private=email", "at=When") == {
        "email": "metadata.private",
        "Work mail": "email",
        "When": "at",
    }


def test_one_column_can_fill_two_fields() -> None:
    columns = columns_of(["id"], parse_maps(["external-id=id", "metadata.crm=id"]), only_mapped=False)

    assert [each.field for each in columns.used] == ["externalId", "metadata.crm"]


def test_only_mapped_leaves_out_what_would_be_metadata_by_default() -> None:
    headings = ["id", "email", "metadata.plan", "visitorCount", "Seats"]

    columns = columns_of(headings, parse_maps(["metadata.seats=Seats"]), only_mapped=True)

    assert [each.field for each in columns.used] == ["externalId", "email", "metadata.plan", "metadata.seats"]
    assert columns.left_out == ["visitorCount"]
    assert str(columns) == "externalId from 'id', email, metadata.plan, metadata.seats from 'Seats'; left out: 'visitorCount'"


def test_column_without_a_heading_is_left_out() -> None:
    assert columns_of(["id", ""], {}, only_mapped=False).left_out == [""]


@pytest.mark.parametrize(
    ("headings", "maps", "message"),
    [
        (["id"], ["nonsense"], "--map: expected FIELD=HEADING with a FIELD of email, external-id, name, .*, got 'nonsense'"),
        (["id"], ["plan=Plan"], "--map: expected FIELD=HEADING .* got 'plan=Plan'"),
        (["id"], ["metadata.=Plan"], "--map: expected FIELD=HEADING"),
        (["a", "b"], ["email=a", "email=b"], "--map: expected email once, got 'a' and 'b'"),
        (
            ["id", "Plan"],
            ["metadata.plan=Plam"],
            "metadata.plan=Plam: expected one of the headings 'id', 'Plan'; did you mean 'Plan'?",
        ),
        (["id", "a", "a"], ["email=a"], "--map email=a: expected one column with this heading, got 2"),
        (["email", "E-Mail"], [], "expected one column for email, got 'email' and 'E-Mail'"),
        (["id", "plan", "plan"], [], "expected one column for metadata.plan, got 'plan' and 'plan'"),
        (["name", "plan"], [], "expected a column for email or externalId, got 'name', 'plan'; --map external-id=HEADING"),
    ],
)
def test_wrong_columns_are_named(headings: list[str], maps: list[str], message: str) -> None:
    with pytest.raises(WrongColumns, match=message.replace("?", r"\?")):
        fields(headings, *maps)
