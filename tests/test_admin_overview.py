"""The overview: what waits for staff, in one page and in one line on the Admin's index."""

from __future__ import annotations

import logging
import re
from datetime import timedelta
from decimal import Decimal
from html import unescape
from typing import Any

import pytest
from django.contrib import admin
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import path
from django.utils import timezone, translation

from affiliations.admin import overview
from affiliations.models import (
    Adjustment,
    Callback,
    Conversion,
    Overview,
    Partner,
    Subscription,
)
from affiliations.reports.columns import change
from tests.factories import (
    CallbackFactory,
    ConversionFactory,
    PartnerFactory,
    SubscriptionFactory,
    VisitorFactory,
)
from tests.test_admin import allowed
from tests.urls import urlpatterns as usual_urlpatterns

pytestmark = pytest.mark.django_db

PAGE = "/admin/affiliations/overview/"
INDEX = "/admin/"


def order(payout: str | None = None, payout_currency: str = "EUR", **facts: Any) -> Conversion:
    money = None if payout is None else Decimal(payout)
    return ConversionFactory(payout=money, payout_currency=payout_currency, **facts)


def flagged(payout: str | None = None, currency: str = "EUR", **facts: Any) -> Conversion:
    return order(payout, currency, status="pending", review_reason="screened", **facts)


def adjusted(conversion: Conversion, payout: str, kind: str = "adjusted") -> None:
    Adjustment.objects.create(
        conversion=conversion,
        partner=conversion.partner,
        kind=kind,
        payout=Decimal(payout),
        currency=conversion.payout_currency,
    )


def gave_up(days: int = 1, **facts: Any) -> Callback:
    on = timezone.now() - timedelta(days=days)
    return CallbackFactory(status="exhausted", next_attempt_on=on, **facts)


def endpoint(**facts: Any) -> Subscription:
    return SubscriptionFactory(**facts)


def a_bit_of_everything(count: int = 1) -> None:
    """Let so many of everything wait, and as many beside it that do not."""
    now = timezone.now()
    for _ in range(count):
        flagged("10.00")
        flagged("3.00", "DKK")
        flagged("99.00", is_test=True)
        order("5.00", status="pending")
        order("99.00", status="pending", is_test=True)
        order("7.50", status="approved", decided_on=now - timedelta(days=1))
        order("2.00", "DKK", status="approved", decided_on=now)
        order("99.00", status="approved", decided_on=now, is_test=True)
        order("99.00", status="rejected", decided_on=now)
        endpoint(callbacks_suspended_on=now)
        endpoint(callbacks_paused_until=now)
        endpoint(callbacks_paused_until=now, callbacks_suspended_on=now)
        gave_up()
        gave_up(8)
        gave_up(conversion=order(is_test=True))
        CallbackFactory()
        sold(2, "20.00", "2.00", clicks=1, status="rejected")


def cards(page: Any) -> dict[str, tuple[str, int, list[str]]]:
    """Return the URL, the number and the amounts of each card, by its label."""
    assert page.status_code == 200
    found = {}
    for label, url, number, amounts in re.findall(
        r'<dt>(.*?)</dt>\s*<dd>\s*<a href="(.*?)">(\d+)</a>(.*?)</dd>', page.text, re.DOTALL
    ):
        sums = re.findall(r'<span class="aff-below">(.*?)</span>', amounts)
        found[label] = (unescape(url), int(number), [one.replace("\xa0", " ") for one in sums])
    return found


def line(page: Any) -> str:
    """Return the line that says what waits, as text."""
    (found,) = re.findall(r'<p class="aff-waiting">(.*?)</p>', page.text, re.DOTALL) or [""]
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", found)).split())


def test_it_counts_what_waits_and_the_money_by_currency(staff: Client) -> None:
    a_bit_of_everything()
    found = {label: rest for label, (_url, *rest) in cards(staff.get(PAGE)).items()}
    assert found == {
        "need review": [2, ["3.00 DKK", "10.00 EUR"]],
        "suspended endpoints": [2, []],
        "paused endpoints": [1, []],
        "callbacks given up in the past 7 days": [1, []],
        "pending": [3, ["3.00 DKK", "15.00 EUR"]],
        "unpaid balances": [2, ["2.00 DKK", "7.50 EUR"]],
    }


def test_each_number_leads_to_a_list_of_as_many(staff: Client) -> None:
    a_bit_of_everything(2)
    for label, (url, number, amounts) in cards(staff.get(PAGE)).items():
        page = staff.get(url)
        assert page.status_code == 200, label
        if label == "unpaid balances":
            assert len(page.context["dues"]) == page.context["count"] == number
            assert amounts == [row["total"].replace("\xa0", " ") for row in page.context["totals"]]
            continue
        if label == "need review":
            rows = [row["conversion"] for row in page.context["rows"]]
        else:
            rows = page.context["cl"].result_list
            assert page.context["cl"].result_count == number, label
        assert len(rows) == number, label
        sums: dict[str, Decimal] = {}
        for row in rows:
            if isinstance(row, Conversion) and row.current_payout is not None:
                before = sums.get(row.payout_currency, Decimal(0))
                sums[row.payout_currency] = before + row.current_payout
        assert amounts == [f"{sums[name]:.2f} {name}" for name in sorted(sums)], label


def test_money_is_what_is_left_after_adjustments(staff: Client) -> None:
    conversion = flagged("10.00")
    adjusted(conversion, "-2.50")
    adjusted(flagged("4.00"), "-4.00", "rejected")  # Reopened: an approval would restore it.
    flagged()
    _url, number, amounts = cards(staff.get(PAGE))["need review"]
    assert (number, amounts) == (3, ["11.50 EUR"])


def test_the_line_says_what_waits_for_staff(staff: Client) -> None:
    a_bit_of_everything()
    words = (
        "2 conversions need review · 2 endpoints suspended · 1 endpoint paused · "
        "1 callback given up"
    )
    assert line(staff.get(PAGE)) == words
    assert line(staff.get(INDEX)) == f"Affiliate tracking : {words}"


def test_it_is_calm_when_nothing_waits(staff: Client) -> None:
    order("5.00", status="pending")
    assert line(staff.get(PAGE)) == "Nothing needs review."
    assert line(staff.get(INDEX)) == "Affiliate tracking : Nothing needs review."
    assert {number for _url, number, _sums in cards(staff.get(PAGE)).values()} == {0, 1}


@pytest.mark.parametrize(
    ("permission", "labels", "calm"),
    [
        ("view_conversion", ["need review", "pending"], "Nothing needs review."),
        (
            "view_subscription",
            ["suspended endpoints", "paused endpoints"],
            "No endpoint is suspended or paused.",
        ),
        (
            "view_callback",
            ["callbacks given up in the past 7 days"],
            "No callback was given up.",
        ),
        ("add_settlement", ["unpaid balances"], ""),
        ("view_partner", [], ""),
    ],
)
def test_what_the_user_may_not_see_is_left_out(
    permission: str, labels: list[str], calm: str
) -> None:
    client = allowed("view_overview", permission)
    assert line(client.get(INDEX)) == (calm and f"Affiliate tracking : {calm}")
    a_bit_of_everything()
    page = client.get(PAGE)
    assert list(cards(page)) == labels
    assert all(client.get(url).status_code == 200 for url, *_ in cards(page).values())


def tables(page: Any) -> dict[str, list[list[tuple[str, str]]]]:
    """Return the tables of a page by their ids: rows of cells, each with its URL and text."""
    assert page.status_code == 200
    found = {}
    for section in re.findall(r"<section.*?</section>", page.text, re.DOTALL):
        (name,) = re.findall(r'<h2 id="(.*?)"', section)
        body = "".join(re.findall(r"<tbody>(.*?)</tbody>", section, re.DOTALL))
        found[name] = [
            [
                (
                    unescape("".join(re.findall(r'href="(.*?)"', cell))),
                    " ".join(unescape(re.sub("<.*?>", " ", cell)).split()),
                )
                for cell in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.DOTALL)
            ]
            for row in re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)
        ]
    return found


def sold(
    days: int,
    amount: str,
    payout: str,
    payout_currency: str = "EUR",
    *,
    clicks: int = 2,
    **facts: Any,
) -> Partner:
    """Let a partner have so many clicks and one order on a day."""
    on = timezone.now() - timedelta(days=days)
    partner = PartnerFactory()
    visitors = [VisitorFactory(partner=partner, referred_on=on) for _ in range(clicks)]
    facts = {"amount": Decimal(amount), "currency": "EUR", "created_on": on} | facts
    order(payout, payout_currency, visitor=visitors[0], **facts)
    return partner


def test_the_past_days_stand_beside_those_before(staff: Client) -> None:
    sold(3, "100.00", "10.00")
    sold(29, "50.00", "5.00")
    sold(30, "40.00", "4.00", clicks=1)
    sold(59, "40.00", "4.00", clicks=4)
    sold(60, "999.00", "99.00")
    sold(5, "10.00", "8.00", "DKK")
    rows = tables(staff.get(PAGE))["aff-compared"]
    assert [[text for _url, text in row] for row in rows] == [
        ["Clicks", "6", "5", "+20 %"],
        ["Conversions", "3", "2", "+50 %"],
        ["CR, %", "50.00", "40.00", "+25 %"],
        ["Commission (approved), DKK", "8.00", "0.00", "–"],
        ["EPC, DKK", "1.33", "0.00", "–"],
        ["Revenue, EUR", "160.00", "80.00", "+100 %"],
        ["Commission (approved), EUR", "15.00", "8.00", "+88 %"],
        ["EPC, EUR", "2.50", "1.60", "+56 %"],
    ]


def test_each_number_of_the_past_days_is_that_of_its_report(staff: Client) -> None:
    sold(3, "100.00", "10.00")
    sold(4, "10.00", "8.00")
    sold(40, "40.00", "4.00", clicks=3)
    top, compared = tables(staff.get(PAGE))["aff-top"], tables(staff.get(PAGE))["aff-compared"]
    for number in (1, 2):
        for row in compared:
            url, text = row[number]
            assert (row[0][1], text) in totals(staff.get(url))
    for row in top:
        for (url, text), label in zip(row[1:4], ("Clicks", "Conversions", "CR, %"), strict=True):
            assert (label, text) in totals(staff.get(url))
        url, text = row[4]
        commission = ("Commission (approved), EUR", text.removesuffix(" EUR"))
        assert commission in totals(staff.get(url))


def totals(page: Any) -> list[tuple[str, str]]:
    return [(str(name), text) for group in page.context["totals"] for name, text, *_ in group]


def test_the_partners_with_the_most_clicks_stand_first(staff: Client) -> None:
    partners = [sold(1, "10.00", "1.00", clicks=clicks) for clicks in (1, 6, 2, 3, 4, 5)]
    most = [(6, 1), (5, 5), (4, 4), (3, 3), (2, 2)]
    rows = tables(staff.get(PAGE))["aff-top"]
    assert [(row[0][1], row[1][1]) for row in rows] == [
        (partners[place].name, str(clicks)) for clicks, place in most
    ]
    assert staff.get(rows[0][0][0]).context["original"] == partners[1]


def test_numbers_are_for_those_who_may_view_the_report() -> None:
    sold(1, "10.00", "1.00")
    assert tables(allowed("view_overview").get(PAGE)) == {}
    (row,) = tables(allowed("view_overview", "view_report").get(PAGE))["aff-top"]
    assert row[0][0] == ""
    assert row[1][0].startswith("/admin/affiliations/report/?")


def test_no_data_are_no_rows(staff: Client) -> None:
    page = staff.get(PAGE)
    assert tables(page)["aff-top"] == []
    assert "No data for this period" in page.text
    assert [cells[1][1] for cells in tables(page)["aff-compared"]] == ["0", "0", "–"]


def test_it_needs_its_own_permission() -> None:
    a_bit_of_everything()
    client = allowed("view_conversion", "view_subscription", "view_callback")
    assert client.get(PAGE).status_code == 403
    with CaptureQueriesContext(connection) as queries:
        assert line(client.get(INDEX)) == ""
    assert not [one for one in queries if 'FROM "affiliations' in one["sql"].replace("`", '"')]


def test_it_is_the_first_entry_of_the_app_in_each_language(staff: Client) -> None:
    for language in ("en", "da", "de"):
        with translation.override(language):
            for page in (staff.get(INDEX), staff.get("/admin/affiliations/"), staff.get(PAGE)):
                apps = {app["app_label"]: app for app in page.context["available_apps"]}
                assert apps["affiliations"]["models"][0]["model"] is Overview
    models = re.findall(r'<tr class="model-(\w+)', staff.get("/admin/affiliations/").text)
    assert models[0] == "overview"


@pytest.mark.parametrize("url", [PAGE, INDEX])
def test_it_costs_as_many_queries_for_a_lot_as_for_a_little(staff: Client, url: str) -> None:
    counts = []
    for count in (2, 18):
        a_bit_of_everything(count)
        with CaptureQueriesContext(connection) as queries:
            staff.get(url)
        counts.append(len(queries))
    assert counts[0] == counts[1]


def test_the_line_costs_the_index_four_queries(staff: Client) -> None:
    a_bit_of_everything()
    with CaptureQueriesContext(connection) as queries:
        staff.get(INDEX)
    ours = [one for one in queries if "FROM `affiliations" in one["sql"].replace('"', "`")]
    assert len(ours) == 4


def test_the_index_stands_when_the_overview_fails(
    staff: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(request: Any) -> Any:
        Conversion.objects.extra(where=["no_such_column = 1"]).count()

    monkeypatch.setattr(overview, "waiting", broken)
    with caplog.at_level(logging.ERROR, "affiliations"):
        page = staff.get(INDEX)
    assert page.status_code == 200
    assert line(page) == ""
    assert "The line of the overview" in caplog.text
    # Nor is the transaction broken.
    assert Conversion.objects.count() == 0


def test_the_index_of_the_host_is_left_alone() -> None:
    own = admin.AdminSite("own")
    own.index_template = "shop/index.html"
    own.register(Overview, overview.OverviewAdmin)
    assert own.index_template == "shop/index.html"
    theirs = admin.AdminSite("theirs")
    theirs.register(Conversion)
    assert theirs.index_template is None


@pytest.mark.parametrize(
    ("value", "before", "text"),
    [(3, 2, "+50"), (2, 4, "-50"), (3, 3, "0"), (1000, 1003, "0"), (1, Decimal(-2), "+150")],
)
def test_a_change_is_in_percent_of_what_was_before(value: Any, before: Any, text: str) -> None:
    assert change(value, before) == f"{text}\xa0%"


def test_nothing_changes_without_something_before() -> None:
    assert {change(3, 0), change(3, None), change(None, 3)} == {"–"}


alone = admin.AdminSite("alone")
alone.register(Overview, overview.OverviewAdmin)
urlpatterns = [*usual_urlpatterns, path("alone/", alone.urls)]


@pytest.mark.urls(__name__)
def test_a_site_without_the_lists_has_no_numbers_of_them(staff: Client) -> None:
    a_bit_of_everything()
    for page in (staff.get("/alone/affiliations/overview/"), staff.get("/alone/")):
        assert page.status_code == 200
        assert cards(page) == {}
        assert line(page) == ""
        assert 'href="/admin/' not in page.text


def test_conversions_without_a_commission_are_counted_without_money(staff: Client) -> None:
    order(None, "", status="pending")
    assert cards(staff.get(PAGE))["pending"][1:] == (1, [])


def test_nothing_is_changed_on_it(staff: Client) -> None:
    assert staff.post(PAGE).status_code == 405
    assert [staff.get(f"{PAGE}{page}").status_code for page in ("add/", "1/change/")] == [404, 404]


@pytest.mark.parametrize("query", ["callbacks=filter", "callbacks=x", "callbacks="])
def test_a_filter_of_subscriptions_takes_what_it_offers(staff: Client, query: str) -> None:
    endpoint(callbacks_suspended_on=timezone.now())
    endpoint(failure_count=2)
    endpoint()
    url = "/admin/affiliations/subscription/"
    assert staff.get(f"{url}?{query}").context["cl"].result_count == 3
    assert staff.get(f"{url}?callbacks=failing").context["cl"].result_count == 2


@pytest.mark.parametrize(("query", "count"), [("7", 1), ("30", 2), ("x", 3), ("", 3)])
def test_callbacks_that_were_given_up_are_found_by_the_time(
    staff: Client, query: str, count: int
) -> None:
    gave_up(1), gave_up(8), gave_up(31)
    url = f"/admin/affiliations/callback/?gave_up={query}"
    assert staff.get(url).context["cl"].result_count == count
