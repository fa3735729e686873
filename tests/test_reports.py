"""The numbers of the field, compared with tables written by hand."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.utils import timezone

from affiliations import periods, reports, totals
from affiliations.models import Conversion, Correction, Partner, PurgedClicks, UncountedClicks
from affiliations.periods import Period, Step
from affiliations.reports import By, Numbers
from affiliations.triggers import complete_trigger
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
    **facts: Any,
) -> Conversion:
    """Convert a visitor who came at that moment, unless there is one."""
    visitor = visitor or click(partner, moment)
    subscription = partner.subscriptions.filter(trigger=trigger).first()
    return ConversionFactory(
        visitor=visitor,
        subscription=subscription or SubscriptionFactory(partner=partner, trigger=trigger),
        created_on=moment,
        status=status,
        payout=payout and Decimal(payout),
        payout_currency=currency if payout else "",
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


def table(report: reports.Report) -> dict[Any, tuple[Any, ...]]:
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

    Correction.objects.bulk_create(
        Correction(conversion=one, partner=partner, payout=Decimal("-0.07"), currency="EUR")
        for one in conversions
    )
    by_day = reports.report(MARCH, step=Step.DAY)
    assert by_day.total.payouts == by_day.rows[at(2).date(), None].payouts == {"EUR": 30}


def test_currencies_are_never_added_together() -> None:
    partner = PartnerFactory()
    convert(partner, at(2), "10")
    convert(partner, at(2), "75", "DKK")
    convert(partner, at(2))

    report = reports.report(MARCH)

    assert report.currencies == ["DKK", "EUR"]
    assert report.total.payouts == {"EUR": Decimal(10), "DKK": Decimal(75)}


def test_what_was_corrected_since_is_taken_off_the_day_of_the_conversion() -> None:
    partner = PartnerFactory()
    kept, gone = convert(partner, at(2), "10"), convert(partner, at(2), "5", status="rejected")
    for conversion in (kept, gone):
        Correction.objects.create(
            conversion=conversion,
            partner=partner,
            kind="adjusted",
            payout=Decimal("-2.50"),
            currency="EUR",
            reason="One of two came back.",
            created_on=at(31) + timedelta(days=40),
        )

    rows = table(reports.report(MARCH, step=Step.DAY))

    assert rows[date(2026, 3, 2)] == (2, 1, "50.0%", {"EUR": "7.50"}, {"EUR": "3.750"})


def test_a_conversion_is_of_the_day_on_which_it_was_made_whenever_it_was_decided() -> None:
    partner = PartnerFactory()
    convert(
        partner, at(30), "10", visitor=click(partner, at(28)), decided_on=at(31) + timedelta(days=9)
    )

    rows = table(reports.report(Period(date(2026, 3, 28), date(2026, 3, 30)), step=Step.DAY))

    assert rows == {
        date(2026, 3, 28): (1, 0, "0.0%", {}, {}),
        date(2026, 3, 29): (0, 0, None, {}, {}),
        date(2026, 3, 30): (0, 1, None, {"EUR": "10.00"}, {}),
    }


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (Step.WEEK, {date(2026, 2, 23): 1, date(2026, 3, 2): 2, date(2026, 3, 9): 0}),
        (Step.MONTH, {date(2026, 2, 1): 0, date(2026, 3, 1): 3}),
    ],
)
def test_weeks_begin_on_monday_and_months_on_the_first(step: Step, expected: Any) -> None:
    partner = PartnerFactory()
    for day in (1, 2, 8):
        click(partner, at(day))

    report = reports.report(Period(date(2026, 2, 28), date(2026, 3, 10)), step=step)

    assert {key[0]: numbers.clicks for key, numbers in report.rows.items()} == expected


def test_purged_clicks_are_clicks() -> None:
    partner = PartnerFactory()
    click(partner, at(2), sub1="mail")
    PurgedClicks.objects.create(partner=partner, day=date(2026, 3, 2), sub1="mail", count=3)
    PurgedClicks.objects.create(partner=partner, day=date(2026, 4, 1), sub1="mail", count=9)

    assert reports.report(MARCH).total.clicks == 4
    assert table(reports.report(MARCH, by=By.SUB1)) == {"mail": (4, 0, "0.0%", {}, {})}
    day = table(reports.report(MARCH, step=Step.DAY, partners=[partner]))[date(2026, 3, 2)]
    assert day[0] == 4


def test_clicks_are_the_same_before_and_after_they_are_in_the_totals() -> None:
    first, second = PartnerFactory(), PartnerFactory()
    click(first, at(2), sub1="mail")
    click(second, at(2), sub1="mail")
    click(second, at(9))
    questions: list[dict[str, Any]] = [
        {},
        {"step": Step.WEEK, "by": By.PARTNER},
        {"by": By.SUB1},
        {"sub_id": (By.SUB1, "mail"), "partners": [second]},
    ]
    before = [table(reports.report(MARCH, **question)) for question in questions]

    for _ in range(2):
        list(totals.count(margin=timedelta(0)))

    assert [table(reports.report(MARCH, **question)) for question in questions] == before


def test_by_partner_the_most_clicked_comes_first() -> None:
    busy, quiet, idle = PartnerFactory(), PartnerFactory(), PartnerFactory()
    for day in (3, 4):
        click(busy, at(day))
    convert(quiet, at(5), "1.20", "DKK")
    click(idle, at(1) - timedelta(days=1))

    report = reports.report(MARCH, by=By.PARTNER)

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

    report = reports.report(MARCH, by=By.TRIGGER)

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

    report = reports.report(MARCH, step=Step.DAY, by=By.TRIGGER)

    assert table(report) == {
        (date(2026, 3, 2), "Order placed"): (2, 1, "50.0%", {}, {}),
        (date(2026, 3, 3), "Order placed"): (1, 1, "100.0%", {}, {}),
    }
    assert report.total.clicks == 4


def test_one_trigger_alone() -> None:
    partner = PartnerFactory()
    convert(partner, at(3), "8", trigger="Order placed")
    refunded = convert(partner, at(4), "1", trigger="User registered")
    Correction.objects.create(
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

    assert table(reports.report(MARCH, by=By.SUB2)) == {
        "banner": (2, 1, "50.0%", {"EUR": "3.00"}, {"EUR": "1.500"}),
        "": (1, 0, "0.0%", {}, {}),
    }


def test_one_sub_id_alone() -> None:
    partner, other = PartnerFactory(), PartnerFactory()
    convert(partner, at(2), "3", visitor=click(partner, at(2), sub3="mail"))
    convert(other, at(2), "5", visitor=click(other, at(2), sub3="mail"))
    convert(partner, at(2), "7")

    report = reports.report(MARCH, by=By.PARTNER, sub_id=(By.SUB3, "mail"))

    assert {key[1]: written(numbers)[:4] for key, numbers in report.rows.items()} == {
        partner.pk: (1, 1, "100.0%", {"EUR": "3.00"}),
        other.pk: (1, 1, "100.0%", {"EUR": "5.00"}),
    }


def test_there_are_no_numbers_of_two_sub_ids_at_once() -> None:
    with pytest.raises(ValueError, match="one sub id at a time"):
        reports.report(MARCH, by=By.SUB2, sub_id=(By.SUB1, "mail"))


def test_with_most_there_are_the_first_rows_and_the_total_of_all() -> None:
    partner = PartnerFactory()
    for label, clicks in {"a": 1, "b": 3, "c": 2, "": 1}.items():
        for _ in range(clicks):
            visitor = click(partner, at(2), sub1=label)
    convert(partner, at(2), "10", visitor=visitor)
    whole = reports.report(MARCH, by=By.SUB1)
    assert [label for _start, label in whole.rows] == ["b", "c", "", "a"]
    for most in range(6):
        found = reports.report(MARCH, by=By.SUB1, most=most)
        assert list(found.rows.items()) == list(whole.rows.items())[:most]
        assert (found.total, found.count) == (whole.total, 4)


@pytest.mark.parametrize("step", list(Step))
def test_partners_alone(step: Step) -> None:
    first, second, third = (PartnerFactory() for _ in range(3))
    for partner in (first, second, third):
        convert(partner, at(2), "1")

    assert reports.report(MARCH, step=step, partners=[first, third]).total.clicks == 2
    assert reports.report(MARCH, step=step, partners=[]).total == Numbers()


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
            list(totals.count(margin=timedelta(0)))
    year = Period(date(2026, 1, 1), date(2026, 12, 31))

    with timezone.override("America/New_York"):
        found = reports.report(year, step=Step.DAY, by=By.PARTNER)
        alone = reports.report(Period(day, day)).total

    assert table(found) == {(day, partner.pk): (1, 1, "100.0%", {"EUR": "1.00"}, {"EUR": "1.000"})}
    assert (alone.clicks, alone.conversions) == (1, 1)


def test_without_time_zones_days_are_as_they_are_written(settings: Any) -> None:
    settings.USE_TZ = False
    partner = PartnerFactory()
    convert(partner, datetime(2026, 3, 2, 0, 0), "1")  # noqa: DTZ001 -- without USE_TZ
    convert(partner, datetime(2026, 3, 2, 23, 59), "1")  # noqa: DTZ001
    convert(partner, datetime(2026, 3, 3, 0, 0), "1")  # noqa: DTZ001

    rows = table(reports.report(Period(date(2026, 3, 2), date(2026, 3, 3)), step=Step.DAY))

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
        (1, Step.DAY, date(2026, 3, 31)),
        (3, Step.DAY, date(2026, 3, 29)),
        (1, Step.WEEK, date(2026, 3, 30)),
        (5, Step.WEEK, date(2026, 3, 2)),
        (1, Step.MONTH, date(2026, 3, 1)),
        (2, Step.MONTH, date(2026, 2, 1)),
        (12, Step.MONTH, date(2025, 4, 1)),
    ],
)
def test_a_period_of_the_past_has_so_many_days_weeks_or_months(
    monkeypatch: pytest.MonkeyPatch, count: int, step: Step, first: date
) -> None:
    monkeypatch.setattr(periods, "today", lambda: date(2026, 3, 31))
    period = Period.past(count, step)
    assert period == Period(first, date(2026, 3, 31))
    assert len(period.starts(step)) == count


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


def test_what_was_not_counted_by_reason_the_most_first() -> None:
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
        UncountedClicks.objects.create(
            key=str(number), partner=whose, day=date(2026, 3, day), reason=reason, count=count
        )
    UncountedClicks.objects.create(
        key="x", partner=partner, day=date(2026, 4, 1), reason="bot", count=1
    )

    assert reports.uncounted(MARCH, partner) == [("prefetch", 9), ("bot", 5), ("head", 5)]
    assert reports.uncounted(MARCH)[0] == ("bot", 12)
    assert ("unknown_partner", 1) in reports.uncounted(MARCH)


def test_a_conversion_keeps_the_labels_of_its_visitor(subscription: Any) -> None:
    visitor = VisitorFactory(partner=subscription.partner, sub1="mail", sub5="banner")

    complete_trigger(None, subscription.trigger, visitor=visitor, reference="A-1")

    assert {
        by: [(key[1], numbers.conversions) for key, numbers in rows.items()]
        for by in (By.SUB1, By.SUB4, By.SUB5)
        for rows in [reports.report(Period.past(2), by=by).rows]
    } == {By.SUB1: [("mail", 1)], By.SUB4: [("", 1)], By.SUB5: [("banner", 1)]}
