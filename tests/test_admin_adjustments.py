"""What an order amounts to and pays by now: in lists, on pages and in files, and by hand."""

from __future__ import annotations

import csv
import io
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from affiliations.conversions import adjustments, decisions
from affiliations.conversions.recording import record
from affiliations.dates import Period
from affiliations.models import Adjustment, Conversion, Partner, Subscription
from affiliations.reports.queries import report
from tests.factories import ConversionFactory, SubscriptionFactory
from tests.test_admin import allowed, shown, url
from tests.test_admin_partners import said
from tests.test_admin_settlements import address, read, seen
from tests.test_settlements import settle

pytestmark = pytest.mark.django_db

PENDING, APPROVED, REJECTED = Conversion.Status
MONEY: dict[str, Any] = {"currency": "EUR", "payout_type": "percent", "payout_value": Decimal(10)}


def counted(status: str = PENDING, **fields: Any) -> Conversion:
    """Make a conversion of 100 EUR, of which 10 EUR are paid."""
    money = {"amount": Decimal(100), "payout": Decimal(10), "payout_currency": "EUR"}
    decided_on = timezone.now() if status == APPROVED else None
    return ConversionFactory(status=status, decided_on=decided_on, **MONEY | money | fields)


def unpriced(**fields: Any) -> Conversion:
    """Make a conversion whose amount was missing."""
    review = {"review_reason": "no_amount", "reason": "The amount is missing"}
    return ConversionFactory(status=PENDING, **MONEY | review | fields)


def lowered(conversion: Conversion) -> Conversion:
    assert adjustments.adjust(
        conversion, payout=Decimal(-4), amount=Decimal(-40), reason="Two of five came back"
    )
    return conversion


class TestAnAdjustedConversion:
    @pytest.mark.parametrize("status", [PENDING, APPROVED, REJECTED])
    def test_shows_the_amount_and_the_payout_as_they_are_now(
        self, staff: Client, status: str
    ) -> None:
        conversion = lowered(counted(APPROVED if status == REJECTED else status))
        if status == REJECTED:
            assert settle(conversion.partner)
            conversion.refresh_from_db()
            assert decisions.decide(conversion, REJECTED)
        for page in (staff.get(url(Conversion)), staff.get(url(conversion))):
            seen_there = shown(page).replace("\xa0", " ")
            assert "60.00 EUR" in seen_there
            assert "6.00 EUR" in seen_there
        [row] = csv.DictReader(io.StringIO(_text(staff.get(url(Conversion, "csv")))))
        assert (row["Amount"], row["Payout"]) == ("60.00", "6.00")

    def test_is_in_the_report_with_the_payout_as_it_is_now(self) -> None:
        lowered(counted(APPROVED))
        assert report(Period.past(1)).total.payouts == {"EUR": 6}

    def test_is_listed_with_as_many_queries_as_any(self, staff: Client) -> None:
        counted()

        def queries() -> int:
            with CaptureQueriesContext(connection) as captured:
                staff.get(url(Conversion))
            return len(captured)

        queries()
        few = queries()
        for _ in range(9):
            lowered(counted())
        assert queries() <= few


def _text(response: Any) -> str:
    return str(response.getvalue().decode("utf-8-sig"))


class TestAdjustingByHand:
    @pytest.mark.parametrize("state", ["pending", "approved", "settled"])
    def test_raises_and_lowers_in_every_state(self, staff: Client, state: str) -> None:
        conversion = counted(PENDING if state == "pending" else APPROVED)
        if state == "settled":
            assert settle(conversion.partner)
        assert address(conversion, "adjust") in staff.get(url(conversion)).text
        for payout, amount in (("15", "150"), ("6", "60")):
            page = staff.get(address(conversion, "adjust"))
            form = seen(page, payout=payout, amount=amount, reason="As agreed", confirmed="yes")
            staff.post(address(conversion, "adjust"), form)
            row = Conversion.objects.get()
            assert (row.current_payout, row.current_amount) == (int(payout), int(amount))
        assert list(Adjustment.objects.values_list("payout", flat=True)) == [5, -9]

    def test_of_the_amount_alone_says_so(self, staff: Client) -> None:
        conversion = counted(payout_type="fixed")
        form = seen(
            staff.get(address(conversion, "adjust")), amount="60", reason="A part", confirmed="yes"
        )
        page = staff.post(address(conversion, "adjust"), form, follow=True)
        assert "The amount was adjusted by -40.00 EUR: A part" in shown(page)
        assert Conversion.objects.get().current_payout == 10

    def test_of_a_conversion_without_a_payout_asks_for_the_amount_alone(
        self, staff: Client
    ) -> None:
        conversion = counted(payout=None, payout_currency="", payout_type="none")
        page = staff.get(address(conversion, "adjust"))
        assert list(page.context["form"].fields) == ["amount", "reason", "current_amount"]
        staff.post(
            address(conversion, "adjust"), seen(page, amount="60", reason="A part", confirmed="yes")
        )
        assert Conversion.objects.get().current_amount == 60

    def test_of_an_amount_that_has_changed_meanwhile_changes_nothing(self, staff: Client) -> None:
        conversion = counted(payout_type="fixed")
        form = seen(
            staff.get(address(conversion, "adjust")), amount="60", reason="A part", confirmed="yes"
        )
        adjustments.adjust(conversion, amount=Decimal(-40), reason="A part")
        page = staff.post(address(conversion, "adjust"), form, follow=True)
        assert "Nothing was adjusted" in shown(page)
        assert Conversion.objects.get().current_amount == 60

    @pytest.mark.parametrize(
        ("amount", "payout", "now"),
        [
            ("60", "", (60, 6)),  # by the rule
            ("250", "", (250, 25)),  # staff may raise
            ("60", "9", (60, 9)),  # by hand
            ("", "9", (100, 9)),
        ],
    )
    def test_shows_what_it_will_do_before_it_acts(
        self, staff: Client, amount: str, payout: str, now: tuple[int, int]
    ) -> None:
        conversion = counted()
        # Whatever the subscription says by now.
        Subscription.objects.update(payout_type="percent", payout_value=50)
        page = staff.get(address(conversion, "adjust"))
        assert "The payout is calculated by the rule of the conversion: 10 %." in shown(page)
        filled = seen(page, amount=amount, payout=payout, reason="Two came back")
        page = staff.post(address(conversion, "adjust"), filled)
        assert not Adjustment.objects.exists()
        text = shown(page).replace("\xa0", " ")
        assert f"Payout 10.00 EUR {now[1]}.00 EUR" in text
        assert f"Amount 100.00 EUR {now[0]}.00 EUR" in text
        assert "With its conversion, once it is approved." in text
        # What was entered can be changed.
        page = staff.post(address(conversion, "adjust"), filled | {"edit": "Change"})
        assert (page.context["form"]["amount"].value(), "changes" in page.context) == (
            amount,
            False,
        )
        staff.post(address(conversion, "adjust"), filled | {"confirmed": "yes"})
        row = Conversion.objects.get()
        assert (row.current_amount, row.current_payout) == now

    def test_by_the_rule_keeps_a_bonus_and_takes_back_no_more_than_there_is(self) -> None:
        conversion = counted()
        for before, amount, after in ((10, 50, -5), (12, 50, -5), (2, 50, -2), (0, 200, 10)):
            so_far = adjustments.Sum(Decimal(100), Decimal(before))
            change = adjustments.change_by_rule(conversion, Decimal(amount), so_far)
            assert change == (amount - 100, after)

    @pytest.mark.parametrize(
        ("state", "payout", "statement"),
        [
            ({"status": PENDING}, 1, "With its conversion, once it is approved."),
            ({}, 1, "With its conversion, in the next one."),
            ({"settled": True}, 1, "The next one. Statement V-1 does not change."),
            ({"settled": True}, 0, "None: the payout does not change."),
            (
                {"settled": True, "status": PENDING},
                1,
                "The next one after the conversion is approved again.",
            ),
            ({"stopped": True}, 1, "None: the partner was stopped for fraud."),
        ],
    )
    def test_says_which_statement_it_will_be_in(
        self, state: dict[str, Any], payout: int, statement: str
    ) -> None:
        conversion = counted(APPROVED)
        if "settled" in state:
            assert settle(conversion.partner, reference="V-1")
        if "stopped" in state:
            Partner.objects.update(stopped_on=timezone.now())
        Conversion.objects.update(status=state.get("status", APPROVED))
        conversion, change = Conversion.objects.get(), adjustments.Sum(Decimal(1), Decimal(payout))
        assert adjustments.statement_display(conversion, change) == statement


class TestAMissingAmount:
    def test_is_asked_for_by_the_approval(self, staff: Client) -> None:
        conversion = unpriced()
        page = staff.get(url(conversion, "approve"))
        assert list(page.context["form"].fields) == ["amount", "currency", "reason"]
        assert page.context["form"]["currency"].value() == "EUR"
        form = {"amount": "80", "currency": "eur", "reason": "By the invoice"}
        page = staff.post(url(conversion, "approve"), form, follow=True)
        conversion.refresh_from_db()
        assert (conversion.status, conversion.amount, conversion.payout) == (APPROVED, 80, 8)
        assert (conversion.currency, conversion.payout_currency) == ("EUR", "EUR")
        assert "Approved." in shown(page)
        assert said(conversion) == [
            "The amount is 80.00\xa0EUR. By the invoice",
            "Approved. By the invoice",
        ]

    def test_is_entered_without_an_approval_once(self, staff: Client) -> None:
        conversion = unpriced()
        assert url(conversion, "enter_amount") in staff.get(url(conversion)).text
        form = {"amount": "80", "currency": "EUR"}
        page = staff.post(url(conversion, "enter_amount"), form, follow=True)
        assert "The amount is 80.00 EUR." in shown(page)
        assert url(conversion, "enter_amount") not in page.text
        conversion.refresh_from_db()
        assert (conversion.status, conversion.payout) == (PENDING, 8)
        page = staff.post(url(conversion, "enter_amount"), form | {"amount": "90"}, follow=True)
        assert "The conversion has changed in the meantime." in shown(page)
        # Now the approval asks for no amount.
        page = staff.get(url(conversion, "approve"))
        assert list(page.context["form"].fields) == ["reason"]
        staff.post(url(conversion, "approve"), {"reason": ""})
        conversion.refresh_from_db()
        assert (conversion.status, conversion.payout) == (APPROVED, 8)

    @pytest.mark.parametrize(
        ("form", "message"),
        [
            ({"amount": ""}, "This field is required."),
            ({"amount": "0"}, "The amount is missing, zero or invalid"),
            ({"amount": "-1"}, "greater than or equal to 0"),
            ({"currency": "XXX"}, "The currency of the amount is missing or unknown."),
        ],
    )
    def test_is_one_or_the_form_says_what_is_wrong(
        self, staff: Client, form: dict[str, str], message: str
    ) -> None:
        conversion = unpriced()
        page = staff.post(url(conversion, "approve"), {"amount": "80", "currency": "EUR"} | form)
        assert message in shown(page)
        conversion.refresh_from_db()
        assert (conversion.status, conversion.amount) == (PENDING, None)

    def test_of_a_fixed_payout_is_not_asked_for(self, staff: Client) -> None:
        conversion = counted(amount=None, payout_type="fixed")
        page = staff.get(url(conversion, "approve"))
        assert list(page.context["form"].fields) == ["reason"]
        assert url(conversion, "enter_amount") in staff.get(url(conversion)).text

    @pytest.mark.parametrize("fields", [{"status": APPROVED}, {"status": REJECTED}])
    def test_is_entered_only_while_the_conversion_is_pending(
        self, staff: Client, fields: dict[str, Any]
    ) -> None:
        conversion = unpriced()
        Conversion.objects.update(**fields)
        assert url(conversion, "enter_amount") not in staff.get(url(conversion)).text
        staff.post(url(conversion, "enter_amount"), {"amount": "80", "currency": "EUR"})
        conversion.refresh_from_db()
        assert conversion.amount is None

    def test_is_asked_for_by_the_approval_of_a_rejected_conversion(self, staff: Client) -> None:
        conversion = unpriced()
        assert decisions.decide(conversion, REJECTED)
        page = staff.get(url(conversion, "approve"))
        assert "amount" in page.context["form"].fields
        staff.post(url(conversion, "approve"), {"amount": "80", "currency": "EUR"})
        conversion.refresh_from_db()
        assert (conversion.status, conversion.amount, conversion.payout) == (APPROVED, 80, 8)

    def test_of_a_conversion_whose_place_is_taken_approves_nothing(self, staff: Client) -> None:
        conversion = unpriced()
        assert decisions.decide(conversion, REJECTED)
        SubscriptionFactory(partner=conversion.partner, trigger=conversion.trigger)
        other = record(conversion.visitor, conversion.trigger, amount=50, manual=True)
        form = {"amount": "80", "currency": "EUR"}
        page = staff.post(url(conversion, "approve"), form, follow=True)
        conversion.refresh_from_db()
        assert conversion.status == REJECTED
        assert f"Conversion {other.pk} of" in shown(page)
        assert "was credited instead" in shown(page)

    def test_is_entered_by_those_who_may_approve(self) -> None:
        conversion = unpriced()
        for page in ("approve", "enter_amount"):
            assert allowed("view_conversion").get(url(conversion, page)).status_code == 403
        assert not LogEntry.objects.exists()


def test_a_file_of_adjustments_has_the_changes(staff: Client) -> None:
    lowered(counted())
    _, line = read(staff.get(url(Adjustment, "csv")))
    assert line[4:6] == ["-40.00", "-4.00"]
