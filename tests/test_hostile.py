"""
What strangers send: never a 500, never a way off the site, never a byte of another's changed.

First whatever can be thought of, into Django's handlers; then over raw sockets into real servers.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from urllib.parse import quote_from_bytes, urlsplit

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls import re_path
from hypothesis import assume, example, given
from hypothesis import strategies as st

from affiliations import db, links
from affiliations.models import Partner, Visitor
from tests.browsers import HANDLERS, Answer, Browser, SocketBrowser, WSGIBrowser
from tests.factories import PartnerFactory
from tests.growth import assert_linear
from tests.servers import serving


def echo(request: HttpRequest) -> HttpResponse:
    """Say what path the site has seen, whatever it is."""
    return HttpResponse(request.path_info.encode(errors="backslashreplace"))


urlpatterns = [re_path("", echo)]


@pytest.fixture(params=HANDLERS)
def browser(request: pytest.FixtureRequest) -> Browser:
    return request.param()


@pytest.fixture(autouse=True)
def each_counts(settings) -> None:
    """Take each visit for one of its own, however soon it follows another."""
    settings.AFFILIATE_CLICK_DEDUPE_WINDOW = None


@pytest.fixture(autouse=True)
def own_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail every test in which something of ours went wrong and was only logged."""
    caplog.set_level(logging.INFO, "affiliations")
    yield
    assert [record for record in caplog.records if record.name == "affiliations"] == []


def stays_here(location: bytes) -> bool:
    """Read a ``Location`` as browsers do: blanks and controls dropped, a backslash is a slash."""
    read = re.sub(rb"[\x00-\x20]", b"", location).replace(b"\\", b"/")
    return read.startswith(b"/") and not read.startswith(b"//")


def is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def escaped(raw: bytes) -> bytes:
    """Escape what no header can hold."""
    return re.sub(rb"[\x00-\x20\x7f]", lambda match: b"%%%02X" % match[0][0], raw)


FRAGMENTS = [
    b"&", b"=", b"+", b"%", b"%0", b"%zz", b"%00", b"%0d%0a", b"%26", b"%3D", b"#", b"?", b"\\",
    b"/", b"//evil.example/", b"http://evil.example", b"\xff", b"\xc3\xa9", b"\xed\xa0\x80",
    b"%ff", b"%C3%A9", b"%ED%A0%80", b"%F0%9F%98%80", b";", b"'", b'"', b"<", b"{0}", b"a", b"b=1",
    b"affiliate_id", b"affiliate_id%00=1", b"click_id=", b"sub1=", b"sub5=", b"x" * 300,
]  # fmt: skip
junk = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.binary(max_size=4)), max_size=12).map(
    b"".join
)


@pytest.mark.django_db
@pytest.mark.urls(__name__)
@given(before=junk, after=junk)
@example(before=b"a=\r\nLocation: http://evil.example/\r\n", after=b"\0")
@example(before=b"click_id=%00&sub1=%ff&sub2=\xff", after=b"click_id=" + b"%F0%9F%98%80" * 256)
def test_whatever_stands_in_the_query_a_landing_registers_and_keeps_it(
    browser, partner, before: bytes, after: bytes
) -> None:
    """(D9, D10)"""
    assume(not re.search(rb"(?i)a(f|%66)filiate", before + after))
    key = b"affiliate_id=" + partner.uid.encode()
    query = b"&".join(part for part in (before, key, after) if part)
    visitors = Visitor.objects.count()

    answer = browser.get(b"/some/page/?" + query)

    if not is_text(query) and not isinstance(browser, WSGIBrowser):
        assert answer.status == 400  # Django's own answer under ASGI
        return
    others = escaped(b"&".join(part for part in (before, after) if part))
    assert answer.status == 302
    assert answer["Location"] == b"/some/page/" + (b"?" + others if others else b"")
    assert Visitor.objects.count() == visitors + 1


@pytest.mark.django_db
@pytest.mark.urls(__name__)
@given(query=junk)
def test_whatever_stands_in_the_query_no_request_is_a_failure_or_goes_in_circles(
    browser, query: bytes
) -> None:
    target = b"/?" + query.replace(b"\\", b"&affiliate_id=")

    for _ in range(2):
        answer = browser.get(target)
        if answer.status != 302:
            break
        assert stays_here(answer["Location"])
        target = answer["Location"]

    assert answer.status in (200, 400)


@pytest.mark.django_db
@pytest.mark.urls(__name__)
@given(path=st.one_of(junk, junk.map(quote_from_bytes).map(str.encode)), has_slash=st.booleans())
@example(path=b"/evil.example/", has_slash=True)
@example(path=b"%2Fevil.example/", has_slash=True)
@example(path=b"\\evil.example/", has_slash=True)
@example(path=b"%5Cevil.example/", has_slash=True)
@example(path=b"%09/evil.example/", has_slash=True)
@example(path=b"%0D%0A//evil.example/", has_slash=True)
@example(path=b".//evil.example/", has_slash=True)
@example(path=b"http://evil.example/", has_slash=False)
@example(path=b"%00", has_slash=True)
@example(path=b"%ff%fe", has_slash=True)
def test_whatever_the_path_the_redirect_leads_to_the_same_page_of_this_site(
    browser, path: bytes, has_slash: bool
) -> None:
    """(D8)"""
    path = (b"/" if has_slash else b"") + path.replace(b"?", b"")

    answer = browser.get(path + b"?affiliate_id=x")

    assert answer.status == 302
    assert stays_here(answer["Location"])
    if has_slash:
        assert browser.get(answer["Location"]).body == browser.get(path).body


@pytest.mark.django_db
@pytest.mark.urls(__name__)
@given(
    value=st.one_of(
        st.text(st.characters(exclude_categories=[]), max_size=600).map(
            lambda text: text.encode(errors="surrogatepass")
        ),
        st.binary(max_size=300),
    )
)
@example(value=b"\0")
@example(value=b"\xed\xa0\x80")
@example(value="😀".encode() * 500)
@example(value="😀".encode() * 501)
@example(value=b"'; DROP TABLE affiliations_visitor; --")
def test_a_click_id_is_stored_as_it_was_or_not_at_all(browser, partner, value: bytes) -> None:
    """A cut or mended one would be another click's."""
    browser.get(f"/?affiliate_id={partner.uid}&click_id={quote_from_bytes(value)}&sub1=x")

    stored = Visitor.objects.latest("pk").click_id
    is_storable = is_text(value) and not db.UNSTORABLE.search(value.decode())
    if is_storable and len(value.decode()) <= 500:
        assert stored == value.decode()
    else:
        assert stored == ""


header_junk = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=40).map(str.encode),
    junk,
    st.sampled_from([b"http://", b"https://[", b"https://user:pass@", b"data:"]).flatmap(
        lambda start: junk.map(lambda rest: start + rest)
    ),
)


@pytest.mark.slow
@pytest.mark.django_db
@pytest.mark.urls(__name__)
@given(name=st.sampled_from(["Referer", "User-Agent", "Sec-Fetch-Site"]), value=header_junk)
@example(name="Referer", value=b"https://" + b"\xe2\x84\x80" + b".example/")
@example(name="Referer", value=b"https://[::1]]/")
@example(name="Referer", value=b"https://blog.example/" + b"\xc3\xa9" * 5000)
def test_whatever_a_header_says_the_visitor_is_registered(
    browser, partner, name: str, value: bytes
) -> None:
    assume(not re.search(rb"(?i)bot|spider|crawl|http", value) or name == "Referer")
    visitors = Visitor.objects.count()

    answer = browser.request("GET", f"/?affiliate_id={partner.uid}", {name: value})

    assert (answer.status, answer["Location"]) == (302, b"/")
    assert Visitor.objects.count() == visitors + 1
    referrer = Visitor.objects.latest("pk").referrer
    assert not referrer or urlsplit(referrer).scheme in ("http", "https")
    assert "?" not in referrer


@pytest.mark.django_db
@pytest.mark.urls(__name__)
@given(
    name=st.sampled_from(["Host", "Cookie", "X-Forwarded-Host", "Purpose", "Sec-Fetch-Dest"]),
    value=header_junk,
    allowed=st.sampled_from([["*"], ["shop.example"]]),
)
@example(name="Host", value=b"evil.example", allowed=["*"])
@example(name="Host", value=b"evil.example", allowed=["shop.example"])
@example(name="Host", value=b"shop.example@evil.example", allowed=["*"])
@example(name="Cookie", value=b"sessionid=../../etc/passwd", allowed=["*"])
@example(name="Cookie", value=b"sessionid=" + b"x" * 8000, allowed=["*"])
def test_whatever_a_header_says_the_redirect_stays_here(
    browser, partner, name: str, value: bytes, allowed: list[str]
) -> None:
    """(D8)"""
    with override_settings(ALLOWED_HOSTS=allowed, USE_X_FORWARDED_HOST=True):
        answer = browser.request("GET", f"/?affiliate_id={partner.uid}", {name: value})

    assert answer.status in (302, 400, 503)
    assert answer.status != 302 or answer["Location"] == b"/"


@pytest.mark.django_db
@pytest.mark.urls(__name__)
@given(value=header_junk, is_begun=st.booleans())
@example(value=b'"\\377\\000"', is_begun=False)
@example(value=b"1:" + b"x" * 8000, is_begun=False)
@example(value=b":", is_begun=True)
def test_whatever_our_cookie_holds_the_visitor_is_registered_and_nobody_else(
    browser, partner, settings, value: bytes, is_begun: bool
) -> None:
    """What is asked for on arriving is who was here before."""
    settings.AFFILIATE_COOKIE_NAME = "referral"
    browser.cookies.clear()
    if is_begun:  # as if it had been written here, and changed
        browser.get(f"/?affiliate_id={partner.uid}")
        value = browser.cookies["referral"].encode() + (value or b"x")
        browser.cookies.clear()
    # Where Django parts cookies, and the blanks that it drops around them.
    texts = value.decode("latin-1"), value.decode(errors="replace")
    assume(not is_begun or all(re.fullmatch(r"[^;\s]+", text) for text in texts))
    visitors = Visitor.objects.count()

    answer = browser.get(f"/?affiliate_id={partner.uid}", Cookie=b"referral=" + value)

    assert (answer.status, answer["Location"]) == (302, b"/")
    assert Visitor.objects.count() == visitors + 1
    assert Visitor.objects.latest("pk").previous is None


@pytest.mark.django_db
@pytest.mark.urls(__name__)
@given(
    before=st.binary(max_size=4),
    kept=st.integers(0, 70),
    after=st.one_of(st.binary(max_size=8), st.text(":-_aZ0", max_size=8).map(str.encode)),
)
@example(before=b"", kept=70, after=b"")
@example(before=b"", kept=70, after=b".")
@example(before=b"", kept=70, after=b"A")
@example(before=b"", kept=8, after=b":\xff:\xff")
@example(before=b"&", kept=0, after=b"=")
@example(before=b"?a", kept=0, after=b"=")
@example(before=b";=\0", kept=0, after=b"")
def test_nobody_is_a_test_whose_link_was_not_signed_here(
    browser, partner, before: bytes, kept: int, after: bytes
) -> None:
    signed = links.signed_uid(partner.uid).encode()
    value = before + signed[:kept] + after
    # What a chat puts behind a link does not matter.
    is_ours = re.fullmatch(re.escape(signed) + rb"[^A-Za-z0-9_\0-]*", value) is not None
    tests = Visitor.objects.filter(is_test=True).count()

    answer = browser.get(f"/?affiliate_id={quote_from_bytes(value)}&a=1")

    # What may be another parameter behind a separator stays.
    rest = re.search(rb"[?&;].*=", value, re.DOTALL)
    assert answer.status == 302
    assert answer["Location"].endswith(b"a=1") if rest else answer["Location"] == b"/?a=1"
    assert Visitor.objects.filter(is_test=True).count() == tests + is_ours


@pytest.mark.parametrize("word", ["Spider", "ContextualBot", "Current", "a", "Mozilla/5.0 "])
def test_a_user_agent_that_is_a_bomb_of_regular_expressions_takes_no_time(
    browser, partner, word: str
) -> None:
    """The patterns of known crawlers hold `Spider[\\s\\S]*spider`: the square of the length."""
    browser.get(partner.link("/"))  # compiles the patterns

    def click(length: int) -> None:
        answer = browser.get(partner.link("/page/"), User_Agent=(word * length)[:length])
        assert answer.status == 302

    assert_linear(click, 60_000)
    assert Visitor.objects.count() > 1


# Real servers.

SERVERS = {
    "gunicorn": ("--limit-request-line", "0", "--limit-request-field_size", "0"),
    # h11 lets such long lines in. Its own limit of 64 KB holds only if a line comes in two parts.
    "uvicorn": ("--http", "h11", "--h11-max-incomplete-event-size", "262144"),
}


@pytest.fixture(scope="module", params=SERVERS)
def port(request: pytest.FixtureRequest, django_db_setup: None) -> Iterator[int]:
    with serving(request.param, *SERVERS[request.param]) as port:
        yield port


@pytest.fixture
def strangers(port: int, transactional_db: None) -> tuple[SocketBrowser, Partner]:
    return SocketBrowser(port), PartnerFactory()


def landing(browser: Browser, target: bytes, uid: str, **headers: bytes) -> Answer:
    browser.cookies.clear()  # somebody else's visit
    return browser.get(target.replace(b"UID", uid.encode()), Host="shop.example", **headers)


@pytest.mark.server
@pytest.mark.parametrize(
    "group",
    [
        {
            b"//evil.example/?affiliate_id=UID": b"/%2Fevil.example/",
            b"//evil.example?affiliate_id=UID": b"/%2Fevil.example",
            b"///evil.example/?affiliate_id=UID": b"/%2F/evil.example/",
            b"/%2Fevil.example/?affiliate_id=UID": b"/%2Fevil.example/",
            b"/%2f%2fevil.example/?affiliate_id=UID": b"/%2F/evil.example/",
            b"/\\evil.example/?affiliate_id=UID": b"/%5Cevil.example/",
            b"/\\/evil.example/?affiliate_id=UID": b"/%5C/evil.example/",
            b"/%5Cevil.example/?affiliate_id=UID": b"/%5Cevil.example/",
            b"/%09/evil.example/?affiliate_id=UID": b"/%09/evil.example/",
            b"/%0D%0ASet-Cookie:%20a=1/?affiliate_id=UID": b"/%0D%0ASet-Cookie:%20a%3D1/",
            b"/%00/?affiliate_id=UID": b"/%00/",
            b"/@evil.example/?affiliate_id=UID": b"/@evil.example/",
            b"/http://evil.example/?affiliate_id=UID": b"/http://evil.example/",
        },
        {
            b"/?affiliate_id=UID&" + others: b"/?" + others
            for others in (
                b"a=&b&=&==&&",
                b"a=1&b=2&a=3",
                b"q=%e9+%E9&q=%c3%a9&q=%C3%A9",
                b"q=%zz%&q=%&q=%f",
                b"q=%00%0d%0a%0D%0ASet-Cookie:%20a=1",
                b"q='\"<>()[]{}|\\^`~!*@:;,$/?",
                b"next=//evil.example/&next=http://evil.example/",
                b"click_id=%00&sub1=%FF&sub2=%ED%A0%80&sub3=" + b"%F0%9F%98%80" * 300,
                b"click_id=%27%3B%20DROP%20TABLE%20affiliations_visitor%3B%20--",
                b"click_id=1&click_id=2&click_id",
                b"q=" + b"x" * 7_000,
                b"q=" + b"%41" * 33_000,
            )
        },
    ],
    ids=["paths", "queries"],
)
def test_a_real_server_lets_nothing_through_that_leads_away_or_changes_a_byte(
    strangers: tuple[SocketBrowser, Partner], group: dict[bytes, bytes]
) -> None:
    """(D8, D9)"""
    browser, partner = strangers

    for number, (target, location) in enumerate(group.items(), start=1):
        answer = landing(browser, target, partner.uid)

        assert (answer.status, answer["Location"]) == (302, location), target
        assert [name for name, _ in answer.headers if name.lower() == "a"] == []
        assert answer["Set-Cookie"].startswith(b"sessionid=")
        assert Visitor.objects.count() == number, target


@pytest.mark.server
def test_a_real_server_registers_nobody_for_a_uid_that_is_none(
    strangers: tuple[SocketBrowser, Partner],
) -> None:
    """(D7, D10)"""
    browser, partner = strangers

    for uid in (b"", b"%00", b"UID%00", b"%00UID", b"%FF", b"%", b"%zz", b"UIDx", b"x" * 60_000):
        target = b"/page/?a=1&affiliate_id=" + uid + b"&b=2"
        answer = landing(browser, target, partner.uid)

        assert (answer.status, answer["Location"]) == (302, b"/page/?a=1&b=2"), uid
        assert "Set-Cookie" not in answer, uid
    assert not Visitor.objects.exists()


@pytest.mark.server
def test_a_real_server_answers_what_is_no_http_without_a_failure_or_a_way_off_the_site(
    strangers: tuple[SocketBrowser, Partner],
) -> None:
    """Most of it is the server's to refuse; what comes through is ours."""
    browser, partner = strangers

    for target in (
        b"http://evil.example/?affiliate_id=UID",
        b"http:evil.example/?affiliate_id=UID",
        b"evil.example/?affiliate_id=UID",
        b"\\\\evil.example/?affiliate_id=UID",
        b"*?affiliate_id=UID",
        b"?affiliate_id=UID",
        b"/?a=\x00&affiliate_id=UID",
        b"/?a=\x0b\x7f&affiliate_id=UID",
        b"/?a=\xff&affiliate_id=UID",
        b"/\xff/?affiliate_id=UID",
        b"/?a=\xc3\xa9&affiliate_id=UID",
        b"/?a=b c&affiliate_id=UID",
        b"/?a=1\r\nLocation: http://evil.example/&affiliate_id=UID",
        b"/?affiliate_id=UID#affiliate_id=UID",
    ):
        answer = landing(browser, target, partner.uid)

        assert answer.status in (302, 400), target
        assert answer.status != 302 or stays_here(answer["Location"]), target


@pytest.mark.server
def test_a_real_server_registers_whoever_has_strange_headers(
    strangers: tuple[SocketBrowser, Partner],
) -> None:
    browser, partner = strangers

    for number, headers in enumerate(
        (
            {"Referer": b"\xff\xfe"},
            {"Referer": b"https://[::1"},
            {"Referer": b"https://user:secret@blog.example/?secret#secret"},
            {"Referer": b"https://blog.example/" + b"x" * 7_000},
            {"User_Agent": b"\xff\xfe%00"},
            {"User_Agent": b"Spider" * 1_300},
            {"Cookie": b"sessionid=../../etc/passwd; \xff=\xff"},
            {"Cookie": b"sessionid=" + b"x" * 7_000},
            {"Sec_Fetch_Site": b"cross-site"},
        ),
        start=1,
    ):
        answer = landing(browser, b"/?affiliate_id=UID", partner.uid, **headers)

        assert (answer.status, answer["Location"]) == (302, b"/"), headers
        assert Visitor.objects.count() == number, headers
    assert not Visitor.objects.filter(referrer__contains="secret").exists()


@pytest.mark.server
def test_a_real_server_is_not_misled_by_the_host_or_the_prefix(
    strangers: tuple[SocketBrowser, Partner],
) -> None:
    """(D8) Some servers take the prefix from a header."""
    browser, partner = strangers
    target = f"/?affiliate_id={partner.uid}"

    for host in (
        b"evil.example",
        b"shop.example@evil.example",
        b"shop.example:80@evil.example",
        b"shop.example/evil",
        b"shop.example\\evil",
        b"[::1",
        b"\xff",
        b"..",
        b"",
        b"x" * 7_000,
    ):
        answer = browser.request("GET", target, {"Host": host})
        assert answer.status == 400, host
        assert "Location" not in answer, host
    for prefix in (b"//evil.example", b"/\\evil.example", b"/%09/evil.example"):
        answer = browser.request(
            "GET", prefix + target.encode(), {"Host": "shop.example", "SCRIPT_NAME": prefix}
        )
        assert answer.status == 302, prefix
        assert stays_here(answer["Location"]), prefix
