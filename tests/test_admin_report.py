"""The report in the Admin, as a colleague from marketing reads it."""

from __future__ import annotations

import csv
import io
import re
from datetime import date, timedelta
from html import unescape
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext, override_settings
from django.utils import timezone, translation
from django.utils.html import escape

from affiliations import dates
from affiliations.admin import report as pages
from affiliations.exceptions import Reason
from affiliations.models import (
    Conversion,
    DailyClicks,
    FilteredClicks,
    Partner,
    RollupState,
    Subscription,
    Visitor,
)
from affiliations.reports import queries as queries_of_reports
from affiliations.reports.numbers import Numbers, ReportResult
from tests.factories import PartnerFactory, SubscriptionFactory, UserFactory
from tests.settings import MANY_ROWS
from tests.test_admin import allowed, shown
from tests.test_reports import at, click, convert

pytestmark = pytest.mark.django_db

PAGE = "/admin/affiliations/report/"
MARCH = {"since": "2026-03-01", "until": "2026-03-31"}

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "=cmd|' /C calc'!A0",
    "{{ settings.SECRET_KEY }}",
    "\u202egnp.exe",
    "%s %(x)s {0}",
    "x" * 255,
]


@pytest.fixture
def staff() -> Client:
    """Log in somebody who may look at the report and do nothing else."""
    return allowed("view_report")


def tables(response: Any) -> dict[str, list[list[str]]]:
    """Return the tables of a page by their headings: rows of cells."""
    assert response.status_code == 200
    found = {}
    for section in re.findall(r"<section.*?</section>", response.text, re.DOTALL):
        if table := re.search(r"<table>.*?</table>", section, re.DOTALL):
            heading = re.search(r"<h2[^>]*>(.*?)</h2>", section, re.DOTALL)
            assert heading
            found[plain(heading[1])] = [
                [plain(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)]
                for row in re.findall(r"<tr>.*?</tr>", table[0], re.DOTALL)
            ]
    return found


def plain(text: str) -> str:
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", text))).strip()


def links(response: Any) -> dict[str, str]:
    """Return where the links of the page's content lead, by their text."""
    content = response.text[response.text.index('id="content"') :]
    found = re.findall(r'<a\s[^>]*?href="([^"]*)"[^>]*>(.*?)</a>', content, re.DOTALL)
    return {plain(text): unescape(address) for address, text in found}


def link(staff: Client, text: str, **asked: str) -> str:
    """Return where a link of the report leads, as the browser goes there."""
    address = links(staff.get(PAGE, MARCH | asked))[text]
    return address if address.startswith("/") else PAGE + address


def errors(response: Any) -> list[str]:
    assert response.status_code == 200
    return [plain(one) for one in re.findall(r"<li>((?:(?!<).)*)</li>", response.text)]


def file(staff: Client, address: str) -> list[list[str]]:
    """Read a CSV file."""
    response = staff.get(address)
    assert response.status_code == 200
    text = response.getvalue().decode("utf-8-sig")  # type: ignore[attr-defined]
    return list(csv.reader(io.StringIO(text, newline="")))


def march() -> tuple[Partner, Partner]:
    """Make two partners with some numbers in March 2026."""
    one, two = PartnerFactory(name="Bjørns Boghandel"), PartnerFactory(name="Annas Aviser")
    for day in (1, 1, 1, 2):
        click(one, at(day), sub1="summer")
    convert(one, at(2), "10")
    convert(one, at(2), "20", "DKK", trigger="User registered")
    convert(two, at(9), "5", status="pending")
    convert(two, at(9), "7", status="rejected")
    return one, two


# Numbers


def test_it_shows_each_day_with_its_numbers_and_the_total(staff: Client) -> None:
    march()
    rows = tables(staff.get(PAGE, MARCH))["Over time"]
    assert rows[0] == [
        "Day",
        "Clicks",
        "Conversions",
        "Pending",
        "Rejected",
        "CR, %",
        "Pending commission, DKK",
        "Commission (approved), DKK",
        "EPC, DKK",
        "Pending commission, EUR",
        "Commission (approved), EUR",
        "EPC, EUR",
    ]
    assert len(rows) == 1 + 31 + 1
    assert rows[1] == ["03/01/2026", "3", "0", "0", "0", "0.00", *["0.00"] * 6]
    assert rows[2] == [
        "03/02/2026",
        "3",
        "2",
        "0",
        "0",
        "66.67",
        *("0.00", "20.00", "6.67"),
        *("0.00", "10.00", "3.33"),
    ]
    nothing = ["0.00", "0.00", "–"]
    assert rows[3] == ["03/03/2026", "0", "0", "0", "0", "–", *nothing, *nothing]
    assert rows[9] == [
        "03/09/2026",
        "2",
        "1",
        "1",
        "1",
        "50.00",
        *("0.00", "0.00", "0.00"),
        *("5.00", "0.00", "0.00"),
    ]
    total = ["Total", "8", "3", "1", "1", "37.50"]
    assert rows[-1] == [*total, "0.00", "20.00", "2.50", "5.00", "10.00", "1.25"]


def test_weeks_say_from_when_to_when_they_are(staff: Client) -> None:
    march()
    rows = tables(staff.get(PAGE, MARCH | {"interval": "week"}))["Over time"]
    assert [row[0] for row in rows[:3]] == [
        "Week",
        "02/23/2026 – 03/01/2026",
        "03/02/2026 – 03/08/2026",
    ]
    assert [row[1] for row in rows] == ["Clicks", "3", "3", "2", "0", "0", "0", "8"]


def test_months_are_called_by_their_names(staff: Client) -> None:
    march()
    asked = {"since": "2026-02-10", "until": "2026-03-31", "interval": "month"}
    rows = tables(staff.get(PAGE, asked))["Over time"]
    assert [row[:2] for row in rows[1:]] == [
        ["February 2026", "0"],
        ["March 2026", "8"],
        ["Total", "8"],
    ]


def test_it_compares_partners_unless_something_else_is_asked_for(staff: Client) -> None:
    march()
    rows = tables(staff.get(PAGE, MARCH))["By partner"]
    assert [row[:3] for row in rows] == [
        ["Partner", "Clicks", "Conversions"],
        ["Bjørns Boghandel", "6", "2"],
        ["Annas Aviser", "2", "1"],
        ["Total", "8", "3"],
    ]


def test_it_compares_triggers_and_says_whose_the_clicks_are(staff: Client) -> None:
    march()
    response = staff.get(PAGE, MARCH | {"dimension": "trigger"})
    assert [row[:3] for row in tables(response)["By trigger"][1:]] == [
        ["Order placed", "8", "2"],
        ["User registered", "8", "1"],
        ["Total", "8", "3"],
    ]
    assert "Clicks cannot be split by trigger" in shown(response)


def test_it_compares_sub_ids_those_without_any_too(staff: Client) -> None:
    march()
    rows = tables(staff.get(PAGE, MARCH | {"dimension": "sub1"}))["By sub id 1"]
    assert [row[:3] for row in rows[1:]] == [
        ["(none)", "4", "3"],
        ["summer", "4", "0"],
        ["Total", "8", "3"],
    ]


def test_it_compares_sources_in_words(staff: Client) -> None:
    march()
    Visitor.objects.filter(pk=Visitor.objects.latest("pk").pk).update(source="api")
    response = staff.get(PAGE, MARCH | {"dimension": "source"})
    assert [row[:2] for row in tables(response)["By source"][1:]] == [
        ["Link", "7"],
        ["Without a landing page", "1"],
        ["Total", "8"],
    ]
    assert "Link" not in links(response)
    rows = file(staff, link(staff, "Download “By source” as CSV", dimension="source"))
    assert [row[0] for row in rows] == ["Source", "Link", "Without a landing page"]


def test_it_compares_nothing_where_nothing_is_to_be_compared(staff: Client) -> None:
    march()
    response = staff.get(PAGE, MARCH | {"dimension": ""})
    assert list(tables(response)) == ["Over time", "Arrived clicks"]
    assert "Download by day and partner as CSV" not in links(response)


def test_it_tells_of_one_partner_alone(staff: Client) -> None:
    one, two = march()
    for asked in (two.uid, "Annas Aviser", "annas a"):
        response = staff.get(PAGE, MARCH | {"partner": asked})
        assert tables(response)["Over time"][-1][:3] == ["Total", "2", "1"]
        assert ", Annas Aviser" in shown(response)
    PartnerFactory(name="Annas Aviser of old")
    response = staff.get(PAGE, MARCH | {"partner": "Annas Aviser"})
    assert tables(response)["Over time"][-1][:3] == ["Total", "2", "1"]
    response = staff.get(PAGE, MARCH | {"partner": one.uid})
    assert tables(response)["Over time"][-1][:3] == ["Total", "6", "2"]


def test_it_tells_of_one_trigger_alone(staff: Client) -> None:
    march()
    SubscriptionFactory(trigger="An old one")
    rows = tables(staff.get(PAGE, MARCH | {"trigger": "User registered"}))["Over time"]
    assert rows[-1][:3] == ["Total", "8", "1"]
    assert tables(staff.get(PAGE, MARCH | {"trigger": "An old one"}))["Over time"][-1][2] == "0"


def test_it_tells_of_one_sub_id_alone(staff: Client) -> None:
    march()
    rows = tables(staff.get(PAGE, MARCH | {"sub": "sub1", "label": "summer", "dimension": "sub1"}))
    assert rows["Over time"][-1][:3] == ["Total", "4", "0"]
    assert rows["By sub id 1"][1][:2] == ["summer", "4"]


def test_money_of_two_currencies_is_never_added_together(staff: Client) -> None:
    march()
    text = shown(staff.get(PAGE, MARCH))
    assert "Commission (approved), DKK 20.00" in text
    assert "Commission (approved), EUR 10.00" in text
    assert "30.00" not in text


def test_a_currency_without_decimals_is_written_without_any(staff: Client) -> None:
    convert(PartnerFactory(), at(2), "1200", "JPY")
    assert tables(staff.get(PAGE, MARCH))["Over time"][-1][-2:] == ["1200", "1200"]


def test_the_charts_show_the_numbers_of_the_table(staff: Client) -> None:
    march()
    response = staff.get(PAGE, MARCH)
    titles = re.findall(r"<figcaption>(.*?)</figcaption>", response.text)
    assert titles == [
        "Clicks",
        "Conversions",
        "Commission (approved), DKK",
        "Commission (approved), EUR",
    ]
    told = re.findall(r"<title>(.*?)</title>", response.text[response.text.index("<figure>") :])
    rows = tables(response)["Over time"][1:-1]
    assert told[:31] == [f"{row[0]}: {row[1]}" for row in rows]
    assert told[31:62] == [f"{row[0]}: {row[2]}" for row in rows]
    assert told[62:93] == [f"{row[0]}: {row[7]}\xa0DKK" for row in rows]
    assert told[93:] == [f"{row[0]}: {row[10]}\xa0EUR" for row in rows]


def test_of_many_currencies_some_have_a_chart_and_all_are_in_the_table(staff: Client) -> None:
    partner = PartnerFactory()
    for code in ("DKK", "EUR", "GBP", "NOK", "SEK", "USD"):
        convert(partner, at(2), "1", code)
    response = staff.get(PAGE, MARCH)
    assert response.text.count("<figure>") == 2 + 4
    assert len(tables(response)["Over time"][0]) == 6 + 3 * 6


def test_what_was_not_counted_is_told_with_its_reason(staff: Client) -> None:
    one, two = march()
    for number, (partner, reason, count) in enumerate(
        [(one, Reason.BOT, 7), (two, Reason.BOT, 5), (None, Reason.UNKNOWN_PARTNER, 2)]
    ):
        FilteredClicks.objects.create(
            key=str(number), partner=partner, day=date(2026, 3, 5), reason=reason, count=count
        )
    FilteredClicks.objects.create(
        key="x", day=date(2026, 3, 5), reason="of an old version", count=1
    )
    response = staff.get(PAGE, MARCH)
    rows = tables(response)["Arrived clicks"]
    assert rows == [
        ["Result", "Clicks"],
        ["Arrived", "23"],
        ["Counted", "8"],
        ["Known bot or crawler", "12"],
        ["Unknown partner id", "2"],
        ["Of an old version", "1"],
    ]
    assert file(staff, link(staff, "Download “Arrived clicks” as CSV")) == rows
    rows = tables(response)["Arrived clicks by partner"]
    reasons = ["Known bot or crawler", "Unknown partner id", "Of an old version"]
    assert rows == [
        ["Partner", "Arrived", "Counted", *reasons],
        ["Bjørns Boghandel", "13", "6", "7", "0", "0"],
        ["Annas Aviser", "7", "2", "5", "0", "0"],
        ["Unknown partner id", "3", "0", "0", "2", "1"],
        ["Total", "23", "8", "12", "2", "1"],
    ]
    assert file(staff, link(staff, "Download “Arrived clicks by partner” as CSV")) == rows[:-1]
    assert "They include all groups, triggers and sub ids." not in shown(response)
    response = staff.get(PAGE, MARCH | {"partner": one.uid, "trigger": "Order placed"})
    rows = tables(response)["Arrived clicks"][1:]
    assert rows == [["Arrived", "13"], ["Counted", "6"], ["Known bot or crawler", "7"]]
    assert "Arrived clicks by partner" not in tables(response)
    asked = MARCH | {"partner": one.uid, "rows": "arrivals-by-partner"}
    assert file(staff, f"{PAGE}csv/?{urlencode(asked)}") == [
        ["Partner", "Arrived", "Counted", "Known bot or crawler"],
        ["Bjørns Boghandel", "13", "6", "7"],
    ]
    assert "They include all groups, triggers and sub ids." in shown(response)


def test_the_page_has_the_partners_with_most_arrivals_and_the_file_has_all(
    staff: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "ARRIVALS", 2)
    march()
    click(PartnerFactory(name="Small"), at(3))
    response = staff.get(PAGE, MARCH)
    rows = tables(response)["Arrived clicks by partner"]
    assert [row[0] for row in rows[1:]] == ["Bjørns Boghandel", "Annas Aviser", "Total"]
    assert "The 2 partners with the most arrived clicks." in shown(response)
    rows = file(staff, link(staff, "Download “Arrived clicks by partner” as CSV"))
    assert [row[0] for row in rows[1:]] == ["Bjørns Boghandel", "Annas Aviser", "Small"]


def test_before_anything_has_happened_it_says_so(staff: Client) -> None:
    response = staff.get(PAGE)
    assert tables(response)["Arrived clicks"][1:] == [["Arrived", "0"], ["Counted", "0"]]
    assert "No data for this period" in shown(response)
    assert tables(response)["Over time"][-1] == ["Total", "0", "0", "0", "0", "–"]


def test_of_many_partners_those_with_most_clicks_are_shown_and_the_others_added_up(
    staff: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "GROUPS", 2)
    monkeypatch.setattr(pages, "GROUPS_IN_FILE", 2)
    march()
    for day in (3, 4):
        click(PartnerFactory(name="Small"), at(day))
    response = staff.get(PAGE, MARCH)
    assert [row[:2] for row in tables(response)["By partner"][1:]] == [
        ["Bjørns Boghandel", "6"],
        ["Annas Aviser", "2"],
        ["All others (2)", "2"],
        ["Total", "10"],
    ]
    assert "All others (2)" not in links(response)
    assert "Only the 2 with the most clicks have rows of their own." in shown(response)
    rows = file(staff, link(staff, "Download “By partner” as CSV"))
    assert [row[:2] for row in rows[1:]] == [
        ["Bjørns Boghandel", "6"],
        ["Annas Aviser", "2"],
        ["All others (2)", "2"],
    ]
    rows = file(staff, link(staff, "Download by day and partner as CSV"))
    assert [row[:3] for row in rows if "others" in row[1]] == [
        ["2026-03-03", "All others (2)", "1"],
        ["2026-03-04", "All others (2)", "1"],
    ]


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ({"rows": "time"}, "report-2026-03-01-2026-03-31"),
        ({"rows": "groups", "dimension": "sub1"}, "report-sub-id-1-2026-03-01-2026-03-31"),
        ({"rows": "arrivals"}, "arrived-clicks-2026-03-01-2026-03-31"),
        ({"dimension": "trigger", "partner": "One"}, "report-trigger-{uid}-2026-03-01-2026-03-31"),
    ],
)
def test_a_file_is_named_after_its_rows_and_its_period(
    asked: dict[str, str], name: str, staff: Client
) -> None:
    uid = PartnerFactory(name="One").uid
    response = staff.get(f"{PAGE}csv/", MARCH | asked)
    assert response["Content-Disposition"] == (f'attachment; filename="{name.format(uid=uid)}.csv"')


def test_a_report_has_a_hundred_rows_at_most_and_its_file_a_thousand(staff: Client) -> None:
    partner = PartnerFactory()
    Visitor.objects.bulk_create(
        Visitor(partner=partner, entry_point="/", referred_on=at(3), sub1=f"L{number}")
        for number in range(1003)
    )
    asked = MARCH | {"dimension": "sub1"}
    rows = tables(staff.get(PAGE, asked))["By sub id 1"]
    assert len(rows) == 1 + 100 + 1 + 1
    assert [row[:2] for row in rows[-2:]] == [["All others (903)", "903"], ["Total", "1003"]]
    for query in ("rows=groups", "dimension=sub1"):
        lines = file(staff, f"{PAGE}csv/?{urlencode(asked)}&{query}")
        assert len(lines) == 1 + 1000 + 1
        assert "All others (3)" in lines[-1]


def test_a_partner_who_is_deleted_meanwhile_is_no_error(
    staff: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = ReportResult({(None, 4711): Numbers(clicks=1)}, Numbers(clicks=1))
    monkeypatch.setattr(pages, "report", lambda **query: found)
    response = staff.get(PAGE, MARCH)
    name = "deleted partner (4711)"
    assert [row[0] for row in tables(response)["By partner"]] == ["Partner", name, "Total"]
    assert name not in links(response)


# Periods


@pytest.mark.parametrize(
    ("preset", "since", "until"),
    [
        ("7", "2026-02-24", "2026-03-02"),
        ("30", "2026-02-01", "2026-03-02"),
        ("90", "2025-12-03", "2026-03-02"),
        ("month", "2026-03-01", "2026-03-02"),
        ("last-month", "2026-02-01", "2026-02-28"),
        ("year", "2026-01-01", "2026-03-02"),
        ("last-year", "2025-01-01", "2025-12-31"),
        ("", "2026-02-01", "2026-03-02"),
    ],
)
def test_a_period_has_a_name_and_its_days_stand_in_the_form(
    staff: Client, monkeypatch: pytest.MonkeyPatch, preset: str, since: str, until: str
) -> None:
    monkeypatch.setattr(dates, "today", lambda: date(2026, 3, 2))
    response = staff.get(PAGE, {"period": preset})
    assert f'name="since" value="{since}"' in response.text
    assert f'name="until" value="{until}"' in response.text
    assert response.text.count('aria-current="true"') == 1


def test_the_names_of_periods_keep_what_else_was_asked_for(staff: Client) -> None:
    address = link(staff, "Past 7 days", interval="week", partner="x")
    assert parse_qs(urlsplit(address).query) == {
        "period": ["7"],
        "interval": ["week"],
        "partner": ["x"],
    }


def test_days_of_ones_own_are_no_period_with_a_name(staff: Client) -> None:
    response = staff.get(PAGE, MARCH | {"period": "7"})
    assert "March 1, 2026 – March 31, 2026" in shown(response)
    assert 'aria-current="true"' not in response.text


# Wrong values


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"since": "x"}, "Enter a valid date."),
        ({"since": "2026-02-30"}, "Enter a valid date."),
        ({"since": "\0"}, "Enter a valid date."),
        ({"since": ""}, "This field is required."),
        ({"since": "0001-01-01"}, "Ensure this value is greater than or equal to 1900-01-01."),
        ({"until": "9999-12-31"}, "Ensure this value is less than or equal to 9000-12-31."),
        ({"until": "2026-02-28"}, "Choose an end date that is not before the start date."),
        ({"until": "2027-03-02"}, "The report would have too many rows."),
        ({"until": "2036-03-02", "interval": "week"}, "The report would have too many rows."),
        ({"until": "2126-03-02", "interval": "month"}, "The report would have too many rows."),
        ({"interval": "year"}, "Select a valid choice. year is not one of the available choices."),
        ({"dimension": "user"}, "Select a valid choice. user is not one of the available choices."),
        ({"trigger": "a\0b"}, "Select a valid choice. a\0b is not one of the"),
        ({"trigger": "x" * 101}, f"Select a valid choice. {'x' * 101} is not one of the"),
        ({"sub": "sub6", "label": "x"}, "Select a valid choice. sub6 is not one of the"),
        ({"sub": "sub1"}, "Enter a value of the sub id, such as “summer”."),
        ({"label": "summer"}, "Choose the sub id that has this value."),
        (
            {"sub": "sub1", "label": "x", "dimension": "sub2"},
            "A report can use only one sub id.",
        ),
        (
            {"sub": "sub1", "label": "x", "dimension": "source"},
            "Clear the sub id to group by source, or group by something else.",
        ),
        ({"sub": "source", "label": "api"}, "Select a valid choice. source is not one of the"),
        ({"label": "x" * 256, "sub": "sub1"}, "Ensure this value has at most 255 characters"),
        ({"label": "a\0b", "sub": "sub1"}, "Null characters are not allowed."),
        ({"partner": "a\0b"}, "Null characters are not allowed."),
        ({"partner": "nobody"}, "No partner found. Enter the uid or a part of the name."),
    ],
)
def test_what_cannot_be_answered_is_told_beside_its_field(
    staff: Client, asked: dict[str, str], error: str
) -> None:
    response = staff.get(PAGE, MARCH | asked)
    assert [one for one in errors(response) if one.startswith(error)]
    assert "<figure>" not in response.text
    assert tables(response) == {}


def test_a_period_that_has_no_such_name_is_told(staff: Client) -> None:
    assert "Select a valid choice. ever is not one of the available choices." in errors(
        staff.get(PAGE, {"period": "ever"})
    )


@pytest.mark.parametrize("step", ["day", "week", "month"])
def test_a_whole_leap_year_can_be_seen(staff: Client, step: str) -> None:
    asked = {"since": "2024-01-01", "until": "2024-12-31", "interval": step}
    assert errors(staff.get(PAGE, asked)) == []


def test_where_several_partners_are_meant_it_names_them_with_their_uids(staff: Client) -> None:
    some = [PartnerFactory(name=f"Shop {number}") for number in range(3)]
    named = ", ".join(f"{one.name} ({one.uid})" for one in some)
    message = f"Several partners match. Enter the uid of one of them: {named}"
    assert message in errors(staff.get(PAGE, {"partner": "shop"}))
    PartnerFactory(name="Shop 3")
    assert f"{message}, …" in errors(staff.get(PAGE, {"partner": "shop"}))
    twins = [PartnerFactory(name="Shop 0"), some[0]]
    [error] = errors(staff.get(PAGE, {"partner": "Shop 0"}))
    assert all(one.uid in error for one in twins)


@pytest.mark.parametrize("text", ["".join(HOSTILE), "\ufffe", "x" * 5000, "%"])
def test_whatever_stands_in_the_address_there_is_a_page_and_no_markup_of_it(
    staff: Client, text: str
) -> None:
    fields = (
        "period",
        "since",
        "until",
        "interval",
        "dimension",
        "partner",
        "trigger",
        "sub",
        "label",
        "rows",
    )
    for name in fields:
        response = staff.get(PAGE, MARCH | {name: text})
        assert response.status_code == 200
        assert "<script>alert" not in response.text
        assert "<img src=x" not in response.text
        assert staff.get(f"{PAGE}csv/", MARCH | {name: text}).status_code in (200, 302)


@pytest.mark.parametrize("text", HOSTILE)
def test_whatever_a_partner_or_label_is_called_it_is_shown_harmlessly(
    staff: Client, text: str
) -> None:
    partner = PartnerFactory(name=text[:200])
    click(partner, at(2), sub1=text)
    for by in ("partner", "sub1"):
        response = staff.get(PAGE, MARCH | {"dimension": by})
        assert "<script>alert" not in response.text
        assert "<img src=x" not in response.text
        heading = "By partner" if by == "partner" else "By sub id 1"
        assert tables(response)[heading][1][0].startswith(plain(escape(text))[:60])
    rows = file(staff, link(staff, "Download “By sub id 1” as CSV", dimension="sub1"))
    assert not rows[1][0].startswith("=")


# From one to the other


def test_a_partner_leads_to_a_report_about_them(staff: Client) -> None:
    march()
    rows = tables(staff.get(link(staff, "Annas Aviser")))
    assert rows["Over time"][-1][:3] == ["Total", "2", "1"]
    assert [row[0] for row in rows["By trigger"]] == ["Trigger", "Order placed", "Total"]


def test_a_trigger_leads_to_a_report_about_it(staff: Client) -> None:
    march()
    rows = tables(staff.get(link(staff, "User registered", dimension="trigger")))
    assert rows["Over time"][-1][:3] == ["Total", "8", "1"]
    assert "By partner" in rows


def test_a_trigger_that_was_renamed_leads_to_a_report_about_it_too(staff: Client) -> None:
    one, _two = march()
    convert(one, at(3), "20", trigger="Before <it> was renamed")
    Subscription.objects.filter(trigger="Before <it> was renamed").update(trigger="Renamed")
    page = staff.get(link(staff, "Before <it> was renamed", dimension="trigger"))
    assert tables(page)["Over time"][-1][:3] == ["Total", "9", "1"]
    assert '<option value="Before &lt;it&gt; was renamed" selected>' in page.text


def test_a_trigger_that_never_was_has_nothing(staff: Client) -> None:
    march()
    for name in ("Nothing", "x" * 100):
        assert tables(staff.get(PAGE, MARCH | {"trigger": name}))["Over time"][-1][2] == "0"


def test_a_label_leads_to_a_report_about_it_and_none_leads_nowhere(staff: Client) -> None:
    march()
    assert "(none)" not in links(staff.get(PAGE, MARCH | {"dimension": "sub1"}))
    rows = tables(staff.get(link(staff, "summer", dimension="sub1")))
    assert rows["Over time"][-1][:3] == ["Total", "4", "0"]
    assert "By partner" in rows


# Files


def test_each_table_is_a_file_too(staff: Client) -> None:
    march()
    groups = file(staff, link(staff, "Download “By partner” as CSV"))
    days = file(staff, link(staff, "Download “Over time” as CSV"))
    assert groups == [
        [
            "Partner",
            "Clicks",
            "Conversions",
            "Pending",
            "Rejected",
            "CR, %",
            "Pending commission, DKK",
            "Commission (approved), DKK",
            "EPC, DKK",
            "Pending commission, EUR",
            "Commission (approved), EUR",
            "EPC, EUR",
        ],
        [
            "Bjørns Boghandel",
            "6",
            "2",
            "0",
            "0",
            "33.33",
            "0.00",
            "20.00",
            "3.3333",
            "0.00",
            "10.00",
            "1.6667",
        ],
        ["Annas Aviser", "2", "1", "1", "1", "50.00", *["0.00"] * 3, "5.00", "0.00", "0.00"],
    ]
    assert len(days) == 1 + 31
    assert days[0][:2] == ["Day", "Clicks"]
    assert days[2][:6] == ["2026-03-02", "3", "2", "0", "0", "66.67"]
    assert days[3][5:] == ["", "0.00", "0.00", "", "0.00", "0.00", ""]


def test_both_at_once_are_a_file_as_well(staff: Client) -> None:
    march()
    rows = file(staff, link(staff, "Download by week and partner as CSV", interval="week"))
    assert [row[:3] for row in rows] == [
        ["Week", "Partner", "Clicks"],
        ["2026-02-23", "Bjørns Boghandel", "3"],
        ["2026-03-02", "Bjørns Boghandel", "3"],
        ["2026-03-09", "Annas Aviser", "2"],
    ]


def test_a_file_of_what_cannot_be_answered_leads_back_to_what_is_wrong(staff: Client) -> None:
    response = staff.get(f"{PAGE}csv/", {"since": "x", "rows": "time"}, follow=True)
    assert response.redirect_chain == [("../?since=x&rows=time", 302)]
    assert "Enter a valid date." in errors(response)


# Who may


def test_who_may_look_at_the_report_finds_it_in_the_admin_and_nothing_else(staff: Client) -> None:
    for address in ("/admin/", "/admin/affiliations/"):
        response = staff.get(address)
        assert f'href="{PAGE}"' in response.text
        assert set(re.findall(r'href="/admin/affiliations/(\w+)/', response.text)) == {"report"}
    assert staff.get(PAGE).status_code == 200
    assert staff.get(f"{PAGE}csv/").status_code == 200


def test_who_may_do_everything_but_that_sees_no_link_and_no_number() -> None:
    others = Permission.objects.filter(content_type__app_label="affiliations")
    client = allowed(*others.exclude(codename="view_report").values_list("codename", flat=True))
    assert PAGE not in client.get("/admin/").text
    assert client.get(PAGE).status_code == 403
    assert client.get(f"{PAGE}csv/").status_code == 403


def test_nobody_else_gets_that_far() -> None:
    for client in (Client(), Client()):
        response = client.get(PAGE)
        assert (response.status_code, response["Location"].partition("?")[0]) == (
            302,
            "/admin/login/",
        )
        client.force_login(UserFactory())


def test_there_is_nothing_to_be_changed_not_even_by_a_superuser() -> None:
    client = Client()
    client.force_login(UserFactory(is_staff=True, is_superuser=True))
    assert client.get(PAGE).status_code == 200
    for address in (PAGE, f"{PAGE}csv/"):
        assert client.post(address, {"action": "delete_selected"}).status_code == 405
        assert client.delete(address).status_code == 405
    for page in ("add/", "1/", "1/change/", "1/delete/", "1/history/"):
        assert client.get(PAGE + page).status_code == 404
    [app] = [
        app
        for app in client.get("/admin/").context["app_list"]
        if app["app_label"] == "affiliations"
    ]
    [model] = [model for model in app["models"] if model["object_name"] == "Report"]
    assert model["perms"] == {"add": False, "change": False, "delete": False, "view": True}


def test_the_permission_is_one_that_can_be_given_and_there_is_no_other_of_its_kind() -> None:
    found = Permission.objects.filter(
        content_type__app_label="affiliations", content_type__model="report"
    )
    assert [str(one.name) for one in found] == ["Can view report"]


# How it is made


def test_it_needs_no_script_and_no_style_of_its_own(staff: Client) -> None:
    march()
    response = staff.get(PAGE, MARCH)
    content = response.text[response.text.index('id="content"') :]
    assert not re.findall(r"<script|<style|\sstyle=|\son\w+=|javascript:", content)
    assert "affiliations/charts.css" in response.text


def test_it_is_written_in_the_readers_language(staff: Client) -> None:
    march()
    with translation.override("da"), override_settings(LANGUAGE_CODE="da"):
        text = shown(staff.get(PAGE, MARCH))
    assert "02.03.2026" in text
    assert "6,67" in text


@pytest.mark.slow
def test_it_takes_as_many_queries_for_many_rows_as_for_ten(
    staff: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def queries(path: str, by: str) -> int:
        with CaptureQueriesContext(connection) as captured:
            answer: Any = staff.get(path, {"dimension": by, "period": "90"})
            assert answer.status_code == 200
            assert answer.getvalue()
        return len(captured)

    # Of a thousand partners and all others, a file reads nine days at a time.
    monkeypatch.setattr(queries_of_reports, "_ROWS", 90 * 1001)
    asked = [(path, by) for path in (PAGE, f"{PAGE}csv/") for by in ("partner", "trigger", "sub1")]
    _rows(10)
    few = [queries(path, by) for path, by in asked]
    _rows(MANY_ROWS)
    assert [queries(path, by) for path, by in asked] == few
    assert max(few[:3]) <= 22


def _rows(count: int) -> None:
    """Make as many partners, visitors, conversions and clicks that were not counted."""
    now = timezone.now()
    first = Partner.objects.count()
    partners = Partner.objects.bulk_create(
        Partner(uid=f"{first + n:08}", name=f"P{first + n}") for n in range(count)
    )
    partners = list(Partner.objects.filter(uid__in=[one.uid for one in partners]))
    subscription = SubscriptionFactory(partner=partners[0])
    Visitor.objects.bulk_create(
        Visitor(partner=one, entry_point="https://shop.example/", sub1=one.name) for one in partners
    )
    Conversion.objects.bulk_create(
        Conversion(
            visitor=visitor,
            partner_id=visitor.partner_id,
            subscription=subscription,
            trigger=f"T{visitor.pk % 7}",
            dedupe_key=f"v:{visitor.pk}",
            created_on=now,
        )
        for visitor in Visitor.objects.filter(partner__in=partners)
    )
    FilteredClicks.objects.bulk_create(
        FilteredClicks(partner=one, key=one.uid, day=now.date(), reason="bot", count=1)
        for one in partners
    )


# Sorting, groups and the period before


def sales(staff: Client) -> None:
    """Two partners of a group and one of none, in March; the first had one click in February."""
    for name, group, clicks in (("Anna", "Bloggers", 3), ("Bob", "", 2), ("Eve", "Bloggers", 1)):
        partner = PartnerFactory(name=name, group=group)
        for number in range(clicks):
            convert(partner, at(2 + number), "10" if name == "Eve" else None)
    click(Partner.objects.get(name="Anna"), at(1) - timedelta(days=1))


@pytest.mark.parametrize(
    ("column", "expected", "direction"),
    [
        ("0", ["Anna", "Bob", "Eve"], "ascending"),
        ("-0", ["Eve", "Bob", "Anna"], "descending"),
        ("1", ["Eve", "Bob", "Anna"], "ascending"),
        ("-7", ["Eve", "Anna", "Bob"], "descending"),
        ("99", ["Anna", "Bob", "Eve"], None),
    ],
)
def test_a_table_is_sorted_by_a_column(
    staff: Client, column: str, expected: list[str], direction: str | None
) -> None:
    sales(staff)
    page = staff.get(PAGE, MARCH | {"sort": f"groups.{column}"})
    assert [row[0] for row in tables(page)["By partner"][1:-1]] == expected
    assert re.findall('aria-sort="(.*?)"', page.text) == ([direction] if direction else [])
    assert tables(page)["Over time"][1][0] == "03/01/2026"


def test_headings_sort_and_turn_the_order(staff: Client) -> None:
    sales(staff)
    page = staff.get(PAGE, MARCH)
    assert "sort=groups.-1#aff-table-groups" in page.text
    assert "sort=time.0#aff-table-time" in page.text
    page = staff.get(PAGE, MARCH | {"sort": "time.-1"})
    assert "sort=time.1#" in page.text
    assert tables(page)["Over time"][1][:2] == ["03/02/2026", "3"]


def test_all_others_stay_the_last_row(staff: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "GROUPS", 2)
    sales(staff)
    page = staff.get(PAGE, MARCH | {"sort": "groups.1"})
    assert [row[0] for row in tables(page)["By partner"][1:-1]] == ["Bob", "Anna", "All others (1)"]


def test_it_is_grouped_and_limited_by_the_group_of_the_partners(staff: Client) -> None:
    sales(staff)
    deleted = PartnerFactory()
    DailyClicks.objects.create(partner=deleted, day=at(9).date(), sub_id=0, count=5, purged=5)
    deleted.delete()
    RollupState.objects.get_or_create(pk=1)
    page = staff.get(PAGE, MARCH | {"dimension": "group"})
    rows = tables(page)["By group"]
    assert [row[:3] for row in rows[1:]] == [
        ["(none)", "7", "2"],
        ["Bloggers", "4", "4"],
        ["Total", "11", "6"],
    ]
    address = unescape(re.findall(r'href="([^"]*group=Bloggers[^"]*)"', page.text)[0])
    rows = tables(staff.get(PAGE + address))["By partner"]
    assert [row[:3] for row in rows[1:]] == [
        ["Anna", "3", "3"], ["Eve", "1", "1"], ["Total", "4", "4"],
    ]  # fmt: skip
    asked = MARCH | {"group": "Bloggers", "partner": "Bob"}
    assert tables(staff.get(PAGE, asked))["Over time"][-1][1] == "0"
    assert "Anna" in shown(staff.get(PAGE, asked | {"partner": "Anna"}))
    assert staff.get(PAGE, {"group": "\0"}).status_code == 200


def test_it_is_compared_with_the_period_before(staff: Client) -> None:
    sales(staff)
    text = shown(staff.get(PAGE, MARCH | {"compare": "on"}))
    assert "6 +500 % Clicks" in text or "Clicks 6 +500 %" in text
    assert "Conversions 6 –" in text
    assert "the change since the period before, Jan. 29, 2026 – Feb. 28, 2026" in text
    assert "+500" not in shown(staff.get(PAGE, MARCH))
