"""
Whom ``AFFILIATE_CONSENT`` keeps from being registered, and what comes of them.

Each is asked under WSGI and under ASGI.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from datetime import timedelta
from string import ascii_letters, digits
from typing import Any
from urllib.parse import quote

import pytest
from django.contrib.sessions.backends.db import SessionStore
from django.db import transaction
from django.db.models import Sum
from django.http import HttpRequest, HttpResponse
from django.urls import include, path
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt
from hypothesis import given
from hypothesis import strategies as st

from affiliations.models import FilteredClicks, Visitor
from affiliations.tracking import consent, visitors
from affiliations.tracking.clicks import Click
from affiliations.triggers import complete_trigger
from tests.arrivals import KEY, Wrapped, commit, held
from tests.browsers import HANDLERS, Browser
from tests.factories import PartnerFactory, SubscriptionFactory, UserFactory, VisitorFactory
from tests.test_cookie import signed
from tests.test_visitors import OURS, SESSIONS, awhose, request_with, whose

pytestmark = [pytest.mark.django_db, pytest.mark.urls(__name__)]

YES, NO, UNDECIDED = "yes", "no", ""
WAITING = f"{KEY}_waiting"

asked: list[HttpRequest] = []


def says(request: HttpRequest) -> bool | None:
    """Say what the visitor has said to the banner."""
    asked.append(request)
    return {"yes": True, "no": False}.get(request.COOKIES.get("consent", ""))


def broken(request: HttpRequest) -> bool:
    raise ZeroDivisionError


def undecided(request: HttpRequest) -> str:
    return "yes"


@csrf_exempt
def agree(request: HttpRequest) -> HttpResponse:
    """Hear that the visitor agrees; the page hands over the link where it still has it."""
    visitor = consent.register_visitor(request, request.POST.get("link", ""))
    is_open = visitor is not None and visitor.refusal(timezone.now()) is None
    assert bool(visitors.current_visitor(request)) >= is_open
    return HttpResponse("nobody" if visitor is None else str(visitor.pk))


@csrf_exempt
def disagree(request: HttpRequest) -> HttpResponse:
    consent.forget_visitor(request)
    assert visitors.current_visitor(request) is None
    return HttpResponse("done")


@csrf_exempt
async def aagree(request: HttpRequest) -> HttpResponse:
    visitor = await consent.aregister_visitor(request, request.POST.get("link", ""))
    is_open = visitor is not None and visitor.refusal(timezone.now()) is None
    assert bool(await visitors.acurrent_visitor(request)) >= is_open
    return HttpResponse("nobody" if visitor is None else str(visitor.pk))


@csrf_exempt
async def adisagree(request: HttpRequest) -> HttpResponse:
    await consent.aforget_visitor(request)
    assert await visitors.acurrent_visitor(request) is None
    return HttpResponse("done")


def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.META["QUERY_STRING"])


async def apage(request: HttpRequest) -> HttpResponse:
    return page(request)


urlpatterns = [
    path("page/", page),
    path("whose/", whose),
    path("agree/", agree),
    path("disagree/", disagree),
    path(
        "async/",
        include(
            [
                path("page/", apage),
                path("whose/", awhose),
                path("agree/", aagree),
                path("disagree/", adisagree),
            ]
        ),
    ),
]


@pytest.fixture(params=HANDLERS)
def browser(request: pytest.FixtureRequest) -> Browser:
    return request.param()


@pytest.fixture(autouse=True)
def asks_for_consent(settings) -> None:
    settings.AFFILIATE_CONSENT = f"{__name__}.says"
    asked.clear()


@pytest.fixture(autouse=True)
def own_log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Fail every test in which something of ours went wrong and was only logged."""
    caplog.set_level(logging.INFO, "affiliations")
    yield caplog
    assert [record for record in caplog.records if record.name == "affiliations"] == []


def follow(browser: Browser, link: str, said: str = UNDECIDED) -> Any:
    if said:
        browser.cookies["consent"] = said
    return browser.get(link)


def say(browser: Browser, what: str, link: str = "") -> str:
    body = f"link={quote(link)}".encode() if link else b""
    answer = browser.request("POST", f"{browser.views}{what}/", body=body)
    assert answer.status == 200
    return answer.body.decode()


def now_is(browser: Browser) -> str:
    return browser.get(f"{browser.views}whose/").body.decode()


def clicks_came_earlier(browser: Browser, **by: int) -> None:
    """Let what waits have waited for so long."""
    store = SessionStore(browser.cookies["sessionid"])
    for _, facts in store[WAITING]:
        facts["referred_on"] = (timezone.now() - timedelta(**by)).isoformat()
    store.modified = True
    store.save()


def uncounted() -> dict[str, int]:
    """Count what was not counted, by reason."""
    commit()
    counts: dict[str, int] = {}
    for row in FilteredClicks.objects.all():
        counts[row.reason] = counts.get(row.reason, 0) + row.count
    return counts


# Yes.


def test_who_agrees_is_registered_at_once(browser, partner) -> None:
    assert follow(browser, partner.link("/page/"), YES).status == 302

    assert now_is(browser) == str(Visitor.objects.get().pk)
    assert uncounted() == {}


# No.


@pytest.mark.django_db(transaction=True)
def test_who_refuses_sees_the_page_with_the_parameters_and_nothing_is_kept(
    browser, partner, django_assert_num_queries
) -> None:
    FilteredClicks.objects.bulk_create(
        FilteredClicks(
            key=f"{partner.pk}:{timezone.now():%Y%m%d}:no_consent:{slot}",
            partner=partner,
            day=timezone.now().date(),
            reason="no_consent",
            count=0,
        )
        for slot in range(8)
    )
    link = partner.link(f"{browser.views}page/?a=1", click_id="42")

    # Whose link it is, one more of them, and when it was.
    with django_assert_num_queries(3):
        answer = follow(browser, link, NO)

    assert answer.status == 200
    assert answer.body.decode() == link.partition("?")[2]
    assert "Set-Cookie" not in answer
    assert b"no-store" in answer["Cache-Control"]
    assert not Visitor.objects.exists()
    assert uncounted() == {"no_consent": 1}


def test_who_agrees_after_all_is_registered_by_the_link_that_the_page_has_kept(
    browser, partner
) -> None:
    link = partner.link("/page/?a=1", click_id="42", sub3="mail")
    follow(browser, link, NO)

    said = say(browser, "agree", f"https://shop.example{link}#part")

    visitor = Visitor.objects.get()
    assert said == now_is(browser) == str(visitor.pk)
    assert (visitor.click_id, visitor.sub3, visitor.referrer) == ("42", "mail", "")
    assert visitor.entry_point == ("http://shop.example/page/?a=1&click_id=42&sub3=mail")


@pytest.mark.parametrize(
    ("link", "entry_point"),
    [
        ("{}", "http://shop.example/page/?a=1"),
        ("https://evil.example{}", "http://shop.example/page/?a=1"),
        ("HTTPS://user:secret@shop.example:8443{}#x?y", "http://shop.example/page/?a=1"),
        ("//evil.example{}", "http://shop.example/%2Fevil.example/page/?a=1"),
        ("javascript://x{}", "http://shop.example/page/?a=1"),
        ("é b%20c{}", "http://shop.example/%C3%A9%20b%20c/page/?a=1"),
        ("\\\\evil.example{}", "http://shop.example/%5C%5Cevil.example/page/?a=1"),
    ],
)
def test_of_the_link_only_path_and_query_count(browser, partner, link: str, entry_point) -> None:
    say(browser, "agree", link.format(partner.link("/page/?a=1")))

    assert Visitor.objects.get().entry_point == entry_point


@pytest.mark.parametrize("site", ["", "https://shop.example", " https://shop.example"])
def test_a_url_in_the_query_of_a_link_is_kept(browser, partner, site: str) -> None:
    say(browser, "agree", f"{site}{partner.link('/page/?next=https://pay.example/a')}")

    entry_point = "http://shop.example/page/?next=https://pay.example/a"
    assert Visitor.objects.get().entry_point == entry_point


@pytest.mark.parametrize("link", ["/page/", "?", "https://[", "affiliate_id=1", "?a=1", "\ud800"])
def test_a_link_without_the_key_registers_nobody(link: str) -> None:
    request = request_with(None)

    assert consent.register_visitor(request, link) is None
    assert uncounted() == {}


def test_a_link_with_half_a_character_registers_the_visitor(partner) -> None:
    request = request_with(None, META={"HTTP_HOST": "shop.example"})

    assert consent.register_visitor(request, f"{partner.link('/')}&a=\ud800") is not None


@pytest.mark.parametrize("active", [False, None])
def test_a_link_of_nobody_or_of_an_inactive_partner_registers_nobody(browser, active) -> None:
    partner = PartnerFactory(active=False) if active is False else PartnerFactory.build()

    assert say(browser, "agree", partner.link("/page/")) == "nobody"

    assert not Visitor.objects.exists()
    assert uncounted() == {"partner_inactive" if active is False else "unknown_partner": 1}


@given(before=st.text(st.characters(), max_size=30), after=st.text(st.characters(), max_size=30))
def test_whatever_stands_in_the_link_no_request_fails(partner, before: str, after: str) -> None:
    request = request_with(None)
    request.META["HTTP_HOST"] = "shop.example"

    consent.register_visitor(request, f"{before}?affiliate_id={partner.uid}&click_id={after}")
    consent.register_visitor(request, f"{before}?{after}&affiliate_id={partner.uid}")

    for visitor in Visitor.objects.all():
        assert visitor.entry_point.startswith("http://shop.example/")


def test_a_host_that_is_not_ours_is_refused_as_by_every_page(browser, partner, settings) -> None:
    settings.MIDDLEWARE = [SESSIONS, OURS]

    answer = browser.request(
        "POST",
        f"{browser.views}agree/",
        {"Host": "evil.example"},
        f"link={quote(partner.link('/'))}".encode(),
    )

    assert answer.status == 400
    assert not Visitor.objects.exists()


# Not decided yet.


def test_who_has_not_decided_goes_on_and_waits_in_the_session(browser, partner) -> None:
    answer = follow(browser, partner.link("/page/?a=1"))

    assert (answer.status, answer["Location"]) == (302, b"/page/?a=1")
    assert now_is(browser) == "nobody"
    assert not Visitor.objects.exists()
    assert uncounted() == {}
    assert list(SessionStore(browser.cookies["sessionid"]).load()) == [WAITING]


def test_who_then_agrees_is_registered_with_the_time_and_the_facts_of_the_click(
    browser, partner
) -> None:
    began = timezone.now()
    browser.get(
        partner.link("/page/?a=1", click_id="42", sub1="mail"), Referer="https://blog.example/?x"
    )
    ended = timezone.now()

    said = say(browser, "agree")

    visitor = Visitor.objects.get()
    assert said == now_is(browser) == str(visitor.pk)
    assert began <= visitor.referred_on <= ended
    assert visitor.entry_point == "http://shop.example/page/?a=1&click_id=42&sub1=mail"
    assert (visitor.click_id, visitor.sub1) == ("42", "mail")
    assert visitor.referrer == "https://blog.example/"
    assert WAITING not in SessionStore(browser.cookies["sessionid"]).load()
    assert say(browser, "agree") == "nobody"
    assert Visitor.objects.count() == 1


@pytest.mark.parametrize("model", ["last_click", "first_click"])
def test_a_click_that_has_waited_too_long_is_in_nobodys_way(browser, settings, model: str) -> None:
    """The first has expired when the visitor agrees."""
    settings.AFFILIATE_ATTRIBUTION_MODEL = model
    brief, usual = PartnerFactory(window=timedelta(hours=1)), PartnerFactory()
    for partner in (brief, usual):
        follow(browser, partner.link("/"))
    clicks_came_earlier(browser, hours=2)

    say(browser, "agree")

    later = Visitor.objects.get(partner=usual)
    assert Visitor.objects.filter(partner=brief).exists()
    assert now_is(browser) == str(later.pk)
    assert later.previous is None


def test_whoever_agrees_too_late_is_registered_and_nobodys_visitor_at_once(partner) -> None:
    request = request_with(None)
    request.META["HTTP_HOST"] = "shop.example"
    consent.defer(request, partner, Click.in_link(request, partner.link("/")).facts())
    (_, facts) = request.session[WAITING][0]
    facts["referred_on"] = (timezone.now() - timedelta(days=31)).isoformat()

    assert consent.register_visitor(request) == Visitor.objects.get()
    assert visitors.current_visitor(request) is None


@pytest.mark.parametrize("model", ["last_click", "first_click"])
def test_several_clicks_wait_and_are_registered_in_order(browser, settings, model: str) -> None:
    settings.AFFILIATE_ATTRIBUTION_MODEL = model
    partners = PartnerFactory.create_batch(2)
    for partner in [*partners, partners[1]]:
        follow(browser, partner.link("/"))

    say(browser, "agree")

    first, second, *more = Visitor.objects.order_by("pk")
    assert [first.partner, second.partner] == partners
    if model == "last_click":
        assert second.previous == first
        assert now_is(browser) == str(second.pk)
        assert more == []
        assert uncounted() == {"duplicate_click": 1}
    else:
        assert now_is(browser) == str(first.pk)


@pytest.mark.parametrize("model", ["last_click", "first_click"])
def test_of_many_clicks_five_wait_and_among_them_the_one_that_wins(
    browser, settings, model: str
) -> None:
    settings.AFFILIATE_ATTRIBUTION_MODEL = model
    partners = PartnerFactory.create_batch(7)
    for partner in partners:
        follow(browser, partner.link("/"))

    assert uncounted() == {"no_consent": 2}
    said = say(browser, "agree")

    kept = partners[2:] if model == "last_click" else partners[:5]
    assert [visitor.partner for visitor in Visitor.objects.order_by("pk")] == kept
    first = str(Visitor.objects.earliest("pk").pk)
    assert now_is(browser) == (said if model == "last_click" else first)


def test_what_waits_leaves_room_in_a_session_that_is_a_cookie(browser, partner, settings) -> None:
    """A browser drops one of more than 4,096 bytes, and with it whatever the host keeps there."""
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
    for number in range(6):
        noise = random.Random(number)
        labels = {
            name: "".join(noise.choices(ascii_letters + digits, k=250))
            for name in ("click_id", "sub1", "sub2")
        }
        browser.get(partner.link("/page/", **labels))
        assert len(browser.cookies["sessionid"]) < 3_100
    assert 0 < uncounted()["no_consent"] < 6

    say(browser, "agree")

    assert Visitor.objects.count() == 6 - uncounted()["no_consent"]
    assert Visitor.objects.filter(**labels).exists()


def test_a_click_that_is_too_long_to_wait_keeps_nobody_else_from_it(browser, partner) -> None:
    browser.get(partner.link("/page/", click_id="42"))
    browser.get(partner.link("/page/", sub1="茶" * 255, sub2="茶" * 255))
    assert uncounted() == {"no_consent": 1}

    say(browser, "agree")

    assert Visitor.objects.get().click_id == "42"


def test_what_waits_comes_before_the_click_of_who_has_agreed(browser) -> None:
    first, second = PartnerFactory.create_batch(2)
    follow(browser, first.link("/"))
    follow(browser, second.link("/"), YES)

    assert [visitor.partner for visitor in Visitor.objects.order_by("pk")] == [first, second]
    assert now_is(browser) == str(Visitor.objects.get(partner=second).pk)


def test_who_refuses_is_dropped_and_counted_as_such(browser, partner) -> None:
    follow(browser, partner.link("/"))

    say(browser, "disagree")

    assert uncounted() == {"no_consent": 1}
    assert say(browser, "agree") == "nobody"
    assert not Visitor.objects.exists()


def test_the_partner_must_still_be_there_and_active(browser) -> None:
    inactive, gone, active = PartnerFactory.create_batch(3)
    for partner in (inactive, gone, active):
        follow(browser, partner.link("/"))
    inactive.active = False
    inactive.save()
    gone.delete()

    say(browser, "agree")

    assert Visitor.objects.get().partner == active
    assert uncounted() == {"partner_inactive": 1, "unknown_partner": 1}


def test_without_sessions_nobody_can_wait(browser, partner, settings) -> None:
    settings.MIDDLEWARE = [OURS]

    answer = follow(browser, partner.link("/page/"))

    assert (answer.status, answer["Location"]) == (302, b"/page/")
    assert uncounted() == {"no_consent": 1}
    assert say(browser, "agree") == "nobody"
    assert say(browser, "disagree") == "done"


@pytest.mark.slow
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from([YES, NO, UNDECIDED, UNDECIDED, "agree", "disagree"]), st.booleans()
        ),
        max_size=10,
    )
)
@pytest.mark.parametrize("model", ["last_click", "first_click"])
def test_whatever_is_said_all_that_came_is_counted_or_not_or_waits(
    settings, model: str, steps: list[tuple[str, bool]]
) -> None:
    settings.AFFILIATE_ATTRIBUTION_MODEL = model
    browser, partners, came = HANDLERS[0](), PartnerFactory.create_batch(2), 0
    for said, which in steps:
        if said in ("agree", "disagree"):
            say(browser, said)
        else:
            browser.cookies.pop("consent", None)
            for label in ("", "a", "b", "c") if said == UNDECIDED else ("",):
                follow(browser, partners[which].link("/", sub1=label), said)
                came += 1

    commit()
    session = SessionStore(browser.cookies.get("sessionid")).load()
    counted = Visitor.objects.filter(partner__in=partners).count()
    rows = FilteredClicks.objects.filter(partner__in=partners)
    uncounted = rows.aggregate(sum=Sum("count"))["sum"] or 0
    assert counted + uncounted + len(session.get(WAITING, [])) == came


# Asking.


@pytest.mark.parametrize("headers", [{"User-Agent": "curl/8"}, {"Sec-Purpose": "prefetch"}])
def test_only_who_would_be_registered_is_asked(browser, partner, headers) -> None:
    browser.request("GET", partner.link("/"), headers)
    browser.request("HEAD", partner.link("/"))
    browser.get(PartnerFactory(active=False).link("/"))
    browser.get("/?affiliate_id=unknown1")
    browser.get(f"{browser.views}page/")
    assert asked == []

    follow(browser, partner.link("/"), YES)
    assert len(asked) == 1


@pytest.mark.parametrize("name", ["broken", "undecided", "nowhere"])
def test_who_cannot_be_asked_has_not_agreed(browser, partner, settings, own_log, name) -> None:
    settings.AFFILIATE_CONSENT = f"{__name__}.{name}"

    answer = browser.get(partner.link(f"{browser.views}page/"))

    assert answer.status == 200
    assert not Visitor.objects.exists()
    assert uncounted() == {"no_consent": 1}
    (record,) = (record for record in own_log.records if record.name == "affiliations")
    assert record.levelname == "ERROR"
    own_log.clear()


# Forgetting.


def test_who_changes_their_mind_is_forgotten_and_the_row_stays(browser, partner, settings) -> None:
    settings.AFFILIATE_COOKIE_NAME = "referral"
    follow(browser, partner.link("/"), YES)
    assert "referral" in browser.cookies

    say(browser, "disagree")

    assert now_is(browser) == "nobody"
    assert "referral" not in browser.cookies
    assert Visitor.objects.get().closed_on is None
    assert uncounted() == {}


def test_the_cookie_alone_is_forgotten_too(browser, partner, settings) -> None:
    settings.AFFILIATE_COOKIE_NAME = "referral"
    follow(browser, partner.link("/"), YES)
    del browser.cookies["sessionid"]

    say(browser, "disagree")

    assert "referral" not in browser.cookies


def test_who_was_registered_and_forgotten_in_one_request_has_no_cookie(partner, settings) -> None:
    settings.AFFILIATE_COOKIE_NAME = "referral"
    request, response = request_with(None), HttpResponse()

    visitors.register(request, partner)
    consent.forget_visitor(request)
    visitors.leave(request, response)

    assert response.cookies["referral"]["max-age"] == 0
    assert visitors.current_visitor(request) is None


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("what", ["agree", "disagree"])
def test_where_there_is_nothing_to_register_or_forget_it_costs_nothing(
    browser, what: str, django_assert_num_queries
) -> None:
    with django_assert_num_queries(0):
        answer = browser.request("POST", f"{browser.views}{what}/")

    assert "Set-Cookie" not in answer
    assert answer["Vary"] == b"Cookie"  # The view asks who it is now.


@pytest.mark.django_db(transaction=True)
def test_a_request_that_a_framework_has_wrapped_is_the_same_request(partner, settings) -> None:
    """What is noted on the wrapper would be lost on the way out."""
    settings.AFFILIATE_COOKIE_NAME = "referral"
    SubscriptionFactory(partner=partner)
    request, response = request_with(None), HttpResponse()
    request.META["HTTP_HOST"] = "shop.example"

    visitor = consent.register_visitor(Wrapped(request), partner.link("/"))
    assert (
        visitors.current_visitor(request) == visitors.current_visitor(Wrapped(request)) == visitor
    )
    visitors.leave(request, response)
    assert response.cookies["referral"]["max-age"] > 0

    assert complete_trigger(Wrapped(request), "Order placed", reference="17")
    visitors.leave(request, response)
    assert visitors.current_visitor(request) is None


def test_a_wrapped_request_is_forgotten_and_logged_in_as_any_other(partner, settings) -> None:
    settings.AFFILIATE_COOKIE_NAME = "referral"
    visitor, user = VisitorFactory(), UserFactory()
    request = request_with(visitor)

    visitors.link_user(None, user, Wrapped(request))
    assert visitors.current_visitor(request).user == user

    consent.forget_visitor(Wrapped(request))
    assert visitors.current_visitor(request) is None


# Failures.


@pytest.mark.parametrize(
    "waiting",
    [
        ["nonsense"],
        [[1, {}]],
        [[None, {"referred_on": "yesterday", "test_nonce": None}]],
        [[0, {"referred_on": "2026-11-23T00:00:00+00:00", "test_nonce": None, "sub1": None}]],
    ],
)
def test_a_failure_is_logged_and_the_request_goes_on(partner, own_log, waiting: Any) -> None:
    """Here the session holds what it cannot; the last is refused by the database itself."""
    for click in waiting:
        if click[0] == 0:
            click[0] = partner.uid
    request = request_with(None)
    request.session[WAITING] = waiting

    with transaction.atomic():
        assert consent.register_visitor(request) is None
        VisitorFactory()  # PostgreSQL would refuse, were the failure not kept apart

    assert Visitor.objects.count() == 1
    (record,) = (record for record in own_log.records if record.name == "affiliations")
    assert "could not be registered" in record.getMessage()
    own_log.clear()


@pytest.mark.django_db(transaction=True)
def test_in_a_transaction_it_is_counted_when_that_is_committed(partner) -> None:
    request = request_with(None)
    click = Click.in_link(request, partner.link("/"))
    request.META["HTTP_HOST"] = "shop.example"
    consent.defer(request, partner, click.facts())

    with transaction.atomic():
        consent.forget_visitor(request)
        assert not FilteredClicks.objects.exists()

    assert uncounted() == {"no_consent": 1}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("with_session", [True, False])
def test_rolled_back_everything_is_remembered_as_it_was(partner, settings, with_session) -> None:
    """Or the browser would be that of whoever is given the same key next, as on SQLite."""
    settings.AFFILIATE_COOKIE_NAME = "referral"
    open_one = VisitorFactory()
    request = request_with(None) if with_session else HttpRequest()
    request.COOKIES["referral"] = signed(open_one)
    if with_session:
        request.session.update(held(open_one))
    request.META["HTTP_HOST"] = "shop.example"
    consent.defer(request, partner, Click.in_link(request, partner.link("/")).facts())

    for _ in range(2):
        with transaction.atomic():
            assert (consent.register_visitor(request) is None) != with_session
            consent.register_visitor(request, link=PartnerFactory().link("/"))
            transaction.set_rollback(True)
        response = HttpResponse()
        visitors.leave(request, response)

        assert visitors.remembers(request, open_one)
        assert visitors.current_visitor(request) == open_one
        assert not response.cookies

    if with_session:
        registered = consent.register_visitor(request)
        assert registered.partner == partner
        assert registered.previous == open_one
        visitors.leave(request, HttpResponse())
        assert visitors.current_visitor(request) == registered


@pytest.mark.django_db(transaction=True)
def test_who_is_forgotten_after_a_rollback_is_not_remembered_again(partner, settings) -> None:
    settings.AFFILIATE_COOKIE_NAME = "referral"
    earlier = VisitorFactory()
    request, response = request_with(earlier), HttpResponse()
    request.META["HTTP_HOST"] = "shop.example"

    with transaction.atomic():
        assert consent.register_visitor(request, partner.link("/")) is not None
        transaction.set_rollback(True)
    consent.forget_visitor(request)
    visitors.leave(request, response)

    assert visitors.remembers_no_visitor(request)
    assert visitors.current_visitor(request) is None


def test_who_agrees_twice_at_once_has_come_once(partner) -> None:
    """Each request has loaded the session before the other has saved it."""
    requests = [request_with(None), request_with(None)]
    for request in requests:
        request.META["HTTP_HOST"] = "shop.example"
    first, second = requests
    consent.defer(first, partner, Click.in_link(first, partner.link("/", click_id="42")).facts())
    second.session.update(first.session.items())

    registered = [consent.register_visitor(request) for request in requests]

    assert registered == [Visitor.objects.get()] * 2
    assert visitors.remembers(second, registered[0])


def test_a_click_that_waits_counts_from_when_it_came(browser, partner, settings) -> None:
    settings.AFFILIATE_ATTRIBUTION_WINDOW = timedelta(days=3)
    follow(browser, partner.link("/"))
    clicks_came_earlier(browser, days=4)

    say(browser, "agree")

    browser.get(f"{browser.views}page/")
    assert Visitor.objects.exists()
    assert now_is(browser) == "nobody"
