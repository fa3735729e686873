from __future__ import annotations

import decimal
from decimal import Decimal
from typing import Any

import pytest
from babel.numbers import get_currency_precision, list_currencies
from hypothesis import given
from hypothesis import strategies as st

from affiliations import amounts
from affiliations.amounts import Money, parse, rounded
from affiliations.conversions import payouts
from affiliations.conversions.payouts import payout
from affiliations.models import Subscription


def percent(value: str) -> Subscription:
    return Subscription(payout_type="percent", payout_value=Decimal(value))


def fixed(value: str, currency: str) -> Subscription:
    return Subscription(payout_type="fixed", payout_value=Decimal(value), payout_currency=currency)


def order(amount: str, currency: str = "EUR") -> Money:
    return Money(Decimal(amount), currency)


# What the host states


@pytest.mark.parametrize(
    ("given_amount", "read"),
    [
        (Decimal("19.9"), "19.9000"),
        (20, "20.0000"),
        ("7.25", "7.2500"),
        (0.1, "0.1000"),
        (1e-05, "0.0000"),
        (19.99, "19.9900"),
        (Decimal("0.00005"), "0.0001"),
        (Decimal("0.00004999"), "0.0000"),
        (Decimal("-0.0"), "0.0000"),
        ("-0.00001", "0.0000"),
        (Decimal("99999999999999.9999"), "99999999999999.9999"),
        (Decimal("1E+3"), "1000.0000"),
    ],
)
def test_an_amount_is_read_as_it_is_written(given_amount: object, read: str) -> None:
    stated = parse(given_amount, "EUR")
    assert str(stated.amount) == read
    assert (stated.currency, stated.problem) == ("EUR", "")


@pytest.mark.parametrize(
    "given_amount",
    ["ten", "1,50", "", True, float("nan"), "Infinity", "-inf", Decimal("sNaN"), 10**14, -(10**14),
     Decimal("99999999999999.99995"), "1e999999", "1e99999999999999999999", ValueError, b"5"],
    ids=str,
)  # fmt: skip
def test_what_is_no_amount_is_left_out(given_amount: object) -> None:
    assert parse(given_amount, "EUR") == Money(None, "EUR", amounts.NOT_AN_AMOUNT)


def test_a_negative_amount_is_kept_and_said() -> None:
    assert parse(-5, "EUR") == Money(Decimal("-5.0000"), "EUR", amounts.NEGATIVE)
    assert parse("-0.0001", "").problem == amounts.NEGATIVE


@pytest.mark.parametrize("code", ["", "USDT", "BTC", "€", "EU", "euro", " ", "\0", "XXX", "XTS",
                                  "XAU", "xag", "XPT", "XPD", "XBA", "XDR", "XUA"])  # fmt: skip
def test_a_currency_that_is_none_is_left_out_and_said(code: str) -> None:
    assert parse(5, code) == Money(Decimal("5.0000"), "", amounts.NO_CURRENCY)
    assert parse(None, code) == Money()


@pytest.mark.parametrize("code", ["EUR", "eur", " Eur "])
def test_a_currency_is_known_however_it_is_written(code: str) -> None:
    assert parse(5, code).currency == parse(None, code).currency == "EUR"


@pytest.mark.parametrize("code", ["XAF", "XOF", "XPF", "XCD"])
def test_a_currency_of_several_countries_is_one(code: str) -> None:
    assert parse(5, code) == Money(Decimal("5.0000"), code)


def test_no_amount_is_no_problem() -> None:
    assert parse(None, "EUR") == Money(None, "EUR")


# What is paid


def test_nothing_is_paid_where_nothing_was_agreed() -> None:
    assert payout(Subscription(), order("100")) == Money()


@pytest.mark.parametrize("stated", [order("100", "USD"), Money(), Money(problem="not an amount")])
def test_a_fixed_payout_does_not_depend_on_the_order(stated: Money) -> None:
    assert payout(fixed("12.50", "EUR"), stated) == Money(Decimal("12.50"), "EUR")


@pytest.mark.parametrize(
    ("amount", "currency", "rate", "paid"),
    [
        ("49.90", "EUR", "10", "4.99"),
        ("0.05", "EUR", "10", "0.01"),  # 0.005
        ("0.0499", "EUR", "10", "0.00"),
        ("1.005", "EUR", "100", "1.01"),  # a float would be 1.00
        ("2.675", "EUR", "100", "2.68"),  # and this 2.67
        ("100.25", "EUR", "2", "2.01"),  # half even would be 2.00
        ("100.75", "EUR", "2", "2.02"),
        ("999", "JPY", "2.5", "25"),
        ("980", "JPY", "2.5", "25"),  # 24.5
        ("979", "JPY", "2.5", "24"),
        ("12.345", "BHD", "10", "1.235"),  # 1.2345
        ("12.344", "BHD", "10", "1.234"),
        ("1.0005", "CLF", "50", "0.5003"),  # 0.50025
        ("10", "EUR", "0.0001", "0.00"),
        ("99999999999999.9999", "CLF", "100", "99999999999999.9999"),
        ("99999999999999.9999", "CLF", "33.3333", "33333300000000.0000"),
    ],
)
def test_a_percentage_is_paid_in_the_currency_of_the_order_and_rounded_half_up(
    amount: str, currency: str, rate: str, paid: str
) -> None:
    earned = payout(percent(rate), order(amount, currency))
    assert (str(earned.amount), earned.currency, earned.problem) == (paid, currency, "")


@pytest.mark.parametrize("amount", [None, Decimal(0)])
def test_without_an_amount_there_is_no_percentage_of_it(amount: Decimal | None) -> None:
    assert payout(percent("10"), Money(amount, "EUR")) == Money(problem=payouts.NO_AMOUNT)


@pytest.mark.parametrize(
    ("value", "currency", "paid"),
    [("12.345", "EUR", "12.35"), ("12.3449", "EUR", "12.34"), ("0.5", "JPY", "1"),
     ("1.2345", "BHD", "1.235")],
)  # fmt: skip
def test_a_fixed_payout_is_rounded_half_up_to_the_unit_of_its_currency(
    value: str, currency: str, paid: str
) -> None:
    assert str(payout(fixed(value, currency), Money()).amount) == paid


@pytest.mark.parametrize(
    ("amount", "currency", "problem"),
    [("x", "EUR", amounts.NOT_AN_AMOUNT), (-5, "EUR", amounts.NEGATIVE),
     (5, "", amounts.NO_CURRENCY)],
)  # fmt: skip
def test_no_percentage_is_paid_of_what_is_wrong(
    amount: object, currency: str, problem: str
) -> None:
    assert payout(percent("10"), parse(amount, currency)) == Money(problem=problem)


@pytest.mark.parametrize(
    "rule",
    [
        {"payout_type": "fixed", "payout_currency": "EUR"},
        {"payout_type": "fixed", "payout_value": Decimal(5)},
        {"payout_type": "fixed", "payout_value": Decimal(5), "payout_currency": "eur"},
        {"payout_type": "fixed", "payout_value": Decimal("0.4"), "payout_currency": "JPY"},
        {"payout_type": "fixed", "payout_value": Decimal(-5), "payout_currency": "EUR"},
        {"payout_type": "percent"},
        {"payout_type": "percent", "payout_value": Decimal(101)},
        {"payout_type": "percent", "payout_value": Decimal(5), "payout_currency": "EUR"},
    ],
    ids=str,
)
def test_a_rule_that_a_form_would_refuse_pays_nothing_by_itself(rule: dict[str, Any]) -> None:
    assert payout(Subscription(**rule), order("100")) == Money(problem=payouts.NO_RULE)


@given(
    amount=st.decimals("0.0001", 10**14, places=4, allow_nan=False).filter(
        lambda value: value < 10**14
    ),
    rate=st.decimals("0.0001", 100, places=4),
    currency=st.sampled_from(sorted(filter(amounts.is_currency, list_currencies()))),
)
def test_a_percentage_is_at_most_half_a_unit_off_and_never_more_than_the_amount(
    amount: Decimal, rate: Decimal, currency: str
) -> None:
    paid = payout(percent(str(rate)), parse(amount, currency)).amount
    assert paid is not None
    with decimal.localcontext(decimal.Context(prec=60)):
        unit = Decimal(1).scaleb(-get_currency_precision(currency))
        off = paid - amount * rate / 100
        assert -unit / 2 < off <= unit / 2
        assert paid == paid.quantize(unit)


@pytest.mark.parametrize(
    "host",
    [
        decimal.Context(prec=3, rounding=decimal.ROUND_DOWN),
        decimal.Context(traps=[decimal.Inexact, decimal.Rounded]),
    ],
    ids=["rough", "exact"],
)
def test_the_decimal_context_of_the_host_does_not_matter(host: decimal.Context) -> None:
    with decimal.localcontext(host):
        stated = parse("123456.78915", "EUR")
        assert stated.amount == Decimal("123456.7892")
        assert payout(percent("33.3333"), stated).amount == Decimal("41152.22")


@pytest.mark.parametrize(
    ("currency", "written"),
    [("EUR", "1.23"), ("JPY", "1"), ("BHD", "1.235"), ("CLF", "1.2345"), ("KRW", "1")],
)
def test_each_currency_has_its_smallest_unit(currency: str, written: str) -> None:
    assert str(rounded(Decimal("1.2345"), currency)) == written


def test_no_currency_has_more_decimals_than_the_columns_keep() -> None:
    assert max(get_currency_precision(code) for code in list_currencies()) == 4
