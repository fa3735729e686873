"""One person is blanked: what is theirs, what stays, and what becomes of a callback that waits."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.models import Q
from django.test.utils import CaptureQueriesContext
from django.utils.timezone import now

from affiliations import privacy
from affiliations.callbacks import outbox, suspension
from affiliations.callbacks.worker import deliver
from affiliations.conversions import decisions
from affiliations.exceptions import Reason
from affiliations.models import Callback, CallbackAttempt, Conversion, UncreditedTrigger, Visitor
from affiliations.privacy import PersonalData
from affiliations.triggers import complete_trigger
from tests.claiming import claim
from tests.factories import (
    CallbackFactory,
    ConversionFactory,
    SubscriptionFactory,
    UserFactory,
    VisitorFactory,
)
from tests.raw_partner import RawPartner
from tests.test_commands import Terminal
from tests.test_documentation import DOCS, blocks

pytestmark = pytest.mark.django_db

Status = Callback.Status
PERSONAL = {
    "click_id": "42",
    "sub1": "one",
    "sub2": "two",
    "sub3": "three",
    "sub4": "four",
    "sub5": "five",
    "entry_point": "https://shop.example/teas/",
    "referrer": "https://notes.example/green/",
}


def told_of(conversion: Conversion, **fields: Any) -> Callback:
    """Make a delivered callback of a conversion, with a failed attempt that was answered."""
    given = {"status": Status.DELIVERED, "delivered_on": now(), **fields}
    callback = CallbackFactory(conversion=conversion, **given)
    CallbackAttempt.objects.create(
        callback=callback,
        number=1,
        started_on=now(),
        duration_ms=1,
        status_code=500,
        error="http_status",
        message="https://partner.example/cb?v=42",
        response_excerpt="no click 42",
    )
    return callback


def is_blank(row: Visitor | Callback) -> bool:
    """Tell whether nothing of a person is left in a row, or everything; fail in between."""
    row.refresh_from_db()
    if isinstance(row, Visitor):
        left = [name for name in PERSONAL if getattr(row, name)]
        assert left in ([], list(PERSONAL))
    else:
        texts = row.attempts.values_list("message", "response_excerpt")
        left = [text for text in (row.url, *(text for pair in texts for text in pair)) if text]
        assert len(left) in (0, 1 + 2 * row.attempts.count())
    return not left


class TestWhatIsBlanked:
    def test_labels_pages_urls_and_answers_go_and_the_facts_stay(self) -> None:
        user = UserFactory()
        visitor = VisitorFactory(user=user, **PERSONAL, successful_on=now())
        conversion = ConversionFactory(
            visitor=visitor,
            user=user,
            reference="a-17",
            amount=Decimal("49.90"),
            currency="EUR",
            payout=Decimal("2.50"),
            payout_currency="EUR",
            decided_by=UserFactory(),
        )
        callback = told_of(conversion)
        columns = {field.attname for field in Conversion._meta.fields}
        facts = {
            model: list(model.objects.order_by("pk").values(*kept))
            for model, kept in (
                (Conversion, sorted(columns - set(PERSONAL))),
                (Visitor, ["pk", "partner", "user", "referred_on", "successful_on", "closed_on"]),
                (Callback, ["pk", "status", "delivered_on", "webhook_id", "event"]),
                (CallbackAttempt, ["number", "started_on", "status_code", "error", "duration_ms"]),
            )
        }
        assert privacy.personal_data(user) == PersonalData(1, 1)
        assert privacy.blank(user) == PersonalData(1, 1)
        assert is_blank(visitor)
        assert is_blank(callback)
        conversion.refresh_from_db()
        assert not any(getattr(conversion, name) for name in columns & set(PERSONAL))
        for model, rows in facts.items():
            kept = list(rows[0])
            assert list(model.objects.order_by("pk").values(*kept)) == rows

    @pytest.mark.django_db(databases=["default", "other"])
    def test_is_asked_of_no_replica_that_may_not_have_heard_of_it(self, settings: Any) -> None:
        user = UserFactory()
        much_of(user, 1)
        expired = VisitorFactory(referred_on=now() - timedelta(days=900))
        settings.DATABASE_ROUTERS = ["tests.routers.ReplicaRouter"]
        assert privacy.blank(user) == PersonalData(1, 2)
        assert privacy.personal_data(user) == PersonalData(0, 0)
        assert list(privacy.purge(now())) == [1]
        assert not Visitor.objects.using("default").filter(pk=expired.pk).exists()

    def test_is_nothing_the_second_time(self) -> None:
        user = UserFactory()
        told_of(
            ConversionFactory(
                visitor__user=user, **{f"visitor__{k}": v for k, v in PERSONAL.items()}
            )
        )
        assert privacy.blank(user) == PersonalData(1, 1)
        assert privacy.blank(user) == privacy.personal_data(user) == PersonalData(0, 0)

    def test_of_somebody_else_nothing(self) -> None:
        visitor = VisitorFactory(user=UserFactory(), **PERSONAL)
        callback = told_of(ConversionFactory(visitor=visitor, user=visitor.user))
        assert privacy.blank(UserFactory()) == PersonalData(0, 0)
        assert not is_blank(visitor)
        assert not is_blank(callback)

    def test_what_a_person_bought_in_somebody_elses_browser(self) -> None:
        """Their callback tells of both; the visitor is the other's."""
        buyer, other = UserFactory(), UserFactory()
        visitor = VisitorFactory(user=other, **PERSONAL)
        bought = told_of(ConversionFactory(visitor=visitor, user=buyer, dedupe_key="r:1"))
        others = told_of(ConversionFactory(visitor=visitor, user=other, dedupe_key="r:2"))
        assert privacy.blank(buyer) == PersonalData(0, 1)
        assert is_blank(bought)
        assert not is_blank(others)
        assert not is_blank(visitor)
        assert privacy.blank(other) == PersonalData(1, 1)
        assert is_blank(others)
        assert is_blank(visitor)

    def test_what_somebody_else_bought_with_the_visitor_of_the_person(self) -> None:
        buyer, person = UserFactory(), UserFactory()
        visitor = VisitorFactory(user=person, **PERSONAL)
        bought = told_of(ConversionFactory(visitor=visitor, user=buyer))
        assert privacy.personal_data(person) == PersonalData(1, 1)
        assert privacy.blank(person) == PersonalData(1, 1)
        assert is_blank(bought)
        assert is_blank(visitor)

    def test_what_a_visitor_bought_whose_buyer_has_no_account_any_more(self) -> None:
        visitor = VisitorFactory(user=UserFactory(), **PERSONAL)
        bought = told_of(ConversionFactory(visitor=visitor, user=None))
        assert privacy.blank(visitor.user) == PersonalData(1, 1)
        assert is_blank(bought)

    def test_what_came_of_an_attempt_after_the_url_was_blanked(self) -> None:
        user = UserFactory()
        callback = told_of(ConversionFactory(user=user), url="")
        assert privacy.blank(user) == PersonalData(0, 1)
        assert is_blank(callback)

    def test_leaves_an_open_referral_open(self) -> None:
        user = UserFactory()
        visitor = VisitorFactory(user=user, **PERSONAL)
        SubscriptionFactory(partner=visitor.partner)
        privacy.blank(user)
        assert complete_trigger(None, "Order placed", visitor=visitor, reference="17")
        assert "42" not in Callback.objects.get().url.replace(str(visitor.pk), "")


class TestACallbackThatWaits:
    def test_is_cancelled_and_never_sent(self, settings: Any) -> None:
        settings.AFFILIATE_CALLBACK_ALLOWED_NETWORKS = ["127.0.0.0/8"]
        user = UserFactory()
        with RawPartner() as partner:
            callback = told_of(
                ConversionFactory(user=user),
                status=Status.QUEUED,
                delivered_on=None,
                url=partner.url,
            )
            assert privacy.blank(user) == PersonalData(0, 1)
            suspension.resume(callback.subscription)
            assert not outbox.resend(callback)
            deliver([callback.pk])
        assert partner.requests == []
        assert is_blank(callback)
        assert (callback.status, callback.reason) == (Status.CANCELLED, privacy.BLANKED)

    def test_is_delivered_where_it_was_to_be_sent_once_more(self) -> None:
        user = UserFactory()
        callback = told_of(ConversionFactory(user=user))
        assert outbox.resend(callback)
        privacy.blank(user)
        callback.refresh_from_db()
        assert (callback.status, callback.reason) == (Status.DELIVERED, "")
        assert not outbox.resend(callback)

    @pytest.mark.parametrize("status", [Status.EXHAUSTED, Status.CANCELLED])
    def test_stays_as_it_ended(self, status: str) -> None:
        user = UserFactory()
        callback = told_of(
            ConversionFactory(user=user), status=status, delivered_on=None, reason=outbox.IS_TEST
        )
        privacy.blank(user)
        assert is_blank(callback)
        assert (callback.status, callback.reason) == (status, outbox.IS_TEST)
        assert not outbox.resend(callback)

    def test_does_not_come_back_with_a_decision(self) -> None:
        user = UserFactory()
        visitor = VisitorFactory(user=user, **PERSONAL)
        SubscriptionFactory(partner=visitor.partner)
        conversion = complete_trigger(None, "Order placed", visitor=visitor, user=user)
        assert conversion is not None
        assert decisions.decide(conversion, Conversion.Status.REJECTED)
        callback = Callback.objects.get()
        assert callback.reason == outbox.DECIDED_SINCE
        privacy.blank(user)
        assert decisions.decide(conversion, Conversion.Status.APPROVED)
        callback.refresh_from_db()
        assert (callback.status, callback.url) == (Status.CANCELLED, "")

    def test_is_left_while_it_is_being_sent(self) -> None:
        user = UserFactory()
        callback = told_of(ConversionFactory(user=user), status=Status.QUEUED, delivered_on=None)
        [claimed] = claim(1)
        assert privacy.blank(user) == PersonalData(0, 0)
        assert privacy.personal_data(user) == PersonalData(0, 1)
        callback.refresh_from_db()
        assert (callback.lease_token, callback.url) == (claimed.lease_token, claimed.url)

    def test_is_left_while_it_is_being_sent_whatever_was_decided_since(self) -> None:
        user = UserFactory()
        callback = told_of(ConversionFactory(user=user), status=Status.QUEUED, delivered_on=None)
        claim(1)
        Callback.objects.update(status=Status.CANCELLED, reason=outbox.DECIDED_SINCE)
        assert privacy.blank(user) == PersonalData(0, 0)
        assert not is_blank(callback)

    def test_is_cancelled_once_whoever_was_sending_it_is_dead(self) -> None:
        user = UserFactory()
        callback = told_of(ConversionFactory(user=user), status=Status.QUEUED, delivered_on=None)
        claim(1)
        Callback.objects.update(next_attempt_on=now() - timedelta(seconds=1))
        assert privacy.blank(user) == PersonalData(0, 1)
        assert is_blank(callback)


def much_of(user: Any, count: int) -> None:
    """Make so many visitors of a person, who bought something, and bought elsewhere too."""
    for _ in range(count):
        visitor = VisitorFactory(user=user, **PERSONAL)
        told_of(ConversionFactory(visitor=visitor, user=user))
        told_of(ConversionFactory(user=user, visitor__user=UserFactory()))
        UncreditedTrigger.objects.add(visitor, "Order placed", Reason.NO_REFERENCE, "", now())


class TestBatches:
    def test_are_shown_one_by_one(self) -> None:
        user = UserFactory()
        much_of(user, 5)
        seen: list[int] = []
        done = privacy.blank(user, batch=2, progress=lambda done: seen.append(done.rows))
        assert seen == [2, 4, 5, 7, 9, 11, 13, 15]
        assert done == PersonalData(5, 10)

    def test_cost_the_same_however_much_there_is(self) -> None:
        counts = []
        for count in (1, 7):
            user = UserFactory()
            much_of(user, count)
            with CaptureQueriesContext(connection) as queries:
                assert privacy.blank(user, batch=50) == PersonalData(count, 2 * count)
            counts.append(len(queries))
        assert counts[0] == counts[1] <= 21


class TestTheCommand:
    def test_blanks_by_name_or_key_and_says_how_much(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for key in ("get_username", "serializable_value"):
            user = UserFactory()
            much_of(user, 1)
            named = user.get_username() if key == "get_username" else str(user.pk)
            call_command("purge_affiliations", user=named)
            assert capsys.readouterr().out == (
                "Erased personal data of 1 visitors and 2 callbacks.\n"
            )
            assert privacy.personal_data(user) == PersonalData(0, 0)

    def test_removes_nothing_else(self) -> None:
        old = CallbackFactory(status=Status.DELIVERED, delivered_on=now() - timedelta(days=900))
        expired = VisitorFactory(referred_on=now() - timedelta(days=900))
        call_command("purge_affiliations", user=UserFactory().get_username())
        assert Callback.objects.get() == old
        assert Visitor.objects.filter(pk=expired.pk).exists()

    def test_counts_only_in_a_dry_run(self, capsys: pytest.CaptureFixture[str]) -> None:
        user = UserFactory()
        much_of(user, 2)
        call_command("purge_affiliations", user=user.get_username(), dry_run=True)
        assert capsys.readouterr().out == (
            "Personal data of 2 visitors and 4 callbacks would be erased.\n"
        )
        assert privacy.personal_data(user) == PersonalData(2, 4)

    def test_says_what_is_being_sent(self, capsys: pytest.CaptureFixture[str]) -> None:
        user = UserFactory()
        told_of(ConversionFactory(user=user), status=Status.QUEUED, delivered_on=None)
        claim(1)
        call_command("purge_affiliations", user=user.get_username())
        assert capsys.readouterr().out == (
            "Erased personal data of 0 visitors and 0 callbacks.\n"
            "Skipped 1 callbacks that are being sent. Run the command again in a minute.\n"
        )

    def test_counts_on_a_terminal_while_it_works(self) -> None:
        user = UserFactory()
        much_of(user, 2)
        terminal = Terminal()
        call_command("purge_affiliations", user=user.get_username(), batch=2, stdout=terminal)
        assert terminal.getvalue() == (
            "\r2 rows changed\r4 rows changed\r6 rows changed\n"
            "Erased personal data of 2 visitors and 4 callbacks.\n"
        )

    def test_says_where_there_is_no_such_user(self) -> None:
        with pytest.raises(CommandError, match="User 'nobody' does not exist"):
            call_command("purge_affiliations", user="nobody")


def test_every_personal_field_exists_and_has_an_empty_value() -> None:
    assert set(PERSONAL) <= {field.name for field in Visitor._meta.fields}
    assert set(PERSONAL) == set(privacy._BLANK)


def test_the_code_of_the_page_blanks_and_deletes() -> None:
    page = DOCS / "guides/purging.rst"
    [block] = [b for b in blocks(page, "python") if b.file == "shop/accounts.py"]
    shop: dict[str, Any] = {}
    exec(block.code, shop)
    user = UserFactory()
    much_of(user, 1)
    shop["close_account"](user)
    assert not Visitor.objects.filter(Q(user__isnull=True), ~Q(click_id="")).exists()
    assert not Callback.objects.exclude(url="").exists()
