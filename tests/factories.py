from __future__ import annotations

from datetime import timedelta

import factory
from django.contrib.auth import get_user_model
from django.utils import timezone
from factory.django import DjangoModelFactory

from affiliations.models import (
    Callback,
    Conversion,
    Partner,
    PartnerCode,
    Subscription,
    Visitor,
)

User = get_user_model()


class UserFactory(DjangoModelFactory):
    """Make a user of whatever model the host has chosen; the password is "secret"."""

    class Meta:
        model = User
        skip_postgeneration_save = True

    email = factory.Sequence(lambda n: f"visitor{n}@shop.example")
    password = factory.django.Password("secret")

    if User.USERNAME_FIELD == "username":
        username = factory.Sequence(lambda n: f"visitor{n}")


class PartnerFactory(DjangoModelFactory):
    class Meta:
        model = Partner

    name = factory.Sequence(lambda n: f"Partner {n}")
    active = True


class PartnerCodeFactory(DjangoModelFactory):
    class Meta:
        model = PartnerCode

    partner = factory.SubFactory(PartnerFactory)
    code = factory.Sequence(lambda n: f"Code-{n}")


class SubscriptionFactory(DjangoModelFactory):
    class Meta:
        model = Subscription

    partner = factory.SubFactory(PartnerFactory)
    trigger = "Order placed"
    callback_url = "https://partner.example/cb?v={visitor_id}"


class VisitorFactory(DjangoModelFactory):
    """Make an open referral without a user."""

    class Meta:
        model = Visitor

    partner = factory.SubFactory(PartnerFactory)
    entry_point = "https://shop.example/"


class ConversionFactory(DjangoModelFactory):
    class Meta:
        model = Conversion

    visitor = factory.SubFactory(VisitorFactory)
    partner = factory.SelfAttribute("visitor.partner")
    subscription = factory.SubFactory(
        SubscriptionFactory, partner=factory.SelfAttribute("..partner")
    )
    trigger = factory.SelfAttribute("subscription.trigger")
    sub1 = factory.SelfAttribute("visitor.sub1")
    sub2 = factory.SelfAttribute("visitor.sub2")
    sub3 = factory.SelfAttribute("visitor.sub3")
    sub4 = factory.SelfAttribute("visitor.sub4")
    sub5 = factory.SelfAttribute("visitor.sub5")
    dedupe_key = factory.LazyAttribute(lambda conversion: f"v:{conversion.visitor.pk}")


class CallbackFactory(DjangoModelFactory):
    """Make a callback that has been due for a second."""

    class Meta:
        model = Callback

    conversion = factory.SubFactory(ConversionFactory)
    subscription = factory.SelfAttribute("conversion.subscription")
    partner = factory.SelfAttribute("subscription.partner")
    url = factory.LazyAttribute(
        lambda callback: f"https://partner.example/cb?v={callback.conversion.visitor_id}"
    )
    next_attempt_on = factory.LazyFunction(lambda: timezone.now() - timedelta(seconds=1))
