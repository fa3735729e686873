"""The notices by e-mail: to staff what waits for them, to partners what is new."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from io import StringIO
from typing import Any

import pytest
from django.core import mail
from django.core.mail.backends import locmem
from django.core.management import CommandError, call_command
from django.db import OperationalError, ProgrammingError, connection, connections, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone, translation

from affiliations import db
from affiliations.conversions import adjustments, decisions, recording, settlements
from affiliations.models import (
    Callback,
    Conversion,
    NoticeStart,
    Partner,
    SentForm,
    Subscription,
)
from affiliations.notices import mailer, mails, news, run
from tests.factories import (
    CallbackFactory,
    PartnerFactory,
    SubscriptionFactory,
    VisitorFactory,
)
from tests.hosts import manage, until
from tests.smtp import MailServer, mail_server

pytestmark = pytest.mark.django_db
committed = pytest.mark.django_db(transaction=True)

#: Of a site without the Admin and the partner pages.
urlpatterns: list[Any] = []

SITE = "https://shop.example"
STAFF = "affiliates@shop.example"


@pytest.fixture(autouse=True)
def started(db: None) -> None:
    """The first run was long ago."""
    NoticeStart.objects.create()


@pytest.fixture(autouse=True)
def _site(settings: Any) -> None:
    settings.AFFILIATE_SITE_URL = SITE


@pytest.fixture
def server(settings: Any) -> Iterator[MailServer]:
    """Send through a real server instead of the outbox of the tests."""
    with mail_server() as server:
        for name, value in server.settings.items():
            setattr(settings, name, value)
        yield server


def notify(**options: Any) -> str:
    output = StringIO()
    call_command("notify_affiliations", stdout=output, **options)
    return output.getvalue()


def noticed(**fields: Any) -> Partner:
    """Make a partner who gets notices."""
    number = Partner.objects.count()
    return PartnerFactory(**{"notify": True, "email": f"partner{number}@steep.example"} | fields)


def convert(partner: Partner, **fields: Any) -> Conversion:
    """Record an order of 100 EUR, which earns 10 EUR, and needs a decision."""
    subscription = Subscription.objects.filter(partner=partner).first() or SubscriptionFactory(
        partner=partner,
        callback_url="",
        counting=Subscription.Counting.EVERY,
        closes_referral=False,
        payout_type=Subscription.PayoutType.PERCENT,
        payout_value=10,
        approval=Subscription.Approval.MANUAL,
    )
    fields = {"reference": f"order-{Conversion.objects.count():04}", "amount": 100} | fields
    fields = {"currency": "EUR"} | fields
    visitor = VisitorFactory(partner=partner, is_test=fields.pop("is_test", False))
    return recording.record(visitor, subscription.trigger, **fields)


def approved(partner: Partner, **fields: Any) -> Conversion:
    conversion = convert(partner, **fields)
    assert decisions.decide(conversion, "approved")
    return conversion


def failing(partner: Partner, **fields: Any) -> Subscription:
    since = timezone.now() - timedelta(hours=5)
    fields = {"failure_count": 5, "failing_since": since} | fields
    return SubscriptionFactory(partner=partner, **fields)


def sent() -> list[str]:
    return [address for message in mail.outbox for address in message.to]


class TestPartners:
    def test_a_partner_is_told_what_was_approved_and_rejected(self) -> None:
        partner = noticed(name="Steep Notes")
        approved(partner)
        approved(partner, amount=50, currency="DKK")
        decisions.decide(convert(partner), "rejected", reason="Returned.")
        convert(partner)  # pending

        assert notify() == "E-mails sent: 1.\n"

        (message,) = mail.outbox
        assert message.to == [partner.email]
        assert message.subject == "Notice for Steep Notes"
        assert message.message().get_content_type() == "text/plain"
        assert message.body == (
            "Steep Notes\n\n"
            "2 conversions were approved: 5.00\xa0DKK, 10.00\xa0EUR\n"
            "1 conversion was rejected: 10.00\xa0EUR\n"
            "- Order placed …0000: approved, 10.00\xa0EUR\n"
            "- Order placed …0001: approved, 5.00\xa0DKK\n"
            "- Order placed …0002: rejected, 10.00\xa0EUR (Returned.)\n"
        )

    def test_a_partner_is_told_once(self) -> None:
        approved(noticed())
        notify()
        assert notify() == "E-mails sent: 0.\n"
        assert len(mail.outbox) == 1

    def test_a_later_decision_is_told_as_well(self) -> None:
        conversion = approved(noticed())
        notify()
        assert decisions.decide(conversion, "rejected")
        notify()
        assert "1 conversion was rejected" in mail.outbox[1].body
        assert "approved" not in mail.outbox[1].body

    def test_a_conversion_that_is_pending_again_is_not_told(self) -> None:
        conversion = convert(noticed())
        assert decisions.decide(conversion, "rejected")
        assert decisions.decide(conversion, "pending")
        assert notify() == "E-mails sent: 0.\n"

    def test_what_is_approved_at_once_is_told(self) -> None:
        partner = noticed()
        SubscriptionFactory(partner=partner, callback_url="")
        recording.record(VisitorFactory(partner=partner), "Order placed")
        notify()
        assert "\n1 conversion was approved\n- Order placed: approved\n" in mail.outbox[0].body

    def test_the_end_of_a_hold_period_is_told(self) -> None:
        partner = noticed()
        SubscriptionFactory(partner=partner, callback_url="", approve_after=1)
        recording.record(VisitorFactory(partner=partner), "Order placed")
        assert notify() == "E-mails sent: 0.\n"
        assert decisions.approve_due(timezone.now() + timedelta(days=2)) == 1
        assert notify() == "E-mails sent: 1.\n"

    def test_an_approval_that_comes_to_need_review_is_not_told(self) -> None:
        conversion = convert(noticed())
        order = recording.amounts.parse(None, "EUR")
        assert decisions.change_status(
            conversion, "approved", via=Conversion.Via.SIGNAL, order=order
        )
        assert Conversion.objects.get().needs_review
        assert notify() == "E-mails sent: 0.\n"

    def test_a_test_is_not_told(self) -> None:
        approved(noticed(), is_test=True)
        assert notify() == "E-mails sent: 0.\n"

    def test_payouts_are_those_after_adjustments(self) -> None:
        conversion = approved(noticed())
        adjustments.adjust(conversion, payout=Decimal(-4), reason="Returned in part.")
        notify()
        assert "approved: 6.00\xa0EUR\n" in mail.outbox[0].body

    def test_many_conversions_are_counted_and_the_first_ones_listed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(news, "LISTED", 1)
        monkeypatch.setattr(mails, "LISTED", 1)
        partner = noticed()
        for _ in range(3):
            approved(partner)
        notify()
        body = mail.outbox[0].body
        assert "3 conversions were approved: 30.00\xa0EUR\n" in body
        assert "…0000: approved, 10.00\xa0EUR\n- and 2 more\n" in body

    def test_a_statement_is_told_with_its_number_its_total_and_a_link(self) -> None:
        partner = noticed()
        partner.replace_page_link()
        approved(partner)
        notify()
        settlement = settlements.settle(partner, "EUR", timezone.now())
        assert settlement is not None
        notify()
        notify()

        assert len(mail.outbox) == 2
        page = f"{SITE}{partner.page_link()}"
        assert mail.outbox[1].body == (
            f"{partner.name}\n\n"
            f"New payout statement {settlement.number}: 10.00\xa0EUR\n"
            f"{page}settlements/{settlement.pk}/\n\n"
            f"Your partner page, which opens without a password:\n{page}\n"
        )

    @pytest.mark.parametrize("site", ["", SITE])
    def test_without_a_site_or_a_page_there_is_no_link(self, site: str, settings: Any) -> None:
        settings.AFFILIATE_SITE_URL = site
        partner = noticed()
        if not site:
            partner.replace_page_link()
        approved(partner)
        settlements.settle(partner, "EUR", timezone.now())
        notify()
        assert "https:" not in mail.outbox[0].body
        assert "partner page" not in mail.outbox[0].body

    @pytest.mark.urls(__name__)
    def test_a_site_without_the_pages_gives_no_link(self, settings: Any) -> None:
        settings.AFFILIATE_NOTICE_RECIPIENTS = [STAFF]
        partner = noticed()
        partner.replace_page_link()
        failing(partner, callbacks_suspended_on=timezone.now())
        assert notify() == "E-mails sent: 2.\n"
        assert not [message for message in mail.outbox if "https:" in message.body]

    def test_a_partner_is_told_that_the_server_fails_before_it_is_suspended(self) -> None:
        subscription = failing(
            noticed(),
            failing_since=timezone.now().replace(2026, 11, 2, 10, 5),
            last_error="http_status",
            last_status_code=500,
        )
        notify()
        notify()
        (message,) = mail.outbox
        assert (
            "Your server has not accepted the callbacks for “Order placed” since 11/02/2026 10:05 "
            "a.m.: 5 failures in a row.\n"
            "The last error: your server returned an error (HTTP 500).\n"
            "They are tried again. If all fail for 72 hours, they are suspended.\n" in message.body
        )
        subscription.refresh_from_db()
        assert subscription.noticed_failing_since == subscription.failing_since

    def test_a_few_failures_are_not_told(self) -> None:
        failing(noticed(), failure_count=4)
        assert notify() == "E-mails sent: 0.\n"

    def test_later_failures_are_told_again(self) -> None:
        subscription = failing(noticed())
        notify()
        Subscription.objects.update(failing_since=timezone.now())
        notify()
        assert len(mail.outbox) == 2
        # A form that was opened before keeps what was told.
        subscription.save()
        assert notify() == "E-mails sent: 0.\n"

    def test_a_suspension_that_was_not_announced_is_told(self) -> None:
        failing(noticed(), callbacks_suspended_on=timezone.now())
        notify()
        assert "They are suspended now." in mail.outbox[0].body

    def test_many_failing_servers_are_marked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(news, "_CONDITIONS", 2)
        partner = noticed()
        for number in range(3):
            failing(partner, trigger=f"Trigger {number}")
        notify()
        assert mail.outbox[0].body.count("Your server has not accepted") == 3
        assert notify() == "E-mails sent: 0.\n"

    @pytest.mark.parametrize(
        "fields",
        [{"notify": False}, {"email": ""}, {"stopped_on": timezone.now()}],
        ids=["no notices", "no address", "stopped for fraud"],
    )
    def test_others_are_told_nothing_now_and_nothing_of_it_later(
        self, fields: dict[str, Any]
    ) -> None:
        partner = noticed()
        approved(partner)
        settlements.settle(partner, "EUR", timezone.now())
        Partner.objects.update(**fields)
        assert notify() == "E-mails sent: 0.\n"
        Partner.objects.update(notify=True, email="a@steep.example", stopped_on=None)
        assert notify() == "E-mails sent: 0.\n"
        approved(partner)
        assert notify() == "E-mails sent: 1.\n"

    def test_an_inactive_partner_is_told_what_was_earned(self) -> None:
        partner = noticed()
        approved(partner)
        Partner.objects.update(active=False)
        assert notify() == "E-mails sent: 1.\n"

    def test_a_stop_for_fraud_tells_nothing(self) -> None:
        partner = noticed()
        approved(partner)
        convert(partner)
        assert decisions.stop_for_fraud(partner, reason="Fake orders.") == 1
        assert notify() == "E-mails sent: 0.\n"

    def test_partners_of_one_address_get_one_mail(self) -> None:
        first = noticed(name="Steep Notes", email="a@steep.example")
        second = noticed(name="Leaf", email="a@STEEP.example")
        other = noticed(name="Other", email="A@steep.example")
        for partner in (first, other, second):
            approved(partner)
        notify()
        assert sorted(sent()) == ["A@steep.example", "a@steep.example"]
        (message,) = (one for one in mail.outbox if one.to == ["a@steep.example"])
        assert message.subject == "Notice for Steep Notes, Leaf"
        assert message.body.count("1 conversion was approved") == 2
        assert "\n\nLeaf\n\n" in message.body

    def test_the_first_run_tells_nothing_of_the_past(self) -> None:
        NoticeStart.objects.all().delete()
        partner = noticed()
        approved(partner)
        settlements.settle(partner, "EUR", timezone.now())
        failing(noticed(), trigger="User registered")

        assert notify() == (
            "This is the first run: partners are not told what was decided before it.\n"
            "E-mails sent: 1.\n"
        )
        assert "Your server" in mail.outbox[0].body
        assert str(NoticeStart.objects.get())
        assert notify() == "E-mails sent: 0.\n"
        approved(partner)
        assert notify() == "E-mails sent: 1.\n"

    def test_the_first_run_does_not_list_the_past_of_a_partner_whose_server_fails(self) -> None:
        NoticeStart.objects.all().delete()
        partner = noticed()
        approved(partner)
        failing(partner, trigger="User registered")
        assert "approved" not in notify(dry_run=True)

    def test_a_partner_who_wants_no_notices_any_more_gets_none(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        approved(noticed())
        backlog = news.Backlog()
        Partner.objects.update(notify=False)
        assert list(backlog.batches()) == [[]]

    def test_what_is_decided_otherwise_meanwhile_stays_due(self) -> None:
        conversion = approved(noticed())
        (found,) = news.collect(Partner.objects.all())
        assert decisions.decide(conversion, "rejected")
        news.mark([found])
        notify()
        assert "rejected" in mail.outbox[0].body

    def test_nothing_is_rendered_in_the_language_of_the_caller(self, settings: Any) -> None:
        settings.TIME_ZONE = "Europe/Copenhagen"
        failing(noticed(), failing_since=timezone.now().replace(2026, 11, 2, 10, 5))
        with translation.override("da"), timezone.override("Asia/Tokyo"):
            notify()
        assert "since 11/02/2026 11:05 a.m." in mail.outbox[0].body


class TestBadInput:
    @pytest.mark.parametrize(
        "email",
        [
            "a@steep.example\nBcc: all@steep.example",
            "a@steep.example, b@steep.example",
            "no address",
            "a@steep.example\r\n.\r\nMAIL FROM:<a@b.example>",
        ],
    )
    def test_what_is_no_address_is_refused_and_stops_nobody(
        self, email: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        approved(noticed(email=email))
        approved(noticed(email="z@steep.example"))
        with pytest.raises(CommandError, match=r"E-mails refused: 1; .* the next run\.$"):
            notify()
        assert sent() == ["z@steep.example"]
        assert "steep.example" not in caplog.text.replace("z@steep.example", "")

    @pytest.mark.parametrize(
        "name", ["A\r\nBcc: b@steep.example", "A\u2028B\x00", "<b>&amp;", "…" * 250]
    )
    def test_a_name_adds_neither_header_nor_line(self, name: str) -> None:
        if connection.vendor == "postgresql":
            name = name.replace("\x00", "")
        approved(noticed(name=name))
        notify()
        (message,) = mail.outbox
        assert "\n" not in message.subject
        assert len(message.subject) <= 150
        assert message.message()["Bcc"] is None
        assert len(message.body.splitlines()) == 4

    def test_a_reference_shows_only_its_end(self) -> None:
        approved(noticed(), reference="anna@example.com")
        notify()
        assert "- Order placed ….com: approved" in mail.outbox[0].body
        assert "anna" not in mail.outbox[0].body


class TestStaff:
    @pytest.fixture(autouse=True)
    def _recipients(self, settings: Any) -> None:
        settings.AFFILIATE_NOTICE_RECIPIENTS = [STAFF, "boss@shop.example", STAFF]

    def test_staff_get_what_waits_for_them(self) -> None:
        now = timezone.now()
        Conversion.objects.filter(pk=convert(PartnerFactory()).pk).update(review_reason="screened")
        SubscriptionFactory(callbacks_suspended_on=now)
        SubscriptionFactory(callbacks_paused_until=now)
        CallbackFactory(status=Callback.Status.EXHAUSTED)
        CallbackFactory(status=Callback.Status.EXHAUSTED)

        assert notify() == "E-mails sent: 2.\n"

        assert sent() == [STAFF, "boss@shop.example"]
        admin = f"{SITE}/admin/affiliations"
        assert mail.outbox[0].subject == (
            "Affiliates: 1 conversion needs review, 1 endpoint suspended, 1 endpoint paused, "
            "2 callbacks given up"
        )
        assert mail.outbox[0].body == (
            f"1 conversion needs review\n{admin}/conversion/review/\n\n"
            f"1 endpoint suspended\n{admin}/subscription/?callbacks=suspended\n\n"
            f"1 endpoint paused\n{admin}/subscription/?callbacks=paused\n\n"
            f"2 callbacks given up\n{admin}/callback/?gave_up=7&is_test__exact=0\n"
        )

    def test_the_links_lead_to_the_rows(self, staff: Any) -> None:
        SubscriptionFactory(callbacks_suspended_on=timezone.now())
        CallbackFactory(status=Callback.Status.EXHAUSTED)
        notify()
        links = [line for line in mail.outbox[0].body.splitlines() if line.startswith(SITE)]
        assert len(links) == 2
        for link in links:
            assert staff.get(link.removeprefix(SITE)).context["cl"].result_count == 1

    def test_without_a_site_there_are_no_links(self, settings: Any) -> None:
        settings.AFFILIATE_SITE_URL = ""
        SubscriptionFactory(callbacks_suspended_on=timezone.now())
        notify()
        assert mail.outbox[0].body == "1 endpoint suspended\n"

    def test_nothing_that_waits_is_no_mail(self) -> None:
        assert notify() == "E-mails sent: 0.\n"

    def test_what_still_waits_is_told_again(self) -> None:
        SubscriptionFactory(callbacks_suspended_on=timezone.now())
        notify()
        notify()
        assert len(mail.outbox) == 4

    def test_without_recipients_nothing_is_counted(self, settings: Any) -> None:
        settings.AFFILIATE_NOTICE_RECIPIENTS = ()
        SubscriptionFactory(callbacks_suspended_on=timezone.now())
        assert notify() == "E-mails sent: 0.\n"

    def test_a_refusal_of_staff_stops_nobody(
        self, server: MailServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        server.refused = {STAFF}
        SubscriptionFactory(callbacks_suspended_on=timezone.now())
        with pytest.raises(CommandError, match="E-mails refused: 1"):
            notify()
        assert server.accepted == ["boss@shop.example"]
        assert "The notice to staff was refused: SMTPRecipientsRefused." in caplog.text


class TestDryRun:
    def test_it_prints_and_changes_nothing(self, settings: Any) -> None:
        settings.AFFILIATE_NOTICE_RECIPIENTS = [STAFF]
        approved(noticed(name="Steep Notes", email="a@steep.example"))
        approved(PartnerFactory())
        SubscriptionFactory(callbacks_suspended_on=timezone.now())
        printed = notify(dry_run=True)
        assert printed == notify(dry_run=True)
        line = "-" * 72
        assert printed.startswith(
            f"To: {STAFF}\nSubject: Affiliates: 1 endpoint suspended\n\n1 endpoint suspended\n"
        )
        assert f"{line}\nTo: a@steep.example\nSubject: Notice for Steep Notes\n\nSteep" in printed
        assert printed.endswith(f"{line}\nE-mails to send: 2.\n")
        assert mail.outbox == []
        assert Conversion.objects.notice_due().count() == 2
        assert not SentForm.objects.exists()


class TestServer:
    def test_a_connection_is_opened_once(self, server: MailServer) -> None:
        for _ in range(5):
            approved(noticed())
        assert notify() == "E-mails sent: 5.\n"
        assert (len(server.accepted), server.connections) == (5, 1)

    def test_none_is_opened_for_nothing(self, server: MailServer) -> None:
        notify()
        assert server.connections == 0

    def test_a_refusal_of_one_stops_nobody_and_loses_nothing(
        self, server: MailServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        partners = [noticed() for _ in range(3)]
        for partner in partners:
            approved(partner)
        server.refused = {partners[1].email}
        with pytest.raises(CommandError, match="E-mails refused: 1"):
            notify()
        assert server.accepted == [partners[0].email, partners[2].email]
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert record.getMessage() == (
            f"The notice to partner {partners[1].pk} was refused: SMTPRecipientsRefused."
        )
        server.refused = set()
        assert notify() == "E-mails sent: 1.\n"
        assert server.accepted[2:] == [partners[1].email]

    @pytest.mark.parametrize("says_goodbye", [True, False])
    def test_a_server_that_closes_connections_gets_all(
        self, server: MailServer, says_goodbye: bool
    ) -> None:
        server.limit, server.says_goodbye = 2, says_goodbye
        for _ in range(5):
            approved(noticed())
        assert notify() == "E-mails sent: 5.\n"
        assert (len(server.accepted), len(set(server.accepted))) == (5, 5)
        assert server.connections == 3

    def test_an_address_at_which_the_server_hangs_up_stops_nobody(
        self, server: MailServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        partners = [noticed() for _ in range(3)]
        for partner in partners:
            approved(partner)
        server.dropped = {partners[0].email}
        with pytest.raises(CommandError, match="E-mails refused: 1"):
            notify()
        assert server.accepted == [partner.email for partner in partners[1:]]

    def test_a_server_that_hangs_up_at_all_is_down(self, server: MailServer) -> None:
        partners = [noticed() for _ in range(5)]
        for partner in partners:
            approved(partner)
        server.dropped = {partner.email for partner in partners}
        with pytest.raises(CommandError, match=r"refused: 2; .* cannot be reached") as refused:
            notify()
        assert "(SMTPServerDisconnected)" in str(refused.value)
        assert server.connections == 6
        server.dropped = set()
        assert notify() == "E-mails sent: 5.\n"

    def test_a_server_that_is_down_loses_none(self, settings: Any) -> None:
        with mail_server() as gone:
            pass
        for name, value in gone.settings.items():
            setattr(settings, name, value)
        for _ in range(3):
            approved(noticed())
        with pytest.raises(CommandError, match="ended early: the mail server cannot be reached"):
            notify()
        assert not SentForm.objects.exists()
        with mail_server() as server:
            for name, value in server.settings.items():
                setattr(settings, name, value)
            assert notify() == "E-mails sent: 3.\n"
        assert len(server.accepted) == 3

    def test_a_server_that_goes_down_between_two_loses_none(
        self, server: MailServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for _ in range(3):
            approved(noticed())
        sending = mailer.Mailer._try
        tried = []

        def once(self: Any, message: Any) -> Any:
            tried.append(message)
            if len(tried) > 1:
                raise mailer.ServerDown("gone")
            return sending(self, message)

        with monkeypatch.context() as patch:
            patch.setattr(mailer.Mailer, "_try", once)
            with pytest.raises(CommandError, match=r"cannot be reached \(gone\)"):
                notify()
        assert notify() == "E-mails sent: 2.\n"
        assert Counter(server.accepted).most_common(1)[0][1] == 1

    def test_a_time_out_is_not_tried_again_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The server may have accepted the e-mail after all."""
        tried = []

        def slow(self: Any, messages: Any) -> None:
            tried.append(messages)
            raise TimeoutError

        approved(noticed())
        with monkeypatch.context() as patch:
            patch.setattr(locmem.EmailBackend, "send_messages", slow)
            with pytest.raises(CommandError, match="E-mails refused: 1"):
                notify()
        assert len(tried) == 1
        assert notify() == "E-mails sent: 1.\n"

    def test_what_a_server_says_at_the_end_does_not_matter(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def close(self: Any) -> None:
            raise OSError

        monkeypatch.setattr(locmem.EmailBackend, "close", close)
        approved(noticed())
        assert notify() == "E-mails sent: 1.\n"

    def test_an_error_in_the_middle_of_a_batch_keeps_what_was_sent(
        self, server: MailServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        approved(noticed())
        approved(noticed())
        rendered = []

        def render(found: Any) -> Any:
            if rendered:
                raise KeyboardInterrupt
            rendered.append(found)
            return mails_to_partners(found)

        mails_to_partners = mails.to_partners
        with monkeypatch.context() as patch:
            patch.setattr(mails, "to_partners", render)
            with pytest.raises(KeyboardInterrupt):
                notify()
        assert notify() == "E-mails sent: 1.\n"
        assert len(set(server.accepted)) == 2


@committed
class TestDatabase:
    """It fails after the e-mails were accepted."""

    def test_what_was_told_is_written_again_after_a_lock(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        approved(noticed())
        errors = [OperationalError("locked"), OperationalError("locked")]
        lock_rows = db.lock_rows

        def lock(rows: Any) -> None:
            if errors:
                raise errors.pop()
            lock_rows(rows)

        monkeypatch.setattr(db, "lock_rows", lock)
        assert notify() == "E-mails sent: 1.\n"
        assert notify() == "E-mails sent: 0.\n"

    @pytest.mark.parametrize(("error", "tries"), [(OperationalError, 3), (ProgrammingError, 1)])
    def test_it_is_not_written_again_for_ever(
        self, error: type[Exception], tries: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        approved(noticed())
        tried = []

        def lock(rows: Any) -> None:
            tried.append(rows)
            raise error

        monkeypatch.setattr(db, "lock_rows", lock)
        with pytest.raises(error):
            notify()
        assert len(tried) == tries
        assert not SentForm.objects.exists()


class TestQueries:
    def count(self, partners: int) -> int:
        for _ in range(partners):
            partner = noticed()
            partner.replace_page_link()
            approved(partner)
            decisions.decide(convert(partner), "rejected")
            settlements.settle(partner, "EUR", timezone.now())
            failing(partner, trigger="User registered")
        approved(PartnerFactory())
        with CaptureQueriesContext(
            connection,
        ) as queries:
            assert notify() == f"E-mails sent: {partners}.\n"
        return len(queries)

    def test_25_partners_take_as_many_queries_as_2(self) -> None:
        assert self.count(2) == self.count(25)

    def test_many_partners_are_told_in_batches(self, monkeypatch: pytest.MonkeyPatch) -> None:
        one = self.count(2)
        monkeypatch.setattr(news, "ADDRESSES", 2)
        assert self.count(6) < 3 * one

    def test_a_partner_with_many_conversions_is_alone(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(news, "_ROWS", 2)
        first, second = noticed(), noticed()
        for partner in (first, first, first, second):
            approved(partner)
        batches = list(news.Backlog().batches())
        assert [[one.count for (one,) in batch] for batch in batches] == [[3], [1]]
        assert notify() == "E-mails sent: 2.\n"
        assert not Conversion.objects.notice_due().exists()


class TestLease:
    def test_a_second_run_leaves_it_to_the_first(self) -> None:
        approved(noticed())
        lease = run.Lease.begin("notices", run.LEASE)
        assert lease is not None
        assert notify() == "Another run is sending notices.\n"
        lease.end()
        assert notify() == "E-mails sent: 1.\n"

    def test_a_run_that_was_killed_is_followed_by_another(self) -> None:
        approved(noticed())
        assert run.Lease.begin("notices", run.LEASE)
        SentForm.objects.update(sent_on=db.now() - run.LEASE - timedelta(seconds=1))
        assert notify() == "E-mails sent: 1.\n"

    def test_a_run_that_was_overtaken_stops(
        self, server: MailServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(run, "RENEW", 0.0)
        approved(noticed())
        approved(noticed())
        holds = run.Lease.holds
        held = []

        def hold(self: Any, renew: float) -> bool:
            held.append(renew)
            if len(held) == 2:
                SentForm.objects.update(sent_on=db.now() + timedelta(seconds=1))
            return holds(self, renew)

        monkeypatch.setattr(run.Lease, "holds", hold)
        with pytest.raises(CommandError, match="ended early: another run has begun"):
            notify()
        assert len(server.accepted) == 1
        assert Conversion.objects.notice_due().count() == 1
        assert SentForm.objects.exists()


@committed
class TestTogether:
    def test_a_transaction_that_commits_late_is_not_missed(self) -> None:
        """Its decision is older than the run before it, but was not to be seen then."""
        partner = noticed()
        early, late = convert(partner), convert(partner)
        decided, told = threading.Event(), threading.Event()

        def decide() -> None:
            try:
                with transaction.atomic():
                    assert decisions.decide(late, "approved")
                    decided.set()
                    assert told.wait(30)
            finally:
                connections.close_all()

        if connection.vendor == "sqlite":  # One writes at a time: the run comes before the commit.
            moment = timezone.now()
            assert decisions.decide(early, "approved")
            notify()
            assert decisions.decide(late, "approved")
            Conversion.objects.filter(pk=late.pk).update(decided_on=moment)
        else:
            thread = threading.Thread(target=decide)
            thread.start()
            assert decided.wait(30)
            assert decisions.decide(early, "approved")
            notify()
            told.set()
            thread.join(30)
        assert "1 conversion was approved" in mail.outbox[0].body
        notify()
        assert "1 conversion was approved" in mail.outbox[1].body
        assert notify() == "E-mails sent: 0.\n"

    @pytest.mark.server
    @pytest.mark.slow
    def test_two_runs_at_once_send_nothing_twice(self) -> None:
        for _ in range(30):
            approved(noticed())
        with mail_server() as server:
            both = threading.Event()
            server.on_data = lambda address: both.wait(0.05)
            command = ["notify_affiliations"]
            with (
                manage(*command, **server.settings) as first,
                manage(*command, **server.settings) as second,
            ):
                assert (first.wait(), second.wait()) == (0, 0)
                said = sorted([first.said(), second.said()])
            assert said in (
                ["Another run is sending notices.\n", "E-mails sent: 30.\n"],
                ["E-mails sent: 0.\n", "E-mails sent: 30.\n"],
            )
        assert sorted(Counter(server.accepted).values()) == [1] * 30
        assert not Conversion.objects.notice_due().exists()

    @pytest.mark.server
    @pytest.mark.slow
    def test_a_run_that_is_killed_loses_none(self) -> None:
        """And tells twice at most one batch."""
        for _ in range(8):
            approved(noticed())
        with mail_server() as server:
            hang = threading.Event()
            server.on_data = lambda address: hang.wait(60) if len(server.accepted) == 3 else None
            with manage("notify_affiliations", **server.settings) as process:
                until(lambda: len(server.accepted) == 3)
                process.kill()
            hang.set()
            with manage("notify_affiliations", **server.settings) as process:
                assert process.wait() == 0
                assert process.said() == "Another run is sending notices.\n"
            SentForm.objects.update(sent_on=db.now() - run.LEASE - timedelta(seconds=1))
            with manage("notify_affiliations", **server.settings) as process:
                assert process.wait() == 0
        assert set(server.accepted) == set(Partner.objects.values_list("email", flat=True))
        assert max(Counter(server.accepted).values()) <= 2

    def test_only_what_is_new_is_read(self) -> None:
        """Among a million: by the index, whose first column is the flag."""
        template = approved(noticed())
        template.notice_due = False
        Conversion.objects.bulk_create(
            Conversion(
                **{
                    field.attname: getattr(template, field.attname)
                    for field in Conversion._meta.concrete_fields
                    if field.attname not in ("id", "dedupe_key", "reference_key")
                },
                dedupe_key=f"v:{number}0",
            )
            for number in range(3000)
        )
        with connection.cursor() as cursor:
            cursor.execute(
                "ANALYZE TABLE affiliations_conversion"
                if connection.vendor == "mysql"
                else "ANALYZE affiliations_conversion"
            )
        due = Conversion.objects.notice_due()
        for rows in (
            due,
            due.filter(partner__in=[template.partner_id]),
            due.values_list("partner"),
        ):
            plan = rows.explain()
            assert "affiliations_conv_notice" in plan
            assert "SCAN" not in plan
