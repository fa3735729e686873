"""Fill an empty shop with teas, a staff user, and a partner with subscriptions."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from urllib.parse import urljoin

from django.contrib.auth.models import User
from django.core.management import call_command

from affiliations.models import Partner, PartnerCode, Subscription
from affiliations.triggers import paused
from store.models import Product

ADMIN_NAME = "admin"
ADMIN_PASSWORD = "second-infusion"
PARTNER_NAME = "Steep Notes"
PARTNER_CODE = "steepnotes"

# The partner's callback URL; the app fills in the placeholders and encodes the values.
CALLBACK = (
    "/callback/?visitor_id={visitor_id}&click_id={click_id}&event={event}&status={status}"
    "&trigger={trigger}&reference={reference}&amount={amount}&currency={currency}"
    "&payout={payout}&payout_currency={payout_currency}&callback_id={callback_id}"
)

# The payout of each trigger. None of them stops tracking, so later conversions are credited too.
AGREED: dict[str, dict[str, Any]] = {
    # A new customer, once: two euros.
    "User registered": {
        "closes_referral": False,
        "payout_type": Subscription.PayoutType.FIXED,
        "payout_value": Decimal("2.00"),
        "payout_currency": "EUR",
    },
    # A reader of the newsletter, once: half a euro.
    "Newsletter ordered": {
        "closes_referral": False,
        "payout_type": Subscription.PayoutType.FIXED,
        "payout_value": Decimal("0.50"),
        "payout_currency": "EUR",
    },
    # Each order: seven per cent, approved when the payment provider reports the payment. After the
    # first order, the customer's orders and renewals earn for a year, without another click.
    "Order placed": {
        "counting": Subscription.Counting.EVERY,
        "closes_referral": False,
        "earns_for": Subscription.EarnsFor.MONTHS,
        "earns_months": 12,
        "payout_type": Subscription.PayoutType.PERCENT,
        "payout_value": Decimal("7"),
        "approval": Subscription.Approval.MANUAL,
        "call_on_approval": True,
        "call_on_rejection": True,
    },
}


def fill_shelf() -> None:
    """Create the teas, if the shop has none."""
    if not Product.objects.exists():
        call_command("loaddata", "teas", verbosity=0)


def hire_admin() -> None:
    """Create a superuser with the name and the password that the demo prints."""
    if not User.objects.filter(username=ADMIN_NAME).exists():
        with paused():  # No visitor signs up here.
            User.objects.create_superuser(ADMIN_NAME, "admin@tinleaf.example", ADMIN_PASSWORD)


def agree_with_partner(partner_url: str) -> Partner:
    """Return the active partner with a code, whose subscriptions call `partner_url`."""
    partner, _ = Partner.objects.get_or_create(name=PARTNER_NAME, defaults={"active": True})
    callback_url = {"callback_url": urljoin(partner_url, CALLBACK)}
    for trigger, terms in AGREED.items():
        Subscription.objects.update_or_create(
            partner=partner,
            trigger=trigger,
            defaults=callback_url,  # The port may have changed; the terms stay.
            create_defaults=callback_url | terms,
        )
    PartnerCode.objects.get_or_create(code=PARTNER_CODE, defaults={"partner": partner})
    if not partner.page_key:
        partner.replace_page_link()
    return partner


def page_of_partner(shop_url: str) -> str:
    """Return the private link of the partner page."""
    path = Partner.objects.get(name=PARTNER_NAME).page_link()
    return urljoin(shop_url, path or "")
