from __future__ import annotations

from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from affiliations.models import Conversion, Partner, Visitor
from tests.factories import SubscriptionFactory

pytestmark = pytest.mark.django_db


SIGNED_UP = (
    "User registered",
    "allauth.account.signals.user_signed_up",
    "affiliations.triggers.object_saved",
    None,
    {"instance": "user", "reference": "email"},
)


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
    assert (conversion.visitor, conversion.trigger) == (visitor, "User registered")
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


def test_the_signal_of_allauth_gives_a_sign_up_its_reference(
    follow_link: Callable[..., Visitor],
    partner: Partner,
    sign_up: Callable[[], User],
    wire: Callable[..., None],
) -> None:
    SubscriptionFactory(partner=partner, trigger="User registered")
    wire([SIGNED_UP])
    visitor = follow_link()
    conversion = assert_credited(partner, visitor, sign_up())
    assert conversion.reference == "reader@shop.example"
