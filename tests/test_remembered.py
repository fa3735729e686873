"""What a browser remembers is bound to the row: the same id in another database is nobody."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.contrib.sessions.backends.db import SessionStore
from django.core import signing
from django.core.management import call_command
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from affiliations import privacy
from affiliations.models import Conversion, Partner, Visitor
from affiliations.tracking import consent, visitors
from affiliations.tracking.clicks import Click
from affiliations.triggers import complete_trigger
from tests.arrivals import FINGERPRINT, KEY, request_of
from tests.browsers import HANDLERS, Browser
from tests.factories import PartnerFactory, SubscriptionFactory, UserFactory, VisitorFactory

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.test_visitors")]

NAME = "referral"
#: What no visitor's key is, also beyond the columns of each database.
NO_KEYS = [0, -1, 2**31, 2**63, 2**80, "", "1", "abc", [1], {"1": 1}, 1.0, 1.5, True, None]


@pytest.fixture(params=HANDLERS, ids=["wsgi", "asgi"])
def browser(request: pytest.FixtureRequest) -> Browser:
    return request.param()


@pytest.fixture(params=["session", "cookie", "both"])
def store(request: pytest.FixtureRequest, settings: Any) -> str:
    """Where the browser remembers the visitor."""
    if request.param != "session":
        settings.AFFILIATE_COOKIE_NAME = NAME
    return request.param


def land(browser: Browser, partner: Partner, store: str) -> Visitor:
    assert browser.get(partner.link("/")).status == 302
    if store == "cookie":
        del browser.cookies["sessionid"]
    return Visitor.objects.latest("pk")


def whose(browser: Browser) -> str:
    answer = browser.get(f"{browser.views}whose/")
    assert answer.status == 200
    return answer.body.decode()


def is_forgotten(browser: Browser) -> bool:
    """Tell whether the browser and its session hold nothing of ours any more."""
    session = SessionStore(browser.cookies.get("sessionid")).load()
    return NAME not in browser.cookies and not {KEY, FINGERPRINT} & set(session)


def later_click(visitor: Visitor) -> dict[str, Any]:
    return {"partner": visitor.partner}


def earlier_click(visitor: Visitor) -> dict[str, Any]:
    return {"partner": visitor.partner, "referred_on": visitor.referred_on - timedelta(days=1)}


def other_partner(visitor: Visitor) -> dict[str, Any]:
    return {"referred_on": visitor.referred_on}


@pytest.mark.parametrize("other", [later_click, earlier_click, other_partner])
def test_after_a_restore_the_same_id_is_not_the_same_visitor(
    browser: Browser, partner: Partner, store: str, other: Callable[[Visitor], dict[str, Any]]
) -> None:
    visitor = land(browser, partner, store)
    pk, facts = visitor.pk, other(visitor)
    visitor.delete()
    VisitorFactory(pk=pk, **facts)

    assert whose(browser) == "nobody"
    assert is_forgotten(browser)


def test_the_same_row_in_a_restored_database_is_the_same_visitor(
    browser: Browser, partner: Partner, store: str, tmp_path: Any
) -> None:
    """A fixture in JSON has no microseconds."""
    visitor = land(browser, partner, store)
    fixture, pk = tmp_path / "visitors.json", visitor.pk
    call_command("dumpdata", "affiliations.visitor", output=fixture, stdout=io.StringIO())
    visitor.delete()
    call_command("loaddata", fixture, verbosity=0)

    assert whose(browser) == str(pk)


def test_a_visitor_who_is_gone_is_forgotten_at_the_first_look(
    browser: Browser, partner: Partner, store: str
) -> None:
    land(browser, partner, store).delete()

    assert whose(browser) == "nobody"
    assert is_forgotten(browser)


def test_a_bare_id_in_the_session_is_forgotten(browser: Browser) -> None:
    session = SessionStore()
    session.update({KEY: VisitorFactory().pk, "basket": [1]})
    session.save()
    browser.cookies["sessionid"] = session.session_key

    assert whose(browser) == "nobody"
    assert is_forgotten(browser)
    assert SessionStore(session.session_key).load() == {"basket": [1]}


@pytest.mark.parametrize(
    "value",
    [
        lambda one, other: f"{one.pk}",
        lambda one, other: f"{one.pk}:",
        lambda one, other: f"{one.pk}:{other.fingerprint}",
        lambda one, other: f"{one.pk}:{one.fingerprint}:",
        lambda one, other: f"{one.pk}.0:{one.fingerprint}",
        lambda one, other: f"x:{one.fingerprint}",
        lambda one, other: f"{2**31}:{one.fingerprint}",
        lambda one, other: f"{2**80}:{one.fingerprint}",
        lambda one, other: f"{'9' * 5000}:{one.fingerprint}",
        lambda one, other: f":{one.fingerprint}",
        lambda one, other: one.fingerprint,
        lambda one, other: "",
    ],
)
def test_whatever_else_was_signed_here_is_forgotten(
    browser: Browser, settings: Any, value: Callable[[Visitor, Visitor], str]
) -> None:
    settings.AFFILIATE_COOKIE_NAME = NAME
    signed = signing.Signer(salt="affiliations.visitor").sign(
        value(*VisitorFactory.create_batch(2))
    )
    browser.cookies[NAME] = signed

    assert whose(browser) == "nobody"
    assert is_forgotten(browser)


def test_the_signature_of_one_id_does_not_fit_another(browser: Browser, settings: Any) -> None:
    settings.AFFILIATE_COOKIE_NAME = NAME
    visitor, other = land(browser, PartnerFactory(), "cookie"), VisitorFactory()
    _, rest = browser.cookies[NAME].split(":", 1)
    assert whose(browser) == str(visitor.pk)
    browser.cookies[NAME] = f"{other.pk}:{rest}"

    assert whose(browser) == "nobody"
    assert is_forgotten(browser)


@pytest.mark.parametrize("fingerprint", [None, "", "x", 1, [], {}, "of another"])
def test_an_id_in_the_session_counts_with_its_own_fingerprint_only(
    browser: Browser, fingerprint: object
) -> None:
    visitor, other = VisitorFactory.create_batch(2)
    session = SessionStore()
    if fingerprint == "of another":
        fingerprint = other.fingerprint
    session.update({KEY: visitor.pk, FINGERPRINT: fingerprint})
    session.save()
    browser.cookies["sessionid"] = session.session_key

    assert whose(browser) == "nobody"
    assert is_forgotten(browser)


@pytest.mark.parametrize("key", NO_KEYS, ids=repr)
def test_what_is_no_key_is_forgotten_at_the_first_look(browser: Browser, key: object) -> None:
    visitor = VisitorFactory(pk=1)
    session = SessionStore()
    session.update({KEY: key, FINGERPRINT: visitor.fingerprint})
    session.save()
    browser.cookies["sessionid"] = session.session_key

    with CaptureQueriesContext(connection) as queries:
        assert whose(browser) == "nobody"

    assert is_forgotten(browser)
    ours = [query["sql"] for query in queries if "affiliations_visitor" in query["sql"]]
    assert len(ours) <= 1
    assert not [sql for sql in ours if str(2**63) in sql or str(2**80) in sql]


def test_what_is_no_key_is_forgotten_by_a_trigger_as_well() -> None:
    request = request_of(None)
    request.session.update({KEY: 2**80, FINGERPRINT: "x"})
    with transaction.atomic():
        assert complete_trigger(request, "Order placed") is None
    assert KEY not in request.session


def test_the_other_store_is_kept(browser: Browser, partner: Partner, settings: Any) -> None:
    settings.AFFILIATE_COOKIE_NAME = NAME
    visitor = land(browser, partner, "both")
    session = SessionStore(browser.cookies["sessionid"])
    session[KEY] = visitor.pk + 1
    session.save()

    assert whose(browser) == str(visitor.pk)
    assert KEY not in SessionStore(browser.cookies["sessionid"]).load()
    assert NAME in browser.cookies
    assert whose(browser) == str(visitor.pk)


def test_an_order_of_whoever_has_the_id_of_another_is_nobodys() -> None:
    visitor = VisitorFactory()
    SubscriptionFactory(partner=visitor.partner)
    request = request_of(visitor)
    Visitor.objects.update(referred_on=timezone.now() + timedelta(seconds=1))

    assert complete_trigger(request, "Order placed", reference="17") is None
    assert KEY not in request.session


@pytest.mark.parametrize("is_own", [True, False])
def test_a_stated_visitor_is_the_browsers_own_with_the_fingerprint_only(is_own: bool) -> None:
    visitor, user = VisitorFactory(), UserFactory()
    SubscriptionFactory(partner=visitor.partner)
    request = request_of(visitor, user)
    if not is_own:
        request.session[FINGERPRINT] = "x"

    conversion = complete_trigger(request, "Order placed", visitor=visitor, reference="17")

    assert conversion is not None
    assert conversion.user == (user if is_own else None)


def test_a_stated_visitor_who_does_not_exist_is_nobodys_own() -> None:
    visitor = VisitorFactory()
    request = request_of(visitor, UserFactory())
    visitor_id = visitor.pk
    visitor.delete()

    assert complete_trigger(request, "Order placed", visitor=visitor_id) is None
    assert not Conversion.objects.exists()


def test_a_login_is_not_linked_to_the_visitor_of_another_database() -> None:
    visitor = VisitorFactory()
    request = request_of(visitor)
    Visitor.objects.update(referred_on=timezone.now() + timedelta(seconds=1))

    visitors.link_user(None, UserFactory(), request)

    visitor.refresh_from_db()
    assert visitor.user is None


def test_a_click_that_waits_is_of_the_partner_with_the_uid_not_with_the_key(
    partner: Partner,
) -> None:
    request = request_of(None)
    request.META["HTTP_HOST"] = "shop.example"
    click = Click.in_link(request, partner.link("/"))
    assert click is not None
    consent.defer(request, partner, click.facts())
    Partner.objects.filter(pk=partner.pk).update(uid="another1")

    assert consent.register_visitor(request) is None
    assert not Visitor.objects.exists()


def test_neither_an_erasure_nor_staff_change_the_fingerprint() -> None:
    user = UserFactory()
    visitor = VisitorFactory(user=user, click_id="42")
    before = visitor.fingerprint
    privacy.blank(user)
    Partner.objects.update(name="New", active=False, window=timedelta(days=1))
    visitor = Visitor.objects.get()
    assert visitor.click_id == ""
    visitor.closed_on = visitor.successful_on = timezone.now()
    visitor.is_test = True
    visitor.save()
    user.delete()

    assert Visitor.objects.get().fingerprint == before


def test_a_fingerprint_is_the_same_from_each_zone_of_a_database() -> None:
    visitor = VisitorFactory()
    before = visitor.fingerprint
    visitor.referred_on = visitor.referred_on.astimezone(timezone.get_fixed_timezone(120))

    assert visitor.fingerprint == before == Visitor.objects.get().fingerprint


def test_a_host_without_time_zones_remembers_as_well(settings: Any) -> None:
    """In the repeated hour of autumn, the database returns no fold."""
    settings.USE_TZ = False
    now = datetime(2026, 10, 25, 2, 30, 15, 123_456, fold=1)  # noqa: DTZ001
    visitor = VisitorFactory(referred_on=now)

    assert Visitor.objects.get().fingerprint == visitor.fingerprint
