"""
Whom a request belongs to, and when a session forgets it.

What goes through a view is asked under WSGI and under ASGI alike.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import AnonymousUser
from django.contrib.sessions.backends.db import SessionStore
from django.db import connection, transaction
from django.http import HttpRequest, HttpResponse
from django.test.utils import CaptureQueriesContext
from django.urls import include, path
from django.utils import timezone
from django.utils.functional import SimpleLazyObject
from django.views.decorators.csrf import csrf_exempt

from affiliations import visitors
from affiliations.models import Visitor
from affiliations.signals import visitor_registered
from affiliations.triggers import acomplete_trigger, complete_trigger
from tests.browsers import HANDLERS, Browser
from tests.factories import PartnerFactory, SubscriptionFactory, UserFactory, VisitorFactory

pytestmark = pytest.mark.urls(__name__)

OURS = "affiliations.middleware.AffiliateVisitorsRegistrationMiddleware"
SESSIONS = "django.contrib.sessions.middleware.SessionMiddleware"
KEY = "affiliate_visitor_id"
LONG_AGO = timedelta(days=400)


def whose(request: HttpRequest) -> HttpResponse:
    visitor = visitors.current(request)
    return HttpResponse("nobody" if visitor is None else str(visitor.pk))


async def awhose(request: HttpRequest) -> HttpResponse:
    visitor = await visitors.acurrent(request)
    return HttpResponse("nobody" if visitor is None else str(visitor.pk))


@csrf_exempt
def order(request: HttpRequest) -> HttpResponse:
    """Credit the visitor whom the order names, else the request's own; say whose it is then."""
    stated = Visitor.objects.filter(pk=request.GET.get("of")).first()
    complete_trigger(request, "Order placed", visitor=stated, reference="17")
    return HttpResponse("done") if stated else whose(request)


@csrf_exempt
async def aorder(request: HttpRequest) -> HttpResponse:
    stated = await Visitor.objects.filter(pk=request.GET.get("of")).afirst()
    await acomplete_trigger(request, "Order placed", visitor=stated, reference="17")
    return HttpResponse("done") if stated else await awhose(request)


def log_out(request: HttpRequest) -> HttpResponse:
    complete_trigger(request, "Order placed", reference="17")
    request.session.flush()
    return HttpResponse("done")


async def alog_out(request: HttpRequest) -> HttpResponse:
    await acomplete_trigger(request, "Order placed", reference="17")
    await request.session.aflush()
    return HttpResponse("done")


urlpatterns = [
    path("whose/", whose),
    path("order/", order),
    path("log-out/", log_out),
    path(
        "async/",
        include([path("whose/", awhose), path("order/", aorder), path("log-out/", alog_out)]),
    ),
]


@pytest.fixture(params=HANDLERS)
def browser(request: pytest.FixtureRequest) -> Browser:
    return request.param()


@pytest.fixture(params=["current", "acurrent"])
def ask(request: pytest.FixtureRequest) -> Callable[[HttpRequest], Visitor | None]:
    return visitors.current if request.param == "current" else async_to_sync(visitors.acurrent)


@pytest.fixture(autouse=True)
def own_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail every test in which something of ours went wrong and was only logged."""
    yield
    assert [record for record in caplog.records if record.name == "affiliations"] == []


def request_with(remembered: object, **attributes: object) -> HttpRequest:
    """Make a request whose browser has a session that remembers something."""
    store = SessionStore()
    store[KEY] = remembered
    store.save()
    request = HttpRequest()
    request.session = SessionStore(store.session_key)
    for name, value in attributes.items():
        setattr(request, name, value)
    return request


def session_of(browser: Browser) -> dict[str, Any]:
    return SessionStore(browser.cookies["sessionid"]).load()


# Asking.


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("window", "came", "is_known"),
    [
        (timedelta(days=30), timedelta(days=29, hours=23), True),
        (timedelta(days=30), timedelta(days=30, seconds=1), False),
        (None, LONG_AGO, True),
        (timedelta(hours=1), timedelta(hours=2), False),
    ],
)
def test_a_visitor_counts_inside_the_window(ask, settings, window, came, is_known: bool) -> None:
    settings.AFFILIATE_ATTRIBUTION_WINDOW = window
    visitor = VisitorFactory()
    Visitor.objects.update(referred_on=timezone.now() - came)

    assert ask(request_with(visitor.pk)) == (visitor if is_known else None)


@pytest.mark.django_db
def test_a_visitor_counts_while_the_partner_is_active(ask) -> None:
    visitor = VisitorFactory()
    assert ask(request_with(visitor.pk)) == visitor

    visitor.partner.active = False
    visitor.partner.save()

    assert ask(request_with(visitor.pk)) is None


@pytest.mark.django_db
def test_a_closed_referral_counts_as_absent(ask) -> None:
    assert ask(request_with(VisitorFactory(closed_on=timezone.now()).pk)) is None


@pytest.mark.django_db
def test_a_success_alone_decides_nothing(ask) -> None:
    visitor = VisitorFactory(successful_on=timezone.now())

    assert ask(request_with(visitor.pk)) == visitor


@pytest.mark.django_db
@pytest.mark.parametrize("remembered", [0, -1, 2**31, 2**80, "", "1", "x", None, [1], {}, 1.5])
def test_whatever_else_stands_in_the_session_is_nobody(ask, remembered: object) -> None:
    VisitorFactory(pk=1)

    assert ask(request_with(remembered)) is None


@pytest.mark.django_db
def test_a_visitor_who_was_deleted_is_nobody(ask) -> None:
    visitor = VisitorFactory()
    request = request_with(visitor.pk)
    visitor.delete()

    assert ask(request) is None


@pytest.mark.django_db
def test_the_visitor_comes_with_the_partner_in_one_query(ask, django_assert_num_queries) -> None:
    request = request_with(VisitorFactory().pk)
    request.session.get(KEY)

    with django_assert_num_queries(1):
        assert ask(request).partner.name


@pytest.mark.django_db
@pytest.mark.parametrize("is_known", [True, False])
def test_one_request_asks_once(ask, django_assert_num_queries, is_known: bool) -> None:
    request = request_with(VisitorFactory().pk if is_known else 10**6)
    first = ask(request)

    with django_assert_num_queries(0):
        assert ask(request) is first


@pytest.mark.django_db
def test_a_browser_without_a_session_is_not_given_one(ask, django_assert_num_queries) -> None:
    """(D4)"""
    request = HttpRequest()
    request.session = SessionStore()

    with django_assert_num_queries(0):
        assert ask(request) is None

    assert not request.session.accessed


@pytest.mark.django_db
def test_a_host_without_sessions_has_no_visitors(ask) -> None:
    assert ask(HttpRequest()) is None


@pytest.mark.django_db
def test_a_session_that_has_just_begun_may_remember_somebody(ask) -> None:
    visitor = VisitorFactory()
    request = HttpRequest()
    request.session = SessionStore()
    request.session[KEY] = visitor.pk

    assert ask(request) == visitor


@pytest.mark.django_db
def test_to_ask_again_in_an_async_view_changes_no_thread(monkeypatch) -> None:
    """Nor to ask for somebody whose session is empty or has never been."""
    given = []
    run_in_executor = asyncio.BaseEventLoop.run_in_executor

    def counting(loop: Any, *args: Any) -> Any:
        given.append(args)
        return run_in_executor(loop, *args)

    monkeypatch.setattr(asyncio.BaseEventLoop, "run_in_executor", counting)
    known, unknown, stranger = request_with(VisitorFactory().pk), request_with(None), HttpRequest()
    unknown.session.get(KEY)
    stranger.session = SessionStore()

    @async_to_sync
    async def ask_all() -> tuple[int, int]:
        await visitors.acurrent(known)
        once = len(given)
        await visitors.acurrent(known)
        await visitors.acurrent(unknown)
        await visitors.acurrent(stranger)
        return once, len(given)

    assert ask_all() == (1, 1)


# Registering.


@pytest.mark.django_db
def test_who_has_just_been_registered_is_the_requests_visitor(django_assert_num_queries) -> None:
    request = HttpRequest()
    request.session = SessionStore()

    visitor = visitors.register(request, PartnerFactory(), click_id="42")

    with django_assert_num_queries(0):
        assert visitors.current(request) is visitor
    assert request.session[KEY] == visitor.pk
    assert (visitor.click_id, visitor.user) == ("42", None)


@pytest.mark.django_db
def test_without_a_session_a_visitor_is_written_down_all_the_same() -> None:
    visitor = visitors.register(HttpRequest(), PartnerFactory())

    assert Visitor.objects.get() == visitor


@pytest.mark.django_db
def test_the_host_hears_of_a_visitor_once_it_is_certain(
    django_capture_on_commit_callbacks, caplog
) -> None:
    heard = []

    def listen(**kwargs: object) -> None:
        heard.append((kwargs["sender"], kwargs["visitor"], kwargs["request"]))

    def crash(**kwargs: object) -> None:
        raise ZeroDivisionError

    visitor_registered.connect(crash)
    visitor_registered.connect(listen)
    try:
        request = HttpRequest()
        with django_capture_on_commit_callbacks(execute=True):
            visitor = visitors.register(request, PartnerFactory())
            assert heard == []
    finally:
        visitor_registered.disconnect(crash)
        visitor_registered.disconnect(listen)

    assert heard == [(Visitor, visitor, request)]


@pytest.mark.django_db
def test_only_a_user_whom_a_row_can_point_to_is_a_user(monkeypatch) -> None:
    user = UserFactory()
    token_user = SimpleNamespace(is_authenticated=True, pk=1)
    lazy = SimpleLazyObject(lambda: user)

    def user_of(**attributes: object) -> object:
        return visitors.request_user(request_with(None, **attributes))

    assert user_of() is None
    assert user_of(user=None) is None
    assert user_of(user=AnonymousUser()) is None
    assert user_of(user=SimpleLazyObject(AnonymousUser)) is None
    assert user_of(user=token_user) is None
    assert user_of(user=user) == user
    assert user_of(user=lazy) == user
    monkeypatch.setattr(type(user), "is_authenticated", False)  # a row for all strangers
    assert user_of(user=user) is None


# The latest of a user.


@pytest.mark.django_db
def test_the_latest_open_referral_of_a_user_is_found_whatever_browser_it_came_to(
    django_assert_num_queries,
) -> None:
    user = UserFactory()
    _, latest, earlier = VisitorFactory.create_batch(3, user=user)
    now = timezone.now()
    Visitor.objects.update(referred_on=now)
    Visitor.objects.filter(pk=earlier.pk).update(referred_on=now - timedelta(days=1))
    VisitorFactory(user=user, closed_on=timezone.now())
    VisitorFactory(user=user, partner__active=False)
    VisitorFactory(user=UserFactory())
    VisitorFactory()
    expired = VisitorFactory(user=user)
    Visitor.objects.filter(pk=expired.pk).update(referred_on=timezone.now() - LONG_AGO)

    with django_assert_num_queries(1):
        found = visitors.latest_of(user)
        assert found.partner.active
    assert found == latest


@pytest.mark.django_db
def test_a_user_without_an_open_referral_has_none() -> None:
    assert visitors.latest_of(UserFactory()) is None


# Forgetting.


def referred(browser: Browser, **subscription: object) -> Visitor:
    """Let somebody come through a partner's link."""
    partner = PartnerFactory()
    SubscriptionFactory(partner=partner, **subscription)
    browser.get(partner.link("/"))
    return Visitor.objects.get(partner=partner)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("page", ["order/", "whose/"])
def test_a_closed_referral_is_forgotten_on_the_way_out(browser, page: str) -> None:
    """Whether this request closed it or found it closed."""
    visitor = referred(browser)
    if page == "whose/":
        Visitor.objects.update(closed_on=timezone.now())

    assert browser.get(browser.views + page).body == b"nobody"

    visitor.refresh_from_db()
    assert visitor.closed_on is not None
    assert session_of(browser) == {}


@pytest.mark.django_db(transaction=True)
def test_who_was_known_is_unknown_once_the_referral_is_closed(ask) -> None:
    visitor = VisitorFactory()
    request = request_with(visitor.pk)
    assert ask(request) == visitor

    with transaction.atomic():
        visitors.close_on_way_out(request, visitor)
        assert ask(request) == visitor

    assert ask(request) is None


@pytest.mark.django_db(transaction=True)
def test_what_else_the_session_holds_is_kept(browser) -> None:
    referred(browser)
    store = SessionStore(browser.cookies["sessionid"])
    store["basket"] = [1, 2]
    store.save()

    browser.get(f"{browser.views}order/")

    assert session_of(browser) == {"basket": [1, 2]}


@pytest.mark.django_db(transaction=True)
def test_an_open_referral_is_never_forgotten(browser) -> None:
    visitor = referred(browser, closes_referral=False)

    assert browser.get(f"{browser.views}order/").body.decode() == str(visitor.pk)

    visitor.refresh_from_db()
    assert visitor.successful_on is not None
    assert session_of(browser) == {KEY: visitor.pk}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("lapse", ["expired", "inactive"])
def test_a_referral_that_may_count_again_is_not_forgotten(browser, lapse: str) -> None:
    visitor = referred(browser)
    if lapse == "expired":
        Visitor.objects.update(referred_on=timezone.now() - LONG_AGO)
    else:
        visitor.partner.active = False
        visitor.partner.save()

    assert browser.get(f"{browser.views}whose/").body == b"nobody"
    assert session_of(browser) == {KEY: visitor.pk}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("middleware", [[SESSIONS, OURS], None])
def test_somebody_elses_referral_is_closed_and_ones_own_kept(
    browser, settings, middleware: list[str] | None
) -> None:
    """As when staff mark an order as paid, who came through a link themselves."""
    if middleware:
        settings.MIDDLEWARE = middleware
    buyer = referred(HANDLERS[0]())
    own = referred(browser)

    assert browser.get(f"{browser.views}order/?of={buyer.pk}").body == b"done"

    buyer.refresh_from_db()
    assert buyer.closed_on is not None
    assert session_of(browser) == {KEY: own.pk}
    assert browser.get(f"{browser.views}whose/").body.decode() == str(own.pk)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("middleware", [[SESSIONS, OURS], None])
def test_the_referral_that_an_order_names_is_forgotten_where_it_is_ones_own(
    browser, settings, middleware: list[str] | None
) -> None:
    if middleware:
        settings.MIDDLEWARE = middleware
    own = referred(browser)

    assert browser.get(f"{browser.views}order/?of={own.pk}").body == b"done"

    own.refresh_from_db()
    assert own.closed_on is not None
    assert session_of(browser) == {}


@pytest.mark.django_db(transaction=True)
def test_a_webhook_that_closes_a_referral_has_no_session_to_forget_it(browser, settings) -> None:
    settings.MIDDLEWARE = [SESSIONS, OURS]
    buyer = referred(HANDLERS[0]())

    answer = browser.get(f"{browser.views}order/?of={buyer.pk}")

    assert answer.status == 200
    assert "Vary" not in answer
    assert "Set-Cookie" not in answer


@pytest.mark.django_db(transaction=True)
def test_a_host_without_sessions_closes_referrals_too(browser, settings) -> None:
    settings.MIDDLEWARE = [OURS]
    buyer = VisitorFactory()
    SubscriptionFactory(partner=buyer.partner)

    assert browser.get(f"{browser.views}order/?of={buyer.pk}").body == b"done"

    buyer.refresh_from_db()
    assert buyer.closed_on is not None


@pytest.mark.django_db(transaction=True)
def test_a_session_that_ended_in_the_same_request_stays_empty(browser) -> None:
    referred(browser)

    assert browser.get(f"{browser.views}log-out/").status == 200

    assert "sessionid" not in browser.cookies


@pytest.mark.django_db(transaction=True)
def test_a_closing_that_is_rolled_back_forgets_nobody() -> None:
    """(D15)"""
    visitor = VisitorFactory()
    request = request_with(visitor.pk)
    assert visitors.current(request) == visitor

    with transaction.atomic():
        visitors.close_on_way_out(request, visitor)
        transaction.set_rollback(True)
    visitors.leave(request)

    assert request.session[KEY] == visitor.pk
    assert visitors.current(request) == visitor


@pytest.mark.django_db(transaction=True)
def test_a_newer_referral_is_not_forgotten_for_an_older_one() -> None:
    """(last link wins)"""
    older = VisitorFactory()
    request = request_with(older.pk)
    visitors.close_on_way_out(request, older)

    newer = visitors.register(request, PartnerFactory())
    visitors.leave(request)

    assert request.session[KEY] == newer.pk
    assert visitors.current(request) == newer


@pytest.mark.django_db
def test_a_request_that_closed_nothing_leaves_without_a_look_at_its_session() -> None:
    request = request_with(1)

    with CaptureQueriesContext(connection) as queries:
        visitors.leave(request)

    assert len(queries) == 0
    assert not request.session.accessed
