"""Requests of the host's own tests and tasks: a dict as the session, or hardly anything at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, Mock

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.contrib.auth.signals import user_logged_in
from django.contrib.sessions.backends.db import SessionStore
from django.http import HttpRequest, HttpResponse
from django.template import engines
from django.test import RequestFactory

from affiliations import tracking
from affiliations.middleware import AffiliateVisitorsRegistrationMiddleware
from affiliations.models import Conversion, Partner, Visitor
from affiliations.tracking import binding, visitors
from affiliations.triggers import acomplete_trigger, complete_trigger
from tests.factories import PartnerFactory, SubscriptionFactory, UserFactory, VisitorFactory
from tests.testapp.models import Order

KEY = "affiliate_visitor_id"
pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def own_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail every test in which something of ours went wrong and was only logged."""
    yield
    assert [record for record in caplog.records if record.name == "affiliations"] == []


@pytest.fixture
def partner() -> Partner:
    partner = PartnerFactory()
    SubscriptionFactory(partner=partner, trigger="Order placed", counting="every")
    SubscriptionFactory(partner=partner, trigger="User registered", closes_referral=False)
    return partner


def consents(request: HttpRequest) -> bool | None:
    return request.GET.get("consent") == "yes" or None


def arrive(request: HttpRequest) -> HttpResponse:
    return AffiliateVisitorsRegistrationMiddleware(lambda request: HttpResponse("page"))(request)


def clicking(partner: Partner, session: object, query: str = "") -> HttpRequest:
    request = RequestFactory().get(partner.link(f"/{query}", click_id="42"))
    request.session = session
    return request


# A dict is a session.


def test_a_dict_remembers_a_visitor_and_is_read(partner) -> None:
    session: dict[str, Any] = {"basket": "tea"}

    assert arrive(clicking(partner, session)).status_code == 302

    visitor = Visitor.objects.get()
    assert session["basket"] == "tea"
    assert session[KEY] == visitor.pk
    assert session[f"{KEY}_fingerprint"] == visitor.fingerprint
    assert tracking.current_visitor(clicking(partner, session)) == visitor
    assert visitors.remembers(clicking(partner, session), visitor)


def test_a_trigger_in_a_request_with_a_dict_is_credited_and_closes_the_referral(partner) -> None:
    session: dict[str, Any] = {}
    arrive(clicking(partner, session))
    request = RequestFactory().post("/")
    request.session = session

    conversion = complete_trigger(request, "Order placed", reference="A17")

    assert conversion is not None
    assert conversion.visitor.click_id == "42"
    assert tracking.current_visitor(request) is None
    assert complete_trigger(request, "Order placed", reference="A18") is None


def test_a_signal_in_a_request_with_a_dict_is_credited(partner) -> None:
    session: dict[str, Any] = {}
    arrive(clicking(partner, session))
    request = RequestFactory().post("/")
    request.session = session

    with binding.binding(request):
        Order.objects.create()

    assert Conversion.objects.get().visitor.click_id == "42"


def test_a_login_and_a_sign_up_with_a_dict_are_linked(partner) -> None:
    session: dict[str, Any] = {}
    arrive(clicking(partner, session))
    request = RequestFactory().post("/")
    request.session = session

    with binding.binding(request):
        user = UserFactory()
    user_logged_in.send(get_user_model(), request=request, user=UserFactory())

    assert Visitor.objects.get().user == user


def test_a_click_waits_in_a_dict_for_consent(partner, settings) -> None:
    settings.AFFILIATE_CONSENT = f"{__name__}.consents"
    session: dict[str, Any] = {}
    arrive(clicking(partner, session))
    assert not Visitor.objects.exists()

    visitor = tracking.register_visitor(clicking(partner, session))

    assert visitor == Visitor.objects.get()
    assert session[KEY] == visitor.pk
    tracking.forget_visitor(clicking(partner, session))
    assert session == {}


def test_a_dict_that_remembers_a_stranger_forgets(partner) -> None:
    session = {KEY: 17, f"{KEY}_fingerprint": "x" * 32, "basket": "tea"}

    assert tracking.current_visitor(clicking(partner, session)) is None

    assert session == {"basket": "tea"}


# What is no session, or no request of Django's, has no visitor and raises nothing.


class Bare:
    """A stand-in for a request, with what a test of the host happens to need."""

    def __init__(self) -> None:
        self.user = AnonymousUser()


def without_session(session: object) -> HttpRequest:
    request = HttpRequest()
    request.session = session
    return request


REQUESTS: dict[str, Callable[[], Any]] = {
    "no session": HttpRequest,
    "session is None": lambda: without_session(None),
    "session is a text": lambda: without_session("session"),
    "session is a mock": lambda: without_session(Mock()),
    "session is a dict": lambda: without_session({}),
    "session is a mock of a store": lambda: without_session(MagicMock(spec=SessionStore)),
    "nothing in META": lambda: RequestFactory(META={}).post("/"),
    "a mock": Mock,
    "a magic mock": MagicMock,
    "a mock of a request": lambda: Mock(spec=HttpRequest),
    "a namespace": lambda: SimpleNamespace(user=None, session={}),
    "an object": Bare,
}
each_request = pytest.mark.parametrize("made", REQUESTS.values(), ids=REQUESTS)


@each_request
@pytest.mark.parametrize("cookie", [None, "referral"])
def test_a_stand_in_for_a_request_raises_nowhere(made, cookie, partner, settings) -> None:
    settings.AFFILIATE_COOKIE_NAME = cookie
    VisitorFactory(partner=partner)
    user = UserFactory()

    assert tracking.current_visitor(made()) is None
    assert async_to_sync(tracking.acurrent_visitor)(made()) is None
    assert complete_trigger(made(), "Order placed", instance=Order()) is None
    assert async_to_sync(acomplete_trigger)(made(), "Order placed", instance=Order()) is None
    assert tracking.register_visitor(made()) is None
    tracking.forget_visitor(made())
    user_logged_in.send(get_user_model(), request=made(), user=user)
    with binding.binding(made()):
        UserFactory()
        Order.objects.create()

    assert not Conversion.objects.exists()


@pytest.mark.parametrize("name", [name for name in REQUESTS if name != "a mock"])
def test_a_stand_in_for_a_request_may_belong_to_the_buyer(name, partner, settings) -> None:
    settings.AFFILIATE_ATTRIBUTE_BY_USER = True
    user = UserFactory()
    visitor = VisitorFactory(partner=partner, user=user)

    conversion = complete_trigger(REQUESTS[name](), "Order placed", reference="A17", user=user)

    assert conversion is not None
    assert conversion.visitor == visitor


def test_a_request_without_a_host_registers_the_path_alone(partner) -> None:
    request = without_session({})

    visitor = tracking.register_visitor(request, link=partner.link("/teas/"))

    assert visitor is not None
    assert (visitor.entry_point, visitor.is_internal) == ("/teas/", False)
    assert tracking.current_visitor(without_session(request.session)) == visitor


def test_a_link_in_the_template_of_a_task_has_no_host(partner) -> None:
    template = engines["django"].from_string(
        "{% load affiliations %}{% tracking_link partner '/teas/' %}"
    )

    assert template.render({"partner": partner}, HttpRequest()) == partner.link("/teas/")
