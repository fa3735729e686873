"""The shop of ``tests.shop`` with names, references, reasons and amounts as long as real ones."""

from __future__ import annotations

from decimal import Decimal

from django.db.models import F, Value
from django.db.models.functions import Concat

from affiliations.models import (
    CallbackAttempt,
    Conversion,
    FailedTrigger,
    Partner,
    Settlement,
    Subscription,
)
from tests.factories import User, UserFactory

#: A name, the currency of its orders, and how many of it a euro is.
PARTNERS = (
    ("Kaffe- og tehandlernes sammenligningstjeneste Skandinavien", "EUR", 100),
    ("Northern Hemisphere Comparison Publishing International", "JPY", 17_000),
    ("Gutscheinportal Teeliebhaberinnen Deutschland GmbH & Co. KG", "KWD", Decimal("33.2")),
)
TRIGGER = "Subscription renewed for a year"
REASON = "The customer returned both parcels after the warehouse had confirmed the delivery."
URL = (
    "https://postback.affiliate-network.example/v2/conversions/?click={click_id}&sum={payout}"
    "&status={status}&token=5f4dcc3b5aa765d61d8327deb882cf99"
)


def lengthen() -> None:
    """Lengthen what ``furnish()`` has made."""
    for partner, (name, currency, factor) in zip(
        Partner.objects.order_by("pk"), PARTNERS, strict=True
    ):
        Partner.objects.filter(pk=partner.pk).update(name=name)
        address = f"anne-katrine.christoffersen{partner.pk}@warehouse.example"
        names = {"username": address} if User.USERNAME_FIELD == "username" else {}
        buyer = UserFactory(email=address, **names)
        partner.visitors.update(
            user=buyer, click_id=Concat(Value("9f86d081-884c-4d63-a0c5-"), F("click_id"))
        )
        partner.conversions.update(
            user=buyer,
            reference=Concat(Value("WEB-2026-00004711-"), F("reference")),
            amount=F("amount") * factor,
        )
        # What is settled is settled.
        partner.conversions.filter(settlement=None, adjustments=None).update(
            payout=F("payout") * factor, currency=currency, payout_currency=currency
        )
        partner.subscriptions.exclude(callback_url="").update(callback_url=URL)
    for model in (Subscription, Conversion):
        model._default_manager.filter(trigger="Order placed").update(trigger=TRIGGER)
    Conversion.objects.filter(status="rejected").update(reason=REASON)
    Conversion.objects.filter(status="pending").update(review_reason="own_account")
    FailedTrigger.objects.update(reference=Concat(Value("WEB-2026-0004711-"), F("reference")))
    Settlement.objects.update(reference="Bank transfer 2026-11-30 / SEPA 4711-0815-2342")
    CallbackAttempt.objects.exclude(error="").update(
        message="HTTPSConnectionPool(host='postback.affiliate-network.example', port=443): "
        "Max retries exceeded with url: /v2/conversions/"
    )
