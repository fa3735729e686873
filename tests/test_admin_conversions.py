"""Conversions: deciding on them, one or many, and finding them."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from affiliations.conversions import adjustments, decisions, settlements
from affiliations.dates import today
from affiliations.models import (
    Adjustment,
    Callback,
    CallbackAttempt,
    Conversion,
    Settlement,
    Visitor,
)
from affiliations.partner_pages.serializers import conversion_row
from tests.factories import (
    CallbackFactory,
    ConversionFactory,
    SubscriptionFactory,
    UserFactory,
    VisitorFactory,
)
from tests.test_admin import shown, url
from tests.test_admin_partners import said
from tests.test_admin_visitors import found, table
from tests.test_settlements import settled

pytestmark = pytest.mark.django_db


def states() -> list[str]:
    return list(Conversion.objects.order_by("pk").values_list("status", flat=True))


def choose(rows: list[Any], action: str, **fields: Any) -> dict[str, Any]:
    """Select rows of a list, and an action."""
    return {"action": action, "_selected_action": [row.pk for row in rows]} | fields


def confirmed(page: Any, **fields: Any) -> dict[str, Any]:
    """Say yes on the page that asks about many: send what stands in its form."""
    inputs = re.findall(r"<input [^>]*>", page.text[page.text.index('id="content-main"') :])
    sent: dict[str, Any] = {}
    for one in inputs:
        attributes = dict(re.findall(r'([\w-]+)="([^"]*)"', one))
        if attributes["type"] == "hidden":
            sent.setdefault(attributes["name"], []).append(attributes["value"])
    return sent | fields


class TestOneConversion:
    @pytest.mark.parametrize(
        ("before", "page", "after", "message"),
        [
            ("pending", "approve", "approved", "Approved. It is well."),
            ("pending", "reject", "rejected", "Rejected. It is well."),
            ("approved", "reject", "rejected", "Rejected. It is well."),
            ("rejected", "approve", "approved", "Approved. It is well."),
            ("rejected", "reopen", "pending", "Reopened, pending. It is well."),
        ],
    )
    def test_is_decided_with_a_reason(
        self, before: str, page: str, after: str, message: str, staff: Client
    ) -> None:
        conversion = ConversionFactory(status=before)
        assert url(conversion, page) in staff.get(url(conversion)).text
        assert f"now {before}" in shown(staff.get(url(conversion, page)))
        assert states() == [before]
        answer = staff.post(url(conversion, page), {"reason": "It is well."}, follow=True)
        assert answer.redirect_chain[-1][0] == url(conversion)
        conversion.refresh_from_db()
        assert (conversion.status, conversion.reason) == (after, "It is well.")
        assert conversion.decided_by is not None
        assert said(conversion) == [message]

    def test_is_rejected_with_a_reason_only(self, staff: Client) -> None:
        conversion = ConversionFactory(status="pending")
        page = staff.post(url(conversion, "reject"), {"reason": " "})
        assert "This field is required." in shown(page)
        assert states() == ["pending"]
        staff.post(url(conversion, "approve"), {})
        assert states() == ["approved"]

    @pytest.mark.parametrize(
        ("before", "page", "hint"),
        [
            (
                "pending",
                "reject",
                "Shown to the partner on the partner page and, if the conversion",
            ),
            (
                "pending",
                "approve",
                "Kept in the history. The partner does not see it, unless the conversion",
            ),
            (
                "rejected",
                "reopen",
                ("Shown to the partner on the partner page while the conversion is pending."),
            ),
        ],
    )
    def test_says_of_a_reason_who_reads_it(
        self, before: str, page: str, hint: str, staff: Client
    ) -> None:
        conversion = ConversionFactory(status=before)
        assert hint in shown(staff.get(url(conversion, page)))
        staff.post(url(conversion, page), {"reason": "It is well."})
        conversion.refresh_from_db()
        told = conversion_row(conversion).reason
        assert told == ("" if page == "approve" else "It is well.")

    def test_that_is_brought_back_after_it_was_settled_tells_the_partner_why(
        self, staff: Client
    ) -> None:
        conversion = settled()
        staff.post(url(conversion, "reject"), {"reason": "Sent back."})
        staff.post(url(conversion, "approve"), {"reason": "Kept after all."})
        conversion.refresh_from_db()
        assert conversion_row(conversion).adjustment_reasons == "Sent back. Kept after all."

    @pytest.mark.parametrize("is_test", [True, False])
    def test_is_marked_where_it_is_a_test(self, is_test: bool, staff: Client) -> None:
        conversion = ConversionFactory(is_test=is_test, visitor__is_test=is_test)
        for row in (conversion, conversion.visitor):
            marked = (
                '<span class="aff-badge aff-quiet">test</span>' in staff.get(url(type(row))).text
            )
            assert marked is is_test

    def test_is_in_no_file_where_it_is_a_test_unless_tests_are_asked_for(
        self, staff: Client
    ) -> None:
        for is_test in (True, False):
            ConversionFactory(is_test=is_test, visitor__is_test=is_test)
        for model in (Conversion, Visitor):
            whole, real, tests = (
                table(staff.get(f"{url(model)}csv/", asked))[1:]
                for asked in ({}, {"is_test__exact": 0}, {"is_test__exact": 1})
            )
            assert len(whole) == len(tests) == 1
            assert whole == real != tests

    def test_stays_where_the_decision_is_none(self, staff: Client) -> None:
        conversion = ConversionFactory(status="approved")
        page = staff.get(url(conversion)).text
        assert url(conversion, "approve") not in page
        assert url(conversion, "reopen") not in page
        for name in ("approve", "reopen"):
            answer = staff.post(url(conversion, name), {}, follow=True)
            assert (
                "The conversion has changed in the meantime. Check its status and try again."
                in shown(answer)
            )
        assert states() == ["approved"]
        assert said(conversion) == []

    def test_stays_where_somebody_has_just_decided(
        self, staff: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        conversion = ConversionFactory(status="pending")
        monkeypatch.setattr("affiliations.admin.conversions.decide", lambda *args, **kwargs: False)
        answer = staff.post(url(conversion, "approve"), {}, follow=True)
        assert (
            "The conversion has changed in the meantime. Check its status and try again."
            in shown(answer)
        )
        assert said(conversion) == []

    def test_is_one_click_from_its_visitor_and_its_callbacks(self, staff: Client) -> None:
        callback = CallbackFactory()
        conversion = callback.conversion
        ways = {
            conversion.visitor: [conversion, callback],
            conversion: [conversion.visitor, callback, conversion.partner],
            callback: [conversion, conversion.visitor, callback.subscription],
        }
        for row, others in ways.items():
            page = staff.get(url(row)).text
            for other in others:
                assert f'href="{url(other)}"' in page

    def test_shows_what_else_the_visitor_did(self, staff: Client) -> None:
        conversion = ConversionFactory()
        other = ConversionFactory(
            visitor=conversion.visitor, dedupe_key="other", reference="shop.order:18"
        )
        page = staff.get(url(conversion))
        assert "Other conversions of this visitor" in shown(page)
        assert f'href="{url(other)}"' in page.text
        assert "-" in shown(page)


class TestManyConversions:
    def test_are_asked_about_first(self, staff: Client) -> None:
        rows = ConversionFactory.create_batch(12, status="pending")
        page = staff.post(url(Conversion), choose(rows, "reject_selected"))
        text = shown(page)
        assert "This applies to 12 conversions:" in text
        assert "and 2 more" in text
        assert states() == ["pending"] * 12
        page = staff.post(
            url(Conversion), choose(rows, "reject_selected", confirmed="yes", reason="")
        )
        assert "This field is required." in shown(page)
        assert states() == ["pending"] * 12

    def test_are_rejected_with_one_reason(self, staff: Client) -> None:
        rows = ConversionFactory.create_batch(2, status="pending")
        left = ConversionFactory(status="pending")
        form = choose(rows, "reject_selected", confirmed="yes", reason="Self-referral.")
        page = staff.post(url(Conversion), form, follow=True)
        assert "Rejected 2 conversions." in shown(page)
        assert states() == ["rejected", "rejected", "pending"]
        assert said(rows[0]) == said(rows[1]) == ["Rejected. Self-referral."]
        assert said(left) == []

    def test_are_approved_and_what_cannot_be_is_left(self, staff: Client) -> None:
        rows = [ConversionFactory(status="pending"), ConversionFactory(status="approved")]
        form = choose(rows, "approve_selected", confirmed="yes")
        text = shown(staff.post(url(Conversion), form, follow=True))
        assert "Approved 1 conversion." in text
        assert "1 conversion was skipped" in text
        assert said(rows[1]) == []

    @pytest.mark.parametrize(
        ("action", "status", "message"),
        [("approve_selected", "approved", "Approved"), ("reject_selected", "rejected", "Rejected")],
    )
    def test_of_a_whole_list_are_done_so_many_at_once_until_all_are(
        self,
        staff: Client,
        monkeypatch: pytest.MonkeyPatch,
        action: str,
        status: str,
        message: str,
    ) -> None:
        monkeypatch.setattr("affiliations.admin.actions.AT_ONCE", 2)
        rows = ConversionFactory.create_batch(2, status=status)
        rows += ConversionFactory.create_batch(5, status="pending")
        page = staff.post(url(Conversion), choose(rows[:1], action, select_across="1", index="0"))
        for done in (0, 2, 4):
            text = shown(page)
            assert f"This applies to {min(2, 5 - done)} conversion" in text
            assert ("You are asked about the rest afterwards." in text) is (done < 4)
            assert states().count(status) == 2 + done
            page = staff.post(url(Conversion), confirmed(page, reason="It is well."), follow=True)
            assert f"{min(2, 5 - done)} conversion" in shown(page)
            assert message in shown(page)
            assert page.context.get("form") is None or "It is well." in page.text
        assert states() == [status] * 7
        assert said(rows[0]) == []

    def test_that_were_all_decided_meanwhile_are_the_end(
        self, staff: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("affiliations.admin.actions.AT_ONCE", 1)
        rows = ConversionFactory.create_batch(2, status="pending")
        form = choose(rows[:1], "approve_selected", select_across="1", index="0")
        page = staff.post(url(Conversion), form)
        Conversion.objects.filter(pk=rows[0].pk).update(status="approved")
        answer = staff.post(url(Conversion), confirmed(page), follow=True)
        assert answer.redirect_chain == [(url(Conversion), 302)]
        assert "Approved 1 conversion." in shown(answer)

    def test_that_cannot_be_decided_so_are_not_asked_about(self, staff: Client) -> None:
        rows = [ConversionFactory(status="approved"), ConversionFactory(status="pending")]
        page = staff.post(url(Conversion), choose(rows, "approve_selected"))
        assert "This applies to 1 conversion:" in shown(page)
        page = staff.post(url(Conversion), choose(rows[:1], "approve_selected"), follow=True)
        assert "The status of the selected rows does not allow this action." in shown(page)
        assert states() == ["approved", "pending"]

    def test_that_are_ticked_are_never_more_than_those(
        self, staff: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("affiliations.admin.actions.AT_ONCE", 1)
        rows = ConversionFactory.create_batch(3, status="pending")
        page = staff.post(url(Conversion), choose(rows[:2], "approve_selected"))
        assert "This applies to 2 conversions:" in shown(page)
        staff.post(url(Conversion), confirmed(page))
        assert states() == ["approved", "approved", "pending"]


@pytest.mark.parametrize(
    ("fields", "written"),
    [
        ({"payout_type": "percent", "payout_value": "7.0000"}, "7 %"),
        ({"payout_type": "percent", "payout_value": "100.0000"}, "100 %"),
        ({"payout_type": "percent", "payout_value": "7.2500"}, "7,25 %"),
        ({"payout_type": "fixed", "payout_value": "2", "payout_currency": "EUR"}, "2,00 EUR"),
        ({}, "-"),
    ],
)
def test_a_conversion_says_by_which_rule_it_pays(
    fields: dict[str, Any], written: str, staff: Client, settings: Any
) -> None:
    settings.LANGUAGE_CODE = "da"
    conversion = ConversionFactory(**fields)
    [value] = re.findall(
        r'class="flex-container[^"]*field-payout_value_display"'
        r'.*?<div class="readonly">(.*?)</div>',
        staff.get(url(conversion)).text.replace("fieldBox ", ""),
        re.DOTALL,
    ) or [""]
    assert value.replace("\xa0", " ") == written


def test_the_partner_is_told_of_a_decision(staff: Client) -> None:
    subscription = SubscriptionFactory(call_on_approval=True)
    conversion = ConversionFactory(
        visitor=VisitorFactory(partner=subscription.partner),
        subscription=subscription,
        status="pending",
    )
    staff.post(url(conversion, "approve"), {})
    assert Callback.objects.get().event == "approval"


def test_a_conversion_is_found_by_all_that_somebody_may_ask_with(staff: Client) -> None:
    user = UserFactory()
    conversion = ConversionFactory(
        visitor=VisitorFactory(pk=7001, click_id="click-42"), user=user, reference="shop.order:17"
    )
    ConversionFactory(visitor=VisitorFactory(pk=8001), reference="shop.order:170")
    for term in ("shop.order:17", "click-42", user.email, "7001", str(conversion.pk)):
        assert conversion in found(staff, Conversion, term), term
        assert len(found(staff, Conversion, term)) == 1
    assert len(found(staff, Conversion, "")) == 2
    assert found(staff, Conversion, "9" * 30) == []


def test_conversions_are_a_csv_file_with_their_money(staff: Client) -> None:
    ConversionFactory(
        visitor=VisitorFactory(click_id="click-42"),
        amount="49.9000",
        currency="EUR",
        payout="4.9900",
        payout_currency="EUR",
        reason="Yes",
    )
    ConversionFactory()
    header, row, _other = table(staff.get(url(Conversion, "csv")))
    line = dict(zip(header, row, strict=True))
    assert (line["Amount"], line["Currency"], line["Payout"]) == ("49.90", "EUR", "4.99")
    assert (line["Click id"], line["Status"], line["Reason"]) == ("click-42", "approved", "Yes")


def test_a_csv_file_of_conversions_has_what_decided_and_changed_them(staff: Client) -> None:
    user = UserFactory()
    sub_ids = {f"sub{number}": f"label-{number}" for number in range(1, 6)}
    by_staff = ConversionFactory(
        **sub_ids, status="pending", payout=10, payout_currency="EUR", amount=100, currency="EUR"
    )
    adjustments.adjust(by_staff, payout=Decimal("-2.5"), reason="One sent back")
    adjustments.adjust(by_staff, payout=Decimal("0.5"), reason="A part of it kept")
    decisions.decide(by_staff, "approved", by=user)
    for via in ("signal", "schedule", "at_once"):
        ConversionFactory(decided_via=via)
    ConversionFactory(status="pending")
    settlement = settlements.settle(by_staff.partner, "EUR", timezone.now(), reference="2026-10")
    assert settlement is not None
    header, *rows = table(staff.get(url(Conversion, "csv")))
    line, *others = (dict(zip(header, row, strict=True)) for row in rows)
    assert [line[f"Sub id {number}"] for number in range(1, 6)] == list(sub_ids.values())
    assert (line["Payout"], line["Adjustments"]) == ("8.00", "-2.00")
    assert line["Payout statement"] == "2026-10"
    assert line["Partner uid"] == by_staff.partner.uid
    assert line["Decided by"] == str(user)
    assert [other["Decided by"] for other in others] == [
        "a signal of this site",
        "the end of the hold period",
        "automatically, when it was recorded",
        "",
    ]
    assert {other["Adjustments"] for other in others} == {""}
    user.delete()
    [_header, row, *_rest] = table(staff.get(url(Conversion, "csv")))
    assert row[header.index("Decided by")] == user.get_username()


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ({}, "{model}-{today}"),
        ({"since": "2026-10-01", "until": "2026-10-31"}, "{model}-2026-10-01-2026-10-31"),
        ({"since": "2026-10-01"}, "{model}-2026-10-01-{today}"),
        ({"until": "2026-10-31"}, "{model}-2026-10-31"),
        ({"partner": "A/B “c”", "since": "2026-10-01", "until": "2026-10-01"},
         "{model}-A-B-c-2026-10-01-2026-10-01"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    ("model", "word"),
    [(Conversion, "conversions"), (Visitor, "visitors"), (Callback, "callbacks"),
     (CallbackAttempt, "attempts"), (Settlement, "payout-statements"),
     (Adjustment, "adjustments")],
)  # fmt: skip
def test_a_csv_file_is_named_as_its_list_is_filtered(
    model: Any, word: str, asked: dict[str, str], name: str, staff: Client
) -> None:
    response = staff.get(url(model, "csv"), asked)
    expected = name.format(model=word, today=today())
    assert response["Content-Disposition"] == f'attachment; filename="{expected}.csv"'


def test_a_csv_file_costs_as_many_queries_at_a_thousand_rows(staff: Client) -> None:
    first = ConversionFactory()

    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            table(staff.get(url(Conversion, "csv")))
        return len(captured)

    few = queries()
    user = UserFactory()
    settlement = Settlement.objects.create(
        partner=first.partner, currency="EUR", before=timezone.now(), year=2026, year_number=1
    )
    visitors = [VisitorFactory.build(partner=first.partner) for _ in range(1000)]
    type(first.visitor).objects.bulk_create(visitors)
    Conversion.objects.bulk_create(
        Conversion(
            visitor=visitor,
            partner=first.partner,
            subscription=first.subscription,
            trigger="Order placed",
            dedupe_key=f"v:{visitor.pk}",
            user=user,
            decided_by=user,
            settlement=settlement,
        )
        for visitor in type(first.visitor).objects.exclude(pk=first.visitor.pk)
    )
    assert queries() == few
    with CaptureQueriesContext(connection) as captured:
        staff.get(url(Conversion))
    assert len(captured) <= 11
