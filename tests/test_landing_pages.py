"""No e-mail address and no token of a visitor is stored with the landing page."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
from django.conf.urls.i18n import i18n_patterns
from django.core.checks import Error
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory
from django.urls import include, path, re_path, register_converter
from django.utils import translation

from affiliations.checks import check_settings
from affiliations.models import FilteredClicks, Visitor
from affiliations.tracking import clicks, landing_pages, register_visitor
from affiliations.tracking.clicks import Click
from tests.browsers import HANDLERS, Browser
from tests.growth import assert_linear
from tests.test_visitors import request_with

pytestmark = [pytest.mark.django_db, pytest.mark.urls(__name__)]

SECRET = "c3cr3t-0f-anna"


def echo(request: HttpRequest, **captured: object) -> HttpResponse:
    return HttpResponse("page")


class Numbered:
    """A converter whose value does not look as in the path."""

    regex = "[0-9]+"

    def to_python(self, value: str) -> int:
        if value == "404":
            raise ValueError
        if value == "500":
            raise ZeroDivisionError
        return int(value) + 1

    def to_url(self, value: int) -> str:
        return str(value - 1)


register_converter(Numbered, "numbered")
inner = [
    path("<token>/", echo),
    path("also/<path:token>", echo),
]
pages = [
    path("reset/<uidb64>/<token>/", echo),
    path("page/<slug:slug>/", echo),
    path("number/<numbered:token>/", echo),
    path("uuid/<uuid:Token>/then/<int:page>/", echo),
    path("in/<str:email>/", include(inner)),
    re_path(r"^key/(?P<uidb36>[0-9A-Za-z]+)-(?P<key>.+)/$", echo),
    re_path(r"^nested/(?P<outer>x(?P<token>\w+))(?:/(?P<secret>\d+))?/$", echo),
]
urlpatterns = [
    path("partner/", include("affiliations.urls")),
    path("deeper/", include(("affiliations.urls", "affiliations"), namespace="own")),
    *pages,
    *i18n_patterns(path("local/<token>/", echo)),
    *i18n_patterns(path("default/<token>/", echo), prefix_default_language=False),
    path("", echo),
]


@pytest.fixture(params=HANDLERS)
def browser(request: pytest.FixtureRequest) -> Browser:
    return request.param()


@pytest.fixture(params=["request", "link", "late", "test"])
def landing(request: pytest.FixtureRequest, partner: Any, client: Client, settings: Any) -> Any:
    """Return a function that lands on a page in one of the ways, and returns what is stored."""
    settings.ALLOWED_HOSTS = ["*"]

    def land(url: str) -> str:
        Visitor.objects.all().delete()
        way = request.param
        if way == "link":
            register_visitor(
                request_with(None, META={"HTTP_HOST": "testserver"}), partner.link(url)
            )
        elif way == "late":
            settings.AFFILIATE_CONSENT = "tests.test_landing_pages.undecided"
            client.get(partner.link(url))
            assert SECRET not in str(dict(client.session))
            late = request_with(None, META={"HTTP_HOST": "testserver"}, session=client.session)
            register_visitor(late)
            late.session.save()
        else:
            client.get(partner.test_link(url) if way == "test" else partner.link(url))
        stored: str = Visitor.objects.get().entry_point
        return stored.removeprefix("http://testserver")

    return land


def undecided(request: HttpRequest) -> None:
    return None


@pytest.mark.parametrize(
    ("url", "stored"),
    [
        (f"/?token={SECRET}&page=2", "/?token=(redacted)&page=2"),
        (f"/?TOKEN={SECRET}", "/?TOKEN=(redacted)"),
        (f"/?a=1&amp;token={SECRET}", "/?a=1&amp;token=(redacted)"),
        (f"/?a;token={SECRET}", "/?a;token=(redacted)"),
        (f"/?%74oken={SECRET}&token=", "/?%74oken=(redacted)&token="),
        ("/?token&email=&x", "/?token&email=&x"),
        ("/?to=anna@example.com&b=1", "/?to=(redacted)&b=1"),
        ("/?to=anna%40example.com", "/?to=(redacted)"),
        ("/?to=anna%2540example%252Ecom", "/?to=(redacted)"),
        ("/?to=%2561nna%25252540example.com", "/?to=(redacted)"),
        (f"/?to={'%25' * 3}{'25' * 20}40", "/?to=(redacted)"),
        ("/?to=Anna+%3Canna%40b%C3%BCcher.example%3E,x", "/?to=(redacted)"),
        ("/?to=anna@localhost&at=root@[127.0.0.1]", "/?to=(redacted)&at=(redacted)"),
        ("/?to=anna\uff20example.com", "/?to=(redacted)"),
        ("/?to=anna%40example\uff61com", "/?to=(redacted)"),
        ("/?to=anna@उदाहरण.भारत", "/?to=(redacted)"),
        ("/?to=anna%40b%FCcher.example", "/?to=(redacted)"),
        ("/?anna@example.com&b", "/?(redacted)&b"),
        ("/?anna%40example.com=1", "/?(redacted)"),
        ("/?sub1=anna@example.com", "/?sub1=(redacted)"),
        (f"/?next=%2Freset%3Fa%3D1%26token%3D{SECRET}", "/?next=(redacted)"),
        ("/anna@example.com/x/", "/(redacted)/x/"),
        ("/x/anna%2540example.com", "/x/(redacted)"),
        (f"/page;token={SECRET}/", "/(redacted)/"),
        (f"/reset/MQ/{SECRET}/", "/reset/(redacted)/(redacted)/"),
        (f"/reset/MQ/{SECRET}", "/reset/(redacted)/(redacted)"),
        (f"/reset/MQ/{quote('é%/'[:2])}{SECRET}/?a=%2F", "/reset/(redacted)/(redacted)/?a=%2F"),
        (f"/key/1-{SECRET}/", "/key/(redacted)-(redacted)/"),
        ("/nested/xabc/", "/nested/x(redacted)/"),
        ("/nested/xabc/123/", "/nested/x(redacted)/(redacted)/"),
        ("/number/0017/", "/number/(redacted)/"),
        ("/number/404/", "/number/404/"),
        ("/number/500/", "/number/500/"),
        ("/uuid/8bd287f8-565f-4d2f-87c8-2dd9f31bdc35/then/3/", "/uuid/(redacted)/then/3/"),
        (f"/in/anna/{SECRET}/", "/in/(redacted)/(redacted)/"),
        (f"/in/anna/also/a/{SECRET}", "/in/(redacted)/also/(redacted)"),
        (f"/da/local/{SECRET}/", "/da/local/(redacted)/"),
        (f"/reset/MQ/{SECRET}/wrong", "/reset/(redacted)/(redacted)/wrong"),
        (f"/reset/MQ/{SECRET}/very/wrong/", "/reset/(redacted)/(redacted)/very/wrong/"),
        (f"/da/local/{SECRET}/.", "/da/local/(redacted)/."),
        (f"/local/{SECRET}/x/", "/local/(redacted)/x/"),
        # Django redirects these to the page in the language of the browser.
        (f"/local/{SECRET}/", "/local/(redacted)/"),
        (f"/local/{SECRET}", "/local/(redacted)"),
    ],
)
def test_no_address_and_no_token_is_stored(landing, url: str, stored: str) -> None:
    assert landing(url) == quote(stored, safe="/:?=&%()@[];,")


@pytest.mark.parametrize(
    "url",
    [
        "/",
        "/page/a-b/?page_id=9&x=a%20b+c&y=%C3%A9&z=%2540&empty=",
        "/nothing/here",
        "/@anna/?at=12@30&v=tea@1.2.3&q=@home&note=tokens&x=email",
        "/a%20b/%25/(x)/~y/'!*/",
        "/?back=http://shop.example/x",
        "/?x=%ff%zz%",
    ],
)
def test_everything_else_is_stored_as_it_came(landing, url: str) -> None:
    assert landing(url) == url


def test_a_site_chooses_the_names(landing, settings: Any) -> None:
    settings.AFFILIATE_ENTRY_POINT_REDACTED = ["Slug", "q"]
    assert landing("/page/anna/?q=1&token=2") == "/page/(redacted)/?q=(redacted)&token=2"
    settings.AFFILIATE_ENTRY_POINT_REDACTED = ()
    assert landing("/page/anna/?q=1&to=a@b.dk") == "/page/anna/?q=1&to=(redacted)"


def test_names_that_are_no_names_are_refused(settings: Any) -> None:
    for wrong in ("token", ["token", 1], [""], None):
        settings.AFFILIATE_ENTRY_POINT_REDACTED = wrong
        (error,) = check_settings()
        assert isinstance(error, Error)
        assert (error.id, "AFFILIATE_ENTRY_POINT_REDACTED" in error.msg) == (
            "affiliations.E006",
            True,
        )


@pytest.mark.parametrize("prefix", ["/shop", "/é"])
def test_behind_a_prefix_the_page_is_found_too(client, partner, settings, prefix: str) -> None:
    settings.FORCE_SCRIPT_NAME = prefix
    client.get(partner.link(f"/reset/MQ/{SECRET}/"))
    stored = Visitor.objects.get().entry_point
    assert stored == f"http://testserver{quote(prefix)}/reset/(redacted)/(redacted)/"


def test_the_page_is_found_in_the_urls_of_the_request(partner, settings) -> None:
    settings.ROOT_URLCONF = "tests.urls"
    request = request_with(None, META={"HTTP_HOST": "testserver"}, urlconf=__name__)
    register_visitor(request, partner.link(f"/reset/MQ/{SECRET}/"))
    assert SECRET not in Visitor.objects.get().entry_point


def test_the_language_of_an_earlier_request_hides_no_page(client, partner) -> None:
    with translation.override("da"):
        client.get(partner.link(f"/default/{SECRET}/"))
    assert Visitor.objects.get().entry_point == "http://testserver/default/(redacted)/"


@pytest.mark.parametrize(
    ("url", "most"), [("/", 1), ("/reset/MQ/x/", 1), ("/nothing/", 6), ("/nothing" * 100, 36)]
)
def test_a_landing_looks_for_its_page_once_and_other_requests_never(
    client, partner, monkeypatch, url: str, most: int
) -> None:
    paths: list[str] = []
    resolve = landing_pages.resolve
    monkeypatch.setattr(
        landing_pages, "resolve", lambda *args: (paths.append(args[0]), resolve(*args))[1]
    )
    client.get(f"{url}?token=1&email=2")
    assert paths == []
    client.get(partner.link(url))
    # In each language once more, if there is no such page, and a few pages above.
    assert paths[0] == url
    assert len(paths) <= most


@pytest.mark.parametrize(
    "url", ["/partner/{}/{}/", "/partner/{}/{}", "/deeper/{}/{}/", "/partner/{}/{}/conversions.csv"]
)
def test_the_partners_page_is_no_landing(browser, partner, url: str) -> None:
    partner.replace_page_link()
    token = partner.page_link().split("/")[-2]
    url = url.format(partner.uid, token)
    answer = browser.get(partner.link(url))
    register_visitor(request_with(None, META={"HTTP_HOST": "testserver"}), partner.link(url))

    assert answer.status == (200 if url.endswith(("/", ".csv")) else 301)  # Django adds the slash.
    assert not Visitor.objects.exists()
    assert not FilteredClicks.objects.exists()


@pytest.mark.parametrize("end", ["nothing/", "conversions.csv/", "settlements/", "a/b/c/d", "."])
def test_below_the_partners_page_is_no_landing(browser, partner, end: str) -> None:
    """The path has the token, even if no page is there."""
    partner.replace_page_link()
    url = partner.link(f"{partner.page_link()}{end}")
    answer = browser.get(url)
    register_visitor(request_with(None, META={"HTTP_HOST": "testserver"}), url)

    assert answer.status == 404
    assert not Visitor.objects.exists()
    assert not FilteredClicks.objects.exists()


def test_of_the_referring_page_no_address_is_stored(client, partner) -> None:
    client.get(partner.link("/"), headers={"Referer": "https://a.example/u/anna%40example.com/x"})
    assert Visitor.objects.get().referrer == "https://a.example/u/(redacted)/x"


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:99999", "shop.example:0", "a..b", "-a.example", "a" * 64, "[::1]:70000", "[1:::2]",
     "...", "a." * 130, "256.256.256.256", "1.2.3.4.5", "shop.example.1:80"],
)  # fmt: skip
def test_a_host_that_makes_no_url_is_not_stored(client, partner, settings, host: str) -> None:
    settings.ALLOWED_HOSTS = ["*"]
    link = partner.link("/page/x/?a=1")
    client.get(link, headers={"Host": host, "Referer": f"https://{host}/x"})
    visitor = Visitor.objects.get()
    assert (visitor.entry_point, visitor.referrer) == ("/page/x/?a=1", "")


@pytest.mark.parametrize(
    "host", ["web-1:8000", "shop.example.", "[::1]:8000", "127.0.0.1", "127.0.0.1.:80", "4.example"]
)
def test_any_other_host_is_stored(client, partner, settings, host: str) -> None:
    settings.ALLOWED_HOSTS = ["*"]
    client.get(partner.link("/"), headers={"Host": host, "Referer": f"https://{host}/x"})
    visitor = Visitor.objects.get()
    assert (visitor.entry_point, visitor.referrer) == (f"http://{host}/", f"https://{host}/x")


@pytest.mark.parametrize(
    ("referrer", "stored"),
    [("https://a b.example/x", ""), ("https://[x]/", ""), ("https://a_b.example/x",) * 2],
)
def test_the_host_of_a_referrer_is_one_or_none_is_stored(client, partner, referrer, stored) -> None:
    client.get(partner.link("/"), headers={"Referer": referrer})
    assert Visitor.objects.get().referrer == stored


@pytest.mark.parametrize(
    "unit", ["a", " ", "a:", "/", "%25", "%2525", "@", "a@", "&a=", ".", "é", "\n"]
)
def test_a_long_link_takes_linear_time(partner, unit: str) -> None:
    request = request_with(None, META={"HTTP_HOST": "testserver"})
    key = f"affiliate_id={partner.uid}"

    def register(length: int) -> None:
        text = unit * (length // len(unit))
        register_visitor(request, text)
        register_visitor(request, f"/{text}?{key}")
        register_visitor(request, f"/?{key}&x={text}")

    for length in (30_000, 100_000, 1_000_000):
        assert_linear(register, length)


def test_a_query_without_the_key_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clicks, "_read", None)
    assert Click.of(RequestFactory().get("/?page=2")) is None


def test_a_link_of_more_than_32_kb_registers_nobody(partner) -> None:
    request = request_with(None, META={"HTTP_HOST": "testserver"})
    link = partner.link(f"/?x={'a' * 33_000}")
    assert register_visitor(request, link) is None
    visitor = register_visitor(request, link[:1000] + link[-30:])
    assert visitor is not None


def test_a_link_keeps_its_whole_query_but_the_partners_uid(partner) -> None:
    request = request_with(None, META={"HTTP_HOST": "testserver"})
    visitor = register_visitor(
        request, f"/teas/?back=http://shop.example/x&affiliate_id={partner.uid}"
    )
    assert visitor is not None
    assert visitor.entry_point == "http://testserver/teas/?back=http://shop.example/x"
