"""The review queue: many flagged conversions on one page, each decided on its own."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from affiliations.admin import review
from affiliations.admin.review import PER_PAGE, ReviewPage
from affiliations.conversions import decisions
from affiliations.models import Conversion, Partner, Visitor
from tests.factories import ConversionFactory, PartnerFactory, UserFactory, VisitorFactory
from tests.test_admin import allowed, shown, url
from tests.test_admin_conversions import confirmed, states
from tests.test_admin_review import OWN, flagged, paying, without_amount

pytestmark = pytest.mark.django_db

QUEUE = url(Conversion, "review")


def choices(*rows: Conversion, decision: str, **fields: Any) -> dict[str, Any]:
    """Fill in the fields of some rows of the queue."""
    return {
        f"{row.pk}-{name}": value
        for row in rows
        for name, value in {"decision": decision, **fields}.items()
    }


def save(client: Client, page: Any, *chosen: dict[str, Any]) -> Any:
    """Send the queue's form as the page has it, with what was chosen."""
    form = confirmed(page)
    for fields in chosen:
        form |= fields
    return client.post(QUEUE, form, follow=True)


def logged(row: Conversion) -> list[str]:
    entries = LogEntry.objects.filter(object_id=str(row.pk)).order_by("pk")
    return [entry.get_change_message() for entry in entries]


class TestTheList:
    def test_has_what_waits_for_a_person_and_no_test_the_oldest_first(self, staff: Client) -> None:
        rows = [flagged(reference=f"R-{number}") for number in range(3)]
        flagged(reference="T-1", is_test=True)
        paying(reference="P-1")
        decisions.decide(flagged(reference="D-1"), "rejected")
        text = shown(staff.get(QUEUE))
        assert re.findall(r"[A-Z]-\d", re.sub(r"\d+, Order placed: \S+", "", text)) == [
            row.reference for row in rows
        ]
        assert "3 waiting, 3 on this page" in text

    def test_shows_what_a_decision_needs(self, staff: Client) -> None:
        partner = PartnerFactory(name="Steep Notes", group="Bloggers", notes="Met in 2024. " * 30)
        clicked = timezone.now() - timedelta(days=1)
        visitor = VisitorFactory(
            partner=partner,
            referred_on=clicked,
            referrer="https://steepnotes.example/teas/",
            entry_point="https://shop.example/teas/assam/",
        )
        buyer = UserFactory(email="anna@shop.example")
        row = flagged(
            visitor=visitor,
            reference="1001",
            user=buyer,
            amount=Decimal(100),
            created_on=clicked + timedelta(minutes=3),
        )
        for status in ["approved"] * 2 + ["rejected"]:
            ConversionFactory(visitor=VisitorFactory(partner=partner), status=status)
        ConversionFactory(visitor=VisitorFactory(partner=partner), is_test=True)
        long_ago = timezone.now() - timedelta(days=91)
        ConversionFactory(visitor=VisitorFactory(partner=partner), created_on=long_ago)
        page = staff.get(QUEUE)
        text = shown(page)
        for part in (
            "Order placed: 1001",
            "10.00 EUR of 100.00",
            OWN,
            "anna@shop.example",
            "3 minutes before the conversion",
            "on steepnotes.example",
            "to /teas/assam/",
            "Steep Notes",
            "Bloggers",
            "90 days: 2 approved, 1 rejected (33.33 %), 1 pending",
            "since ",
            "Met in 2024.",
        ):
            assert part in text, part
        assert len("Met in 2024. " * 30) > 120
        assert text.count("Met in 2024.") < 12
        for link in (url(row), url(partner)):
            assert f'href="{link}' in page.text
        # A custom user model may not be in the Admin.
        has_link = f'href="/admin/{buyer._meta.app_label}/' in page.text
        assert has_link is admin.site.is_registered(type(buyer))

    def test_says_what_is_missing(self, staff: Client) -> None:
        visitor = VisitorFactory(referrer="", entry_point="http://[")
        Partner.objects.update(created_on=None, active=False)
        flagged(visitor=visitor)
        text = shown(staff.get(QUEUE))
        for part in ("Guest", "No referrer", "to http://[", "inactive"):
            assert part in text, part
        assert "0 approved, 0 rejected (-), 1 pending" in text
        assert "since" not in text

    def test_shows_a_url_without_a_host_as_it_is(self, staff: Client) -> None:
        flagged(visitor=VisitorFactory(referrer="nowhere", entry_point="/teas/"))
        text = shown(staff.get(QUEUE))
        assert "on nowhere" in text
        assert "to /teas/" in text

    def test_marks_a_partner_who_was_stopped_for_fraud(self, staff: Client) -> None:
        row = flagged()
        decisions.stop_for_fraud(row.partner, reason="Own orders")
        row.refresh_from_db()
        decisions.decide(row, "pending")
        assert "stopped for fraud" in shown(staff.get(QUEUE))

    def test_says_that_nothing_waits(self, staff: Client) -> None:
        text = shown(staff.get(QUEUE))
        assert "No conversions need review." in text
        assert "Save decisions" not in text

    def test_is_counted_up_to_a_limit(self, staff: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(review, "_MAX_COUNT", 1)
        for count in ("1", "more than 1"):
            flagged()
            assert f"{count} waiting" in shown(staff.get(QUEUE))

    @pytest.mark.parametrize("number", [2, PER_PAGE])
    def test_costs_as_much_for_many_as_for_few(self, number: int, staff: Client) -> None:
        for make in (flagged, without_amount):
            for _ in range(number // 2 + 1):
                make(user=UserFactory())
        with CaptureQueriesContext(connection) as queries:
            staff.get(QUEUE)
        # The session, the user, the rows, their adjustments, the records, the count, the reasons.
        assert len(queries) == 7

    def test_suggests_the_reasons_of_the_latest_rejections(self, staff: Client) -> None:
        flagged()
        for reason in ("Own order.", "Voucher site.", "Own order."):
            decisions.decide(flagged(), "rejected", reason=reason)
        decisions.decide(paying(), "rejected", reason="The goods came back.")
        options = re.findall(r'<option value="([^"]*)">', staff.get(QUEUE).text)
        assert options == ["Own order.", "Voucher site."]


class TestWhoMayOnlyLook:
    def test_sees_the_queue_without_controls(self) -> None:
        row = flagged(user=UserFactory(email="anna@shop.example"), reference="1001")
        Partner.objects.update(group="Bloggers", notes="Met in 2024.")
        page = allowed("view_conversion").get(QUEUE)
        text = shown(page)
        assert "Order placed: 1001" in text
        assert "anna@shop.example" in text
        for part in ("Save decisions", "Decision", "Keys:", "Bloggers", "Met in 2024."):
            assert part not in text, part
        assert "radio" not in page.text
        assert url(row.partner) not in page.text

    def test_decides_nothing(self, staff: Client) -> None:
        row = flagged()
        form = confirmed(staff.get(QUEUE)) | choices(row, decision="approve")
        assert allowed("view_conversion").post(QUEUE, form).status_code == 403
        assert states() == ["pending"]

    def test_needs_to_be_allowed_to_look_at_all(self) -> None:
        flagged()
        for permission in ("view_partner", "add_conversion"):
            assert allowed(permission).get(QUEUE).status_code == 403
            assert allowed(permission).post(QUEUE, {}).status_code == 403
        assert Client().get(QUEUE).status_code == 302


class TestDecisions:
    def test_are_saved_for_what_was_chosen_only(self, staff: Client) -> None:
        rows = [flagged() for _ in range(5)]
        page = staff.get(QUEUE)
        assert "checked" not in page.text
        text = shown(
            save(
                staff,
                page,
                choices(rows[0], rows[1], decision="approve"),
                choices(rows[2], decision="reject", reason="Own order."),
                choices(rows[3], decision="leave"),
            )
        )
        assert "Approved 2 conversions." in text
        assert "Rejected 1 conversion." in text
        assert "2 waiting, 2 on this page" in text
        assert states() == ["approved", "approved", "rejected", "pending", "pending"]
        assert logged(rows[0]) == ["Approved."]
        assert logged(rows[2]) == ["Rejected. Own order."]
        assert logged(rows[3]) == []
        rows[2].refresh_from_db()
        assert (rows[2].reason, rows[2].decided_via) == ("Own order.", "person")
        assert rows[2].decided_by is not None

    def test_approve_with_no_reason_of_a_rejection(self, staff: Client) -> None:
        row = flagged()
        save(staff, staff.get(QUEUE), choices(row, decision="approve", reason="Own order."))
        row.refresh_from_db()
        assert (row.status, row.reason) == ("approved", "")

    def test_reject_with_a_reason_only(self, staff: Client) -> None:
        rows = [flagged(), flagged(), flagged()]
        page = staff.get(QUEUE)
        page = save(
            staff,
            page,
            choices(rows[0], decision="reject", reason=" "),
            choices(rows[1], decision="approve"),
        )
        text = shown(page)
        assert "Nothing was saved. Correct the errors below." in text
        assert "Enter a reason." in text
        assert states() == ["pending"] * 3
        checked = re.findall(r'name="(\d+)-decision" value="(\w+)"[^>]*checked', page.text)
        assert checked == [(f"{rows[0].pk}", "reject"), (f"{rows[1].pk}", "approve")]
        save(
            staff,
            page,
            choices(rows[0], decision="reject", reason="Own order."),
            choices(rows[1], decision="approve"),
        )
        assert states() == ["rejected", "approved", "pending"]

    def test_fill_in_the_amount(self, staff: Client) -> None:
        rows = [without_amount(), without_amount(currency="EUR")]
        page = staff.get(QUEUE)
        assert 'value="EUR"' in page.text
        amounts = {"amount": "200", "currency": "eur"}
        text = shown(
            save(
                staff,
                page,
                choices(rows[0], decision="approve", **amounts),
                choices(rows[1], decision="reject", reason="Own order.", **amounts),
            )
        )
        assert "Approved 1 conversion." in text
        rows[0].refresh_from_db()
        assert (rows[0].status, rows[0].payout, rows[0].payout_currency) == (
            "approved",
            Decimal(10),
            "EUR",
        )
        assert logged(rows[0]) == ["The amount is 200.00\xa0EUR.", "Approved."]
        rows[1].refresh_from_db()
        assert (rows[1].status, rows[1].amount) == ("rejected", None)

    @pytest.mark.parametrize(
        ("fields", "error"),
        [
            ({"currency": "EUR"}, "Enter the amount."),
            ({"amount": "x", "currency": "EUR"}, "Enter a number."),
            ({"amount": "0", "currency": "EUR"}, "The amount is missing, zero or invalid"),
            ({"amount": "10", "currency": "XYZ"}, "The currency of the amount is missing"),
            (
                {"amount": "0.005", "currency": "EUR"},
                "Enter fewer decimals: EUR has no smaller unit.",
            ),
            ({"amount": "10", "currency": ""}, "The currency of the amount is missing"),
            ({"amount": "10", "currency": "EURO"}, "at most 3 characters"),
        ],
    )
    def test_approve_no_percentage_of_an_unusable_amount(
        self, fields: dict[str, str], error: str, staff: Client
    ) -> None:
        row = without_amount()
        text = shown(save(staff, staff.get(QUEUE), choices(row, decision="approve", **fields)))
        assert error in text
        assert states() == ["pending"]

    def test_are_no_other_ones(self, staff: Client) -> None:
        row = flagged()
        text = shown(save(staff, staff.get(QUEUE), choices(row, decision="reopen")))
        assert "Select a valid choice." in text
        assert states() == ["pending"]

    def test_are_saved_once(self, staff: Client) -> None:
        row = flagged()
        form = confirmed(staff.get(QUEUE)) | choices(row, decision="reject", reason="Own order.")
        staff.post(QUEUE, form)
        row.refresh_from_db()
        decisions.decide(row, "pending")
        form[f"{row.pk}-shown"] = confirmed(staff.get(QUEUE))[f"{row.pk}-shown"]
        assert "This form was already sent." in shown(staff.post(QUEUE, form, follow=True))
        assert states() == ["pending"]


class TestNothingIsDecidedUnseen:
    def test_what_was_not_on_the_page_stays(self, staff: Client) -> None:
        row = flagged()
        page = staff.get(QUEUE)
        others = [flagged(), paying()]
        save(staff, page, choices(row, *others, decision="approve"))
        assert states() == ["approved", "pending", "pending"]

    def test_what_needs_no_review_or_is_a_test_is_not_decided_here(self, staff: Client) -> None:
        row = flagged()
        page = staff.get(QUEUE)
        for fields in ({"review_reason": ""}, {"is_test": True}):
            Conversion.objects.filter(pk=row.pk).update(**fields)
            save(staff, page, choices(row, decision="approve"))
            Conversion.objects.filter(pk=row.pk).update(review_reason="screened")
        assert states() == ["pending"]

    def test_a_page_has_so_many_at_most(self, staff: Client) -> None:
        rows = [flagged() for _ in range(PER_PAGE + 1)]
        page = staff.get(QUEUE)
        assert f"{PER_PAGE + 1} waiting, {PER_PAGE} on this page" in shown(page)
        assert f"{rows[-1].pk}-decision" not in page.text
        form = confirmed(page)
        form["conversion"].append(str(rows[-1].pk))
        form[f"{rows[-1].pk}-shown"] = form[f"{rows[0].pk}-shown"]
        staff.post(QUEUE, form | choices(*rows, decision="approve"))
        assert states() == ["approved"] * PER_PAGE + ["pending"]

    @pytest.mark.parametrize("key", ["", "x", "-1", "9" * 40, "0"])
    def test_a_bent_key_decides_nothing(self, key: str, staff: Client) -> None:
        flagged()
        assert staff.post(QUEUE, {"conversion": key}, follow=True).status_code == 200
        assert states() == ["pending"]

    def test_what_another_user_has_decided_is_named(self, staff: Client) -> None:
        rows = [flagged(reference="1001"), flagged(reference="1002"), flagged(), flagged()]
        page = staff.get(QUEUE)
        anna = UserFactory()
        decisions.decide(rows[0], "approved", by=anna)
        decisions.decide(rows[2], "approved", by=anna)
        text = shown(
            save(
                staff,
                page,
                choices(rows[0], decision="reject", reason="Own order."),
                choices(rows[1], decision="approve"),
            )
        )
        name = f"{rows[0].pk}, Order placed: 1001"
        assert f"Not saved: {name} is already approved ({anna.get_username()})." in text
        assert "Approved 1 conversion." in text
        assert text.count("Not saved") == 1
        assert states() == ["approved", "approved", "approved", "pending"]

    def test_what_has_changed_is_named_and_shown_again(self, staff: Client) -> None:
        row = flagged(reference="1001")
        page = staff.get(QUEUE)
        Conversion.objects.filter(pk=row.pk).update(payout=Decimal(10_000))
        page = save(staff, page, choices(row, decision="approve"))
        text = shown(page)
        assert f"Not saved: {row.pk}, Order placed: 1001 has changed. Check it again." in text
        assert "10,000.00 EUR" in text.replace("10000", "10,000")
        assert "checked" not in page.text
        save(staff, page, choices(row, decision="approve"))
        assert states() == ["approved"]

    def test_both_are_named_beside_an_error_too(self, staff: Client) -> None:
        rows = [flagged() for _ in range(4)]
        page = staff.get(QUEUE)
        decisions.decide(rows[0], "approved")
        decisions.decide(rows[3], "approved")
        Conversion.objects.filter(pk=rows[1].pk).update(payout=Decimal(10_000))
        page = save(
            staff,
            page,
            choices(*rows[:2], decision="approve"),
            choices(rows[2], decision="reject"),
        )
        text = shown(page)
        assert f"Not saved: {rows[0].pk}, " in text
        assert f"Not saved: {rows[1].pk}, " in text
        assert "Enter a reason." in text
        assert re.findall(r'name="conversion" value="(\d+)"', re.sub(r"\s+", " ", page.text)) == [
            str(row.pk) for row in rows[1:3]
        ]
        checked = re.findall(r'name="(\d+)-decision" value="(\w+)"[^>]*checked', page.text)
        assert checked == [(str(rows[2].pk), "reject")]

    def test_what_changes_while_it_is_saved_is_named(
        self, staff: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rows = [flagged(), without_amount(), flagged()]
        page = staff.get(QUEUE)

        def claim(self: ReviewPage, request: Any) -> bool:
            Conversion.objects.filter(pk__in=[row.pk for row in rows[:2]]).update(
                status="rejected", decided_via="signal"
            )
            return True

        monkeypatch.setattr(ReviewPage, "claim_form", claim)
        text = shown(
            save(
                staff,
                page,
                choices(*rows, decision="approve"),
                choices(rows[1], decision="approve", amount="10", currency="EUR"),
            )
        )
        for row in rows[:2]:
            assert f"Not saved: {row.pk}, {row} is already rejected (a signal of this site)" in text
            assert logged(row) == []
        assert states() == ["rejected", "rejected", "approved"]

    def test_an_amount_is_not_kept_without_its_approval(
        self, staff: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        row = without_amount()
        page = staff.get(QUEUE)

        def claim(self: ReviewPage, request: Any) -> bool:
            Conversion.objects.update(review_reason="screened")
            return True

        monkeypatch.setattr(ReviewPage, "claim_form", claim)
        chosen = choices(row, decision="approve", amount="10", currency="EUR")
        assert f"Not saved: {row.pk}, {row} has changed." in shown(save(staff, page, chosen))
        row.refresh_from_db()
        assert (row.status, row.amount, logged(row)) == ("pending", None, [])


class TestPages:
    def test_can_be_skipped(self, staff: Client) -> None:
        rows = [flagged() for _ in range(PER_PAGE + 2)]
        page = staff.get(QUEUE)
        link = f"{QUEUE}?after={rows[PER_PAGE - 1].pk}"
        assert f'href="{link}"' in page.text
        page = staff.get(link)
        assert f"{PER_PAGE + 2} waiting, 2 on this page" in shown(page)
        assert "Skip these" not in page.text
        assert f'href="{QUEUE}"' in page.text
        form = confirmed(page) | choices(rows[-1], decision="approve")
        page = staff.post(link, form, follow=True)
        assert page.redirect_chain == [(link, 302)]
        assert f"{PER_PAGE + 1} waiting, 1 on this page" in shown(page)
        form = confirmed(page) | choices(rows[-2], decision="reject")
        page = staff.post(link, form)
        assert "Start with the oldest" in shown(page)
        form = confirmed(page) | choices(rows[-2], decision="approve")
        text = shown(staff.post(link, form, follow=True))
        assert "No conversions after these need review. Start with the oldest" in text

    @pytest.mark.parametrize("after", ["", "x", "9" * 40, "-1"])
    def test_begin_with_the_oldest_if_the_address_is_bent(self, after: str, staff: Client) -> None:
        flagged()
        assert "1 on this page" in shown(staff.get(QUEUE, {"after": after}))


def test_visitors_are_locked_before_the_conversions_in_a_request_in_one_transaction(
    staff: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [flagged(), flagged()]
    page = staff.get(QUEUE)
    locked: list[list[int]] = []
    monkeypatch.setattr(decisions, "_lock_visitors", locked.append)
    save(staff, page, choices(*rows, decision="reject", reason="Own order."))
    # Each test is a transaction.
    assert locked == [sorted(Visitor.objects.values_list("pk", flat=True))]
