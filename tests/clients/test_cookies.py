"""The cookie of the middlewares: one that somebody else has put into a browser is worth nothing."""

import re
from collections.abc import Mapping
from typing import Any, Final

import pytest

from kinfold.testing import Recorder
from kinfold.web.cookies import Browser, Signer, new_visitor_id
from kinfold.web.tracking import Settings, Tracking
from kinfold.web.visits import Person, Visit

SECRET: Final = "the application's"  # noqa: S105  invented here
SITE: Final = "shop.example"
NAME: Final = "__Host-kinfold_visitor"


class Page:
    """A request for a page, as a middleware sees it."""

    raw: Any = None
    method = "GET"

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers

    def header(self, name: str) -> str:
        return self._headers.get(name, "")

    def url(self) -> str:
        return "https://shop.example/"

    def ip(self) -> str:
        return "192.0.2.1"


class App:
    """An application with a middleware, and a browser that keeps its cookie."""

    def __init__(self, **settings: Any) -> None:
        self.recorder = Recorder()
        given: Settings = {"secret": SECRET, **settings}  # type: ignore[typeddict-item]
        self.tracking = Tracking(self.recorder, given)
        self.cookie = ""
        self.set_cookie: str | None = None

    def ask(self, person: Person | None = None, *, late: bool = False, **headers: str) -> Visit:
        """Request a page, on which the application identifies a person, with `late` after the response has begun."""
        page = Page({"host": SITE, "cookie": self.cookie, **headers})
        visit = self.tracking.begin(page)
        if person is not None and not late:
            visit.identify(person)
        self.set_cookie = self.tracking.answered(page, visit, 200, "text/html")
        if person is not None and late:
            visit.identify(person)
        if self.set_cookie is not None:
            self.cookie = self.set_cookie.partition(";")[0]
        return visit

    @property
    def linked(self) -> list[list[str]]:
        """The visitors of each contact."""
        return [sorted(contact.visitor_ids) for contact in self.recorder.contacts]


def value_of(cookie: str) -> str:
    return cookie.partition("=")[2]


@pytest.mark.parametrize(
    ("host", "settings", "name"),
    [
        (SITE, {}, NAME),
        ("shop.example:8443", {}, NAME),
        ("localhost.evil.example", {}, NAME),
        ("", {}, NAME),
        ("localhost:8080", {}, "kinfold_visitor"),
        ("app.localhost", {}, "kinfold_visitor"),
        ("127.0.0.1", {}, "kinfold_visitor"),
        ("[::1]:8080", {}, "kinfold_visitor"),
        (SITE, {"domain": "example"}, "kinfold_visitor"),
        (SITE, {"secure": False}, "kinfold_visitor"),
        (SITE, {"cookie": "who"}, "__Host-who"),
        (SITE, {"cookie": "__Host-who"}, "__Host-who"),
    ],
)
def test_cookie_has_the_host_prefix_over_tls(host: str, settings: dict[str, Any], name: str):
    """Then no other subdomain and no network can plant it. Browsers refuse the prefix without TLS, or with a domain."""
    app = App(**settings)
    app.ask(host=host)

    assert app.set_cookie is not None
    assert app.set_cookie.startswith(f"{name}=v_")
    if name.startswith("__Host-"):
        assert "; Path=/; Secure; HttpOnly; SameSite=Lax" in app.set_cookie


def test_browser_keeps_its_id():
    app = App()
    first = app.ask().visitor_id
    sent = app.set_cookie

    assert sent is not None
    assert [app.ask().visitor_id, app.set_cookie] == [first, None]
    assert re.fullmatch(rf"{NAME}={first}\..*", app.cookie)


def forged() -> dict[str, str]:
    """Values that the application did not make."""
    own, other = Signer(SECRET), Signer("of another application")
    somebody = Browser(new_visitor_id(), own.person("u-1", None))
    good = own.value(somebody)
    visitor, person, tag = good.split(".")
    return {
        "an id alone": new_visitor_id(),
        "an id of an API": "v-1",
        "no signature": f"{visitor}.{person}.",
        "an empty signature": f"{visitor}..",
        "another secret": other.value(somebody),
        "another id": f"{new_visitor_id()}.{person}.{tag}",
        "another person": f"{visitor}.{own.person('u-2', None)}.{tag}",
        "nobody": f"{visitor}..{tag}",
        "the person as the signature": f"{visitor}.{person}.{person}",
        "a signature of something else": f"{visitor}.{person}.{own.person(visitor, None)}",
        "longer": f"{good}x",
        "in upper case": good.upper(),
        "not ASCII": f"{visitor}.{person}.{'ä' * 22}",
    }


@pytest.mark.parametrize("value", forged().values(), ids=forged())
def test_id_that_the_application_did_not_make_is_not_adopted(value: str):
    app = App()
    app.cookie = f"{NAME}={value}"
    visit = app.ask()

    assert visit.visitor_id not in {None, value, value.partition(".")[0]}
    assert app.set_cookie is not None


def test_planted_cookie_beside_the_own_one_is_ignored():
    """A page of another subdomain can add a cookie of the same name, which may come first."""
    app = App(domain="example")
    own = app.ask().visitor_id
    app.cookie = f"kinfold_visitor={new_visitor_id()}; {app.cookie}"

    assert app.ask().visitor_id == own


def test_browser_gets_a_new_id_with_an_identification():
    """The old one stays linked, so what it did before counts. Somebody who knows the old id knows nothing of what follows."""
    app = App()
    planted = app.ask().visitor_id
    identified = app.ask({"external_id": "u-1", "name": "Ada"}).visitor_id
    later = [app.ask().visitor_id, app.ask({"external_id": "u-1", "name": "Ada L."}).visitor_id]

    assert planted != identified
    assert later == [identified] * 2
    assert app.linked == [sorted(map(str, [planted, identified]))]
    seen = [event["visitorId"] for event in app.recorder.events if event["type"] == "VisitorSeen"]
    assert seen == [planted, identified, identified, identified]


def test_browser_without_an_id_gets_one_when_it_is_identified():
    """Nobody else can know the id that was made for this request, so the person has one visitor."""
    app = App()
    identified = app.ask({"external_id": "u-1"}).visitor_id

    assert app.ask().visitor_id == identified
    assert app.linked == [[identified]]


def test_second_person_in_one_request_gets_another_id():
    app = App()
    page = Page({"host": SITE})
    visit = app.tracking.begin(page)
    visit.identify({"external_id": "u-1"})
    visit.identify({"external_id": "u-2"})
    cookie = app.tracking.answered(page, visit, 200, "text/html")

    assert str(visit.visitor_id) in str(cookie)
    assert [visit.visitor_id] in app.linked


def test_cookie_of_another_person_is_worth_nothing_either():
    """An attacker logs in, and plants the cookie that the application made. The visitor who logs in with it gets another id."""
    attacker, victim = App(), App()
    known = attacker.ask({"external_id": "mallory"}).visitor_id
    victim.recorder = attacker.recorder
    victim.tracking = attacker.tracking
    victim.cookie = attacker.cookie
    given = victim.ask({"external_id": "ada"}).visitor_id

    assert given != known
    assert victim.ask().visitor_id == given


@pytest.mark.parametrize(
    ("before", "after", "is_same"),
    [
        ({"external_id": "u-1"}, {"external_id": "u-1", "email": "a@x.org"}, True),
        ({"email": "a@x.org"}, {"email": "a@x.org", "metadata": {"plan": "pro"}}, True),
        ({"external_id": "u-1"}, {"external_id": "u-2"}, False),
        ({"external_id": "a@x.org"}, {"email": "a@x.org"}, False),
        ({"email": "a@x.org"}, {"email": "b@x.org"}, False),
    ],
)
def test_same_person_keeps_the_id(before: Person, after: Person, *, is_same: bool):
    """An application may identify on every page, which must not make a visitor each time."""
    app = App()
    first = app.ask(before).visitor_id

    assert (app.ask(after).visitor_id == first) is is_same


def test_identification_after_the_response_keeps_the_id():
    """The browser cannot be told another one. It gets it with the next identification."""
    app = App()
    first = app.ask({"external_id": "u-1"}, late=True).visitor_id
    second = app.ask({"external_id": "u-1"}).visitor_id

    assert first != second
    assert app.linked == [sorted(map(str, [first, second]))]


def test_cookie_tells_nobody_who_the_person_is():
    """The same person has another mark in another application, and nobody can guess the person from the mark."""
    app = App()
    app.ask({"external_id": "u-1"})

    assert Signer(SECRET).person("u-1", None) in app.cookie
    assert Signer(SECRET).person("u-1", None) != Signer("of another application").person("u-1", None)


@pytest.mark.parametrize("secret", [None, "", "too short", 12345678901234567890])
def test_secret_is_required(secret: Any):
    with pytest.raises(TypeError, match="secret: expected a text of at least 16 characters"):
        App(secret=secret)
