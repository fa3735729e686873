"""The list of partners with their numbers, as the colleague who compares them uses it."""

from __future__ import annotations

import csv
import re
from datetime import timedelta
from decimal import Decimal
from html import unescape
from itertools import zip_longest
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from affiliations.dates import Period
from affiliations.models import Partner
from affiliations.reports import queries
from tests.factories import ConversionFactory, PartnerFactory, UserFactory, VisitorFactory
from tests.test_admin import shown, url

pytestmark = pytest.mark.django_db


def sold(partner: Partner, clicks: int, *orders: str, **facts: Any) -> None:
    """Add clicks to a partner, the first of which bought for these amounts, such as "80 DKK"."""
    for visitor, order in zip_longest(VisitorFactory.create_batch(clicks, partner=partner), orders):
        if order is not None:
            amount, currency = order.split()
            ConversionFactory(
                visitor=visitor,
                amount=Decimal(amount),
                payout=Decimal(amount) / 10,
                **{"currency": currency, "payout_currency": currency, "status": "approved"} | facts,
            )


class TestTheSortedList:
    @pytest.fixture(autouse=True)
    def _of_four_partners(self, db: None) -> None:
        self.anna, self.bob, self.eve, self.new = (
            PartnerFactory(name=name, group=group, active=name != "Eve", uid=name.lower())
            for name, group in (("Anna", "Bloggers"), ("Bob", ""), ("Eve", "Bloggers"), ("New", ""))
        )
        sold(self.anna, 4, "90 EUR", "10 EUR", "300 DKK")
        sold(self.bob, 2, "200 EUR", status="pending")
        sold(self.eve, 5, "2000 DKK")

    def names(self, page: Any) -> list[str]:
        assert page.status_code == 200
        return re.findall(r"/change/[^>]*>(\w+) <span", page.text)

    def column(self, staff: Client, name: str) -> int:
        headings = re.findall(r'<th scope="col"[^>]*column-(\w+)', staff.get(url(Partner)).text)
        return headings.index(name) + 1

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("clicks", "Eve Anna Bob New"),
            ("conversions", "Anna Bob Eve New"),
            ("rate", "Anna Bob Eve New"),
            # In DKK, the first in the alphabet of the two that most partners have.
            ("revenue", "Eve Anna Bob New"),
            ("payout", "Eve Anna Bob New"),
            ("per_click", "Eve Anna Bob New"),
            ("last_click", "Eve Bob Anna New"),
            ("active", "Anna Bob New Eve"),
        ],
    )
    def test_is_sorted_by_each_column_and_then_by_name(
        self, staff: Client, name: str, expected: str
    ) -> None:
        number = self.column(staff, name)
        page = staff.get(url(Partner), {"o": f"-{number}"})
        assert self.names(page) == expected.split()
        assert f"column-{name} sorted descending" in page.text

    def test_is_sorted_by_several_columns(self, staff: Client) -> None:
        active, clicks = self.column(staff, "active"), self.column(staff, "clicks")
        assert self.names(staff.get(url(Partner), {"o": f"{active}.-{clicks}"}))[:2] == [
            "Eve",
            "Anna",
        ]
        assert self.names(staff.get(url(Partner), {"o": f"-{active}.{clicks}"}))[0] == "New"

    def test_says_by_which_currency_it_is_sorted(self, staff: Client) -> None:
        revenue = self.column(staff, "revenue")
        assert "Sorted by the amounts in DKK" in shown(staff.get(url(Partner), {"o": revenue}))
        sold(self.new, 1, "1 EUR")
        page = staff.get(url(Partner), {"o": f"-{revenue}"})
        assert "Sorted by the amounts in EUR" in shown(page)
        assert self.names(page) == ["Bob", "Anna", "New", "Eve"]
        assert "Sorted by" not in shown(staff.get(url(Partner)))
        only = {"o": revenue, "q": "bob"}
        assert "Sorted by" not in shown(staff.get(url(Partner), only))

    def test_has_pages(self, staff: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(admin.site._registry[Partner], "list_per_page", 3)
        asked = {"o": f"-{self.column(staff, 'clicks')}"}
        assert self.names(staff.get(url(Partner), asked)) == ["Eve", "Anna", "Bob"]
        assert self.names(staff.get(url(Partner), asked | {"p": "2"})) == ["New"]
        assert len(self.names(staff.get(url(Partner), asked | {"all": ""}))) == 4

    def test_has_the_total_of_the_filtered_partners(self, staff: Client) -> None:
        _rows, text = shown(staff.get(url(Partner))).split("Total: ", 1)
        assert text.startswith(
            "4 partners 11 5 45.45 2300.00 DKK, 300.00 EUR "
            "230.00 DKK, 10.00 EUR 20.91 DKK, 0.91 EUR"
        )
        _rows, text = shown(staff.get(url(Partner), {"q": "bob"})).split("Total: ", 1)
        assert text.startswith("1 partner 2 1 50.00 200.00 EUR 0.00 EUR")
        nobody = staff.get(url(Partner), {"q": "nobody"})
        assert "<tfoot>" not in nobody.text

    def test_is_filtered_by_group(self, staff: Client) -> None:
        page = staff.get(url(Partner), {"group": "Bloggers"})
        assert self.names(page) == ["Anna", "Eve"]
        assert "9 4 44.44" in shown(page)
        assert "report/?period=30&amp;group=Bloggers" in page.text
        assert self.names(staff.get(url(Partner), {"group": "Renamed"})) == []

    def test_leads_to_the_report_of_its_period_if_one_may_view_it(self, staff: Client) -> None:
        page = staff.get(url(Partner), {"since": "2026-03-01", "until": "2026-03-31"})
        assert "report/?since=2026-03-01&amp;until=2026-03-31" in page.text
        assert "report/?period=year" in staff.get(url(Partner), {"period": "year"}).text

    def test_is_a_file(self, staff: Client) -> None:
        asked = {"o": f"-{self.column(staff, 'clicks')}", "period": "7", "group": "Bloggers"}
        response: Any = staff.get(f"{url(Partner)}csv/", asked)
        rows = list(csv.DictReader(response.getvalue().decode("utf-8-sig").splitlines()))
        assert [row["Name"] for row in rows] == ["Eve", "Anna"]
        assert rows[1]["Group"] == "Bloggers"
        assert rows[1]["Last click"]
        assert rows[1]["Active"] == "yes"
        assert rows[1]["Uid"] == "anna"
        euros = [rows[1][f"{name}, EUR"] for name in ("Revenue", "AOV", "Commission (approved)")]
        assert euros == ["100.00", "50.00", "10.00"]
        assert rows[0]["Revenue, DKK"] == "2000.00"
        period = Period.past(7)
        assert f"partners-{period.first}-{period.last}.csv" in response["Content-Disposition"]
        assert staff.get(f"{url(Partner)}csv/", {"period": "x"}).status_code == 302

    def test_is_no_file_for_who_may_not_view_partners(self, client: Client) -> None:
        client.force_login(UserFactory(is_staff=True))
        assert client.get(f"{url(Partner)}csv/").status_code == 403

    def test_costs_as_many_queries_however_many_partners_there_are(self, staff: Client) -> None:
        asked = {"o": ".".join(f"-{number}" for number in range(1, 11))}

        def queries() -> int:
            with CaptureQueriesContext(connection) as captured:
                staff.get(url(Partner), asked)
            return len(captured)

        few = queries()
        for partner in PartnerFactory.create_batch(20):
            sold(partner, 2, "5 EUR")
        assert queries() == few


class TestThePeriodOfTheList:
    @pytest.fixture(autouse=True)
    def _with_an_old_click(self, db: None) -> None:
        self.partner = PartnerFactory()
        VisitorFactory(partner=self.partner)
        VisitorFactory(partner=self.partner, referred_on=timezone.now() - timedelta(days=60))

    def test_is_carried_along_to_the_partners_page(self, staff: Client) -> None:
        page = staff.get(url(Partner), {"period": "90"})
        (link,) = re.findall(r'href="([^"]+/change/[^"]+)"', page.text)
        text = shown(staff.get(unescape(link)))
        assert "Past 90 days Past 7 days" in text
        assert "Clicks 2 Conversions 0" in text

    @pytest.mark.parametrize(
        ("query", "heading"),
        [
            ({}, "Past 30 days"),
            ({"period": "7", "_changelist_filters": "period=90"}, "Past 7 days"),
            ({"_changelist_filters": "active__exact=1"}, "Past 30 days"),
            ({"period": "x", "_changelist_filters": "period=90"}, "Past 90 days"),
            ({"since": "x", "_changelist_filters": "until=x"}, "Past 30 days"),
            ({"since": "2026-02-30"}, "Past 30 days"),
            ({"_changelist_filters": "until=2026-02-30"}, "Past 30 days"),
            ({"since": "2026-03-01", "until": "2026-03-31"}, "03/01/2026 – 03/31/2026"),
            ({"since": "2025-03-01", "until": "2025-12-31"}, "03/01/2025 – 12/31/2025"),
            ({"since": "2005-03-01", "until": "2026-03-31"}, "03/01/2005 – 03/31/2026"),
        ],
    )
    def test_can_be_chosen_on_the_partners_page(
        self, staff: Client, query: dict[str, str], heading: str
    ) -> None:
        page = staff.get(url(self.partner), query)
        assert f"{heading} Past 7 days Past 30 days" in shown(page)
        if heading.startswith("Past"):
            assert page.text.count('aria-current="true">Past') == 1

    def test_is_that_of_the_report_too(self, staff: Client) -> None:
        page = staff.get(url(self.partner), {"since": "2026-03-01", "until": "2026-03-31"})
        uid = self.partner.uid
        assert f"report/?since=2026-03-01&amp;until=2026-03-31&amp;partner={uid}" in page.text

    def test_has_no_report_for_who_may_not_view_it(self, client: Client) -> None:
        user = UserFactory(is_staff=True)
        user.user_permissions.add(Permission.objects.get(codename="view_partner"))
        client.force_login(user)
        for address in (url(Partner), url(self.partner)):
            page = client.get(address)
            assert page.status_code == 200
            assert "Report for this period" not in page.text


@pytest.mark.parametrize("sorting", ["", "?o=3", "?o=-3"])
def test_the_list_survives_the_deletion_of_a_partner_while_it_is_read(
    sorting: str, staff: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    PartnerFactory(name="Gone")
    monkeypatch.setattr(queries, "last_clicks", lambda keys: {})
    assert "Gone" in shown(staff.get(f"{url(Partner)}{sorting}"))
    file: Any = staff.get(f"{url(Partner)}csv/")
    assert "Gone" not in file.getvalue().decode()
