"""The numbers of the field, compared with tables written by hand."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.test import Client
from django.utils import timezone

from affiliations import dates
from affiliations.conversions import adjustments, decisions, settlements
from affiliations.dates import Interval, Period
from affiliations.models import (
    Adjustment,
    Conversion,
    DailyClicks,
    FilteredClicks,
    FollowedTestLink,
    Partner,
    Visitor,
)
from affiliations.reports import columns, rollups
from affiliations.reports import queries as reports
from affiliations.reports.numbers import Dimension, Numbers, Others, ReportResult
from affiliations.triggers import complete_trigger
from tests.arrivals import commit
from tests.factories import ConversionFactory, PartnerFactory, SubscriptionFactory, VisitorFactory
from tests.test_settlements import several

pytestmark = pytest.mark.django_db

MARCH = Period(date(2026, 3, 1), date(2026, 3, 31))


def at(day: int, hour: int = 12, minute: int = 0, *, zone: str = "UTC") -> datetime:
    """Return a moment of March 2026."""
    return datetime(2026, 3, day, hour, minute, tzinfo=ZoneInfo(zone))


def click(partner: Partner, moment: datetime, **labels: Any) -> Any:
    return VisitorFactory(partner=partner, referred_on=moment, **labels)


def convert(
    partner: Partner,
    moment: datetime,
    payout: str | None = None,
    currency: str = "EUR",
    *,
    status: str = "approved",
    trigger: str = "Order placed",
    visitor: Any = None,
    order: str = "",
    **facts: Any,
) -> Conversion:
    """Convert a visitor who came at that moment; ``order`` is such as "100 EUR"."""
    visitor = visitor or click(partner, moment)
    subscription = partner.subscriptions.filter(trigger=trigger).first()
    amount, _, order_currency = order.partition(" ")
    return ConversionFactory(
        visitor=visitor,
        subscription=subscription or SubscriptionFactory(partner=partner, trigger=trigger),
        created_on=moment,
        status=status,
        payout=payout and Decimal(payout),
        payout_currency=currency if payout else "",
        amount=Decimal(amount) if amount else None,
        currency=order_currency,
        **facts,
    )


def written(numbers: Numbers) -> tuple[Any, ...]:
    """Return clicks, conversions, CR in percent, and payout and EPC by currency."""
    return (
        numbers.clicks,
        numbers.conversions,
        None if numbers.rate is None else f"{numbers.rate:.1%}",
        {currency: f"{payout:.2f}" for currency, payout in sorted(numbers.payouts.items())},
        {currency: f"{each:.3f}" for currency, each in sorted(numbers.per_click.items())},
    )


def table(report: ReportResult) -> dict[Any, tuple[Any, ...]]:
    """Return the rows by what they are of: a day, something else, or both."""
    return {
        (key[0] if key[1] is None else key[1] if key[0] is None else key): written(numbers)
        for key, numbers in report.rows.items()
    }


def test_clicks_conversions_rate_payout_and_earnings_per_click() -> None:
    partner = PartnerFactory()
    for day in (1, 1, 2, 31):
        click(partner, at(day))
    convert(partner, at(2), "10")
    convert(partner, at(3), "2.50")
    convert(partner, at(3), "7", status="pending")
    convert(partner, at(3), "99", status="rejected")

    total = reports.report(MARCH).total

    assert written(total) == (8, 3, "37.5%", {"EUR": "12.50"}, {"EUR": "1.562"})
    assert (total.pending, total.approved, total.rejected) == (1, 2, 1)


def test_without_a_click_there_is_no_rate_and_no_earnings_per_click() -> None:
    partner = PartnerFactory()
    convert(partner, at(2), "10", visitor=click(partner, at(1) - timedelta(days=9)))

    assert written(reports.report(MARCH).total) == (0, 1, None, {"EUR": "10.00"}, {})


def test_what_is_before_or_after_the_period_is_not_in_it() -> None:
    partner = PartnerFactory()
    convert(partner, at(1, 0) - timedelta(microseconds=1), "1")
    convert(partner, at(1, 0), "2")
    convert(partner, at(31, 23, 59), "4")
    convert(partner, at(31, 23, 59) + timedelta(minutes=1), "8")

    assert written(reports.report(MARCH).total)[:4] == (2, 2, "100.0%", {"EUR": "6.00"})


def test_tests_are_in_no_number() -> None:
    partner = PartnerFactory()
    visitor = click(partner, at(2), is_test=True)
    convert(partner, at(2), "10", visitor=visitor, is_test=True)

    assert written(reports.report(MARCH).total) == (0, 0, None, {}, {})
    assert reports.by_partner([partner], MARCH)[partner.pk] == Numbers()


def test_money_is_what_its_rows_add_up_to() -> None:
    """And 0.1 a thousand times is a hundred, on SQLite too."""
    partner = PartnerFactory()
    conversions = several(partner, 1000, status="approved", created_on=at(2))

    assert reports.report(MARCH).total.payouts == {"EUR": 100}

    Adjustment.objects.bulk_create(
        Adjustment(conversion=one, partner=partner, payout=Decimal("-0.07"), currency="EUR")
        for one in conversions
    )
    by_day = reports.report(MARCH, interval=Interval.DAY)
    assert by_day.total.payouts == by_day.rows[at(2).date(), None].payouts == {"EUR": 30}


def test_currencies_are_never_added_together() -> None:
    partner = PartnerFactory()
    convert(partner, at(2), "10")
    convert(partner, at(2), "75", "DKK")
    convert(partner, at(2))

    report = reports.report(MARCH)

    assert report.currencies == ["DKK", "EUR"]
    assert report.total.payouts == {"EUR": Decimal(10), "DKK": Decimal(75)}


def test_revenue_and_pending_commission_are_of_what_is_not_rejected() -> None:
    partner = PartnerFactory()
    convert(partner, at(2), "10", order="100 EUR")
    convert(partner, at(3), "7", order="50 EUR", status="pending")
    convert(partner, at(3), "5", "DKK", status="pending", trigger="User registered")
    convert(partner, at(4), "2", order="80 DKK")
    convert(partner, at(4), "99", order="999 EUR", status="rejected")
    convert(partner, at(4), order="20", status="pending")  # without a currency

    result = reports.report(MARCH)
    total = result.total

    assert total.revenue == {"EUR": 150, "DKK": 80}
    assert total.orders == {"EUR": 2, "DKK": 1}
    assert total.average_order == {"EUR": 75, "DKK": 80}
    assert total.pending_payouts == {"EUR": 7, "DKK": 5}
    assert total.payouts == {"EUR": 12}
    assert result.currencies == ["DKK", "EUR"]
    assert reports.by_partner([partner], MARCH)[partner.pk].revenue == total.revenue


def test_adjustments_are_in_the_revenue_and_in_the_pending_commission() -> None:
    partner = PartnerFactory()
    facts: Any = {"order": "100 EUR", "payout_type": "percent", "payout_value": 10}
    approved, pending, registered = (
        convert(partner, at(2), "10", **facts),
        convert(partner, at(2), "10", status="pending", **facts),
        convert(partner, at(2), "3", trigger="User registered"),
    )
    for conversion in (approved, pending):
        assert adjustments.adjust(
            conversion, payout=Decimal(-4), amount=Decimal(-40), reason="A part came back."
        )
    assert adjustments.adjust(registered, payout=Decimal(-1), reason="Too much.")

    total = reports.report(MARCH).total

    assert total.revenue == {"EUR": 120}
    assert total.average_order == {"EUR": 60}
    assert total.pending_payouts == {"EUR": 6}
    assert total.payouts == {"EUR": 8}
    assert (total.pending, total.approved) == (1, 2)


@pytest.mark.parametrize("status", ["pending", "approved"])
def test_what_was_rejected_and_reopened_has_what_it_had_before(status: str) -> None:
    partner = PartnerFactory()
    conversion = convert(partner, at(2), "10", order="100 EUR", decided_on=at(3))
    assert settlements.settle(partner, "EUR", timezone.now())
    assert adjustments.adjust(
        conversion, payout=Decimal(-4), amount=Decimal(-40), reason="A part came back."
    )
    conversion.refresh_from_db()
    assert decisions.decide(conversion, "rejected", reason="The rest too.")
    assert reports.report(MARCH).total == Numbers(clicks=1, rejected=1)
    assert decisions.decide(conversion, status)

    total = reports.report(MARCH).total

    assert total.revenue == {"EUR": 60}
    assert (total.pending_payouts if status == "pending" else total.payouts) == {"EUR": 6}


def test_what_was_corrected_since_is_taken_off_the_day_of_the_conversion() -> None:
    partner = PartnerFactory()
    kept, gone = convert(partner, at(2), "10"), convert(partner, at(2), "5", status="rejected")
    for conversion in (kept, gone):
        Adjustment.objects.create(
            conversion=conversion,
            partner=partner,
            kind="adjusted",
            payout=Decimal("-2.50"),
            currency="EUR",
            reason="One of two came back.",
            created_on=at(31) + timedelta(days=40),
        )

    rows = table(reports.report(MARCH, interval=Interval.DAY))

    assert rows[date(2026, 3, 2)] == (2, 1, "50.0%", {"EUR": "7.50"}, {"EUR": "3.750"})


def test_a_conversion_is_of_the_day_on_which_it_was_made_whenever_it_was_decided() -> None:
    partner = PartnerFactory()
    convert(
        partner, at(30), "10", visitor=click(partner, at(28)), decided_on=at(31) + timedelta(days=9)
    )

    rows = table(
        reports.report(Period(date(2026, 3, 28), date(2026, 3, 30)), interval=Interval.DAY)
    )

    assert rows == {
        date(2026, 3, 28): (1, 0, "0.0%", {}, {}),
        date(2026, 3, 29): (0, 0, None, {}, {}),
        date(2026, 3, 30): (0, 1, None, {"EUR": "10.00"}, {}),
    }


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (Interval.WEEK, {date(2026, 2, 23): 1, date(2026, 3, 2): 2, date(2026, 3, 9): 0}),
        (Interval.MONTH, {date(2026, 2, 1): 0, date(2026, 3, 1): 3}),
    ],
)
def test_weeks_begin_on_monday_and_months_on_the_first(step: Interval, expected: Any) -> None:
    partner = PartnerFactory()
    for day in (1, 2, 8):
        click(partner, at(day))

    report = reports.report(Period(date(2026, 2, 28), date(2026, 3, 10)), interval=step)

    assert {key[0]: numbers.clicks for key, numbers in report.rows.items()} == expected


def test_purged_clicks_are_clicks() -> None:
    partner = PartnerFactory()
    click(partner, at(2), sub1="mail")
    for day, count in ((date(2026, 3, 2), 3), (date(2026, 4, 1), 9)):
        for sub_id, label in ((0, ""), (1, "mail")):
            DailyClicks.objects.create(
                partner=partner, day=day, sub_id=sub_id, label=label, count=count, purged=count
            )

    assert reports.report(MARCH).total.clicks == 4
    assert table(reports.report(MARCH, dimension=Dimension.SUB1)) == {
        "mail": (4, 0, "0.0%", {}, {})
    }
    day = table(reports.report(MARCH, interval=Interval.DAY, partners=[partner]))[date(2026, 3, 2)]
    assert day[0] == 4


def test_clicks_are_the_same_before_and_after_they_are_in_the_totals() -> None:
    first, second = PartnerFactory(), PartnerFactory()
    click(first, at(2), sub1="mail")
    click(second, at(2), sub1="mail")
    click(second, at(9))
    questions: list[dict[str, Any]] = [
        {},
        {"interval": Interval.WEEK, "dimension": Dimension.PARTNER},
        {"dimension": Dimension.SUB1},
        {"sub_id": (Dimension.SUB1, "mail"), "partners": [second]},
    ]
    before = [table(reports.report(MARCH, **question)) for question in questions]

    for _ in range(2):
        list(rollups.count(margin=timedelta(0)))

    assert [table(reports.report(MARCH, **question)) for question in questions] == before


def test_by_partner_the_most_clicked_comes_first() -> None:
    busy, quiet, idle = PartnerFactory(), PartnerFactory(), PartnerFactory()
    for day in (3, 4):
        click(busy, at(day))
    convert(quiet, at(5), "1.20", "DKK")
    click(idle, at(1) - timedelta(days=1))

    report = reports.report(MARCH, dimension=Dimension.PARTNER)

    assert list(table(report).items()) == [
        (busy.pk, (2, 0, "0.0%", {}, {})),
        (quiet.pk, (1, 1, "100.0%", {"DKK": "1.20"}, {"DKK": "1.200"})),
    ]
    assert written(report.total) == (3, 1, "33.3%", {"DKK": "1.20"}, {"DKK": "0.400"})


def test_by_trigger_the_clicks_are_all_clicks_and_counted_once_in_the_total() -> None:
    partner = PartnerFactory()
    click(partner, at(2))
    convert(partner, at(3), "8", trigger="Order placed")
    convert(partner, at(4), trigger="User registered")

    report = reports.report(MARCH, dimension=Dimension.TRIGGER)

    assert table(report) == {
        "Order placed": (3, 1, "33.3%", {"EUR": "8.00"}, {"EUR": "2.667"}),
        "User registered": (3, 1, "33.3%", {}, {}),
    }
    assert written(report.total)[:3] == (3, 2, "66.7%")


def test_by_trigger_and_day_the_clicks_are_those_of_the_day() -> None:
    partner = PartnerFactory()
    click(partner, at(2))
    convert(partner, at(2))
    convert(partner, at(3))
    click(partner, at(4))

    report = reports.report(MARCH, interval=Interval.DAY, dimension=Dimension.TRIGGER)

    assert table(report) == {
        (date(2026, 3, 2), "Order placed"): (2, 1, "50.0%", {}, {}),
        (date(2026, 3, 3), "Order placed"): (1, 1, "100.0%", {}, {}),
    }
    assert report.total.clicks == 4


def test_one_trigger_alone() -> None:
    partner = PartnerFactory()
    convert(partner, at(3), "8", trigger="Order placed")
    refunded = convert(partner, at(4), "1", trigger="User registered")
    Adjustment.objects.create(
        conversion=refunded, partner=partner, kind="adjusted", payout=-1, currency="EUR"
    )

    total = reports.report(MARCH, trigger="Order placed").total

    assert written(total) == (2, 1, "50.0%", {"EUR": "8.00"}, {"EUR": "4.000"})


def test_by_sub_id_a_conversion_has_the_label_of_its_visitor() -> None:
    partner = PartnerFactory()
    visitor = click(partner, at(1), sub2="banner")
    convert(partner, at(2), "3", visitor=visitor)
    click(partner, at(3), sub2="banner")
    click(partner, at(3))

    assert table(reports.report(MARCH, dimension=Dimension.SUB2)) == {
        "banner": (2, 1, "50.0%", {"EUR": "3.00"}, {"EUR": "1.500"}),
        "": (1, 0, "0.0%", {}, {}),
    }


def test_one_sub_id_alone() -> None:
    partner, other = PartnerFactory(), PartnerFactory()
    convert(partner, at(2), "3", visitor=click(partner, at(2), sub3="mail"))
    convert(other, at(2), "5", visitor=click(other, at(2), sub3="mail"))
    convert(partner, at(2), "7")

    report = reports.report(MARCH, dimension=Dimension.PARTNER, sub_id=(Dimension.SUB3, "mail"))

    assert {key[1]: written(numbers)[:4] for key, numbers in report.rows.items()} == {
        partner.pk: (1, 1, "100.0%", {"EUR": "3.00"}),
        other.pk: (1, 1, "100.0%", {"EUR": "5.00"}),
    }


@pytest.mark.parametrize("is_totalled", [False, True])
def test_by_source_and_of_one_source(is_totalled: bool) -> None:
    partner = PartnerFactory()
    visitor = click(partner, at(1), source="api", sub1="mail")
    conversion = convert(partner, at(2), "3", visitor=visitor)
    Adjustment.objects.create(
        partner=partner, conversion=conversion, payout=Decimal(-1), currency="EUR"
    )
    click(partner, at(3), source="api")
    click(partner, at(3))
    if is_totalled:
        for _ in range(2):
            list(rollups.count(margin=timedelta(0)))

    assert table(reports.report(MARCH, dimension=Dimension.SOURCE)) == {
        "api": (2, 1, "50.0%", {"EUR": "2.00"}, {"EUR": "1.000"}),
        "link": (1, 0, "0.0%", {}, {}),
    }
    of_api = reports.report(MARCH, dimension=Dimension.PARTNER, sub_id=(Dimension.SOURCE, "api"))
    assert table(of_api) == {partner.pk: (2, 1, "50.0%", {"EUR": "2.00"}, {"EUR": "1.000"})}


@pytest.mark.parametrize("dimension", [Dimension.SUB2, Dimension.SOURCE])
def test_there_are_no_numbers_of_two_sub_ids_at_once(dimension: Dimension) -> None:
    with pytest.raises(ValueError, match="only one sub id"):
        reports.report(MARCH, dimension=dimension, sub_id=(Dimension.SUB1, "mail"))


@pytest.mark.parametrize("is_totalled", [False, True])
def test_with_a_limit_there_are_the_first_rows_and_one_of_all_others(is_totalled: bool) -> None:
    partner = PartnerFactory()
    for label, clicks in {"a": 1, "b": 3, "c": 2, "": 1}.items():
        for _ in range(clicks):
            visitor = click(partner, at(2), sub1=label)
    convert(partner, at(2), "10", visitor=visitor)
    if is_totalled:
        for _ in range(2):
            list(rollups.count(margin=timedelta(0)))
    click(partner, at(3), sub1="b")
    whole = reports.report(MARCH, dimension=Dimension.SUB1)
    assert [label for _start, label in whole.rows] == ["b", "c", "", "a"]
    for limit in range(6):
        found = reports.report(MARCH, dimension=Dimension.SUB1, limit=limit)
        first, others = list(found.rows.items())[:limit], list(found.rows.items())[limit:]
        assert first == list(whole.rows.items())[:limit]
        assert [key for key, _numbers in others] == [(None, Others(4 - limit))] * (limit < 4)
        assert sum(numbers.clicks for numbers in found.rows.values()) == 8
        assert found.total == whole.total


def test_all_others_are_added_up_for_each_day_and_come_last() -> None:
    partner = PartnerFactory()
    for day in (2, 3):
        click(partner, at(day), sub1="a")
        click(partner, at(day), sub1="a")
        for label in ("b", "c", "c"):
            visitor = click(partner, at(day), sub1=label)
            convert(partner, at(day), "1.50", visitor=visitor, sub1=label)
    click(partner, at(3), sub1="d")
    Adjustment.objects.create(
        conversion=Conversion.objects.filter(sub1="b", created_on=at(3)).get(),
        partner=partner, kind="adjusted", payout=Decimal("-0.50"), currency="EUR",
    )  # fmt: skip

    found = reports.report(MARCH, interval=Interval.DAY, dimension=Dimension.SUB1, limit=1)

    second, third = date(2026, 3, 2), date(2026, 3, 3)
    assert {key: written(row)[:4] for key, row in found.rows.items()} == {
        (second, "c"): (2, 2, "100.0%", {"EUR": "3.00"}),
        (second, Others(3)): (3, 1, "33.3%", {"EUR": "1.50"}),
        (third, "c"): (2, 2, "100.0%", {"EUR": "3.00"}),
        (third, Others(3)): (4, 1, "25.0%", {"EUR": "1.00"}),
    }
    assert written(found.total)[:4] == (11, 6, "54.5%", {"EUR": "8.50"})


def test_the_sub_ids_that_a_purge_has_added_up_are_a_group_like_any_other() -> None:
    partner = PartnerFactory()
    for label, count in (("a", 1), (None, 5), ("b", 2)):
        DailyClicks.objects.create(
            partner=partner, day=date(2026, 3, 2), sub_id=1, label=label, count=count, purged=count
        )

    found = {
        limit: {key[1]: row.clicks for key, row in result.rows.items()}
        for limit in (0, 1, 2, 3)
        for result in [reports.report(MARCH, dimension=Dimension.SUB1, limit=limit)]
    }

    assert found == {
        0: {Others(3): 8},
        1: {None: 5, Others(2): 3},
        2: {None: 5, "b": 2, Others(1): 1},
        3: {None: 5, "b": 2, "a": 1},
    }


def test_other_partners_and_triggers_are_added_up_too() -> None:
    first, second, third = (PartnerFactory() for _ in range(3))
    for partner, trigger in ((first, "A"), (first, "A"), (second, "B"), (third, "C")):
        convert(partner, at(2), "1", trigger=trigger, status="pending")

    assert table(reports.report(MARCH, dimension=Dimension.PARTNER, limit=1)) == {
        first.pk: (2, 2, "100.0%", {}, {}),
        Others(2): (2, 2, "100.0%", {}, {}),
    }
    assert table(reports.report(MARCH, dimension=Dimension.TRIGGER, limit=1)) == {
        "A": (4, 2, "50.0%", {}, {}),
        Others(2): (4, 2, "50.0%", {}, {}),
    }


def test_a_report_of_no_partners_has_no_rows_of_sub_ids() -> None:
    click(PartnerFactory(), at(2), sub1="mail")
    assert reports.report(MARCH, dimension=Dimension.SUB1, partners=[]).rows == {}


@pytest.mark.parametrize("interval", [None, *Interval])
@pytest.mark.parametrize("dimension", [None, Dimension.SUB1])
def test_read_in_parts_a_report_has_the_same_rows(
    monkeypatch: pytest.MonkeyPatch, interval: Interval | None, dimension: Dimension | None
) -> None:
    monkeypatch.setattr(reports, "_ROWS", 8)
    partner = PartnerFactory()
    for day in (1, 2, 9, 10, 31):
        for label in ("a", "b"):
            convert(partner, at(day), "1", visitor=click(partner, at(day), sub1=label), sub1=label)
    click(partner, at(10), sub1="c")
    arguments: dict[str, Any] = {"period": MARCH, "interval": interval, "dimension": dimension}

    for limit in (1, 2, 3):
        query = reports.ReportQuery(**arguments).limited(limit)
        assert list(query.rows()) == list(reports.report(**arguments, limit=limit).rows.items())


@pytest.mark.slow
def test_with_many_labels_a_report_takes_the_memory_of_few(
    django_assert_num_queries: Any,
) -> None:
    """A sub id may differ for each click."""
    partner = PartnerFactory()
    labels = [f"{number:050}" for number in range(20_000)]
    Visitor.objects.bulk_create(
        [
            Visitor(partner=partner, entry_point="/", referred_on=at(2 + n % 9), sub1=label)
            for n, label in enumerate([*labels, *labels[:3]])
        ],
        batch_size=5_000,
    )

    peaks = {}
    for limit in (10, None):
        tracemalloc.start()
        try:
            with django_assert_num_queries(4):
                found = reports.report(MARCH, dimension=Dimension.SUB1, limit=limit)
            peaks[limit] = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert found.total.clicks == 20_003
        if limit:
            assert [key[1] for key in found.rows] == [*labels[:10], Others(19_990)]
            assert found.rows[None, Others(19_990)].clicks == 19_990

    assert peaks[10] < 1_000_000 < peaks[None]


@pytest.mark.parametrize("step", list(Interval))
def test_partners_alone(step: Interval) -> None:
    first, second, third = (PartnerFactory() for _ in range(3))
    for partner in (first, second, third):
        convert(partner, at(2), "1")

    assert reports.report(MARCH, interval=step, partners=[first, third]).total.clicks == 2
    assert reports.report(MARCH, interval=step, partners=[]).total == Numbers()


#: Local days of zones whose clocks change on them, one that is half an hour off, and far ones.
@pytest.mark.parametrize(
    ("zone", "moment", "day"),
    [
        # 23 hours, and 25.
        ("Europe/Copenhagen", "2026-03-28T22:59:59+00:00", date(2026, 3, 28)),
        ("Europe/Copenhagen", "2026-03-28T23:00:00+00:00", date(2026, 3, 29)),
        ("Europe/Copenhagen", "2026-03-29T21:59:59+00:00", date(2026, 3, 29)),
        ("Europe/Copenhagen", "2026-03-29T22:00:00+00:00", date(2026, 3, 30)),
        ("Europe/Copenhagen", "2026-10-24T22:00:00+00:00", date(2026, 10, 25)),
        ("Europe/Copenhagen", "2026-10-25T22:59:59+00:00", date(2026, 10, 25)),
        ("Europe/Copenhagen", "2026-10-25T23:00:00+00:00", date(2026, 10, 26)),
        ("Asia/Kolkata", "2026-06-01T18:29:59+00:00", date(2026, 6, 1)),
        ("Asia/Kolkata", "2026-06-01T18:30:00+00:00", date(2026, 6, 2)),
        ("Australia/Lord_Howe", "2026-04-04T13:00:00+00:00", date(2026, 4, 5)),
        ("Australia/Lord_Howe", "2026-04-05T13:29:59+00:00", date(2026, 4, 5)),
        ("Pacific/Kiritimati", "2026-06-01T10:00:00+00:00", date(2026, 6, 2)),
        ("Pacific/Pago_Pago", "2026-06-01T10:59:59+00:00", date(2026, 5, 31)),
        # The clocks go forward at midnight: the day begins at one.
        ("America/Santiago", "2026-09-06T03:59:59+00:00", date(2026, 9, 5)),
        ("America/Santiago", "2026-09-06T04:00:00+00:00", date(2026, 9, 6)),
        ("UTC", "2026-12-31T23:59:59+00:00", date(2026, 12, 31)),
    ],
)
@pytest.mark.parametrize("is_totalled", [False, True])
def test_days_are_those_of_the_site(
    settings: Any, zone: str, moment: str, day: date, is_totalled: bool
) -> None:
    settings.TIME_ZONE = zone
    partner = PartnerFactory()
    convert(partner, datetime.fromisoformat(moment), "1")
    if is_totalled:
        for _ in range(2):
            list(rollups.count(margin=timedelta(0)))
    year = Period(date(2026, 1, 1), date(2026, 12, 31))

    with timezone.override("America/New_York"):
        found = reports.report(year, interval=Interval.DAY, dimension=Dimension.PARTNER)
        alone = reports.report(Period(day, day)).total

    assert table(found) == {(day, partner.pk): (1, 1, "100.0%", {"EUR": "1.00"}, {"EUR": "1.000"})}
    assert (alone.clicks, alone.conversions) == (1, 1)


def test_without_time_zones_days_are_as_they_are_written(settings: Any) -> None:
    settings.USE_TZ = False
    partner = PartnerFactory()
    convert(partner, datetime(2026, 3, 2, 0, 0), "1")  # noqa: DTZ001 -- without USE_TZ
    convert(partner, datetime(2026, 3, 2, 23, 59), "1")  # noqa: DTZ001
    convert(partner, datetime(2026, 3, 3, 0, 0), "1")  # noqa: DTZ001

    rows = table(reports.report(Period(date(2026, 3, 2), date(2026, 3, 3)), interval=Interval.DAY))

    assert {day: row[:2] for day, row in rows.items()} == {
        date(2026, 3, 2): (2, 2),
        date(2026, 3, 3): (1, 1),
    }


def test_a_period_of_the_past_ends_today_where_the_site_is(settings: Any) -> None:
    settings.TIME_ZONE = "Pacific/Kiritimati"
    today = datetime.now(ZoneInfo("Pacific/Kiritimati")).date()

    with timezone.override("Pacific/Pago_Pago"):
        period = Period.past(7)

    assert today - period.last in (timedelta(0), timedelta(days=1))
    assert len(list(period)) == 7
    assert period.last - period.first == timedelta(days=6)


@pytest.mark.parametrize(
    ("count", "step", "first"),
    [
        (1, Interval.DAY, date(2026, 3, 31)),
        (3, Interval.DAY, date(2026, 3, 29)),
        (1, Interval.WEEK, date(2026, 3, 30)),
        (5, Interval.WEEK, date(2026, 3, 2)),
        (1, Interval.MONTH, date(2026, 3, 1)),
        (2, Interval.MONTH, date(2026, 2, 1)),
        (12, Interval.MONTH, date(2025, 4, 1)),
    ],
)
def test_a_period_of_the_past_has_so_many_days_weeks_or_months(
    monkeypatch: pytest.MonkeyPatch, count: int, step: Interval, first: date
) -> None:
    monkeypatch.setattr(dates, "today", lambda: date(2026, 3, 31))
    period = Period.past(count, step)
    assert period == Period(first, date(2026, 3, 31))
    assert len(period.starts(step)) == count


@pytest.mark.parametrize(
    ("period", "before"),
    [
        (Period(date(2026, 3, 10), date(2026, 3, 16)), ("2026-03-03", "2026-03-09")),
        (Period(date(2026, 3, 1), date(2026, 3, 1)), ("2026-02-28", "2026-02-28")),
        # A month that was chosen as days has as many days before it.
        (Period(date(2026, 3, 1), date(2026, 3, 31)), ("2026-01-29", "2026-02-28")),
        (Period(date(2026, 3, 1), date(2026, 3, 31), 1), ("2026-02-01", "2026-02-28")),
        (Period(date(2026, 2, 1), date(2026, 2, 28), 1), ("2026-01-01", "2026-01-31")),
        (Period(date(2026, 1, 1), date(2026, 1, 9), 1), ("2025-12-01", "2025-12-09")),
        (Period(date(2026, 3, 1), date(2026, 3, 30), 1), ("2026-02-01", "2026-02-28")),
        (Period(date(2024, 1, 1), date(2024, 2, 29), 12), ("2023-01-01", "2023-02-28")),
        (Period(date(2025, 1, 1), date(2025, 12, 31), 12), ("2024-01-01", "2024-12-31")),
    ],
)
def test_the_period_before(period: Period, before: tuple[str, str]) -> None:
    found = period.before
    assert (f"{found.first}", f"{found.last}") == before
    assert found.months == period.months


@pytest.mark.parametrize(
    ("name", "days"),
    [
        ("7", ("2026-03-25", "2026-03-31")),
        ("month", ("2026-03-01", "2026-03-31")),
        ("last-month", ("2026-02-01", "2026-02-28")),
        ("year", ("2026-01-01", "2026-03-31")),
        ("last-year", ("2025-01-01", "2025-12-31")),
    ],
)
def test_presets(name: str, days: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dates, "today", lambda: date(2026, 3, 31))
    period = Period.preset(name)
    assert period is not None
    assert (f"{period.first}", f"{period.last}") == days


def test_each_preset_has_a_period_and_nothing_else_has() -> None:
    assert all(Period.preset(name) for name in dates.PRESETS)
    assert Period.preset("decade") is None


def test_the_adjustment_of_a_test_is_in_no_number() -> None:
    test = ConversionFactory(
        is_test=True, visitor__is_test=True, amount=100, currency="EUR", payout=10,
        payout_currency="EUR", payout_type="percent", payout_value=10,
    )  # fmt: skip
    assert adjustments.lower(test, Decimal(40), "A part")
    assert reports.report(Period.past(1, Interval.DAY)).total == Numbers()


class TestTheNumbersOfPartners:
    def test_are_of_the_period_and_the_last_click_is_of_ever(self) -> None:
        busy, idle, new = (PartnerFactory() for _ in range(3))
        convert(busy, at(2), "4")
        click(busy, at(31) + timedelta(days=5))
        click(busy, at(31) + timedelta(days=9), is_test=True)
        click(idle, at(1) - timedelta(days=30))
        click(PartnerFactory(), at(2))

        numbers = reports.by_partner([busy, idle, new], MARCH)

        assert list(numbers) == [busy.pk, idle.pk, new.pk]
        assert written(numbers[busy.pk]) == (1, 1, "100.0%", {"EUR": "4.00"}, {"EUR": "4.000"})
        assert numbers[busy.pk].last_click == at(31) + timedelta(days=5)
        assert numbers[idle.pk] == Numbers(last_click=at(1) - timedelta(days=30))
        assert numbers[new.pk] == Numbers()

    @pytest.mark.parametrize("count", [1, 30])
    def test_take_five_queries_however_many_there_are(
        self, count: int, django_assert_num_queries: Any
    ) -> None:
        partners = [PartnerFactory() for _ in range(count)]
        for partner in partners:
            convert(partner, at(2), "4")

        with django_assert_num_queries(5):
            numbers = reports.by_partner(partners, MARCH)

        assert len(numbers) == count


def test_what_arrived_was_counted_or_filtered() -> None:
    partner, other = PartnerFactory(), PartnerFactory()
    for number, (whose, day, reason, count) in enumerate(
        [
            (partner, 1, "bot", 2),
            (partner, 31, "bot", 3),
            (partner, 5, "prefetch", 9),
            (partner, 5, "head", 5),
            (other, 5, "bot", 7),
            (None, 5, "unknown_partner", 1),
        ]
    ):
        FilteredClicks.objects.create(
            key=str(number), partner=whose, day=date(2026, 3, day), reason=reason, count=count
        )
    FilteredClicks.objects.create(
        key="x", partner=partner, day=date(2026, 4, 1), reason="bot", count=1
    )

    click(partner, at(1))
    click(partner, at(31))
    click(partner, at(31) + timedelta(days=1))
    VisitorFactory(partner=partner, referred_on=at(5), is_test=True)

    found = reports.arrivals(MARCH, partner)
    assert (found.counted, found.total) == (2, 2 + 19)
    assert found.reasons == ["prefetch", "bot", "head"]
    assert found.filtered == {"prefetch": 9, "bot": 5, "head": 5}
    assert reports.arrivals(MARCH).reasons[0] == "bot"
    assert reports.arrivals(MARCH).total == 2 + 19 + 7 + 1
    by_partner = reports.arrivals_by_partner(MARCH)
    assert [(key, row.total) for key, row in by_partner.items()] == [
        (partner.pk, 21),
        (other.pk, 7),
        (None, 1),
    ]
    assert by_partner[partner.pk] == found
    assert sum(by_partner.values(), reports.Arrivals()) == reports.arrivals(MARCH)


def test_before_a_click_arrives_none_has() -> None:
    assert reports.arrivals(MARCH) == reports.arrivals(MARCH, PartnerFactory())
    assert reports.arrivals(MARCH).total == 0
    assert reports.arrivals_by_partner(MARCH) == {}


def test_a_followed_test_link_is_no_arrival(client: Client) -> None:
    partner = PartnerFactory()
    used = partner.test_link("/page/")
    for browser in (client, Client(), Client()):
        browser.get(used)
    client.get(partner.test_link("/page/"), headers={"user-agent": "Googlebot/2.1"})
    commit()
    assert Visitor.objects.filter(is_test=True).count() == 1
    assert FollowedTestLink.objects.count() >= 3
    assert reports.arrivals(Period.past(1)).total == 0
    client.get(partner.link("/page/"), headers={"user-agent": "Googlebot/2.1"})
    commit()
    assert reports.arrivals(Period.past(1)) == reports.Arrivals(0, Counter(bot=1))


def test_a_conversion_keeps_the_labels_of_its_visitor(subscription: Any) -> None:
    visitor = VisitorFactory(partner=subscription.partner, sub1="mail", sub5="banner")

    complete_trigger(None, subscription.trigger, visitor=visitor, reference="A-1")

    assert {
        by: [(key[1], numbers.conversions) for key, numbers in rows.items()]
        for by in (Dimension.SUB1, Dimension.SUB4, Dimension.SUB5)
        for rows in [reports.report(Period.past(2), dimension=by).rows]
    } == {Dimension.SUB1: [("mail", 1)], Dimension.SUB4: [("", 1)], Dimension.SUB5: [("banner", 1)]}


def test_clicks_that_are_rolled_up_while_the_first_groups_are_found_count_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    partner = PartnerFactory()
    for label in ("a", "a", "b"):
        click(partner, at(2), sub1=label)
    counted = reports.ReportQuery._counted
    calls: list[int] = []

    def roll_up_afterwards(query: reports.ReportQuery) -> int:
        last = counted(query)
        if not calls:
            for _ in range(2):
                list(rollups.count(margin=timedelta(0)))
        calls.append(last)
        return last

    monkeypatch.setattr(reports.ReportQuery, "_counted", roll_up_afterwards)
    found = reports.report(MARCH, dimension=Dimension.SUB1, limit=1)
    assert {key[1]: row.clicks for key, row in found.rows.items()} == {"a": 2, Others(1): 1}
    assert calls == [0]


# Codes


def test_a_referral_by_code_counts_no_click_and_its_order_changes_no_rate() -> None:
    partner = PartnerFactory()
    clicked = click(partner, at(3))
    click(partner, at(3))
    click(partner, at(3), source="api")
    convert(partner, at(4), "10.00", visitor=clicked, order="100 EUR")
    for status, payout in [("approved", "7.00"), ("pending", "3.00"), ("rejected", "1.00")]:
        by_code = VisitorFactory(partner=partner, referred_on=at(5), source="code", sub1="x")
        row = convert(partner, at(5), payout, visitor=by_code, status=status, order="50 EUR")
        Conversion.objects.filter(pk=row.pk).update(has_click=False)
    for is_rolled_up in (False, True):
        if is_rolled_up:
            for _ in range(2):
                list(rollups.count(margin=timedelta(0)))
        total = reports.report(MARCH).total
        assert (total.clicks, total.conversions, total.rejected) == (3, 3, 1)
        assert total.payouts == {"EUR": Decimal("17.00")}
        assert total.revenue == {"EUR": Decimal("200.00")}
        assert (total.rate, total.per_click) == (Decimal(1) / 3, {"EUR": Decimal(10) / 3})
        by_partner = reports.by_partner([partner], MARCH)[partner.pk]
        assert (by_partner.clicks, by_partner.last_click) == (3, at(3))
        assert reports.arrivals(MARCH).counted == 3
        shown = {column.name: column.value(total) for column in columns.report_columns(total)}
        assert shown["rate"] == Decimal("33.33")
        assert Decimal("3.33") in [round(value, 2) for value in shown.values() if value]


def test_an_adjustment_of_an_order_by_code_changes_no_rate() -> None:
    partner = PartnerFactory()
    click(partner, at(3))
    by_code = VisitorFactory(partner=partner, referred_on=at(5), source="code")
    row = convert(partner, at(5), "7.00", visitor=by_code)
    Conversion.objects.filter(pk=row.pk).update(has_click=False)
    row.refresh_from_db()
    adjustments.adjust(row, payout=Decimal("-2.00"), reason="refund")
    total = reports.report(MARCH).total
    assert total.payouts == {"EUR": Decimal("5.00")}
    assert total.per_click == {"EUR": Decimal("0.00")}
