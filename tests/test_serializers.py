"""What a partner is shown of a row, and what not."""

from __future__ import annotations

from decimal import Decimal

import pytest

from affiliations.models import Conversion, Subscription
from affiliations.partner_pages import serializers
from tests.factories import ConversionFactory


@pytest.mark.parametrize(
    ("reference", "shown"),
    [
        ("", ""),
        ("7", "…"),
        ("17", "…7"),
        ("1234", "…34"),
        ("12345678", "…5678"),
        ("order-2026-1234", "…1234"),
        ("anna@buyer.example", "…mple"),
    ],
)
def test_of_a_reference_its_end_is_shown_and_never_more_than_half(
    reference: str, shown: str
) -> None:
    assert serializers.shortened(reference) == shown


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("payout_type", "shown"),
    [
        (Subscription.PayoutType.PERCENT, (Decimal(20), "EUR")),
        (Subscription.PayoutType.FIXED, (None, "")),
        (Subscription.PayoutType.NONE, (None, "")),
    ],
)
def test_the_amount_of_an_order_is_shown_where_the_payout_is_a_part_of_it(
    payout_type: str, shown: tuple[Decimal | None, str]
) -> None:
    ConversionFactory(payout_type=payout_type, amount=Decimal(20), currency="EUR")
    [one] = serializers.all_conversions(Conversion.objects.all())
    assert (one.amount, one.currency) == shown
