"""Whose conversion it is: of the browser, of the buyer, of staff, of somebody who signs up."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import include, path
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt

from affiliations.conversions import own_account, screening
from affiliations.models import Conversion, FilteredClicks, Visitor
from affiliations.testing import start_referral
from affiliations.tracking import binding, current_visitor
from affiliations.triggers import complete_trigger, object_created
from tests.arrivals import commit, referred, request_of
from tests.factories import PartnerFactory, UserFactory
from tests.testapp.models import Order
from tests.urls import urlpatterns as urlpatterns_of_tests

User = get_user_model()
pytestmark = [pytest.mark.django_db, pytest.mark.urls(__name__)]

OWN_SITE = {"Sec-Fetch-Site": "same-origin"}
OWN_REFERRER = {"Referer": "http://TESTSERVER/blog/"}


@csrf_exempt
def sign_up(request: HttpRequest) -> HttpResponse:
    """Create some users, and log none in."""
    for name in request.POST.getlist("name"):
        User.objects.create_user(**{User.USERNAME_FIELD: name, "password": "secret"})
    return HttpResponse("done")


@csrf_exempt
def place(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(Order.objects.create().pk))


nested = ([path("sign-up/", sign_up), path("place/", place)], "backoffice")
urlpatterns = [
    path("people/sign-up/", sign_up),
    path("staff/", include(nested)),
    path("cms/", place, name="cms_home"),
    path("cms/orders/", place),
    path("cms-news/", place),
    *urlpatterns_of_tests,
]


# Signing up


def test_a_sign_up_without_a_login_links_the_first_user(client: Client) -> None:
    visitor = start_referral(client, PartnerFactory())
    client.post("/people/sign-up/", {"name": ["one@shop.example", "two@shop.example"]})
    visitor.refresh_from_db()
    assert visitor.user == User.objects.get(**{User.USERNAME_FIELD: "one@shop.example"})


@pytest.mark.parametrize("target", ["/people/sign-up/", "/staff/sign-up/"])
def test_a_user_whom_somebody_else_creates_is_not_linked(
    client: Client, settings: Any, target: str
) -> None:
    settings.AFFILIATE_STAFF_NAMESPACES = ["backoffice"]
    visitor = start_referral(client, PartnerFactory())
    if target.startswith("/people/"):
        client.force_login(UserFactory())
    client.post(target, {"name": "one@shop.example"})
    visitor.refresh_from_db()
    assert visitor.user != User.objects.get(**{User.USERNAME_FIELD: "one@shop.example"})


def test_a_user_who_is_created_outside_of_a_request_is_not_linked(client: Client) -> None:
    visitor = start_referral(client, PartnerFactory())
    UserFactory()
    visitor.refresh_from_db()
    assert visitor.user is None


# Staff pages


@pytest.mark.parametrize(
    ("target", "is_credited"),
    [
        ("/staff/place/", False),
        ("/cms/", False),
        ("/cms/orders/", False),
        ("/cms-news/", True),
        ("/order/", True),
    ],
)
def test_what_staff_save_on_their_pages_is_not_credited(
    client: Client, settings: Any, target: str, is_credited: bool
) -> None:
    settings.AFFILIATE_STAFF_NAMESPACES = ["backoffice", "cms_home", "no_such_name"]
    visitor = referred()
    start_referral(client, visitor.partner)
    client.post(target)
    assert Order.objects.exists()
    assert Conversion.objects.exists() is is_credited


# The stated user


@pytest.mark.parametrize("user", [None, "unknown"])
def test_a_guest_is_the_visitor_of_the_request_and_an_unknown_user_nobodys(
    wire: Any, user: str | None
) -> None:
    def stated_user(order: Order) -> Any:
        return user and no_users_key()

    wire([("Order placed", "django.db.models.signals.post_save", object_created, Order,
           {"user": stated_user})])  # fmt: skip
    with binding.binding(request_of(referred())):
        Order.objects.create()
    assert Conversion.objects.exists() is (user is None)


def no_users_key() -> Any:
    user = UserFactory()
    key = user.pk
    user.delete()
    return key


def test_a_guest_order_is_not_that_of_the_user_who_is_logged_in(wire: Any) -> None:
    wire([("Order placed", "django.db.models.signals.post_save", object_created, Order,
           {"user": "user"})])  # fmt: skip
    with binding.binding(request_of(referred(), UserFactory())):
        Order.objects.create()
    assert not Conversion.objects.exists()


# Browser and buyer


@pytest.mark.parametrize("model", ["last_click", "first_click"])
@pytest.mark.parametrize("browser_is_later", [True, False])
def test_the_model_chooses_between_the_referrals_of_the_browser_and_of_the_buyer(
    settings: Any, model: str, browser_is_later: bool
) -> None:
    settings.AFFILIATE_ATTRIBUTE_BY_USER = True
    settings.AFFILIATE_ATTRIBUTION_MODEL = model
    of_browser, of_buyer = referred(), referred()
    buyer = UserFactory()
    ago = timezone.now() - timedelta(days=2)
    Visitor.objects.filter(pk=of_buyer.pk).update(user=buyer)
    earlier = of_buyer if browser_is_later else of_browser
    Visitor.objects.filter(pk=earlier.pk).update(referred_on=ago)
    of_browser.refresh_from_db()
    conversion = complete_trigger(request_of(of_browser, buyer), "Order placed")
    assert conversion is not None
    browser_wins = browser_is_later is (model == "last_click")
    assert conversion.visitor == (of_browser if browser_wins else of_buyer)


# Clicks from the site itself


@pytest.mark.parametrize("headers", [OWN_SITE, OWN_REFERRER])
@pytest.mark.parametrize("model", ["last_click", "first_click"])
def test_a_click_from_the_site_itself_displaces_nobody(
    client: Client, settings: Any, headers: dict[str, str], model: str
) -> None:
    settings.AFFILIATE_ATTRIBUTION_MODEL = model
    visitor = start_referral(client, PartnerFactory())
    answer = client.get(PartnerFactory().link("/"), headers=headers)
    assert current_visitor(answer.wsgi_request) == visitor
    inside = Visitor.objects.exclude(pk=visitor.pk).get()
    assert (inside.is_internal, inside.previous) == (True, None)


@pytest.mark.parametrize("headers", [OWN_SITE, OWN_REFERRER])
@pytest.mark.parametrize("model", ["last_click", "first_click"])
def test_a_click_from_the_site_itself_counts_until_the_next_click(
    client: Client, settings: Any, headers: dict[str, str], model: str
) -> None:
    settings.AFFILIATE_ATTRIBUTION_MODEL = model
    answer = client.get(PartnerFactory().link("/"), headers=headers)
    inside = current_visitor(answer.wsgi_request)
    assert inside is not None
    assert inside.is_internal
    other = start_referral(client, PartnerFactory())
    assert (other.is_internal, other.previous) == (False, inside)


def test_a_click_from_elsewhere_on_the_same_link_is_no_duplicate_of_one_from_the_site(
    client: Client, settings: Any
) -> None:
    settings.AFFILIATE_ATTRIBUTION_MODEL = "first_click"
    first = PartnerFactory()
    client.get(first.link("/"), headers=OWN_SITE)
    visitor = start_referral(client, first)
    assert not visitor.is_internal
    client.get(first.link("/"), headers=OWN_SITE)
    answer = client.get(PartnerFactory().link("/"))
    assert current_visitor(answer.wsgi_request) == visitor
    assert Visitor.objects.count() == 3


@pytest.mark.parametrize("headers", [{}, {"Referer": "https://partner.example/"},
                                     {"Sec-Fetch-Site": "cross-site"}])  # fmt: skip
def test_any_other_click_is_not_from_the_site(client: Client, headers: dict[str, str]) -> None:
    client.get(PartnerFactory().link("/"), headers=headers)
    assert not Visitor.objects.get().is_internal


@pytest.mark.parametrize("model", ["last_click", "first_click"])
def test_a_click_from_the_site_itself_displaces_none_of_another_device(
    client: Client, settings: Any, model: str
) -> None:
    settings.AFFILIATE_ATTRIBUTE_BY_USER = True
    settings.AFFILIATE_ATTRIBUTION_MODEL = model
    buyer, elsewhere = UserFactory(), referred()
    Visitor.objects.update(user=buyer)
    client.get(referred().partner.link("/"), headers=OWN_SITE)
    client.force_login(buyer)
    client.post("/order/")
    assert Conversion.objects.get().visitor == elsewhere


@pytest.mark.parametrize(
    ("accept", "is_background"),
    [
        ("image/webp,image/*;q=0.8,*/*;q=0.5", True),
        ("video/*;q=0.9,audio/*;q=0.6", True),
        ("text/css,*/*;q=0.1", True),
        ("text/html,application/xhtml+xml,image/webp,*/*;q=0.8", False),
        ("*/*", False),
        ("", False),
    ],
)
def test_what_accepts_no_page_is_loaded_in_the_background(
    client: Client, accept: str, is_background: bool
) -> None:
    client.get(PartnerFactory().link("/"), headers={"Accept": accept})
    commit()
    assert Visitor.objects.exists() is not is_background
    if is_background:
        assert FilteredClicks.objects.get().reason == "subresource"


# The partner's own accounts


def test_a_visitor_who_is_the_partner_is_screened_whoever_buys() -> None:
    visitor, account, other = referred(), UserFactory(), UserFactory()
    visitor.partner.users.add(account)
    assert own_account(visitor, other, None) is None
    visitor.user = account
    assert own_account(visitor, other, None) == screening.OWN_VISITOR
    assert own_account(visitor, account, None) == screening.OWN_ACCOUNT
    assert own_account(visitor, None, None) == screening.OWN_VISITOR
