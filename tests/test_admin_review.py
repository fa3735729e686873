"""Conversions that need review, and what staff are told before they decide about many."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from affiliations.conversions import decisions
from affiliations.models import Callback, Conversion, Subscription
from tests.factories import CallbackFactory, ConversionFactory
from tests.test_admin import shown, url
from tests.test_admin_conversions import choose, confirmed, states
from tests.test_settlements import earned, settled

pytestmark = pytest.mark.django_db

OWN = "The buyer is the partner."


def paying(payout: str | None = "10", currency: str = "EUR", **fields: Any) -> Conversion:
    return ConversionFactory(
        status="pending",
        payout_type="fixed",
        payout=payout and Decimal(payout),
        payout_currency=currency,
        **fields,
    )


def flagged(**fields: Any) -> Conversion:
    return paying(review_reason="screened", review_text=OWN, reason=OWN, **fields)


def without_amount(**fields: Any) -> Conversion:
    text = "The amount is missing, zero or invalid, so the percentage cannot be calculated."
    return ConversionFactory(
        status="pending",
        payout_type="percent",
        payout_value=5,
        amount=None,
        payout=None,
        review_reason="no_amount",
        review_text=text,
        **fields,
    )


class TestTheList:
    def test_says_how_many_need_review_and_leads_to_them(self, staff: Client) -> None:
        link = re.compile(rf'<a href="{url(Conversion, "review")}">([^<]*)</a>')
        assert link.findall(staff.get(url(Conversion)).text) == ["Review queue"]
        flagged(), flagged(is_test=True), paying()
        decisions.decide(flagged(), "approved")
        assert link.findall(staff.get(url(Conversion)).text) == ["Review queue (1)"]

    def test_has_a_filter_for_them(self, staff: Client) -> None:
        found = flagged(reference="mine")
        paying(reference="others")
        decisions.decide(flagged(reference="done"), "approved")
        text = shown(staff.get(url(Conversion), {"review": "needed"}))
        assert f" {found.reference} " in text
        assert " others " not in text
        assert " done " not in text

    def test_marks_them(self, staff: Client) -> None:
        paying()
        marked = '<span class="aff-badge aff-error">needs review</span>'
        assert marked not in staff.get(url(Conversion)).text
        flagged()
        assert marked in staff.get(url(Conversion)).text

    def test_counts_no_more_than_so_many(
        self, staff: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("affiliations.admin.review._MAX_COUNT", 2)
        for _ in range(3):
            flagged()
        with CaptureQueriesContext(connection) as queries:
            page = staff.get(url(Conversion))
        assert "Review queue (more than 2)" in shown(page)
        counting = [query["sql"] for query in queries if "review_reason\" > ''" in query["sql"]
                    or "review_reason` > ''" in query["sql"]]  # fmt: skip
        assert len(counting) == 1
        assert "LIMIT 3" in counting[0]

    def test_keeps_the_reason_on_the_page_after_the_decision(self, staff: Client) -> None:
        conversion = flagged()
        assert OWN in shown(staff.get(url(conversion)))
        staff.post(url(conversion, "approve"), {"reason": "They asked first."})
        conversion.refresh_from_db()
        assert conversion.reason == "They asked first."
        text = shown(staff.get(url(conversion)))
        assert "Review reason" in text
        assert f"It needed review. Reason: {OWN}" in text
        assert "Review reason" not in shown(staff.get(url(paying())))

    def test_has_the_reason_where_one_is_approved(self, staff: Client) -> None:
        text = shown(staff.get(url(flagged(), "approve")))
        assert f"Needs review: {OWN}" in text
        assert "Payout 10.00 EUR" in text


class TestManyAtOnce:
    def test_leaves_out_what_needs_review_and_names_it(self, staff: Client) -> None:
        rows = [paying(), flagged(reference="1001"), flagged(reference="1002")]
        page = staff.post(url(Conversion), choose(rows, "approve_selected"))
        text = shown(page)
        assert "This applies to 1 conversion:" in text
        assert "2 conversions need review and are left out:" in text
        assert text.count(OWN) == 2
        assert all(f'href="{url(row)}"' in page.text for row in rows[1:])
        assert f'href="{url(Conversion, "review")}"' in page.text
        text = shown(staff.post(url(Conversion), confirmed(page), follow=True))
        assert "Approved 1 conversion." in text
        assert "skipped" not in text
        assert states() == ["approved", "pending", "pending"]

    def test_approves_it_on_no_request(self, staff: Client) -> None:
        rows = [paying(), flagged(), flagged()]
        form = choose(rows, "approve_selected", confirmed="yes", include="yes")
        text = shown(staff.post(url(Conversion), form, follow=True))
        assert "Approved 1 conversion." in text
        assert "2 conversions were skipped" in text
        assert states() == ["approved", "pending", "pending"]

    def test_approves_nothing_that_came_to_need_review_since(self, staff: Client) -> None:
        rows = [paying(), paying()]
        page = staff.post(url(Conversion), choose(rows, "approve_selected"))
        Conversion.objects.filter(pk=rows[1].pk).update(review_reason="screened")
        text = shown(staff.post(url(Conversion), confirmed(page), follow=True))
        assert "Approved 1 conversion." in text
        assert "1 conversion was skipped" in text
        assert states() == ["approved", "pending"]

    def test_asks_about_one_that_was_rejected_too(self, staff: Client) -> None:
        conversion = flagged()
        decisions.decide(conversion, "rejected")
        page = staff.post(url(Conversion), choose([conversion], "approve_selected"))
        assert "1 conversion needs review and is left out:" in shown(page)

    def test_does_not_approve_a_percentage_without_an_amount(self, staff: Client) -> None:
        rows = [without_amount(), without_amount()]
        page = staff.post(url(Conversion), choose(rows, "approve_selected"))
        text = shown(page)
        assert "2 conversions have a percentage as payout, but no amount." in text
        assert "The amount is missing" in text
        assert "applies to" not in text
        assert all(f'href="{url(row)}"' in page.text for row in rows)
        assert 'type="submit" class="default"' not in page.text
        form = choose(rows, "approve_selected", confirmed="yes")
        text = shown(staff.post(url(Conversion), form, follow=True))
        assert "2 conversions were skipped" in text
        assert states() == ["pending", "pending"]

    def test_does_not_approve_it_either_if_it_was_rejected(self, staff: Client) -> None:
        row = without_amount()
        decisions.decide(row, "rejected")
        text = shown(staff.post(url(Conversion), choose([row], "approve_selected")))
        assert "1 conversion has a percentage as payout, but no amount." in text

    def test_leaves_out_a_test_without_an_amount_for_its_reason_alone(self, staff: Client) -> None:
        page = staff.post(
            url(Conversion), choose([without_amount(is_test=True)], "approve_selected")
        )
        assert "1 conversion needs review" in shown(page)

    def test_says_what_would_be_paid_by_currency_and_what_is_a_test(self, staff: Client) -> None:
        rows = [paying("10"), paying("2.50"), paying("30", "DKK"), paying("99", is_test=True),
                flagged(), paying(None)]  # fmt: skip
        page = staff.post(url(Conversion), choose(rows, "approve_selected"))
        text = shown(page)
        assert "Payout 30.00 DKK, 12.50 EUR" in text
        assert "Tests (not paid) 1" in text
        assert "test (not paid)" in text
        assert "1 conversion needs review and is left out:" in text

    @pytest.mark.parametrize("action", ["approve_selected", "reject_selected"])
    def test_says_what_is_settled_already(self, action: str, staff: Client) -> None:
        row = settled()
        if action == "approve_selected":
            decisions.decide(row, "rejected")
        text = shown(staff.post(url(Conversion), choose([row, paying()], action)))
        assert "Already in a payout statement 1 (10.00 EUR)" in text
        assert ("Already rejected 1" in text) is (action == "approve_selected")
        assert ("Already approved 1" in text) is (action == "reject_selected")

    def test_says_whose_partners_were_stopped_for_fraud(self, staff: Client) -> None:
        row = earned()
        decisions.stop_for_fraud(row.partner, reason="Own orders")
        text = shown(staff.post(url(Conversion), choose([row], "reject_selected")))
        assert f"Stopped for fraud, not paid {row.partner}" in text

    def test_rejects_what_needs_review_without_more_questions(self, staff: Client) -> None:
        row = flagged()
        page = staff.post(url(Conversion), choose([row, paying()], "reject_selected"))
        assert "Need review 1" in shown(page)
        staff.post(url(Conversion), confirmed(page, reason="No."))
        assert states() == ["rejected", "rejected"]

    def test_of_a_whole_list_leaves_it_out_on_each_page(
        self, staff: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("affiliations.admin.actions.AT_ONCE", 2)
        rows = [paying(), flagged(), without_amount(), flagged(), paying()]
        form = choose(rows[:1], "approve_selected", select_across="1", index="0")
        page = staff.post(url(Conversion), form)
        seen = []
        while "confirm" in getattr(page, "template_name", ""):
            seen.append([key for key in (row.pk for row in rows) if f"{key}</a>" in page.text
                         or f"<li>{key}:" in page.text])  # fmt: skip
            page = staff.post(url(Conversion), confirmed(page))
        keys = [row.pk for row in rows]
        assert seen == [keys[3:], keys[1:3], keys[:1]]
        assert states() == ["approved", "pending", "pending", "pending", "approved"]

    @pytest.mark.parametrize("lowest", ["", "x", "9" * 40])
    def test_of_a_whole_list_ends_where_the_form_is_bent(self, lowest: str, staff: Client) -> None:
        rows = [paying(), paying()]
        form = choose(rows[:1], "approve_selected", select_across="1", confirmed="yes")
        assert staff.post(url(Conversion), form | {"lowest": lowest}).status_code == 302
        assert states() == ["approved", "pending"]

    @pytest.mark.parametrize("number", [2, 12])
    def test_costs_as_much_for_many_as_for_few(self, number: int, staff: Client) -> None:
        rows = [row() for row in (paying, flagged, without_amount) for _ in range(number)]
        with CaptureQueriesContext(connection) as queries:
            staff.post(url(Conversion), choose(rows, "approve_selected"))
        # The session, the user, thrice whether there are such rows, the conversions, their
        # adjustments.
        assert len(queries) == 9

    def test_of_callbacks_says_who_accepted_them_before(self, staff: Client) -> None:
        delivered, waiting = CallbackFactory(), CallbackFactory()
        Callback.objects.filter(pk=delivered.pk).update(status="delivered")
        Subscription.objects.filter(pk=waiting.subscription_id).update(
            callbacks_suspended_on=waiting.created_on
        )
        decisions.stop_for_fraud(delivered.partner, reason="Own orders")
        text = shown(
            staff.post(url(Callback), choose([delivered, waiting], "resend_selected_anew"))
        )
        assert f"Partners {delivered.partner}, {waiting.partner}" in text
        assert "Already accepted 1" in text
        assert f"Callbacks suspended {waiting.subscription}" in text
        assert f"Stopped for fraud {delivered.partner}" in text
