"""How amounts are shown to people: everywhere with the decimals of their currency, on one line."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.test import Client, override_settings
from django.urls import reverse
from django.utils import timezone, translation

from affiliations.amounts import (
    AMBIGUOUS,
    NOT_AN_AMOUNT,
    by_currency,
    figure,
    money,
    parse_typed,
    small_figure,
)
from affiliations.models import FailedTrigger
from tests.factories import SubscriptionFactory, UserFactory


@pytest.mark.parametrize(
    ("value", "currency", "shown"),
    [
        ("12.5", "EUR", "12.50\xa0EUR"),
        ("12.3456", "EUR", "12.35\xa0EUR"),
        ("0.0042", "EUR", "0.00\xa0EUR"),
        ("-0.004", "EUR", "0.00\xa0EUR"),
        ("-1.5", "EUR", "-1.50\xa0EUR"),
        ("1200.0000", "JPY", "1200\xa0JPY"),
        ("0.5", "JPY", "1\xa0JPY"),
        ("1E+3", "JPY", "1000\xa0JPY"),
        ("3.1", "KWD", "3.100\xa0KWD"),
        ("123456789012345.6789", "EUR", "123456789012345.68\xa0EUR"),
        ("12", "", "12.00"),
    ],
)
def test_an_amount_has_the_decimals_of_its_currency_and_stays_on_a_line(
    value: str, currency: str, shown: str
) -> None:
    assert money(Decimal(value), currency) == shown
    assert figure(Decimal(value), currency) == shown.removesuffix(f"\xa0{currency}")


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("1234", "1234"),
        ("49.9", "49.9"),
        ("49,90", "49.9"),
        ("0,125", "0.125"),
        ("12345.678", "12345.678"),
        ("1,234.50", "1234.5"),
        ("1.234,50", "1234.5"),
        ("1.234.567", "1234567"),
        ("1,234,567.8", "1234567.8"),
        ("1 234,5", "1234.5"),
        ("1\u202f234", "1234"),
        ("1’234.50", "1234.5"),
    ],
)
def test_a_typed_amount_may_have_a_comma_and_thousands(text: str, amount: str) -> None:
    assert parse_typed(text, "EUR").amount == Decimal(amount)


@pytest.mark.parametrize("text", ["1.234", "1,234", "12,345", "999.999"])
def test_a_typed_amount_that_could_be_two_is_refused(text: str) -> None:
    assert (parse_typed(text, "EUR").amount, parse_typed(text).problem) == (None, AMBIGUOUS)


@pytest.mark.parametrize(
    "text",
    ["", "-1", "1,2,3", "1.23.456", "1,2345.6", "12 34", "1e5", "NaN", "٣", "EUR 5", "9" * 15],
)
def test_a_text_that_is_no_amount_is_refused(text: str) -> None:
    assert parse_typed(text, "EUR").problem == NOT_AN_AMOUNT


@pytest.mark.parametrize("language", ["da", "de", "fr", "sv", "pl", "de-ch"])
def test_no_language_has_a_space_in_an_amount(language: str) -> None:
    with translation.override(language), override_settings(USE_THOUSAND_SEPARATOR=True):
        assert " " not in money(Decimal("1234567.5"), "EUR")


def test_a_space_of_the_hosts_own_between_thousands_does_not_break_an_amount() -> None:
    own = {"USE_THOUSAND_SEPARATOR": True, "THOUSAND_SEPARATOR": " ", "NUMBER_GROUPING": 3}
    with override_settings(**own), translation.override(None):
        assert money(Decimal(1_234_567), "JPY") == "1\xa0234\xa0567\xa0JPY"


def test_sums_are_parted_between_currencies_only() -> None:
    sums = {"KWD": Decimal("1.5"), "EUR": Decimal("0.1000000001")}
    assert by_currency(sums) == "0.10\xa0EUR, 1.500\xa0KWD"


@pytest.fixture
def reader(client: Client, db: None) -> Client:
    """A browser of staff who may view everything and change nothing."""
    user = UserFactory(is_staff=True)
    user.user_permissions.set(
        Permission.objects.filter(
            content_type__app_label="affiliations", codename__startswith="view_"
        )
    )
    client.force_login(user)
    return client


@pytest.mark.parametrize(
    ("rule", "shown"),
    [
        ({"payout_type": "fixed", "payout_value": 3, "payout_currency": "KWD"}, "3.000\xa0KWD"),
        ({"payout_type": "fixed", "payout_value": 500, "payout_currency": "JPY"}, "500\xa0JPY"),
        ({"payout_type": "percent", "payout_value": Decimal("7.5")}, "7.5\xa0%"),
        ({"payout_type": "none"}, "-"),
    ],
    ids=str,
)
@pytest.mark.parametrize("page", ["partner", "subscription"])
def test_who_may_only_view_a_subscription_reads_its_payout(
    reader: Client, rule: dict[str, Any], shown: str, page: str
) -> None:
    subscription = SubscriptionFactory(**rule)
    row = subscription if page == "subscription" else subscription.partner
    name = "partner_deal" if page == "partner" else "subscription_change"
    response = reader.get(reverse(f"admin:affiliations_{name}", args=[row.pk]))
    cells = re.findall(
        r'field-payout_value_display.*?<div class="readonly">(.*?)</div>', response.text, re.DOTALL
    )
    assert cells[-1] == shown


@pytest.mark.parametrize(
    ("amount", "currency", "shown"),
    [
        ("30", "EUR", "30.00\xa0EUR"),
        ("30.0", "jpy", "30\xa0JPY"),
        ("30", "Taler", "30.00\xa0TALER"),
        ("many", "EUR", "many EUR"),
    ],
)
def test_a_failed_trigger_has_its_amount_as_other_lists_do(
    staff: Client, amount: str, currency: str, shown: str
) -> None:
    FailedTrigger.objects.create(
        trigger="Order placed", amount=amount, currency=currency, due_on=timezone.now()
    )
    page = staff.get(reverse("admin:affiliations_failedtrigger_changelist"))
    assert f'<td class="field-stated_amount">{shown}</td>' in page.text


@pytest.mark.parametrize(
    ("value", "currency", "shown"),
    [
        ("0.0042", "EUR", "0.0042"),
        ("0.0040", "EUR", "0.004"),
        ("0.005", "EUR", "0.01"),
        ("1.2345", "EUR", "1.23"),
        ("0.3", "JPY", "0.3"),
        ("0.00001", "EUR", "0.00"),
        ("0", "EUR", "0.00"),
    ],
)
def test_a_small_figure_is_not_shown_as_zero(value: str, currency: str, shown: str) -> None:
    assert small_figure(Decimal(value), currency) == shown
