"""The story of a referral: what it tells, whose it is, what it costs, and how it is printed."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import translation
from django.utils.formats import localize
from django.utils.timezone import localtime, now

from affiliations import conversions, corrections, decisions, settlements, stories
from affiliations.callbacks import wording
from affiliations.exceptions import Reason
from affiliations.models import (
    Callback,
    CallbackAttempt,
    Conversion,
    Correction,
    Settlement,
    UncountedTrigger,
    Visitor,
)
from affiliations.models.uncounted import UncountedTriggerQuerySet
from affiliations.signals import trigger_not_counted
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
from tests.test_uncounted import REASONS

pytestmark = pytest.mark.django_db

Status = Callback.Status
MANY = 20
MORNING = datetime(2026, 11, 20, 9, 12, 44, tzinfo=timezone.utc)


def after(**delta: int) -> datetime:
    return MORNING + timedelta(**delta)


def story(visitor: Visitor) -> list[str]:
    """Return the texts of a visitor's story."""
    [told] = stories.tell([visitor.pk])
    return [line.text for line in told.lines]


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
        [told] = stories.tell([visitor.pk])
        line = told.lines[0]
        assert (line.on, line.about) == (MORNING, visitor)
        assert line.text == (
            f"Visitor {visitor.pk} came through a link of Steep Notes to "
            "https://shop.example/teas/. The link stood on https://notes.example/green/. "
            f"It had the labels: click id 42, sub2 newsletter. The visitor is the user {user}."
        )

    def test_says_what_is_not_known(self) -> None:
        visitor = VisitorFactory(entry_point="", partner__name="Steep Notes")
        assert story(visitor)[0] == (
            f"Visitor {visitor.pk} was sent by Steep Notes. It had no labels."
        )
        visitor.entry_point = "https://shop.example/"
        visitor.save()
        assert "On which page the link stood is not known." in story(visitor)[0]

    def test_marks_a_test(self) -> None:
        assert "This is a test of the deal" in story(VisitorFactory(is_test=True))[0]

    def test_tells_whose_place_was_taken_on_both_sides(self) -> None:
        first = VisitorFactory(partner__name="Steep Notes", referred_on=MORNING)
        second = VisitorFactory(
            partner__name="Leaf Post", referred_on=after(hours=1), previous=first
        )
        assert story(second)[1] == (
            f"It took the place of visitor {first.pk}, sent by Steep Notes, who was still open."
        )
        [told] = stories.tell([first.pk])
        assert (told.lines[1].on, told.lines[1].about) == (after(hours=1), second)
        assert told.lines[1].text == (
            f"Visitor {second.pk}, sent by Leaf Post, took the place of this one."
        )


class TestHowItStands:
    def test_is_open_until_the_window_ends(self, settings: Any) -> None:
        settings.AFFILIATE_ATTRIBUTION_WINDOW = timedelta(days=30)
        visitor = VisitorFactory()
        end = localize(localtime(visitor.referred_on + timedelta(days=30)))
        assert story(visitor)[-1] == (
            f"No trigger has been heard of for this visitor. The referral is open (until {end})."
        )

    def test_may_be_open_for_ever(self, settings: Any) -> None:
        settings.AFFILIATE_ATTRIBUTION_WINDOW = None
        assert story(VisitorFactory())[-1].endswith("The referral is open, for ever.")

    def test_may_stand_behind_another_where_the_first_click_wins(self, settings: Any) -> None:
        said = "The first click wins: another that was open in the browser stays before this one."
        assert said not in story(VisitorFactory())[-1]
        settings.AFFILIATE_ATTRIBUTION_MODEL = "first_click"
        assert said in story(VisitorFactory())[-1]
        assert said not in story(VisitorFactory(is_test=True))[-1]
        assert said not in story(ConversionFactory().visitor)[-1]

    def test_has_expired_by_the_partners_own_window(self) -> None:
        visitor = VisitorFactory(
            partner__window=timedelta(days=1), referred_on=now() - timedelta(days=2)
        )
        assert "not open: past the attribution window (since " in story(visitor)[-1]

    def test_is_not_open_without_a_deal(self) -> None:
        visitor = VisitorFactory(partner__active=False)
        assert story(visitor)[-1].endswith("not open: no deal with the partner, who is inactive.")

    def test_is_closed_since_a_conversion(self) -> None:
        visitor = referred("Order placed")
        conversion = complete_trigger(None, "Order placed", visitor=visitor, reference="17")
        assert conversion is not None
        [told] = stories.tell([visitor.pk])
        *_, closed, present = told.lines
        assert closed.on == conversion.created_on
        assert closed.text == "The referral was closed: nothing more is counted for this visitor."
        assert present.on is None
        assert present.text == (
            "The referral is not open: the referral was closed by an earlier conversion."
        )


class TestWhatWasNotCounted:
    def test_is_told_with_the_reason_how_often_and_the_last_reference(self) -> None:
        visitor = VisitorFactory()
        for hour, reference in ((1, "a-17"), (3, "a-18")):
            UncountedTrigger.objects.add(
                visitor, "Order placed", Reason.NOT_SUBSCRIBED, reference, after(hours=hour)
            )
        [told] = stories.tell([visitor.pk])
        [line] = [line for line in told.lines if isinstance(line.about, UncountedTrigger)]
        assert line.on == after(hours=3)
        assert line.text == (
            "“Order placed” fired and was not counted: no active subscription of the partner to "
            "the trigger. 2 times (since Nov. 20, 2026, 10:12 a.m.). The reference is a-18."
        )

    def test_is_told_in_a_short_sentence_where_there_is_little_to_say(self) -> None:
        visitor = VisitorFactory()
        UncountedTrigger.objects.add(visitor, "Order placed", Reason.NO_REFERENCE, "", MORNING)
        assert told(visitor, "“Order").endswith("no reference, where every reference counts.")

    def test_keeps_a_code_of_another_version_as_it_is(self) -> None:
        visitor = VisitorFactory()
        UncountedTrigger.objects.create(
            visitor=visitor, trigger="Order placed", reason="retired", first_on=now(), last_on=now()
        )
        assert told(visitor, "“Order").endswith("not counted: retired.")

    @pytest.mark.django_db(transaction=True)
    def test_is_counted_each_time_by_many_at_once(self) -> None:
        visitor = VisitorFactory()
        started = threading.Barrier(MANY, timeout=60)

        def add(number: int) -> None:
            try:
                connection.ensure_connection()
                started.wait()
                UncountedTrigger.objects.add(
                    visitor, "Order placed", Reason.NO_REFERENCE, f"{number}", now()
                )
            finally:
                connection.close()

        with ThreadPoolExecutor(MANY) as pool:
            list(pool.map(add, range(MANY)))
        row = UncountedTrigger.objects.get()
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

        monkeypatch.setattr(UncountedTriggerQuerySet, "add", fail)
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
            f"“Order placed” was counted, as conversion {conversion.pk}. The reference is a-17. "
            f"The buyer is the user {buyer}. The amount is 49.90 EUR. "
            "It earns 3.74 EUR, 7.5 % of the amount. This is a test of the deal, and in no number."
        )

    def test_says_that_it_counts_once_a_visitor(self) -> None:
        """Which is why another order of theirs is not counted, and by its reference not found."""
        conversion = ConversionFactory(reference="a-17")
        assert told(conversion.visitor, "“Order placed”") == (
            f"“Order placed” was counted, as conversion {conversion.pk}. The reference is a-17. "
            "It counts once a visitor, and so not again for this one. "
            "It earns nothing that is reckoned here."
        )

    @pytest.mark.parametrize(
        ("payout", "said"),
        [
            ({}, "It earns nothing that is reckoned here."),
            (
                {"payout_type": "percent", "payout_value": 5},
                "What it earns could not be reckoned.",
            ),
            (
                {
                    "payout_type": "fixed",
                    "payout_value": 500,
                    "payout": 500,
                    "payout_currency": "JPY",
                },
                "It earns 500 JPY, a fixed amount.",
            ),
        ],
    )
    def test_tells_other_payouts(self, payout: dict[str, Any], said: str) -> None:
        conversion = ConversionFactory(**payout)
        assert told(conversion.visitor, "“Order placed”").endswith(f" {said}")

    @pytest.mark.parametrize(
        ("amount", "currency", "said"),
        [("49.905", "EUR", "49.905 EUR."), ("1200", "JPY", "1200 JPY."), ("12", "", "12.00.")],
    )
    def test_writes_money_with_the_decimals_of_its_currency_or_more(
        self, amount: str, currency: str, said: str
    ) -> None:
        conversion = ConversionFactory(amount=Decimal(amount), currency=currency)
        assert f"The amount is {said}" in told(conversion.visitor, "“Order placed”")

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"status": "pending"}, "waits for somebody to decide."),
            (
                {"status": "pending", "reason": "It could not be screened."},
                "waits for somebody to decide. The reason: It could not be screened.",
            ),
            ({"status": "approved", "doubt": "screened"}, "was approved by a rule or a signal."),
            (
                {"status": "pending", "approve_on": after(days=14)},
                "waits, to be approved on Dec. 4, 2026, 9:12 a.m. unless it is rejected.",
            ),
            ({"status": "approved"}, "was approved by a rule or a signal."),
            (
                {"status": "rejected", "reason": "Order refunded"},
                "was rejected by a rule or a signal. The reason: Order refunded",
            ),
        ],
    )
    def test_tells_how_it_was_decided(self, changes: dict[str, Any], said: str) -> None:
        conversion = ConversionFactory(**changes)
        text = told(conversion.visitor, f"Conversion {conversion.pk} ")
        assert text == f"Conversion {conversion.pk} {said}"

    def test_tells_what_only_a_person_can_approve(self) -> None:
        conversion = ConversionFactory(status="pending", doubt="no_amount")
        text = told(conversion.visitor, f"Conversion {conversion.pk} ")
        assert "Only a person can approve it: no amount that could be paid on." in text

    def test_tells_who_decided_and_why(self) -> None:
        staff = UserFactory()
        conversion = ConversionFactory(status="pending", created_on=MORNING)
        ways = {
            Conversion.Status.APPROVED: "was approved by {}. The reason: looks well",
            Conversion.Status.REJECTED: "was rejected by {}. The reason: looks well",
            Conversion.Status.PENDING: "was brought back by {} and waits again. "
            "The reason: looks well",
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
        corrections.correct(conversion, payout=Decimal(-2), reason="Half refunded", by=staff)
        assert told(visitor, name) == (
            f"{name}was corrected by -2.00 EUR, by {staff}. The reason: Half refunded "
            "No settlement has it yet."
        )
        october = settlements.settle(conversion.partner, "EUR", now(), reference="October")
        assert october is not None
        assert told(visitor, name).endswith("It was settled: “October”.")
        assert told(visitor, f"Conversion {conversion.pk} was settled") == (
            f"Conversion {conversion.pk} was settled: “October”."
        )
        conversion.refresh_from_db()
        decisions.decide(conversion, "rejected")
        [line] = [text for text in story(visitor) if text.startswith(f"{name}was corrected by -3")]
        assert line == (
            f"{name}was corrected by -3.00 EUR. The reason: Rejected after it was settled. "
            "No settlement has it yet."
        )
        [whole] = stories.tell([visitor.pk])
        assert october in [line.about for line in whole.lines]


class TestACallback:
    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            (
                {"status": "queued", "next_attempt_on": after(hours=2)},
                "It waits (next attempt: Nov. 20, 2026, 11:12 a.m.).",
            ),
            (
                {"status": "held", "conversion__subscription__callbacks_suspended_on": MORNING},
                "It is held, for callbacks are suspended (since Nov. 20, 2026, 9:12 a.m.).",
            ),
            (
                {"status": "delivered", "delivered_on": MORNING},
                "The partner has taken it (Nov. 20, 2026, 9:12 a.m.).",
            ),
            ({"status": "exhausted"}, "It has failed for good."),
            (
                {"status": "cancelled", "reason": wording.NO_CLICK_ID},
                "It is cancelled. The reason: The visitor came without a click id.",
            ),
            ({"status": "cancelled"}, "It is cancelled. The reason: -"),
        ],
    )
    def test_tells_how_it_stands(self, changes: dict[str, Any], said: str) -> None:
        callback = CallbackFactory(url="https://partner.example/cb", **changes)
        assert told(callback.conversion.visitor, f"Callback {callback.pk} ") == (
            f"Callback {callback.pk} tells of the conversion: https://partner.example/cb {said}"
        )

    def test_says_that_its_url_is_blanked(self) -> None:
        callback = CallbackFactory(url="", event="rejection", status="exhausted")
        assert told(callback.conversion.visitor, f"Callback {callback.pk} ").startswith(
            f"Callback {callback.pk} tells of the rejection. Its URL is blanked."
        )

    @pytest.mark.parametrize(
        ("result", "said"),
        [
            ({"status_code": 204}, "was taken after 84 ms. HTTP 204."),
            (
                {
                    "status_code": 500,
                    "error": "http_status",
                    "response_excerpt": "<h1>Oops</h1>\n" + "x" * 500,
                },
                "failed after 84 ms: the partner’s server answered with an error. HTTP 500. "
                "The answer: <h1>Oops</h1> " + "x" * 185 + "…",
            ),
            (
                {"error": "dns", "message": "Name or service not known", "manual": True},
                (
                    "failed after 84 ms: the name of the host was not found. "
                    "It was asked for by hand. Name or service not known"
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
    settlement = Settlement.objects.create(partner=visitor.partner, currency="EUR", before=now())
    for number in range(conversion_count):
        VisitorFactory(previous=visitor)
        UncountedTrigger.objects.add(visitor, f"{number}", Reason.NO_REFERENCE, "", now())
        conversion = ConversionFactory(
            visitor=visitor,
            subscription=subscription,
            dedupe_key=f"r:{visitor.pk}:{number}",
            user=UserFactory(),
            decided_by=UserFactory(),
            settlement=settlement,
        )
        Correction.objects.create(
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
        UncountedTrigger.objects.add(visitor, "Later", Reason.NO_REFERENCE, "", after(hours=5))
        UncountedTrigger.objects.add(visitor, "Early", Reason.NO_REFERENCE, "", after(hours=1))
        [told] = stories.tell([visitor.pk])
        beginnings = [re.split(r" \d| fired| was", line.text)[0] for line in told.lines]
        assert beginnings[:-1] == [
            "Visitor", "“Early”", "“Order placed”", "Callback", "Attempt", "“Later”", "Conversion"
        ]  # fmt: skip
        assert [line.on for line in told.lines[:-1]] == sorted(
            line.on for line in told.lines[:-1] if line.on
        )

    def test_costs_the_same_however_long_it_is(self) -> None:
        counts = []
        for visitors in ([long_story(1)], [long_story(3), *(long_story(4) for _ in range(3))]):
            with CaptureQueriesContext(connection) as queries:
                told = stories.tell([visitor.pk for visitor in visitors])
            counts.append(len(queries))
            assert [len(story.lines) for story in told] == [
                2 + 12 * visitor.conversions.count() + 1 for visitor in reversed(visitors)
            ]
        assert counts == [7, 7]

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
        assert stories.find(visitor=visitor.pk) == [visitor.pk]

    def test_by_click_id(self) -> None:
        first, _, second = (VisitorFactory(click_id=click) for click in ("42", "43", "42"))
        assert stories.find(click_id="42") == [second.pk, first.pk]

    def test_by_click_id_by_an_index(self) -> None:
        """Partners ask by it, of all the visitors that there ever were."""
        partner = PartnerFactory()
        many = [VisitorFactory.build(partner=partner, click_id=f"click-{n}") for n in range(500)]
        Visitor.objects.bulk_create(many)
        with CaptureQueriesContext(connection) as queries:
            assert len(stories.find(click_id="click-17")) == 1
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
        assert stories.find(user=user) == [bought.visitor.pk, own.pk]

    def test_by_the_reference_of_what_was_counted_and_of_what_was_not(self) -> None:
        counted = ConversionFactory(reference="a-17").visitor
        ConversionFactory(reference="a-18")
        visitor = VisitorFactory()
        UncountedTrigger.objects.add(visitor, "Order placed", Reason.NO_REFERENCE, "a-17", now())
        assert stories.find(reference="a-17") == [visitor.pk, counted.pk]

    def test_by_a_reference_that_was_cut(self) -> None:
        counted = ConversionFactory(reference="r" * 255).visitor
        assert stories.find(reference="r" * 300) == [counted.pk]

    def test_nobody_by_nothing(self) -> None:
        ConversionFactory(reference="")
        assert stories.find() == stories.find(reference="", click_id="") == []

    def test_each_once_and_one_more_than_asked_for_where_there_are_more(self) -> None:
        user = UserFactory()
        visitors = [VisitorFactory(user=user, click_id="42") for _ in range(4)]
        subscription = SubscriptionFactory(partner=visitors[-1].partner)
        for number in range(3):
            ConversionFactory(
                visitor=visitors[-1], subscription=subscription, user=user, dedupe_key=f"{number}"
            )
        ids = [visitor.pk for visitor in reversed(visitors)]
        assert stories.find(user=user, limit=4) == ids
        assert stories.find(user=user, limit=2) == ids[:3]


class TestTheCommand:
    def test_prints_the_story_with_its_times(self, capsys: pytest.CaptureFixture[str]) -> None:
        visitor = VisitorFactory(
            partner__name="Steep Notes", referred_on=MORNING, click_id="42", closed_on=after(days=1)
        )
        call_command("explain_affiliation", click_id="42")
        assert capsys.readouterr().out == (
            f"Visitor {visitor.pk}, Steep Notes\n"
            f"  2026-11-20 09:12:44  Visitor {visitor.pk} came through a link of Steep Notes to "
            "https://shop.example/. On which page the link stood is not known. "
            "It had the labels: click id 42.\n"
            "  2026-11-21 09:12:44  The referral was closed: nothing more is counted for this "
            "visitor.\n"
            "  now                  No trigger has been heard of for this visitor. The referral is "
            "not open: the referral was closed by an earlier conversion.\n"
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
        assert said.startswith("Nobody was referred, as far as is known. ")
        assert "the last reference" not in said

    def test_says_what_else_a_reference_that_nobody_has_may_mean(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        call_command("explain_affiliation", reference="a-17")
        said = capsys.readouterr().out.splitlines()
        assert said[0].startswith("Nobody was referred, as far as is known. ")
        assert said[1].startswith("Of what is not counted the last reference is kept, ")

    def test_says_where_there_are_more(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        partner = PartnerFactory()
        for _ in range(stories.LIMIT):
            VisitorFactory(partner=partner, click_id="42")
        call_command("explain_affiliation", click_id="42")
        assert "There are more" not in capsys.readouterr().out
        VisitorFactory(partner=partner, click_id="42")
        call_command("explain_affiliation", click_id="42")
        said = capsys.readouterr().out
        assert said.endswith("There are more; these are the latest 20.\n")
        assert len(re.findall(r"^Visitor", said, re.MULTILINE)) == 20

    def test_lets_no_label_of_a_link_steer_the_terminal(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        visitor = VisitorFactory(click_id="\x1b[2J\u202e\r\nRoot: grün\xa0茶")
        call_command("explain_affiliation", visitor=visitor.pk)
        assert r"click id \x1b[2J\u202e\r\nRoot: grün" + "\xa0茶" in capsys.readouterr().out

    @pytest.mark.parametrize("options", [[], ["--visitor", "1", "--click-id", "2"]])
    def test_wants_one_option(self, options: list[str]) -> None:
        with pytest.raises(CommandError, match=r"one of the arguments|not allowed with"):
            call_command("explain_affiliation", *options)

    @pytest.mark.parametrize("named", ["nobody", "9" * 40])
    def test_says_where_there_is_no_such_user(self, named: str) -> None:
        with pytest.raises(CommandError, match=f"There is no user '{named}'"):
            call_command("explain_affiliation", user=named)

    def test_does_not_choose_between_the_name_of_one_and_the_key_of_another(self) -> None:
        model = get_user_model()
        by_key = UserFactory()
        by_name = UserFactory(**{model.USERNAME_FIELD: str(by_key.pk)})
        with pytest.raises(CommandError, match="name them by the other of the two") as failure:
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
    conversions.attempt(
        "Order placed", lambda: decisions.decide_by_reference("Order placed", "17", "approved")
    )


#: What does not let a trigger count, and what brings each about.
REFUSALS = {
    Reason.WINDOW_EXPIRED: expired,
    Reason.PARTNER_INACTIVE: inactive,
    Reason.NOT_SUBSCRIBED: not_subscribed,
    Reason.REFERRAL_CLOSED: closed,
    Reason.NO_REFERENCE: without_reference,
    Reason.ALREADY_COUNTED: twice,
    Reason.NO_VISITOR: by_nobody,
    Reason.NOT_THE_BUYER: by_staff,
    Reason.NO_CONVERSION: of_nothing,
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

    trigger_not_counted.connect(listen)
    caplog.set_level("DEBUG", "affiliations")
    try:
        assert REFUSALS[reason]() is None
    finally:
        trigger_not_counted.disconnect(listen)

    said = f"Trigger “Order placed” was not counted: {reason.value} ("
    assert [message for message in caplog.messages if message.startswith(said)]
    assert heard == [reason]
    said = f"“Order placed” fired and was not counted: {reason.label}"
    texts = [text for visitor in Visitor.objects.all() for text in story(visitor)]
    assert sum(said in text for text in texts) == (0 if reason in NO_STORY else 1)


@pytest.mark.parametrize(
    ("reason", "stated", "said"),
    [
        (Reason.SCREENED, {}, "waits for somebody to decide. The reason: The partner bought it"),
        (Reason.NO_AMOUNT, {"amount": "-1"}, "waits for somebody to decide. The reason: "),
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

    assert f"Trigger “Order placed” is for somebody to look at: {reason.value}." in caplog.messages
    assert said in told(visitor, f"Conversion {Conversion.objects.get().pk} ")


def test_every_reason_is_of_a_click_a_refusal_or_a_doubt() -> None:
    doubts = {Reason.SCREENED, Reason.NO_AMOUNT}
    assert {*REASONS, *REFUSALS, *doubts} == set(Reason)


def test_every_reason_has_words_of_its_own_and_a_row_in_the_docs() -> None:
    assert len({str(reason.label) for reason in Reason}) == len(Reason)
    text = (Path(__file__).parent.parent / "docs" / "support.rst").read_text(encoding="utf-8")
    assert re.findall(r"^    \* - ``(\w+)``$", text, re.MULTILINE) == Reason.values
