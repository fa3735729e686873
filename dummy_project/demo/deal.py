"""Fill an empty shop: teas, somebody to log in as, a partner, and what was agreed with them."""

from __future__ import annotations

from urllib.parse import urljoin

from django.contrib.auth.models import User
from django.core.management import call_command

from affiliations.models import Partner, Subscription
from store.models import Product

ADMIN_NAME = "admin"
ADMIN_PASSWORD = "second-infusion"
PARTNER_NAME = "Steep Notes"

# Everything that the partner wants to hear; the app fills the braces in and encodes the values.
CALLBACK = (
    "/callback/?visitor_id={visitor_id}&click_id={click_id}&event={event}&trigger={trigger}"
    "&reference={reference}&amount={amount}&currency={currency}&callback_id={callback_id}"
)

# A trigger, how often it counts for one visitor, and whether it ends the referral. A sign-up and an
# order do not, or the payment that comes after them would find the referral ended.
AGREED = [
    ("User registered", Subscription.Counting.ONCE, False),
    ("Order placed", Subscription.Counting.EVERY, False),
    ("Order paid", Subscription.Counting.EVERY, True),
]


def fill_shelf() -> None:
    """Put the teas into a shop that has none."""
    if not Product.objects.exists():
        call_command("loaddata", "teas", verbosity=0)


def hire_admin() -> None:
    """Let somebody into the Admin by the name and the password that the demo prints."""
    if not User.objects.filter(username=ADMIN_NAME).exists():
        User.objects.create_superuser(ADMIN_NAME, "admin@tinleaf.example", ADMIN_PASSWORD)


def agree_with_partner(partner_url: str) -> Partner:
    """Return the partner, active, with a subscription to each trigger that calls `partner_url`."""
    partner, _ = Partner.objects.get_or_create(name=PARTNER_NAME, defaults={"active": True})
    for trigger, counting, closes_referral in AGREED:
        Subscription.objects.update_or_create(
            partner=partner,
            trigger=trigger,
            defaults={"callback_url": urljoin(partner_url, CALLBACK)},
            create_defaults={
                "callback_url": urljoin(partner_url, CALLBACK),
                "counting": counting,
                "closes_referral": closes_referral,
            },
        )
    return partner
