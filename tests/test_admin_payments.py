"""Creating all statements of a month at once, paying them, and their accounting file."""

from __future__ import annotations

import json
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from affiliations.admin import payments as pages
from affiliations.conversions import decisions
from affiliations.models import Settlement
from tests.factories import UserFactory
from tests.test_admin import allowed, shown, url
from tests.test_admin_settlements import ADD, address, read
from tests.test_settlements import earned, settle, settled

pytestmark = pytest.mark.django_db

PAYMENTS = "/admin/affiliations/settlement/payments/"
ACCOUNTING = "/admin/affiliations/settlement/accounting/"
UNTIL_NOW = f"{ADD}?until="


@pytest.fixture
def staff() -> Client:
    """Log in somebody who may do everything."""
    client = Client()
    client.force_login(UserFactory(is_staff=True, is_superuser=True))
    return client


def filled(page: Any, **fields: Any) -> dict[str, Any]:
    """Fill in the form that creates statements, as it is shown."""
    create = page.context["create"]
    ticked = [due.value for due in page.context["dues"] if due.is_ticked]
    values = {field.name: field.value() for field in create}
    return values | {"balance": ticked, "form_token": page.context["form_token"]} | fields


def minimum(partner: Any, amount: int, currency: str = "EUR") -> None:
    partner.minimum_payout, partner.minimum_payout_currency = Decimal(amount), currency
    partner.save()


class TestCreatingAll:
    def test_is_one_click_and_says_how_many_and_what_was_left_out(self, staff: Client) -> None:
        for payout, currency in (("10", "EUR"), ("5.50", "EUR"), ("7", "SEK")):
            earned(payout, currency)
        minimum(earned("3", visitor__partner__name="Small").partner, 5)
        minimum(earned("3", "SEK").partner, 5, "EUR")
        owing = settled(visitor__partner__name="Owing")
        decisions.decide(owing, "rejected")
        decisions.stop_for_fraud(earned(visitor__partner__name="Cheat").partner, reason="x")
        before = Settlement.objects.count()
        page = staff.get(UNTIL_NOW)
        text = shown(page)
        assert "Small , EUR below the minimum payout 1 3.00 EUR 3.00 EUR 5.00 EUR" in text
        assert "Owing , EUR the partner owes you 0 0.00 EUR -10.00 EUR" in text
        assert "Cheat" not in {due.partner.name for due in page.context["dues"]}
        assert "EUR 2 15.50 EUR 4 8.50 EUR" in text
        response = staff.post(UNTIL_NOW, filled(page), follow=True)
        assert Settlement.objects.count() == before + 4
        text = shown(response)
        assert "Created 4 payout statements: 15.50 EUR (2), 10.00 SEK (2)." in text
        assert "Left out, below the minimum payout (1): Small 3.00 EUR" in text
        assert "Left out, the partner owes you (1): Owing -10.00 EUR" in text
        assert "Left out, stopped for fraud (1): Cheat 10.00 EUR" in text
        made = Settlement.objects.order_by("-pk")[:4]
        assert {one.created_by.is_superuser for one in made} == {True}
        assert LogEntry.objects.filter(object_id__in=[one.pk for one in made]).count() == 4
        year_month = f"{timezone.now():%Y-%m}"
        assert {one.reference for one in made} == {
            f"{year_month}-{number:06}" for number in range(2, 6)
        }

    def test_creates_what_is_ticked_even_if_it_is_below_the_minimum(self, staff: Client) -> None:
        small, other = earned("3").partner, earned("4").partner
        minimum(small, 5)
        page = staff.get(UNTIL_NOW)
        values = [due.value for due in page.context["dues"] if due.partner == small]
        response = staff.post(UNTIL_NOW, filled(page, balance=values), follow=True)
        assert Settlement.objects.get().partner == small
        assert f"Left out, not selected (1): {other} 4.00 EUR" in shown(response)

    def test_says_what_has_changed_meanwhile(self, staff: Client) -> None:
        changed, gone = earned().partner, earned().partner
        page = staff.get(UNTIL_NOW)
        values = filled(page)
        earned("1", visitor__partner=changed)
        settle(gone)
        text = shown(staff.post(UNTIL_NOW, values, follow=True))
        assert "No statement was created." in text
        assert f"Left out, changed meanwhile (1): {changed} 11.00 EUR" in text
        assert f"Left out, nothing to pay (1): {gone} 0.00 EUR" in text
        assert Settlement.objects.count() == 1

    def test_names_ten_partners_of_many(self, staff: Client) -> None:
        for _ in range(13):
            earned()
        page = staff.get(UNTIL_NOW)
        one = filled(page)["balance"][:1]
        text = shown(staff.post(UNTIL_NOW, filled(page, balance=one), follow=True))
        assert "Left out, not selected (12): " in text
        assert "and 2 more" in text

    def test_twice_creates_once(self, staff: Client) -> None:
        earned()
        values = filled(staff.get(UNTIL_NOW))
        staff.post(UNTIL_NOW, values)
        assert "already sent" in shown(staff.post(UNTIL_NOW, values, follow=True))
        assert Settlement.objects.count() == 1

    @pytest.mark.parametrize("reference", ["{yaer}", "{", "x}", "{{year}}", "{}"])
    def test_says_what_to_do_about_a_wrong_pattern(self, staff: Client, reference: str) -> None:
        conversion = earned()
        page = staff.get(UNTIL_NOW)
        wrong = filled(page, reference=reference)
        response = staff.post(UNTIL_NOW, wrong)
        assert "is not a placeholder. Use {year}, {month} and {number}, or no" in shown(response)
        assert [due.is_ticked for due in response.context["dues"]] == [True]
        single = f"{ADD}?partner={conversion.partner.pk}&currency=EUR&until="
        form = staff.get(single).context["form"]
        values = {field.name: field.value() for field in form} | {"reference": reference}
        response = staff.post(single, values)
        assert "Correct the error below." in shown(response)
        assert "is not a placeholder." in shown(response)
        assert not Settlement.objects.exists()

    @pytest.mark.parametrize("number", [0, 3])
    def test_shows_the_first_reference(self, staff: Client, number: int) -> None:
        for _ in range(number):
            settled()
        earned()
        expected = f"{timezone.now():%Y-%m}-{number + 1:06}"
        page = staff.get(UNTIL_NOW)
        assert page.context["first_reference"] == expected
        staff.post(UNTIL_NOW, filled(page))
        assert Settlement.objects.latest("pk").reference == expected

    @pytest.mark.parametrize(
        "balance",
        [[], [""], ["x"], ["1:EUR:1:1"], ["1:EUR:1:NaN:0:0"], ["1:EUR:1:1e9:0:0"], ["\0"],
         ["1:\0:1:1:0:0"], [f"{'9' * 30}:EUR:1:1:0:0"]],
        ids=str,
    )  # fmt: skip
    def test_needs_a_tick(self, staff: Client, balance: list[str]) -> None:
        earned()
        page = staff.get(UNTIL_NOW)
        response = staff.post(UNTIL_NOW, filled(page, balance=balance))
        assert "Tick at least one balance." in shown(response)
        assert not Settlement.objects.exists()

    @pytest.mark.parametrize("changed", [{"until": "x"}, {"cut_off": "x"}, {"until": ""}], ids=str)
    def test_survives_whatever_is_sent(self, staff: Client, changed: Any) -> None:
        earned()
        response = staff.post(UNTIL_NOW, filled(staff.get(UNTIL_NOW), **changed))
        assert response.status_code == 200
        assert not Settlement.objects.exists()

    def test_is_by_the_order_if_somebody_says_so(self, staff: Client) -> None:
        day = timezone.now() - timedelta(days=40)
        conversion = earned("10", created_on=day)
        partner = conversion.partner
        earned("5", visitor__partner=partner)
        address_of = f"{ADD}?cut_off=ordered&until={day:%Y-%m-%d}"
        page = staff.get(address_of)
        [due] = page.context["dues"]
        assert due.total == "10.00\xa0EUR"
        single = staff.get(ADD + due.url)
        assert "Ordered until" in shown(single)
        staff.post(address_of, filled(page))
        settlement = Settlement.objects.get()
        assert (settlement.cut_off, settlement.total) == ("ordered", 10)
        assert "Ordered until" in shown(staff.get(address(settlement, "statement")))
        assert "ordered until" in shown(staff.get(url(Settlement)))

    def test_without_the_permission_to_view_leads_back(self) -> None:
        earned()
        creates = allowed("add_settlement")
        response = creates.post(UNTIL_NOW, filled(creates.get(UNTIL_NOW)))
        assert (response.status_code, response["Location"]) == (302, UNTIL_NOW)
        assert Settlement.objects.count() == 1
        assert creates.get(f"{PAYMENTS}?statements=1").status_code == 403
        assert creates.get(f"{ACCOUNTING}?statements=1").status_code == 403

    @pytest.mark.parametrize("number", [2, 20])
    def test_costs_as_much_for_many_as_for_few(self, staff: Client, number: int) -> None:
        made = [settled().settlement.pk for _ in range(number)]
        for page, most in ((f"{PAYMENTS}?statements={made[0]}-{made[-1]}", 3),
                           (f"{ACCOUNTING}?statements={made[0]}-{made[-1]}", 3)):  # fmt: skip
            with CaptureQueriesContext(connection) as queries:
                response = staff.get(page)
                content = response.getvalue() if response.streaming else response.content
            assert content
            assert len(queries) == most
        with CaptureQueriesContext(connection) as queries:
            staff.post(
                f"{PAYMENTS}?statements={made[0]}-{made[-1]}",
                {"paid_on": "2026-11-30", "payment_reference": ""},
            )
        assert Settlement.objects.filter(paid_on="2026-11-30").count() == number
        assert len(queries) <= 12


class TestPaying:
    def test_enters_the_payment_of_many_with_history(self, staff: Client) -> None:
        first, second = settled().settlement, settled("5").settlement
        paid = settled("7").settlement
        Settlement.objects.filter(pk=paid.pk).update(paid_on=date(2026, 1, 1))
        keys = [first.pk, second.pk, paid.pk]
        response = staff.post(
            url(Settlement), {"action": "enter_payment", "_selected_action": keys}, follow=True
        )
        [(address_of, _)] = response.redirect_chain
        assert address_of.startswith(PAYMENTS)
        assert response.context["form"]["paid_on"].value() == timezone.localdate()
        assert "1 statement is paid already and stays as it is." in shown(response)
        values = {"paid_on": "2026-11-30", "payment_reference": "SEPA 7"}
        token = {"form_token": response.context["form_token"]}
        response = staff.post(address_of, values | token, follow=True)
        assert "Entered the payment of 2 payout statements: Nov. 30, 2026." in shown(response)
        found = Settlement.objects.order_by("pk").values_list("paid_on", "payment_reference")
        assert list(found) == [(date(2026, 11, 30), "SEPA 7")] * 2 + [(date(2026, 1, 1), "")]
        entries = LogEntry.objects.order_by("pk")
        assert [int(entry.object_id) for entry in entries] == [first.pk, second.pk]
        said = "Changed Paid on from - to 2026-11-30 and Payment reference from - to SEPA 7."
        assert entries[0].get_change_message() == said
        history = shown(staff.get(address(first, "history")))
        assert "Paid on from - to 2026-11-30" in history
        assert "already sent" in shown(staff.post(address_of, values | token, follow=True))

    def test_corrects_the_payment_of_those_that_are_paid(self, staff: Client) -> None:
        keys = [settled().settlement.pk for _ in range(2)]
        Settlement.objects.update(paid_on=date(2026, 1, 1))
        page = f"{PAYMENTS}?statements={keys[0]},{keys[1]}"
        values = {"paid_on": "2026-01-02", "payment_reference": ""}
        assert "are paid already" in shown(staff.post(page, values, follow=True))
        assert "Correct the payment" in staff.get(page).text
        staff.post(page, values | {"is_correction": "yes"})
        assert set(Settlement.objects.values_list("paid_on", flat=True)) == {date(2026, 1, 2)}
        assert LogEntry.objects.count() == 2

    def test_needs_a_day(self, staff: Client) -> None:
        settlement = settled().settlement
        page = f"{PAYMENTS}?statements={settlement.pk}"
        for day in ("", "x"):
            assert staff.post(page, {"paid_on": day}).status_code == 200
        settlement.refresh_from_db()
        assert settlement.paid_on is None

    @pytest.mark.parametrize("day", ["0001-01-01", "1026-11-30", "9999-12-31", "later"])
    def test_is_not_on_a_day_that_can_only_be_a_slip(self, staff: Client, day: str) -> None:
        if day == "later":
            day = f"{timezone.localdate() + timedelta(days=367)}"
        settlement = settled().settlement
        for page in (f"{PAYMENTS}?statements={settlement.pk}", url(settlement)):
            response = staff.post(page, {"paid_on": day, "payment_reference": "P1"})
            assert "Enter a day between 01/01/1900 and" in shown(response)
        settlement.refresh_from_db()
        assert (settlement.paid_on, settlement.payment_reference) == (None, "")

    @pytest.mark.parametrize("keys", ["", "x", "1-", "0", "9" * 18, "1-999999999999", "5-1", "\0"])
    def test_answers_whatever_stands_in_the_address(self, staff: Client, keys: str) -> None:
        for page in (PAYMENTS, ACCOUNTING):
            assert staff.get(page, {"statements": keys}).status_code == 200
            assert staff.get(page).status_code == 200

    def test_of_too_many_is_refused(self, staff: Client, monkeypatch: Any) -> None:
        monkeypatch.setattr(pages, "AT_ONCE", 1)
        keys = [settled().settlement.pk for _ in range(2)]
        data = {"action": "enter_payment", "_selected_action": keys}
        assert "Select 1 payout statements at most." in shown(
            staff.post(url(Settlement), data, follow=True)
        )

    def test_names_the_statements_in_few_characters(self) -> None:
        assert pages._as_ranges([1, 2, 3, 5, 7, 8]) == "1-3,5,7-8"
        assert pages._from_ranges("1-3,5,7-8,x") == [1, 2, 3, 5, 7, 8]

    def test_is_entered_and_corrected_on_the_page_of_a_statement(self, staff: Client) -> None:
        settlement = settled().settlement
        page = address(settlement, "statement")
        assert "Paid on – Enter payment" in shown(staff.get(page))
        assert 'name="_addanother"' not in staff.get(url(settlement)).text
        for day, reference in (("2026-11-30", "SEPA 7"), ("2026-12-01", ""), ("", "")):
            form = {"paid_on": day, "payment_reference": reference, "reference": "x",
                    "earned": "1", "partner": "0", "total": "1"}  # fmt: skip
            kept = Settlement.objects.values("earned", "adjusted", "reference", "partner").get()
            assert staff.post(url(settlement), form).status_code == 302
            assert (
                Settlement.objects.values("earned", "adjusted", "reference", "partner").get()
                == kept
            )
            settlement.refresh_from_db()
            assert str(settlement.paid_on or "") == day
            assert settlement.payment_reference == reference
            assert bool(settlement.paid_on) == ("Correct" in shown(staff.get(page)))
        messages = [json.loads(entry.change_message) for entry in LogEntry.objects.order_by("pk")]
        assert messages[1][0]["changed"]["values"][0] == ["paid on", "2026-11-30", "2026-12-01"]

    def test_is_of_those_who_may_change(self) -> None:
        settlement = settled().settlement
        looks = allowed("view_settlement")
        page = f"{PAYMENTS}?statements={settlement.pk}"
        assert "Save payment" not in looks.get(page).text
        assert looks.post(page, {"paid_on": "2026-11-30"}).status_code == 403
        assert looks.post(url(settlement), {"paid_on": "2026-11-30"}).status_code == 403
        assert "enter_payment" not in looks.get(url(Settlement)).text
        assert "accounting_file" in looks.get(url(Settlement)).text
        settlement.refresh_from_db()
        assert settlement.paid_on is None
        pays = allowed("change_settlement")
        assert pays.post(page, {"paid_on": "2026-11-30"}).status_code == 302
        settlement.refresh_from_db()
        assert settlement.paid_on == date(2026, 11, 30)
        assert pays.get(ADD).status_code == 403
        assert pays.post(url(settlement, "delete"), {"post": "yes"}).status_code == 403

    def test_filters_the_list_and_stands_in_it_and_in_its_file(self, staff: Client) -> None:
        paid, unpaid = settled("7").settlement, settled("5").settlement
        Settlement.objects.filter(pk=paid.pk).update(paid_on="2026-11-30", payment_reference="P1")
        for value, expected in (("no", {unpaid}), ("yes", {paid}), ("x", {paid, unpaid})):
            found = staff.get(url(Settlement), {"paid": value}).context["cl"].result_list
            assert set(found) == expected
        assert "Nov. 30, 2026" in shown(staff.get(url(Settlement), {"paid": "yes"}))
        header, row = read(staff.get(url(Settlement, "csv"), {"paid": "yes"}))
        line = dict(zip(header, row, strict=True))
        assert (line["Paid on"], line["Payment reference"]) == ("2026-11-30", "P1")

    def test_is_shown_to_the_partner(self, client: Client) -> None:
        settlement = settled().settlement
        partner = settlement.partner
        partner.replace_page_link()
        Settlement.objects.update(paid_on=date(2026, 5, 17))
        assert "05/17/2026" in shown(client.get(partner.page_link()))
        statement = client.get(f"{partner.page_link()}settlements/{settlement.pk}/")
        assert "Paid on May 17, 2026" in shown(statement)


class TestTheAccountingFile:
    def test_has_a_row_for_each_statement_and_totals_by_currency(self, staff: Client) -> None:
        first = settled("10", visitor__partner__name="=Anna").settlement
        second = settle(earned("5.5").partner, reference="Voucher 7")
        crowns = settle(earned("7", "SEK").partner, "SEK")
        Settlement.objects.filter(pk=first.pk).update(
            paid_on="2026-11-30", payment_reference="SEPA 7"
        )
        today = f"{timezone.localdate()}"
        expected = [
            [first.partner.uid, "'=Anna", "EUR", "10.00", "0.00", "10.00", first.serial_number,
             today, "2026-11-30", "SEPA 7"],
            [second.partner.uid, second.partner.name, "EUR", "5.50", "0.00", "5.50", "Voucher 7",
             today, "", ""],
            [crowns.partner.uid, crowns.partner.name, "SEK", "7.00", "0.00", "7.00",
             crowns.serial_number, today, "", ""],
            ["", "Total", "EUR", "15.50", "0.00", "15.50", "", "", "", ""],
            ["", "Total", "SEK", "7.00", "0.00", "7.00", "", "", "", ""],
        ]  # fmt: skip
        keys = [first.pk, second.pk, crowns.pk]
        action = {"action": "accounting_file", "_selected_action": keys}
        page = staff.get(f"{PAYMENTS}?statements={keys[0]}-{keys[-1]}")
        for response in (
            staff.post(url(Settlement), action),
            staff.get(page.context["csv_url"]),
        ):
            header, *rows = read(response)
            assert header == ["Partner uid", "Partner", "Currency", "Payout for conversions",
                              "Payout from adjustments", "Total", "Reference", "Created on",
                              "Paid on", "Payment reference"]  # fmt: skip
            assert rows == expected
        assert f"accounting-{today}.csv" in response["Content-Disposition"]

    def test_has_a_url_of_its_own(self) -> None:
        assert reverse("admin:affiliations_settlement_accounting") == ACCOUNTING
