"""The numbers of a report, as they are called and written."""

from __future__ import annotations

import csv
import re
from decimal import Decimal
from typing import Any

import pytest
from django.db import models
from django.test import Client
from django.utils import timezone, translation

from affiliations.conversions import settlements, statement_lines
from affiliations.exceptions import Reason
from affiliations.models import FilteredClicks, Partner
from affiliations.partner_pages import serializers
from affiliations.reports import columns
from affiliations.reports.numbers import Numbers
from tests.factories import ConversionFactory, UserFactory

NUMBERS = Numbers(
    clicks=3000,
    pending=1,
    approved=2,
    rejected=4,
    payouts={"EUR": Decimal("12.5"), "JPY": Decimal("1000")},
    pending_payouts={"EUR": Decimal(3)},
    revenue={"DKK": Decimal(80), "EUR": Decimal(201)},
    orders={"DKK": 1, "EUR": 2},
)


def cells(numbers: Numbers, total: Numbers = NUMBERS) -> list[str]:
    return columns.texts(columns.report_columns(total), numbers)


def test_each_number_has_a_name_in_each_currency_that_it_has() -> None:
    assert dict(
        zip(columns.header(columns.report_columns(NUMBERS)), cells(NUMBERS), strict=True)
    ) == {
        "Clicks": "3000",
        "Conversions": "3",
        "Pending": "1",
        "Rejected": "4",
        "CR, %": "0.10",
        "Revenue, DKK": "80.00",
        "AOV, DKK": "80.00",
        "Revenue, EUR": "201.00",
        "AOV, EUR": "100.50",
        "Pending commission, EUR": "3.00",
        "Commission (approved), EUR": "12.50",
        "EPC, EUR": "0.0042",
        "Pending commission, JPY": "0",
        "Commission (approved), JPY": "1000",
        "EPC, JPY": "0.3333",
    }


def test_the_numbers_are_written_as_the_reader_writes_them() -> None:
    with translation.override("da"):
        assert cells(NUMBERS)[4:7] == ["0,10", "80,00", "80,00"]


def test_without_clicks_there_is_no_rate_and_nothing_a_click() -> None:
    earned = Numbers(approved=1, payouts={"EUR": Decimal(2)})
    assert columns.values(columns.report_columns(earned), earned) == [
        0,
        1,
        0,
        0,
        None,
        Decimal(0),
        Decimal(2),
        None,
    ]
    dash = "\u2013"
    assert cells(earned, earned) == ["0", "1", "0", "0", dash, "0.00", "2.00", dash]


def test_what_was_earned_in_another_currency_only_is_nothing_in_this() -> None:
    dollars = Numbers(payouts={"USD": Decimal(1)}, revenue={"USD": Decimal(1)})
    assert cells(NUMBERS, dollars)[-5:] == ["0.00", "\u2013", "0.00", "0.00", "0.00"]


def dummy(value: Any) -> columns.Column:
    return columns.Column("dummy", "Dummy", lambda row: value, lambda value, row: f"<{value}>")


@pytest.mark.django_db
def test_a_column_more_of_reports_is_on_each_page_and_in_the_file(
    client: Client, partner: Partner, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.force_login(UserFactory(is_staff=True, is_superuser=True))
    partner.replace_page_link()
    ConversionFactory(visitor__partner=partner, payout=5, payout_currency="EUR")
    by_currency = columns.Column(
        "each",
        "Each",
        lambda numbers, currency: f"each-{currency}",
        lambda value, row, currency: value,
        currencies=lambda total: total.payouts,
    )
    table = [dummy("dummy-1"), *columns.REPORT_COLUMNS, by_currency]
    monkeypatch.setattr(columns, "REPORT_COLUMNS", table)

    for url in ("/admin/affiliations/report/", str(partner.page_link())):
        page = client.get(url).content.decode()
        assert page.count(">Dummy<") == page.count(">Each, EUR<") > 0
        assert page.count(">Dummy</dt>") == page.count(">Each, EUR</dt>") == 1
        assert page.count(">&lt;dummy-1&gt;</td>") == page.count(">each-EUR</td>") >= 30
    for rows in ("time", "groups", ""):
        response: Any = client.get(f"/admin/affiliations/report/csv/?rows={rows}")
        header, first, *_rest = response.getvalue().decode().splitlines()
        assert ",Dummy,Clicks," in header
        assert header.endswith('EPC, EUR","Each, EUR"')
        assert ",dummy-1," in first
        assert first.endswith(",each-EUR")


@pytest.mark.django_db
def test_a_column_more_of_statements_is_on_each_page_and_in_each_file(
    client: Client, partner: Partner, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.force_login(UserFactory(is_staff=True, is_superuser=True))
    partner.replace_page_link()
    ConversionFactory(
        visitor__partner=partner, payout=5, payout_currency="EUR", decided_on=timezone.now()
    )
    table = [*statement_lines.STATEMENT_COLUMNS, dummy("dummy-1")]
    monkeypatch.setattr(statement_lines, "STATEMENT_COLUMNS", table)
    draft = f"/admin/affiliations/settlement/add/?partner={partner.pk}&currency=EUR&until="
    drafted = client.get(draft).content.decode()
    settlement = settlements.settle(partner, "EUR", timezone.now())
    assert settlement is not None
    urls = [
        f"/admin/affiliations/settlement/{settlement.pk}/statement/",
        f"{partner.page_link()}settlements/{settlement.pk}/",
    ]
    for page in (drafted, *(client.get(url).content.decode() for url in urls)):
        assert page.count(">Dummy</th>") == 1
        assert page.count("<bdi>&lt;dummy-1&gt;</bdi>") == 1
    for url in (
        f"/admin/affiliations/settlement/{settlement.pk}/download/",
        f"{urls[1]}statement.csv",
    ):
        response: Any = client.get(url)
        line, *_total = csv.DictReader(response.getvalue().decode("utf-8-sig").splitlines())
        assert line["Dummy"] == "dummy-1"


@pytest.mark.django_db
def test_a_column_more_of_a_partners_conversions_is_in_the_file(
    client: Client, partner: Partner, monkeypatch: pytest.MonkeyPatch
) -> None:
    partner.replace_page_link()
    ConversionFactory(visitor__partner=partner)
    table = [*serializers.CONVERSION_COLUMNS, dummy("dummy-1")]
    monkeypatch.setattr(serializers, "CONVERSION_COLUMNS", table)
    response: Any = client.get(f"{partner.page_link()}conversions.csv")
    [row] = csv.DictReader(response.getvalue().decode("utf-8-sig").splitlines())
    assert row["Dummy"] == "dummy-1"


@pytest.mark.django_db
def test_a_reason_more_is_in_the_table_of_filtered_clicks_and_in_its_file(
    client: Client, partner: Partner, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.force_login(UserFactory(is_staff=True, is_superuser=True))
    more = {one.name: (one.value, one.label) for one in Reason} | {"DUMMY": ("dummy", "a dummy")}
    reason: Any = models.TextChoices("Reason", more)
    reason.display = classmethod(Reason.display.__func__)
    monkeypatch.setattr(columns, "Reason", reason)
    FilteredClicks.objects.add(partner, reason.DUMMY)
    page = client.get("/admin/affiliations/report/").content.decode()
    assert re.search(
        r'<th scope="row">\s*<a [^>]*>A dummy</a>\s*</th>\s*<td class="aff-number">1</td>', page
    )
    response: Any = client.get("/admin/affiliations/report/csv/?rows=arrivals")
    lines = response.getvalue().decode("utf-8-sig").splitlines()
    assert lines == ["Result,Clicks", "Arrived,1", "Counted,0", "A dummy,1"]
    response = client.get("/admin/affiliations/report/csv/?rows=arrivals-by-partner")
    header, _row = response.getvalue().decode("utf-8-sig").splitlines()
    assert header == "Partner,Arrived,Counted,A dummy"
    partner.replace_page_link()
    assert "Other reasons" in client.get(str(partner.page_link())).content.decode()
