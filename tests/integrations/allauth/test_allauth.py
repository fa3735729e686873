from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from allauth.account.models import EmailAddress, EmailConfirmationHMAC
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from affiliations.models import Conversion, Partner, Visitor
from tests.documented import DOCS, run_settings, settings_blocks, triggers
from tests.factories import SubscriptionFactory

pytestmark = pytest.mark.django_db


PAGE = DOCS / "guides/allauth.rst"


@pytest.fixture
def sign_up(client: Client) -> Callable[[], User]:
    """Return what lets a browser sign up."""

    def post_form() -> User:
        account = {"email": "reader@shop.example", "password1": "an unusual secret"}
        answer = client.post(reverse("account_signup"), account)
        assert answer.status_code == 302
        return User.objects.get(email="reader@shop.example")

    return post_form


def assert_credited(partner: Partner, visitor: Visitor, user: User) -> Conversion:
    conversion = Conversion.objects.get(partner=partner)
    assert conversion.visitor == visitor
    assert conversion.user == user
    visitor.refresh_from_db()
    assert visitor.user == user
    return conversion


def test_a_sign_up_is_credited(
    follow_link: Callable[..., Visitor], partner: Partner, sign_up: Callable[[], User]
) -> None:
    SubscriptionFactory(partner=partner, trigger="User registered")
    visitor = follow_link()
    user = sign_up()
    conversion = assert_credited(partner, visitor, user)
    assert conversion.reference == f"auth.user:{user.pk}"


def test_the_signal_of_allauth_is_credited(
    follow_link: Callable[..., Visitor],
    partner: Partner,
    sign_up: Callable[[], User],
    wire: Callable[..., None],
) -> None:
    SubscriptionFactory(partner=partner, trigger="User registered")
    wire(triggers(PAGE, "User registered"))
    User.objects.create_user("imported")
    visitor = follow_link()
    User.objects.create_user("by another way")
    user = sign_up()
    conversion = assert_credited(partner, visitor, user)
    assert conversion.reference == f"auth.user:{user.pk}"


def test_the_first_address_that_is_confirmed_is_credited_in_any_browser(
    follow_link: Callable[..., Visitor],
    partner: Partner,
    sign_up: Callable[[], User],
    wire: Callable[..., None],
    settings: Any,
) -> None:
    each = {"counting": "every", "closes_referral": False}
    SubscriptionFactory(partner=partner, trigger="User confirmed", **each)
    [shown] = [b for b in settings_blocks(PAGE) if "User confirmed" in b.code]
    settings.AFFILIATE_ATTRIBUTE_BY_USER = run_settings(shown)["AFFILIATE_ATTRIBUTE_BY_USER"]
    wire(triggers(PAGE, "User confirmed"))
    visitor = follow_link()
    user = sign_up()
    assert not Conversion.objects.filter(partner=partner).exists()
    EmailAddress.objects.create(user=user, email="second@shop.example")
    for address in EmailAddress.objects.filter(user=user):
        key = EmailConfirmationHMAC(address).key
        answer = Client().post(reverse("account_confirm_email", args=[key]))
        assert answer.status_code == 302
        address.refresh_from_db()
        assert address.verified
    conversion = assert_credited(partner, visitor, user)
    assert (conversion.trigger, conversion.reference) == ("User confirmed", str(user.pk))
