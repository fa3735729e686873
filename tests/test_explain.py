"""The story of a referral: what it tells, whose it is, what it costs, and how it is printed."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import translation
from django.utils.formats import localize
from django.utils.timezone import localtime, now

from affiliations import timeline
from affiliations.callbacks import outbox
from affiliations.conversions import adjustments, attempts, by_reference, decisions, settlements
from affiliations.exceptions import Reason
from affiliations.models import (
    Adjustment,
    Callback,
    CallbackAttempt,
    Conversion,
    FailedTrigger,
    Partner,
    Settlement,
    UncreditedTrigger,
    Visitor,
)
from affiliations.models.clicks import UncreditedTriggerQuerySet
from affiliations.signals import trigger_not_credited
from affiliations.triggers import complete_trigger
from tests.arrivals import referred, request_of
from tests.factories import (
    CallbackFactory,
    ConversionFactory,
    PartnerFactory,
    SubscriptionFactory,
    UserFactory,
    VisitorFactory,
)
from tests.test_filtered_clicks import REASONS

pytestmark = pytest.mark.django_db

Status = Callback.Status
MANY = 20
MORNING = datetime(2026, 11, 20, 9, 12, 44, tzinfo=timezone.utc)


def after(**delta: int) -> datetime:
    return MORNING + timedelta(**delta)


def story(visitor: Visitor) -> list[str]:
    """Return the texts of a visitor's story."""
    [told] = timeline.build([visitor.pk])
    return [line.text for line in told.entries]


def told(visitor: Visitor, beginning: str) -> str:
    """Return the one text that begins so."""
    [text] = [text for text in story(visitor) if text.startswith(beginning)]
    return text


class TestTheArrival:
    def test_says_when_where_from_which_page_and_with_which_labels(self) -> None:
        visitor = VisitorFactory(
            partner__name="Steep Notes",
            referred_on=MORNING,
            entry_point="https://shop.example/teas/",
            referrer="https://notes.example/green/",
            click_id="42",
            sub2="newsletter",
            user=(user := UserFactory()),
        )
        [told] = timeline.build([visitor.pk])
        line = told.entries[0]
        assert (line.on, line.about) == (MORNING, visitor)
        assert line.text == (
            f"Visitor {visitor.pk} clicked a link of Steep Notes to "
            "https://shop.example/teas/. The referring page is https://notes.example/green/. "
            f"The click has: click id 42, sub2 newsletter. The visitor is the user {user.email}."
        )

    def test_says_what_is_not_known(self) -> None:
        visitor = VisitorFactory(entry_point="", partner__name="Steep Notes")
        assert story(visitor)[0] == (
            f"Visitor {visitor.pk} was registered for Steep Notes. The click has no click id and "
            f"no sub ids."
        )
        visitor.entry_point = "https://shop.example/"
        visitor.save()
        assert "The referring page is unknown." in story(visitor)[0]

    def test_says_that_code_has_stated_it(self) -> None:
        visitor = VisitorFactory(partner__name="Steep Notes", source="api")
        assert story(visitor)[0] == (
            f"Your own code registered visitor {visitor.pk} for Steep Notes, without a click. "
            "The click has no click id and no sub ids."
        )
        visitor.referrer = "https://chat.example/"
        visitor.save()
        assert "The referring page is https://chat.example/." in story(visitor)[0]

    def test_marks_a_test(self) -> None:
        assert "Test: excluded from reports." in story(VisitorFactory(is_test=True))[0]

    def test_tells_whose_place_was_taken_on_both_sides(self) -> None:
        first = VisitorFactory(partner__name="Steep Notes", referred_on=MORNING)
        second = VisitorFactory(
            partner__name="Leaf Post", referred_on=after(hours=1), previous=first
        )
        assert story(second)[1] == (
            f"This click replaced the earlier click of visitor {first.pk} from Steep Notes."
        )
        [told] = timeline.build([first.pk])
        assert (told.entries[1].on, told.entries[1].about) == (after(hours=1), second)
        assert told.entries[1].text == (
            f"This click was replaced by the click of visitor {second.pk} from Leaf Post."
        )


class TestHowItStands:
    def test_is_open_until_the_window_ends(self, settings: Any) -> None:
        settings.AFFILIATE_ATTRIBUTION_WINDOW = timedelta(days=30)
        visitor = VisitorFactory()
        end = localize(localtime(visitor.referred_on + timedelta(days=30)))
        assert story(visitor)[-1] == (
            "No trigger has fired for this visitor yet. Conversions can be credited to this "
            f"visitor (until {end})."
        )

    def test_may_be_open_for_ever(self, settings: Any) -> None:
        settings.AFFILIATE_ATTRIBUTION_WINDOW = None
        assert story(VisitorFactory())[-1].endswith(
            "Conversions can be credited to this visitor without a time limit."
        )

    def test_may_stand_behind_another_where_the_first_click_wins(self, settings: Any) -> None:
        said = (
            "First click model: an earlier click in the same browser takes precedence over this "
            "click."
        )
        assert said not in story(VisitorFactory())[-1]
        settings.AFFILIATE_ATTRIBUTION_MODEL = "first_click"
        assert said in story(VisitorFactory())[-1]
        assert said not in story(VisitorFactory(is_test=True))[-1]
        assert said not in story(ConversionFactory().visitor)[-1]

    def test_has_expired_by_the_partners_own_window(self) -> None:
        visitor = VisitorFactory(
            partner__window=timedelta(days=1), referred_on=now() - timedelta(days=2)
        )
        assert "to this visitor: the attribution window has ended (since " in story(visitor)[-1]

    def test_is_not_open_without_a_deal(self) -> None:
        visitor = VisitorFactory(partner__active=False)
        assert story(visitor)[-1].endswith("to this visitor: the partner is inactive.")

    def test_is_closed_since_a_conversion(self) -> None:
        visitor = referred("Order placed")
        conversion = complete_trigger(None, "Order placed", visitor=visitor, reference="17")
        assert conversion is not None
        [told] = timeline.build([visitor.pk])
        *_, closed, present = told.entries
        assert closed.on == conversion.created_on
        assert closed.text == (
            "Tracking ended: no more conversions can be credited to this visitor."
        )
        assert present.on is None
        assert present.text == (
            "No more conversions can be credited to this visitor: tracking ended with an earlier "
            "conversion."
        )


class TestWhatWasNotCounted:
    def test_is_told_with_the_reason_how_often_and_the_last_reference(self) -> None:
        visitor = VisitorFactory()
        for hour, reference in ((1, "a-17"), (3, "a-18")):
            UncreditedTrigger.objects.add(
                visitor, "Order placed", Reason.NOT_SUBSCRIBED, reference, after(hours=hour)
            )
        [told] = timeline.build([visitor.pk])
        [line] = [line for line in told.entries if isinstance(line.about, UncreditedTrigger)]
        assert line.on == after(hours=3)
        assert line.text == (
            "“Order placed” fired but was not credited: the partner has no active subscription "
            "to this trigger. 2 times (since Nov. 20, 2026, 10:12 a.m.). The reference is a-18."
        )

    def test_is_told_in_a_short_sentence_where_there_is_little_to_say(self) -> None:
        visitor = VisitorFactory()
        UncreditedTrigger.objects.add(visitor, "Order placed", Reason.NO_REFERENCE, "", MORNING)
        assert told(visitor, "“Order").endswith(
            "the reference is missing, and the subscription counts every order."
        )

    def test_keeps_a_code_of_another_version_as_it_is(self) -> None:
        visitor = VisitorFactory()
        UncreditedTrigger.objects.create(
            visitor=visitor, trigger="Order placed", reason="retired", first_on=now(), last_on=now()
        )
        assert told(visitor, "“Order").endswith("not credited: retired.")

    @pytest.mark.django_db(transaction=True)
    def test_is_counted_each_time_by_many_at_once(self) -> None:
        visitor = VisitorFactory()
        started = threading.Barrier(MANY, timeout=60)

        def add(number: int) -> None:
            try:
                connection.ensure_connection()
                started.wait()
                UncreditedTrigger.objects.add(
                    visitor, "Order placed", Reason.NO_REFERENCE, f"{number}", now()
                )
            finally:
                connection.close()

        with ThreadPoolExecutor(MANY) as pool:
            list(pool.map(add, range(MANY)))
        row = UncreditedTrigger.objects.get()
        assert row.count == MANY
        assert str(row) == "Order placed: no_reference"

    def test_comes_from_a_trigger_that_fired(self, django_capture_on_commit_callbacks: Any) -> None:
        visitor = VisitorFactory()
        with django_capture_on_commit_callbacks(execute=True):
            assert complete_trigger(None, "Order placed", visitor=visitor, reference="17") is None
        assert "no active subscription" in told(visitor, "“Order placed” fired")

    @pytest.mark.django_db(transaction=True)
    def test_fails_nothing_of_the_host_where_it_cannot_be_written(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(*args: object) -> None:
            raise DatabaseError("no room")

        monkeypatch.setattr(UncreditedTriggerQuerySet, "add", fail)
        visitor = VisitorFactory()
        with transaction.atomic():
            assert complete_trigger(None, "Order placed", visitor=visitor, reference="17") is None
        assert "no room" in caplog.text


class TestAConversion:
    def test_tells_what_it_is_and_what_it_earns(self) -> None:
        buyer = UserFactory()
        conversion = ConversionFactory(
            reference="a-17",
            dedupe_key="r:17",
            user=buyer,
            amount=Decimal("49.9"),
            currency="EUR",
            payout_type="percent",
            payout_value=Decimal("7.5"),
            payout=Decimal("3.74"),
            payout_currency="EUR",
            is_test=True,
        )
        assert told(conversion.visitor, "“Order placed”") == (
            f"“Order placed” was recorded as conversion {conversion.pk}. The reference is a-17. "
            f"The buyer is the user {buyer.email}. The amount is 49.90\xa0EUR. "
            "The payout is 3.74\xa0EUR, 7.5 % of the amount. Test: excluded from reports."
        )

    def test_says_that_it_counts_once_a_visitor(self) -> None:
        """Which is why another order of theirs is not counted, and by its reference not found."""
        conversion = ConversionFactory(reference="a-17")
        assert told(conversion.visitor, "“Order placed”") == (
            f"“Order placed” was recorded as conversion {conversion.pk}. The reference is a-17. "
            "It counts once per visitor, so it cannot be credited to this visitor again. "
            "No commission."
        )

    @pytest.mark.parametrize(
        ("payout", "said"),
        [
            ({}, "No commission."),
            (
                {"payout_type": "percent", "payout_value": 5},
                "The payout could not be calculated.",
            ),
            (
                {
                    "payout_type": "fixed",
                    "payout_value": 500,
                    "payout": 500,
                    "payout_currency": "JPY",
                },
                "The payout is 500\xa0JPY, a fixed amount.",
            ),
        ],
    )
    def test_tells_other_payouts(self, payout: dict[str, Any], said: str) -> None:
        conversion = ConversionFactory(**payout)
        assert told(conversion.visitor, "“Order placed”").endswith(f" {said}")

    @pytest.mark.parametrize(
        ("amount", "currency", "said"),
        [("49.905", "EUR", "49.91\xa0EUR."), ("1200", "JPY", "1200\xa0JPY."), ("12", "", "12.00.")],
    )
    def test_writes_money_with_the_decimals_of_its_currency(
        self, amount: str, currency: str, said: str
    ) -> None:
        conversion = ConversionFactory(amount=Decimal(amount), currency=currency)
        assert f"The amount is {said}" in told(conversion.visitor, "“Order placed”")

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"status": "pending"}, "is pending: approve or reject it."),
            (
                {"status": "pending", "reason": "The automatic check failed."},
                "is pending: approve or reject it. Reason: The automatic check failed.",
            ),
            (
                {
                    "status": "approved",
                    "review_reason": "screened",
                    "review_text": "The buyer is the partner.",
                },
                "was approved automatically. It needed review. Reason: The buyer is the partner.",
            ),
            (
                {"status": "pending", "approve_on": after(days=14)},
                "is pending and will be approved on Dec. 4, 2026, 9:12 a.m. unless it is rejected.",
            ),
            ({"status": "approved"}, "was approved automatically."),
            (
                {"status": "rejected", "reason": "Order refunded"},
                "was rejected automatically. Reason: Order refunded",
            ),
        ],
    )
    def test_tells_how_it_was_decided(self, changes: dict[str, Any], said: str) -> None:
        conversion = ConversionFactory(**changes)
        text = told(conversion.visitor, f"Conversion {conversion.pk} ")
        assert text == f"Conversion {conversion.pk} {said}"

    def test_tells_what_only_a_person_can_approve(self) -> None:
        conversion = ConversionFactory(status="pending", review_reason="no_amount")
        text = told(conversion.visitor, f"Conversion {conversion.pk} ")
        assert "Only staff can approve it: the amount is missing, zero or invalid." in text

    def test_tells_who_decided_and_why(self) -> None:
        staff = UserFactory()
        conversion = ConversionFactory(status="pending", created_on=MORNING)
        ways = {
            Conversion.Status.APPROVED: "was approved by {}. Reason: looks well",
            Conversion.Status.REJECTED: "was rejected by {}. Reason: looks well",
            Conversion.Status.PENDING: "was reopened by {} and is pending again. "
            "Reason: looks well",
        }
        for status, said in ways.items():
            assert decisions.decide(conversion, status, reason="looks well", by=staff)
            text = told(conversion.visitor, f"Conversion {conversion.pk} ")
            assert text == f"Conversion {conversion.pk} {said.format(staff)}"


class TestWhatIsPaid:
    def test_tells_with_which_settlement_and_what_was_corrected(self) -> None:
        staff = UserFactory()
        conversion = ConversionFactory(
            status="approved", decided_on=MORNING, payout=Decimal(5), payout_currency="EUR"
        )
        visitor, name = conversion.visitor, f"The payout of conversion {conversion.pk} "
        adjustments.adjust(conversion, payout=Decimal(-2), reason="Half refunded", by=staff)
        assert told(visitor, name) == (
            f"{name}was adjusted by -2.00\xa0EUR ({staff}). Reason: Half refunded "
            "It is not in a statement yet."
        )
        october = settlements.settle(conversion.partner, "EUR", now(), reference="October")
        assert october is not None
        assert told(visitor, name).endswith("It is in statement “October”.")
        assert told(visitor, f"Conversion {conversion.pk} was added") == (
            f"Conversion {conversion.pk} was added to payout statement “October”."
        )
        conversion.refresh_from_db()
        decisions.decide(conversion, "rejected")
        [line] = [text for text in story(visitor) if text.startswith(f"{name}was adjusted by -3")]
        assert line == (
            f"{name}was adjusted by -3.00\xa0EUR. Reason: Rejected after it was in a statement. "
            "It is not in a statement yet."
        )
        [whole] = timeline.build([visitor.pk])
        assert october in [line.about for line in whole.entries]


class TestACallback:
    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            (
                {"status": "queued", "next_attempt_on": after(hours=2)},
                "Queued (next attempt: Nov. 20, 2026, 11:12 a.m.).",
            ),
            (
                {"conversion__subscription__callbacks_suspended_on": MORNING},
                "Paused, because callbacks are suspended (since Nov. 20, 2026, 9:12 a.m.).",
            ),
            (
                {"conversion__subscription__callbacks_paused_until": MORNING},
                "Paused, because the partner’s server is busy (until Nov. 20, 2026, 9:12 a.m.).",
            ),
            (
                {"status": "delivered", "delivered_on": MORNING},
                "Accepted by the partner (Nov. 20, 2026, 9:12 a.m.).",
            ),
            ({"status": "exhausted"}, "Gave up: no more retries."),
            (
                {"status": "cancelled", "reason": outbox.NO_CLICK_ID},
                "Cancelled. Reason: The visitor came without a click id.",
            ),
            ({"status": "cancelled"}, "Cancelled. Reason: -"),
        ],
    )
    def test_tells_how_it_stands(self, changes: dict[str, Any], said: str) -> None:
        callback = CallbackFactory(url="https://partner.example/cb", **changes)
        assert told(callback.conversion.visitor, f"Callback {callback.pk}, ") == (
            f"Callback {callback.pk}, event “conversion”: https://partner.example/cb {said}"
        )

    def test_says_that_its_url_is_blanked(self) -> None:
        callback = CallbackFactory(url="", event="rejection", status="exhausted")
        assert told(callback.conversion.visitor, f"Callback {callback.pk}, ").startswith(
            f"Callback {callback.pk}, event “rejection”. Its URL was erased."
        )

    @pytest.mark.parametrize(
        ("result", "said"),
        [
            ({"status_code": 204}, "was accepted after 84 ms. HTTP 204."),
            (
                {
                    "status_code": 500,
                    "error": "http_status",
                    "response_excerpt": "<h1>Oops</h1>\n" + "x" * 500,
                },
                "failed after 84 ms: the partner’s server returned an error. HTTP 500. "
                "Response: <h1>Oops</h1> " + "x" * 185 + "…",
            ),
            (
                {"error": "dns", "message": "Name or service not known", "manual": True},
                (
                    "failed after 84 ms: the host name was not found. Sent manually. Name or "
                    "service not known"
                ),
            ),
        ],
    )
    def test_tells_how_each_attempt_ended(self, result: dict[str, Any], said: str) -> None:
        callback = CallbackFactory()
        CallbackAttempt.objects.create(
            callback=callback, number=3, started_on=MORNING, duration_ms=84, **result
        )
        text = told(callback.conversion.visitor, "Attempt ")
        assert text == f"Attempt 3 of callback {callback.pk} {said}"


def long_story(conversion_count: int) -> Visitor:
    """Make a story with so many of everything."""
    visitor = VisitorFactory(user=UserFactory(), previous=VisitorFactory())
    subscription = SubscriptionFactory(partner=visitor.partner)
    settlement = Settlement.objects.create(
        partner=visitor.partner, currency="EUR", before=now(), year=2026, year_number=visitor.pk
    )
    for number in range(conversion_count):
        VisitorFactory(previous=visitor)
        UncreditedTrigger.objects.add(visitor, f"{number}", Reason.NO_REFERENCE, "", now())
        conversion = ConversionFactory(
            visitor=visitor,
            subscription=subscription,
            dedupe_key=f"r:{visitor.pk}:{number}",
            user=UserFactory(),
            decided_by=UserFactory(),
            settlement=settlement,
        )
        Adjustment.objects.create(
            conversion=conversion,
            partner=visitor.partner,
            kind="adjusted",
            payout=1,
            currency="EUR",
            reason="x",
            settlement=settlement,
            created_by=UserFactory(),
        )
        for event in ("conversion", "approval"):
            callback = CallbackFactory(conversion=conversion, event=event)
            for attempt in (1, 2):
                CallbackAttempt.objects.create(
                    callback=callback, number=attempt, started_on=now(), duration_ms=1
                )
    return visitor


class TestTheWhole:
    def test_is_told_in_the_order_in_which_it_happened(self) -> None:
        visitor = VisitorFactory(referred_on=MORNING)
        subscription = SubscriptionFactory(partner=visitor.partner)
        conversion = ConversionFactory(
            visitor=visitor,
            subscription=subscription,
            created_on=after(hours=2),
            status="approved",
            decided_on=after(hours=9),
        )
        callback = CallbackFactory(conversion=conversion, created_on=after(hours=2))
        CallbackAttempt.objects.create(
            callback=callback, number=1, started_on=after(hours=3), duration_ms=1
        )
        UncreditedTrigger.objects.add(visitor, "Later", Reason.NO_REFERENCE, "", after(hours=5))
        UncreditedTrigger.objects.add(visitor, "Early", Reason.NO_REFERENCE, "", after(hours=1))
        [told] = timeline.build([visitor.pk])
        beginnings = [re.split(r" \d| fired| was", line.text)[0] for line in told.entries]
        assert beginnings[:-1] == [
            "Visitor", "“Early”", "“Order placed”", "Callback", "Attempt", "“Later”", "Conversion"
        ]  # fmt: skip
        assert [line.on for line in told.entries[:-1]] == sorted(
            line.on for line in told.entries[:-1] if line.on
        )

    def test_costs_the_same_however_long_it_is(self) -> None:
        counts = []
        for visitors in ([long_story(1)], [long_story(3), *(long_story(4) for _ in range(3))]):
            with CaptureQueriesContext(connection) as queries:
                told = timeline.build([visitor.pk for visitor in visitors])
            counts.append(len(queries))
            assert [len(story.entries) for story in told] == [
                2 + 12 * visitor.conversions.count() + 1 for visitor in reversed(visitors)
            ]
        assert counts == [8, 8]

    def test_is_written_in_the_readers_language(self) -> None:
        visitor = VisitorFactory(referred_on=now())
        with translation.override("de"):
            german = story(visitor)[-1]
        assert not re.search(r"\d [ap]\.m\.", german)
        assert re.search(r"\d [ap]\.m\.|noon|midnight", story(visitor)[-1])

    def test_needs_no_time_zones(self, settings: Any) -> None:
        settings.USE_TZ = False
        visitor = VisitorFactory(referred_on=datetime(2026, 11, 20, 9, 12))  # noqa: DTZ001
        call_command("explain_affiliation", visitor=visitor.pk)
        assert "Nov" in story(visitor)[-1] or "Dec" in story(visitor)[-1]


class TestWhoIsFound:
    def test_by_id(self) -> None:
        visitor, _ = VisitorFactory(), VisitorFactory()
        assert timeline.find(visitor=visitor.pk) == [visitor.pk]

    def test_by_click_id(self) -> None:
        first, _, second = (VisitorFactory(click_id=click) for click in ("42", "43", "42"))
        assert timeline.find(click_id="42") == [second.pk, first.pk]

    def test_by_click_id_by_an_index(self) -> None:
        """Partners ask by it, of all the visitors that there ever were."""
        partner = PartnerFactory()
        many = [VisitorFactory.build(partner=partner, click_id=f"click-{n}") for n in range(500)]
        Visitor.objects.bulk_create(many)
        with CaptureQueriesContext(connection) as queries:
            assert len(timeline.find(click_id="click-17")) == 1
        with connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                cursor.execute("ANALYZE affiliations_visitor")
            how = "EXPLAIN QUERY PLAN" if connection.vendor == "sqlite" else "EXPLAIN"
            cursor.execute(f"{how} {queries[0]['sql']}")
            assert "affiliations_visitor_click" in str(cursor.fetchall())

    def test_by_user_also_as_the_buyer_with_somebody_elses_visitor(self) -> None:
        user = UserFactory()
        own = VisitorFactory(user=user)
        bought = ConversionFactory(user=user, visitor__user=UserFactory())
        ConversionFactory(user=UserFactory())
        assert timeline.find(user=user) == [bought.visitor.pk, own.pk]

    def test_by_the_reference_of_what_was_counted_and_of_what_was_not(self) -> None:
        counted = ConversionFactory(reference="a-17").visitor
        ConversionFactory(reference="a-18")
        visitor = VisitorFactory()
        UncreditedTrigger.objects.add(visitor, "Order placed", Reason.NO_REFERENCE, "a-17", now())
        assert timeline.find(reference="a-17") == [visitor.pk, counted.pk]

    def test_by_a_reference_that_was_cut(self) -> None:
        counted = ConversionFactory(reference="r" * 255).visitor
        assert timeline.find(reference="r" * 300) == [counted.pk]

    def test_nobody_by_nothing(self) -> None:
        ConversionFactory(reference="")
        assert timeline.find() == timeline.find(reference="", click_id="") == []

    def test_each_once_and_one_more_than_asked_for_where_there_are_more(self) -> None:
        user = UserFactory()
        visitors = [VisitorFactory(user=user, click_id="42") for _ in range(4)]
        subscription = SubscriptionFactory(partner=visitors[-1].partner)
        for number in range(3):
            ConversionFactory(
                visitor=visitors[-1], subscription=subscription, user=user, dedupe_key=f"{number}"
            )
        ids = [visitor.pk for visitor in reversed(visitors)]
        assert timeline.find(user=user, limit=4) == ids
        assert timeline.find(user=user, limit=2) == ids[:3]


class TestTheCommand:
    def test_prints_the_story_with_its_times(self, capsys: pytest.CaptureFixture[str]) -> None:
        visitor = VisitorFactory(
            partner__name="Steep Notes", referred_on=MORNING, click_id="42", closed_on=after(days=1)
        )
        call_command("explain_affiliation", click_id="42")
        assert capsys.readouterr().out == (
            f"Visitor {visitor.pk}, Steep Notes\n"
            f"  2026-11-20 09:12:44  Visitor {visitor.pk} clicked a link of Steep Notes to "
            "https://shop.example/. The referring page is unknown. "
            "The click has: click id 42.\n"
            "  2026-11-21 09:12:44  Tracking ended: no more conversions can be credited to "
            "this visitor.\n"
            "  now                  No trigger has fired for this visitor yet. No more "
            "conversions can be credited to this visitor: tracking ended with an earlier "
            "conversion.\n"
        )

    def test_finds_by_each_option(self, capsys: pytest.CaptureFixture[str]) -> None:
        user = UserFactory()
        conversion = ConversionFactory(reference="a-17", visitor__user=user)
        options: list[dict[str, Any]] = [
            {"visitor": conversion.visitor.pk},
            {"user": user.get_username()},
            {"user": str(user.pk)},
            {"reference": "a-17"},
        ]
        for option in options:
            call_command("explain_affiliation", **option)
            assert capsys.readouterr().out.startswith(f"Visitor {conversion.visitor.pk}, ")

    def test_says_where_nobody_is_found(self, capsys: pytest.CaptureFixture[str]) -> None:
        call_command("explain_affiliation", click_id="42")
        said = capsys.readouterr().out
        assert said.startswith("No visitor was found. ")
        assert "the latest reference" not in said

    def test_says_what_else_a_reference_that_nobody_has_may_mean(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        call_command("explain_affiliation", reference="a-17")
        said = capsys.readouterr().out.splitlines()
        assert said[0].startswith("No visitor was found. ")
        assert said[1].startswith("Of an uncredited trigger only the latest reference is stored")

    def test_says_where_there_are_more(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        partner = PartnerFactory()
        for _ in range(timeline.LIMIT):
            VisitorFactory(partner=partner, click_id="42")
        call_command("explain_affiliation", click_id="42")
        assert "are shown" not in capsys.readouterr().out
        VisitorFactory(partner=partner, click_id="42")
        call_command("explain_affiliation", click_id="42")
        said = capsys.readouterr().out
        assert said.endswith("Only the latest 20 visitors are shown.\n")
        assert len(re.findall(r"^Visitor", said, re.MULTILINE)) == 20

    def test_lets_no_label_of_a_link_steer_the_terminal(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        visitor = VisitorFactory(click_id="\x1b[2J\u202e\r\nRoot: grün\xa0茶")
        call_command("explain_affiliation", visitor=visitor.pk)
        assert r"click id \x1b[2J\u202e\r\nRoot: grün" + "\xa0茶" in capsys.readouterr().out

    def test_wants_one_option_at_most(self) -> None:
        with pytest.raises(CommandError, match="not allowed with"):
            call_command("explain_affiliation", "--visitor", "1", "--click-id", "2")

    @pytest.mark.parametrize("named", ["nobody", "9" * 40])
    def test_says_where_there_is_no_such_user(self, named: str) -> None:
        with pytest.raises(CommandError, match=f"User '{named}' does not exist"):
            call_command("explain_affiliation", user=named)

    def test_does_not_choose_between_the_name_of_one_and_the_key_of_another(self) -> None:
        model = get_user_model()
        by_key = UserFactory()
        by_name = UserFactory(**{model.USERNAME_FIELD: str(by_key.pk)})
        with pytest.raises(CommandError, match="matches only one of them") as failure:
            call_command("explain_affiliation", user=str(by_key.pk))
        assert {str(by_key.pk), str(by_name.pk)} <= set(
            re.findall(r"\((.+?)\)", str(failure.value))
        )


def expired() -> Conversion | None:
    visitor = referred("Order placed")
    Visitor.objects.update(referred_on=now() - timedelta(days=31))
    return complete_trigger(None, "Order placed", visitor=visitor, reference="17")


def inactive() -> Conversion | None:
    visitor = referred("Order placed")
    visitor.partner.active = False
    visitor.partner.save()
    return complete_trigger(None, "Order placed", visitor=visitor, reference="17")


def not_subscribed() -> Conversion | None:
    return complete_trigger(None, "Order placed", visitor=VisitorFactory(), reference="17")


def closed() -> Conversion | None:
    visitor = referred("Order placed")
    Visitor.objects.update(closed_on=now())
    return complete_trigger(None, "Order placed", visitor=visitor, reference="17")


def earned() -> Conversion | None:
    visitor = referred(
        "Order placed", counting="every", earns_for="months", earns_months=1, closes_referral=False
    )
    assert complete_trigger(None, "Order placed", visitor=visitor, reference="16")
    Partner.objects.update(window=timedelta(days=90))
    Conversion.objects.update(created_on=now() - timedelta(days=60))
    return complete_trigger(None, "Order placed", visitor=visitor, reference="17")


def stopped() -> Conversion | None:
    visitor = referred("Order placed")
    visitor.stop()
    return complete_trigger(None, "Order placed", visitor=visitor, reference="17")


def without_reference() -> Conversion | None:
    visitor = referred("Order placed", counting="every")
    return complete_trigger(None, "Order placed", visitor=visitor)


def twice() -> Conversion | None:
    visitor = referred("Order placed", closes_referral=False)
    assert complete_trigger(None, "Order placed", visitor=visitor, reference="16")
    return complete_trigger(None, "Order placed", visitor=visitor, reference="17")


def by_nobody() -> Conversion | None:
    return complete_trigger(request_of(Visitor(pk=0)), "Order placed", reference="17")


def by_staff() -> Conversion | None:
    request = request_of(referred("Order placed"), UserFactory())
    return complete_trigger(request, "Order placed", reference="17", user=UserFactory())


def of_nothing() -> None:
    attempts.attempt(
        "Order placed",
        lambda: by_reference.decide("Order placed", "17", "approved"),
        lambda: FailedTrigger(trigger="Order placed"),
    )


def of_what_staff_have_rejected() -> None:
    conversion = complete_trigger(
        None, "Order placed", visitor=referred("Order placed"), reference="17"
    )
    assert conversion is not None
    decisions.decide(conversion, "rejected")
    of_nothing()


#: What does not let a trigger count, and what brings each about.
REFUSALS = {
    Reason.WINDOW_EXPIRED: expired,
    Reason.PARTNER_INACTIVE: inactive,
    Reason.NOT_SUBSCRIBED: not_subscribed,
    Reason.REFERRAL_CLOSED: closed,
    Reason.EARNING_ENDED: earned,
    Reason.STOPPED: stopped,
    Reason.NO_REFERENCE: without_reference,
    Reason.ALREADY_COUNTED: twice,
    Reason.NO_VISITOR: by_nobody,
    Reason.NOT_THE_BUYER: by_staff,
    Reason.NO_CONVERSION: of_nothing,
    Reason.DECIDED_BY_STAFF: of_what_staff_have_rejected,
}
#: Where there is no visitor to tell it of.
NO_STORY = {Reason.NO_VISITOR, Reason.NOT_THE_BUYER, Reason.NO_CONVERSION}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("reason", REFUSALS)
def test_every_refusal_is_told_in_the_log_by_signal_and_in_the_story(
    reason: Reason, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Reason] = []

    def listen(sender: object, reason: Reason, **kwargs: object) -> None:
        heard.append(reason)

    trigger_not_credited.connect(listen)
    caplog.set_level("DEBUG", "affiliations")
    try:
        assert REFUSALS[reason]() is None
    finally:
        trigger_not_credited.disconnect(listen)

    said = f"“Order placed” had no effect: {reason.label}"
    assert [message for message in caplog.messages if message.startswith(said)]
    assert heard == [reason]
    said = f"“Order placed” fired but was not credited: {reason.label}"
    texts = [text for visitor in Visitor.objects.all() for text in story(visitor)]
    assert sum(said in text for text in texts) == (0 if reason in NO_STORY else 1)


@pytest.mark.parametrize(
    ("reason", "stated", "said"),
    [
        (
            Reason.SCREENED,
            {},
            "is pending: approve or reject it. Reason: The buyer is the partner.",
        ),
        (Reason.NO_AMOUNT, {"amount": "-1"}, "is pending: approve or reject it. Reason: "),
    ],
)
def test_every_doubt_is_told_in_the_log_and_in_the_story(
    reason: Reason, stated: dict[str, Any], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "affiliations")
    visitor, buyer = referred("Order placed"), UserFactory()
    if reason is Reason.SCREENED:
        visitor.partner.users.add(buyer)

    complete_trigger(None, "Order placed", visitor=visitor, user=buyer, reference="17", **stated)

    assert (
        f"The conversion of trigger “Order placed” needs review: {reason.value}." in caplog.messages
    )
    assert said in told(visitor, f"Conversion {Conversion.objects.get().pk} ")


def test_every_reason_is_of_a_click_a_refusal_or_a_doubt() -> None:
    doubts = {Reason.SCREENED, Reason.NO_AMOUNT, Reason.NO_PAYOUT}
    tests = {Reason.TEST_EXPIRED, Reason.TEST_USED, Reason.OPEN_REFERRAL}
    assert {*REASONS, *REFUSALS, *doubts, *tests, Reason.REMOVED} == set(Reason)


def test_a_reason_of_another_version_is_shown_as_its_code() -> None:
    assert Reason.display("bot") == Reason.BOT.label
    assert Reason.display("reason_of_2031") == "reason_of_2031"


@pytest.mark.django_db
def test_a_conversion_with_a_reason_of_another_version_has_a_story() -> None:
    conversion = ConversionFactory(status="pending", review_reason="reason_of_2031")
    assert "Only staff can approve it: reason_of_2031." in told(
        conversion.visitor, f"Conversion {conversion.pk} "
    )


def test_every_reason_has_words_of_its_own() -> None:
    assert len({str(reason.label) for reason in Reason}) == len(Reason)
