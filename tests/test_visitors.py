"""
Whom a request belongs to, and when a session forgets it.

What goes through a view is asked under WSGI and under ASGI alike.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth import alogin, get_user_model, login
from django.contrib.auth.models import AnonymousUser
from django.contrib.sessions.backends.db import SessionStore
from django.core.exceptions import ValidationError
from django.db import DatabaseError, OperationalError, connection, transaction
from django.http import HttpRequest, HttpResponse
from django.test.utils import CaptureQueriesContext
from django.urls import include, path
from django.utils import timezone
from django.utils.functional import SimpleLazyObject
from django.views.decorators.csrf import csrf_exempt

from affiliations.exceptions import Reason
from affiliations.models import Visitor
from affiliations.signals import visitor_registered
from affiliations.tracking import visitors
from affiliations.triggers import acomplete_trigger, complete_trigger
from tests.arrivals import FINGERPRINT, KEY, held, remember
from tests.browsers import HANDLERS, Browser
from tests.factories import PartnerFactory, SubscriptionFactory, UserFactory, VisitorFactory

pytestmark = pytest.mark.urls(__name__)

OURS = "affiliations.middleware.AffiliateVisitorsRegistrationMiddleware"
SESSIONS = "django.contrib.sessions.middleware.SessionMiddleware"
LONG_AGO = timedelta(days=400)


def whose(request: HttpRequest) -> HttpResponse:
    visitor = visitors.current_visitor(request)
    return HttpResponse("nobody" if visitor is None else str(visitor.pk))


async def awhose(request: HttpRequest) -> HttpResponse:
    visitor = await visitors.acurrent_visitor(request)
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


def sign_in(request: HttpRequest) -> HttpResponse:
    login(
        request,
        get_user_model().objects.get(pk=request.GET["user"]),
        "django.contrib.auth.backends.ModelBackend",
    )
    return whose(request)


async def asign_in(request: HttpRequest) -> HttpResponse:
    user = await get_user_model().objects.aget(pk=request.GET["user"])
    await alogin(request, user, "django.contrib.auth.backends.ModelBackend")
    return await awhose(request)


def plain(request: HttpRequest) -> HttpResponse:
    return HttpResponse("plain")


async def aplain(request: HttpRequest) -> HttpResponse:
    return HttpResponse("plain")


urlpatterns = [
    path("whose/", whose),
    path("order/", order),
    path("log-out/", log_out),
    path("log-in/", sign_in),
    path("plain/", plain),
    path(
        "async/",
        include(
            [
                path("whose/", awhose),
                path("order/", aorder),
                path("log-out/", alog_out),
                path("log-in/", asign_in),
                path("plain/", aplain),
            ]
        ),
    ),
]


@pytest.fixture(params=HANDLERS)
def browser(request: pytest.FixtureRequest) -> Browser:
    return request.param()


@pytest.fixture(params=["current_visitor", "acurrent_visitor"])
def ask(request: pytest.FixtureRequest) -> Callable[[HttpRequest], Visitor | None]:
    return (
        visitors.current_visitor
        if request.param == "current_visitor"
        else async_to_sync(visitors.acurrent_visitor)
    )


@pytest.fixture(autouse=True)
def own_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail every test in which something of ours went wrong and was only logged."""
    yield
    assert [record for record in caplog.records if record.name == "affiliations"] == []


def request_with(remembered: object, **attributes: object) -> HttpRequest:
    """Make a request whose browser has a session that remembers a visitor, or something else."""
    store = SessionStore()
    if isinstance(remembered, Visitor):
        store.update(held(remembered))
    else:
        store.update({KEY: remembered, FINGERPRINT: "x" * 32})
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
    visitor.referred_on = timezone.now() - came
    visitor.save()

    assert ask(request_with(visitor)) == (visitor if is_known else None)


@pytest.mark.django_db
def test_a_visitor_counts_while_the_partner_is_active(ask) -> None:
    visitor = VisitorFactory()
    assert ask(request_with(visitor)) == visitor

    visitor.partner.active = False
    visitor.partner.save()

    assert ask(request_with(visitor)) is None


@pytest.mark.django_db
def test_a_closed_referral_counts_as_absent(ask) -> None:
    assert ask(request_with(VisitorFactory(closed_on=timezone.now()))) is None


@pytest.mark.django_db
def test_a_success_alone_decides_nothing(ask) -> None:
    visitor = VisitorFactory(successful_on=timezone.now())

    assert ask(request_with(visitor)) == visitor


@pytest.mark.django_db
@pytest.mark.parametrize("remembered", [0, -1, 2**31, 2**80, "", "1", "x", None, [1], {}, 1.5])
def test_whatever_else_stands_in_the_session_is_nobody(ask, remembered: object) -> None:
    VisitorFactory(pk=1)

    assert ask(request_with(remembered)) is None


@pytest.mark.django_db
def test_a_visitor_who_was_deleted_is_nobody(ask) -> None:
    visitor = VisitorFactory()
    request = request_with(visitor)
    visitor.delete()

    assert ask(request) is None


@pytest.mark.django_db
def test_the_visitor_comes_with_the_partner_in_one_query(ask, django_assert_num_queries) -> None:
    request = request_with(VisitorFactory())
    request.session.get(KEY)

    with django_assert_num_queries(1):
        assert ask(request).partner.name


@pytest.mark.django_db
@pytest.mark.parametrize("is_known", [True, False])
def test_one_request_asks_once(ask, django_assert_num_queries, is_known: bool) -> None:
    request = request_with(VisitorFactory() if is_known else 10**6)
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
    request.session.update(held(visitor))

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
    known, unknown, stranger = request_with(VisitorFactory()), request_with(None), HttpRequest()
    unknown.session.get(KEY)
    stranger.session = SessionStore()

    @async_to_sync
    async def ask_all() -> tuple[int, int]:
        await visitors.acurrent_visitor(known)
        once = len(given)
        await visitors.acurrent_visitor(known)
        await visitors.acurrent_visitor(unknown)
        await visitors.acurrent_visitor(stranger)
        return once, len(given)

    assert ask_all() == (1, 1)


# Registering.


@pytest.mark.django_db
def test_who_has_just_been_registered_is_the_requests_visitor(django_assert_num_queries) -> None:
    request = HttpRequest()
    request.session = SessionStore()

    visitor = visitors.register(request, PartnerFactory(), click_id="42")

    with django_assert_num_queries(0):
        assert visitors.current_visitor(request) is visitor
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


# The same link again.


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("window", "passed", "is_again"),
    [
        (timedelta(hours=1), timedelta(minutes=59), True),
        (timedelta(hours=1), timedelta(minutes=61), False),
        (timedelta(days=2), timedelta(days=1), True),
        (None, timedelta(0), False),
    ],
)
def test_the_same_link_soon_again_is_the_same_visitor(
    browser, partner, settings, window, passed: timedelta, is_again: bool
) -> None:
    settings.AFFILIATE_CLICK_DEDUPE_WINDOW = window
    link = partner.link("/plain/", click_id="42", sub2="top")
    browser.get(link)
    Visitor.objects.update(referred_on=timezone.now() - passed)
    remember(SessionStore(browser.cookies["sessionid"]), Visitor.objects.get())

    answer = browser.get(link)

    assert (answer.status, answer["Location"]) == (302, b"/plain/?click_id=42&sub2=top")
    assert Visitor.objects.count() == (1 if is_again else 2)
    assert browser.get(f"{browser.views}whose/").body.decode() == str(
        Visitor.objects.latest("pk").pk
    )


@pytest.mark.django_db
@pytest.mark.parametrize(
    "other",
    [
        {"click_id": "43", "sub1": "a"},
        {"click_id": "42", "sub1": "b"},
        {"click_id": "42", "sub1": "a", "sub5": "c"},
        {"click_id": "42"},
        {},
    ],
)
def test_another_click_of_the_partner_is_another_visitor(browser, partner, other) -> None:
    browser.get(partner.link("/", click_id="42", sub1="a"))
    browser.get(partner.link("/", **other))

    assert Visitor.objects.count() == 2


@pytest.mark.django_db
def test_the_page_may_be_another(browser, partner) -> None:
    browser.get(partner.link("/"))
    browser.get(partner.link("/plain/"))

    assert Visitor.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_once_the_referral_is_closed_the_same_link_is_a_new_visitor(browser) -> None:
    first = referred(browser)
    browser.get(f"{browser.views}order/")

    browser.get(first.partner.link("/"))

    assert Visitor.objects.latest("pk") != first
    assert Visitor.objects.latest("pk").previous is None


@pytest.mark.django_db
def test_another_browser_is_another_visitor(browser, partner) -> None:
    browser.get(partner.link("/"))
    HANDLERS[0]().get(partner.link("/"))

    assert Visitor.objects.count() == 2


# Whose referral it is after a second link.


@pytest.mark.django_db
@pytest.mark.parametrize("model", ["last_click", "first_click"])
@pytest.mark.parametrize("lapse", [None, "expired", "inactive", "closed", "deleted"])
def test_the_last_or_the_first_open_referral_wins(browser, settings, model, lapse) -> None:
    """What is not open any more gives way in either model, and is not told as displaced."""
    settings.AFFILIATE_ATTRIBUTION_MODEL = model
    first, second = PartnerFactory.create_batch(2)
    browser.get(first.link("/"))
    earlier = Visitor.objects.get()
    if lapse == "expired":
        Visitor.objects.update(referred_on=timezone.now() - LONG_AGO)
    elif lapse == "inactive":
        first.active = False
        first.save()
    elif lapse == "closed":
        Visitor.objects.update(closed_on=timezone.now())
    elif lapse == "deleted":
        earlier.delete()

    browser.get(second.link("/"))

    later = Visitor.objects.get(partner=second)
    stays = lapse is None and model == "first_click"
    displaces = lapse is None and model == "last_click"
    winner = earlier if stays else later
    assert browser.get(f"{browser.views}whose/").body.decode() == str(winner.pk)
    assert later.previous == (earlier if displaces else None)


@pytest.mark.django_db
@pytest.mark.parametrize("model", ["last_click", "first_click"])
def test_a_second_link_costs_one_query_more(
    browser, settings, model: str, django_assert_num_queries
) -> None:
    """The session's two, the partner, the visitor who was here before, and the new row."""
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
    settings.AFFILIATE_ATTRIBUTION_MODEL = model
    first, second = PartnerFactory.create_batch(2)
    browser.get(first.link("/"))

    with django_assert_num_queries(3):
        browser.get(second.link("/"))


# The partner's own window.


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("general", "own", "came", "is_open"),
    [
        (timedelta(days=30), timedelta(days=60), timedelta(days=59), True),
        (timedelta(days=30), timedelta(days=60), timedelta(days=61), False),
        (timedelta(days=30), timedelta(hours=1), timedelta(minutes=59), True),
        (timedelta(days=30), timedelta(hours=1), timedelta(minutes=61), False),
        (timedelta(days=30), None, timedelta(days=29), True),
        (timedelta(days=30), None, timedelta(days=31), False),
        (None, timedelta(days=1), timedelta(hours=23), True),
        (None, timedelta(days=1), timedelta(hours=25), False),
        (None, None, LONG_AGO, True),
        (timedelta(days=1), timedelta(days=36_500), LONG_AGO, True),
        (timedelta(days=1), timedelta(seconds=1, microseconds=1), timedelta(seconds=2), False),
    ],
)
@pytest.mark.parametrize("use_tz", [True, False])
def test_a_partners_own_window_comes_before_that_of_the_settings(
    settings, general, own, came: timedelta, is_open: bool, use_tz: bool
) -> None:
    """Asked of the row, and of the database, which reckons by itself."""
    settings.AFFILIATE_ATTRIBUTION_WINDOW = general
    settings.USE_TZ = use_tz
    settings.TIME_ZONE = "Asia/Kathmandu"
    now = timezone.now()
    visitor = VisitorFactory(partner__window=own, referred_on=now - came)

    assert visitor.refusal(now) is (None if is_open else Reason.WINDOW_EXPIRED)
    assert list(Visitor.objects.open(now)) == ([visitor] if is_open else [])


@pytest.mark.django_db
def test_the_last_moment_of_a_window_is_the_same_for_the_row_and_for_the_database(settings) -> None:
    settings.AFFILIATE_ATTRIBUTION_WINDOW = timedelta(days=30)
    now = timezone.now().replace(microsecond=0)
    moments = [timedelta(0), timedelta(microseconds=1), timedelta(microseconds=-1)]
    for own in (None, timedelta(days=3)):
        for moment in moments:
            came = now - (own or timedelta(days=30)) + moment
            VisitorFactory(partner__window=own, referred_on=came)

    open_to_all = set(Visitor.objects.open(now))

    assert len(open_to_all) == 2
    for visitor in Visitor.objects.select_related("partner"):
        assert (visitor.refusal(now) is None) == (visitor in open_to_all)


@pytest.mark.django_db
def test_a_window_of_no_end_that_a_host_has_written_fails_nobody() -> None:
    """The Admin would refuse it."""
    visitor = VisitorFactory.build(partner__window=timedelta.max, referred_on=timezone.now())

    assert visitor.refusal(timezone.now()) is None
    with pytest.raises(ValidationError):
        visitor.partner.full_clean()


# Logging in.


def referred_anonymously(browser: Browser, partner: Any) -> Visitor:
    browser.get(partner.link("/"))
    visitor = Visitor.objects.get(partner=partner)
    assert visitor.user is None
    return visitor


@pytest.mark.django_db
def test_who_logs_in_is_the_visitors_user_from_then_on(browser, partner) -> None:
    visitor = referred_anonymously(browser, partner)
    user = UserFactory()

    assert browser.get(f"{browser.views}log-in/?user={user.pk}").body.decode() == str(visitor.pk)

    visitor.refresh_from_db()
    assert visitor.user == user
    assert visitors.visitor_of_user(user) == visitor
    assert browser.get(f"{browser.views}whose/").body.decode() == str(visitor.pk)


@pytest.mark.django_db
def test_who_logs_in_is_known_by_the_cookie_too(browser, partner, settings) -> None:
    settings.AFFILIATE_COOKIE_NAME = "referral"
    visitor = referred_anonymously(browser, partner)
    del browser.cookies["sessionid"]
    user = UserFactory()

    browser.get(f"{browser.views}log-in/?user={user.pk}")

    visitor.refresh_from_db()
    assert visitor.user == user


@pytest.mark.django_db
def test_the_user_of_a_visitor_is_never_another_s(browser, partner) -> None:
    visitor = referred_anonymously(browser, partner)
    first, second = UserFactory.create_batch(2)

    browser.get(f"{browser.views}log-in/?user={first.pk}")
    # Logged in over the other, Django begins another session: the cookie would remember.
    Visitor.objects.filter(pk=visitor.pk).update(user=first)
    visitors.link_user(None, second, request_with(visitor))

    visitor.refresh_from_db()
    assert visitor.user == first


@pytest.mark.django_db
def test_who_is_linked_a_moment_earlier_stays(partner) -> None:
    """By another request, after this one has read the row."""
    visitor, (first, second) = VisitorFactory(), UserFactory.create_batch(2)
    request = request_with(visitor)
    assert visitors.current_visitor(request).user is None
    Visitor.objects.update(user=first)

    visitors.link_user(None, second, request)

    visitor.refresh_from_db()
    assert visitor.user == first
    assert visitors.current_visitor(request).user is None


@pytest.mark.django_db
@pytest.mark.parametrize("lapse", [{"closed_on": timezone.now()}, {"partner__active": False}])
def test_only_an_open_referral_is_linked(lapse) -> None:
    visitor, user = VisitorFactory(**lapse), UserFactory()

    visitors.link_user(None, user, request_with(visitor))

    visitor.refresh_from_db()
    assert visitor.user is None


@pytest.mark.django_db
def test_a_login_without_a_request_or_without_a_visitor_costs_nothing(
    django_assert_num_queries,
) -> None:
    user, request = UserFactory(), HttpRequest()
    request.session = SessionStore()
    request.session["other"] = 1

    with django_assert_num_queries(0):
        visitors.link_user(None, user)
        visitors.link_user(None, user, request=None)
        visitors.link_user(None, user, request=HttpRequest())
        visitors.link_user(None, user, request=request)


@pytest.mark.django_db
def test_an_api_user_who_is_no_row_is_not_linked(django_assert_num_queries) -> None:
    request = request_with(VisitorFactory())
    token_user = SimpleNamespace(is_authenticated=True, pk=1)

    with django_assert_num_queries(0):
        visitors.link_user(None, token_user, request=request)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("in_transaction", [True, False])
def test_a_failure_never_fails_the_login(caplog, in_transaction: bool) -> None:
    """A user who was never saved cannot be pointed to."""
    visitor, nobody = VisitorFactory(), UserFactory.build(pk=None)
    request = request_with(visitor)

    with transaction.atomic() if in_transaction else nullcontext():
        visitors.link_user(None, nobody, request)
        VisitorFactory()  # PostgreSQL would refuse, were the failure not kept apart

    visitor.refresh_from_db()
    assert visitor.user is None
    (record,) = (record for record in caplog.records if record.name == "affiliations")
    assert record.getMessage() == "A visitor who has logged in could not be linked to the user."
    caplog.clear()


def ends_the_transaction(*args: object) -> None:
    """End the host's transaction, as a deadlock of MariaDB does."""
    with connection.cursor() as cursor:
        cursor.execute("ROLLBACK")
    raise DatabaseError("a deadlock")


@pytest.mark.django_db(transaction=True)
def test_a_failure_that_has_ended_the_hosts_transaction_is_told(monkeypatch) -> None:
    """Else the host would answer that all is well, and none of its work exist."""
    monkeypatch.setattr(visitors, "current_visitor", ends_the_transaction)
    request, user = request_with(VisitorFactory()), UserFactory()

    with pytest.raises(DatabaseError, match="a deadlock"), transaction.atomic():
        visitors.link_user(None, user, request)


@pytest.mark.django_db(transaction=True)
def test_in_a_transaction_that_is_lost_already_nothing_new_is_told(caplog) -> None:
    request, user = request_with(VisitorFactory()), UserFactory()

    with transaction.atomic():
        transaction.set_rollback(True)
        visitors.link_user(None, user, request)

    assert "could not be linked" in caplog.text
    caplog.clear()


@pytest.mark.django_db(transaction=True)
def test_a_database_that_cannot_be_reached_fails_no_login(monkeypatch, caplog) -> None:
    """Ours may be another than that of the users."""
    request, user = request_with(VisitorFactory()), UserFactory()

    def away() -> None:
        raise OperationalError("no route to host")

    monkeypatch.setattr(connection, "ensure_connection", away)
    visitors.link_user(None, user, request)

    assert "no route to host" in caplog.text
    caplog.clear()


# The latest of a user.


@pytest.mark.django_db
@pytest.mark.parametrize("model", ["last_click", "first_click"])
def test_the_latest_open_referral_of_a_user_is_found_whatever_browser_it_came_to(
    settings, model: str, django_assert_num_queries
) -> None:
    """The first, where the first wins."""
    settings.AFFILIATE_ATTRIBUTION_MODEL = model
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

    with django_assert_num_queries(1 if model == "last_click" else 2):
        found = visitors.visitor_of_user(user)
        assert found.partner.active
    assert found == (latest if model == "last_click" else earlier)


@pytest.mark.django_db
@pytest.mark.parametrize("model", ["last_click", "first_click"])
def test_of_a_user_too_a_test_gives_way_to_every_real_click(settings, model: str) -> None:
    settings.AFFILIATE_ATTRIBUTION_MODEL = model
    user, now = UserFactory(), timezone.now()

    def comes(days: int, is_test: bool = False) -> Visitor:
        return VisitorFactory(
            user=user, is_test=is_test, referred_on=now - timedelta(days=10 - days)
        )

    test = comes(1, is_test=True)
    assert visitors.visitor_of_user(user) == test
    real = comes(2)
    assert visitors.visitor_of_user(user) == real
    later = comes(3)
    assert visitors.visitor_of_user(user) == (later if model == "last_click" else real)
    comes(4, is_test=True)
    assert visitors.visitor_of_user(user) == (later if model == "last_click" else real)


@pytest.mark.django_db
def test_a_user_without_an_open_referral_has_none() -> None:
    assert visitors.visitor_of_user(UserFactory()) is None


@pytest.mark.django_db(databases=["default", "other"])
def test_nobody_is_asked_of_a_replica_that_may_not_have_heard_of_them(ask, settings) -> None:
    """The page that a landing leads to is asked for at once."""
    user = UserFactory()
    visitor, request = VisitorFactory(user=user), HttpRequest()
    request.session = SessionStore()
    request.session.update(held(visitor))
    settings.DATABASE_ROUTERS = ["tests.routers.ReplicaRouter"]

    assert ask(request) == visitor
    assert visitors.visitor_of_user(user) == visitor


# Forgetting.


def referred(browser: Browser, **subscription: object) -> Visitor:
    """Let somebody come through a partner's link."""
    partner = PartnerFactory()
    SubscriptionFactory(partner=partner, **subscription)
    browser.get(partner.link("/"))
    return Visitor.objects.get(partner=partner)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("page", ["order/", "whose/"])
def test_a_closed_referral_counts_as_absent_and_the_next_click_replaces_it(
    browser, page: str
) -> None:
    """Whether this request closed it or found it closed."""
    visitor = referred(browser)
    if page == "whose/":
        Visitor.objects.update(closed_on=timezone.now())

    assert browser.get(browser.views + page).body == b"nobody"

    visitor.refresh_from_db()
    assert visitor.closed_on is not None
    assert session_of(browser) == held(visitor)

    browser.get(visitor.partner.link("/"))
    newer = Visitor.objects.latest("pk")
    assert newer.previous is None
    assert session_of(browser) == held(newer)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("is_rolled_back", [False, True])
def test_who_was_known_is_unknown_while_the_referral_is_closed(ask, is_rolled_back: bool) -> None:
    visitor = VisitorFactory()
    SubscriptionFactory(partner=visitor.partner)
    request = request_with(visitor)
    assert ask(request) == visitor

    with transaction.atomic():
        complete_trigger(request, "Order placed", reference="17")
        assert ask(request) is None
        transaction.set_rollback(is_rolled_back)

    other = request_with(visitor)
    assert ask(other) == (visitor if is_rolled_back else None)


@pytest.mark.django_db(transaction=True)
def test_what_else_the_session_holds_is_kept(browser) -> None:
    visitor = referred(browser)
    store = SessionStore(browser.cookies["sessionid"])
    store["basket"] = [1, 2]
    store.save()

    browser.get(f"{browser.views}order/")

    assert session_of(browser) == {"basket": [1, 2]} | held(visitor)


@pytest.mark.django_db(transaction=True)
def test_an_open_referral_is_never_forgotten(browser) -> None:
    visitor = referred(browser, closes_referral=False)

    assert browser.get(f"{browser.views}order/").body.decode() == str(visitor.pk)

    visitor.refresh_from_db()
    assert visitor.successful_on is not None
    assert session_of(browser) == held(visitor)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("lapse", ["expired", "inactive"])
def test_a_referral_that_may_count_again_is_not_forgotten(browser, lapse: str) -> None:
    visitor = referred(browser)
    if lapse == "expired":
        visitor.referred_on = timezone.now() - LONG_AGO
        visitor.save()
        remember(SessionStore(browser.cookies["sessionid"]), visitor)
    else:
        visitor.partner.active = False
        visitor.partner.save()

    assert browser.get(f"{browser.views}whose/").body == b"nobody"
    assert session_of(browser) == held(visitor)


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
    assert session_of(browser) == held(own)
    assert browser.get(f"{browser.views}whose/").body.decode() == str(own.pk)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("middleware", [[SESSIONS, OURS], None])
def test_the_referral_that_an_order_names_counts_as_absent_where_it_is_ones_own(
    browser, settings, middleware: list[str] | None
) -> None:
    if middleware:
        settings.MIDDLEWARE = middleware
    own = referred(browser)

    assert browser.get(f"{browser.views}order/?of={own.pk}").body == b"done"

    own.refresh_from_db()
    assert own.closed_on is not None
    assert browser.get(f"{browser.views}whose/").body == b"nobody"
    assert session_of(browser) == held(own)


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
def test_whoever_comes_in_the_transaction_that_finds_another_closed_is_known_after_it() -> None:
    """As where somebody agrees to be remembered, and the host's request is one transaction."""
    closed = VisitorFactory(closed_on=timezone.now())
    request = request_with(closed)

    with transaction.atomic():
        assert visitors.current_visitor(request) is None
        newer = visitors.register(request, PartnerFactory())

    assert visitors.current_visitor(request) == newer
    visitors.leave(request, HttpResponse())
    assert request.session[KEY] == newer.pk


@pytest.mark.django_db
def test_a_request_that_closed_nothing_leaves_without_a_look_at_its_session() -> None:
    request = request_with(1)

    with CaptureQueriesContext(connection) as queries:
        visitors.leave(request, HttpResponse())

    assert len(queries) == 0
    assert not request.session.accessed


@pytest.mark.django_db
def test_a_visitor_whom_the_host_closes_counts_no_more_in_the_same_request() -> None:
    """``succeed()`` is a host's own conversion, as in 0.12."""
    visitor, other = VisitorFactory(), VisitorFactory()
    request = request_with(visitor)
    visitors.current_visitor(request).succeed()

    assert async_to_sync(visitors.acurrent_visitor)(request) is None
    assert visitors.current_visitor(request) is None

    visitors._remember(request, other)
    assert visitors.current_visitor(request) == other


@pytest.mark.django_db
@pytest.mark.parametrize("cookie", [None, "referral"])
def test_a_slower_request_erases_the_visitor_of_the_session_but_not_of_the_cookie(
    client, settings, cookie: str | None
) -> None:
    """Django saves a session whole. The page on the cookie says so."""
    settings.AFFILIATE_COOKIE_NAME = cookie
    store = SessionStore()
    store["basket"] = "tea"
    store.save()
    client.cookies["sessionid"] = store.session_key
    slower = SessionStore(store.session_key)
    slower["basket"] = "two teas"

    client.get("/", {"affiliate_id": PartnerFactory().uid})
    slower.save()

    request = HttpRequest()
    request.session = SessionStore(store.session_key)
    request.COOKIES = {name: morsel.value for name, morsel in client.cookies.items()}
    assert visitors.current_visitor(request) == (Visitor.objects.get() if cookie else None)
