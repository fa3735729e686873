"""The lines on a developer's console: one for each click, trigger and callback, with the cure."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client, RequestFactory
from django.urls import resolve, reverse
from django.utils import translation

from affiliations import logs, triggers
from affiliations.callbacks import results
from affiliations.callbacks.outbox import SENDING_IS_OFF
from affiliations.callbacks.transport import Result
from affiliations.callbacks.worker import Summary
from affiliations.exceptions import Reason
from affiliations.management.commands import deliver_callbacks
from affiliations.models import CallbackAttempt, Partner, Visitor
from affiliations.tracking import binding, referrals
from affiliations.triggers import complete_trigger, object_created, paused
from tests.arrivals import commit, request_of
from tests.claiming import claim
from tests.factories import (
    CallbackFactory,
    PartnerFactory,
    SubscriptionFactory,
    UserFactory,
    VisitorFactory,
)
from tests.testapp.models import Order

pytestmark = pytest.mark.django_db

Error = CallbackAttempt.Error
logger = logging.getLogger("affiliations")


@pytest.fixture
def steep_notes() -> Partner:
    return PartnerFactory(name="Steep Notes", uid="moox6esi")


def visitor_of(partner: Partner, **subscription: object) -> Visitor:
    """Make a visitor of a partner who subscribes to "Order placed"."""
    SubscriptionFactory(partner=partner, trigger="Order placed", **subscription)
    return VisitorFactory(partner=partner)


class TestTheConsole:
    def test_has_one_line_with_the_cure_in_english(self, console: Any) -> None:
        with translation.override("da"):
            logs.tell("click not counted: %s. %s", Reason.HEAD.label, Reason.HEAD.cure)
        assert console() == [
            f"affiliations: click not counted: headers only (HEAD request). {Reason.HEAD.cure}"
        ]

    def test_says_nothing_in_production(self, console: Any, settings: Any) -> None:
        settings.DEBUG = False
        logs.tell("click")
        assert not logs.is_told()
        assert console() == []

    def test_keeps_text_from_outside_in_its_line(self, console: Any) -> None:
        logs.tell("click by %s", "x\nforged\x1b[2J")
        assert console() == ["affiliations: click by x\\nforged\\x1b[2J"]

    @pytest.mark.parametrize(
        "change",
        [
            lambda patch: patch.setattr(logger, "level", logging.WARNING),
            lambda patch: patch.setattr(logger, "handlers", [logging.NullHandler()]),
            lambda patch: patch.setattr(logger, "propagate", False),
            lambda patch: patch.setattr(logger, "disabled", True),
        ],
    )
    def test_is_silent_where_the_site_has_configured_the_logger(
        self, console: Any, monkeypatch: pytest.MonkeyPatch, change: Any
    ) -> None:
        change(monkeypatch)
        logs.tell("click")
        assert console() == []

    def test_has_no_line_twice_where_a_handler_of_the_site_gets_the_record(
        self, console: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        handler = logging.StreamHandler(logs.sys.stderr)
        monkeypatch.setattr(logging.root, "handlers", [handler])
        logs.tell("click")
        assert console() == ["affiliations: click"]  # The root is for warnings.
        monkeypatch.setattr(logging.root, "level", logging.DEBUG)
        logger.manager._clear_cache()
        logs.tell("click of %s", "Anna", partner=17)
        assert console() == ["click of Anna"]

    def test_has_the_line_if_the_record_has_no_handler(
        self, console: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(logging.root, "handlers", [])
        monkeypatch.setattr(logging.root, "level", logging.DEBUG)
        logger.manager._clear_cache()
        logs.tell("click")
        assert console() == ["affiliations: click"]

    def test_has_the_line_if_all_handlers_of_the_site_are_for_higher_levels(
        self, console: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Such as the one that mails errors to the admins."""
        handler = logging.StreamHandler(logs.sys.stderr)
        handler.setLevel(logging.ERROR)
        monkeypatch.setattr(logging.root, "handlers", [handler])
        monkeypatch.setattr(logging.root, "level", logging.DEBUG)
        logger.manager._clear_cache()
        logs.tell("click")
        assert console() == ["affiliations: click"]

    def test_that_is_closed_fails_nobody(
        self, console: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(logging, "raiseExceptions", False)
        monkeypatch.setattr(logs.sys, "stderr", None)
        monkeypatch.setattr("builtins.print", lambda *args, **options: 1 / 0)
        logs.tell("click")

    def test_gets_a_record_with_the_fields(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG, "affiliations")
        logs.tell("callback %s", 3, callback=3, partner=2)
        [record] = caplog.records
        assert (record.args, record.callback, record.partner) == ((3,), 3, 2)
        assert record.pathname == __file__


@pytest.fixture(autouse=True)
def _levels_are_forgotten() -> Iterator[None]:
    yield
    logger.manager._clear_cache()


class TestAClick:
    def test_that_counts_says_whose_visitor_it_makes_and_on_which_host(
        self, console: Any, client: Client, steep_notes: Partner
    ) -> None:
        client.get(steep_notes.link("/"), headers={"Host": "localhost:8000"})
        commit()
        visitor = Visitor.objects.get()
        [line] = console()
        assert line == (
            "affiliations: click on a link of Steep Notes (moox6esi) on localhost:8000: "
            f"visitor {visitor.pk}."
        )

    def test_that_is_filtered_says_why_and_what_to_do(
        self, console: Any, client: Client, steep_notes: Partner
    ) -> None:
        client.get(steep_notes.link("/"), headers={"User-Agent": "curl/8.5.0"})
        [line] = console()
        assert line == (
            "affiliations: click on a link of Steep Notes (moox6esi) not counted: known bot or "
            f"crawler (by 'curl/8.5.0'). {Reason.BOT.cure}"
        )

    def test_with_an_unknown_id_says_which(self, console: Any, client: Client, db: None) -> None:
        client.get("/?affiliate_id=mooxxxxx")
        [line] = console()
        assert line.startswith(
            "affiliations: click on a link of unknown id “mooxxxxx” not counted: unknown partner id"
        )

    def test_of_a_test_link_says_so(
        self, console: Any, client: Client, steep_notes: Partner
    ) -> None:
        client.get(steep_notes.test_link("/"))
        commit()
        [line] = console()
        assert line.endswith(". Test: excluded from reports.")

    def test_that_waits_for_consent_says_so(
        self, console: Any, client: Client, steep_notes: Partner, settings: Any
    ) -> None:
        settings.AFFILIATE_CONSENT = "tests.test_console.undecided"
        client.get(steep_notes.link("/"))
        [line] = console()
        assert "(moox6esi) waits: AFFILIATE_CONSENT returned None" in line

    def test_that_code_states_is_no_click(self, console: Any, steep_notes: Partner) -> None:
        referrals.refer(steep_notes, request=request_of(None))
        commit()
        [line] = console()
        assert "your code referred a visitor to Steep Notes (moox6esi)" in line


def undecided(request: object) -> None:
    return None


class TestATrigger:
    def test_without_a_visitor_says_so_with_the_host(self, console: Any) -> None:
        request = RequestFactory().post("/", headers={"Host": "127.0.0.1:8000"})
        complete_trigger(request, "Order placed")
        [line] = console()
        said = "affiliations: “Order placed” had no effect: no visitor is known in this request on"
        assert line == f"{said} 127.0.0.1:8000. {Reason.NO_VISITOR.cure}"
        assert "localhost and 127.0.0.1 have different sessions" in line

    async def test_of_an_async_view_says_it_as_well(self, console: Any) -> None:
        await triggers.acomplete_trigger(RequestFactory().post("/"), "Order placed")
        assert len(console()) == 1

    def test_in_a_session_without_a_visitor_says_the_host_too(self, console: Any) -> None:
        request = request_of(None)
        request.META["HTTP_HOST"] = "127.0.0.1:8000"
        complete_trigger(request, "Order placed", reference="A-17")
        [line] = console()
        assert "in this request on 127.0.0.1:8000 (visitor None, reference “A-17”). Open" in line

    def test_on_a_page_of_staff_says_that(self, console: Any) -> None:
        request = RequestFactory().post(reverse("admin:index"))
        request.resolver_match = resolve(request.path)
        complete_trigger(request, "Order placed")
        [line] = console()
        assert ", to a page of staff. " in line

    def test_outside_of_a_request_says_it_once(self, console: Any) -> None:
        for _ in range(3):
            object_created(Order, Order(), affiliate_trigger_name="Order placed", created=True)
        [line] = console()
        assert "no visitor is known outside of a request. " in line

    def test_that_is_paused_says_nothing(self, console: Any) -> None:
        with paused():
            complete_trigger(None, "Order placed")
        assert console() == []

    def test_that_is_not_credited_says_why_and_what_to_do(
        self, console: Any, steep_notes: Partner
    ) -> None:
        visitor = VisitorFactory(partner=steep_notes)
        complete_trigger(None, "Order placed", visitor=visitor, reference="A-17")
        [line] = console()
        assert line == (
            "affiliations: “Order placed” had no effect: the partner has no active subscription "
            f"to this trigger (visitor {visitor}, reference “A-17”). {Reason.NOT_SUBSCRIBED.cure}"
        )

    def test_that_counts_says_what_is_paid_and_why_no_callback_is_sent(
        self, console: Any, steep_notes: Partner
    ) -> None:
        visitor = visitor_of(
            steep_notes,
            callback_url="",
            payout_type="fixed",
            payout_value="5",
            payout_currency="EUR",
        )
        conversion = complete_trigger(None, "Order placed", visitor=visitor)
        commit()
        credited = (
            f"affiliations: “Order placed” credited to Steep Notes (moox6esi): conversion "
            f"{conversion.pk} of visitor {visitor}, payout 5.00 EUR, approved."
        )
        assert console() == [f"{credited} No callback: the subscription has no callback URL."]

    def test_whose_subscription_sends_no_callback_says_so(
        self, console: Any, steep_notes: Partner
    ) -> None:
        visitor = visitor_of(
            steep_notes,
            callback_url="https://partner.example/?id={visitor_id}",
            call_on_conversion=False,
        )
        complete_trigger(None, "Order placed", visitor=visitor)
        commit()
        [line] = console()
        assert line.endswith(
            "no payout, approved. No callback: the subscription sends none when a conversion is "
            "created."
        )

    def test_that_needs_review_says_why(self, console: Any, steep_notes: Partner) -> None:
        visitor = visitor_of(steep_notes, payout_type="percent", payout_value="5")
        complete_trigger(None, "Order placed", visitor=visitor)
        commit()
        assert any(
            f"It needs review: {Reason.NO_AMOUNT.label}. {Reason.NO_AMOUNT.cure}" in line
            for line in console()
        )


class TestACallback:
    URL = "https://partner.example:8443/?id={visitor_id}"

    def recorded(self, partner: Partner, **fields: Any) -> None:
        visitor = visitor_of(partner, **{"callback_url": self.URL} | fields)
        complete_trigger(None, "Order placed", visitor=visitor)
        commit()

    @pytest.mark.parametrize(
        ("dispatcher", "needs"),
        [
            ("worker", "manage.py deliver_callbacks --loop"),
            ("celery", "a Celery worker"),
            ("tasks", "a worker of Django’s tasks"),
        ],
    )
    def test_that_another_process_sends_says_which(
        self,
        console: Any,
        steep_notes: Partner,
        settings: Any,
        monkeypatch: pytest.MonkeyPatch,
        dispatcher: str,
        needs: str,
    ) -> None:
        monkeypatch.setattr("affiliations.dispatchers._enqueue", lambda call: None)
        settings.AFFILIATE_CALLBACK_DISPATCHER = f"affiliations.dispatchers.{dispatcher}"
        self.recorded(steep_notes)
        _credited, line = console()
        assert " to partner.example:8443 waits. Start " in line
        assert needs in line

    def test_that_this_process_sends_says_nothing_before(
        self, console: Any, steep_notes: Partner, settings: Any
    ) -> None:
        settings.AFFILIATE_CALLBACK_DISPATCHER = "affiliations.dispatchers.thread"
        self.recorded(steep_notes)
        assert not [line for line in console() if "waits" in line]

    def test_that_is_not_sent_says_why_and_what_to_do(
        self, console: Any, steep_notes: Partner, settings: Any
    ) -> None:
        settings.AFFILIATE_SEND_CALLBACKS = False
        self.recorded(steep_notes)
        _credited, line = console()
        assert line.endswith(
            f" to partner.example:8443 is not sent: {SENDING_IS_OFF} "
            "Set AFFILIATE_SEND_CALLBACKS = True, and send it again in the Admin."
        )

    def test_without_the_click_id_that_its_url_needs_says_how_to_get_one(
        self, console: Any, steep_notes: Partner
    ) -> None:
        self.recorded(steep_notes, callback_url="https://partner.example/?id={click_id}")
        _credited, line = console()
        assert "is not sent: The visitor came without a click id. The callback URL needs" in line

    def test_says_that_the_partner_has_accepted_it(self, console: Any) -> None:
        callback = CallbackFactory(url="https://partner.example/?id=1")
        self.attempted(Result(84, 204))
        [line] = console()
        assert line == (
            f"affiliations: callback {callback.pk} to partner.example accepted after 84 ms: "
            "HTTP 204."
        )

    def test_says_why_it_failed_and_what_to_do(self, console: Any) -> None:
        callback = CallbackFactory(url="http://127.0.0.1:9000/?id=1")
        self.attempted(Result(1, error=Error.BLOCKED_ADDRESS, message="InvalidIPAddress"))
        [line] = console()
        assert line == (
            f"affiliations: callback {callback.pk} to 127.0.0.1:9000 failed: the address is inside "
            "this site’s network (InvalidIPAddress), attempt 1 of 10. "
            f"{Error.BLOCKED_ADDRESS.cure}"
        )
        assert 'AFFILIATE_CALLBACK_ALLOWED_NETWORKS = ["127.0.0.0/8", "::1"]' in str(
            Error.BLOCKED_ADDRESS.cure
        )

    def test_of_a_partner_who_answers_with_an_error_says_the_status(self, console: Any) -> None:
        CallbackFactory(url="https://[broken/")
        self.attempted(Result(1, status_code=404, error=Error.HTTP_STATUS))
        [line] = console()
        assert "returned an error (HTTP 404), attempt 1 of 10. Tell the partner: “Your" in line

    def attempted(self, result: Result) -> None:
        [callback] = claim()
        results.record([results.AttemptResult(callback, callback.created_on, result)])


def test_a_request_of_a_user_who_signs_up_names_its_host(
    console: Any, settings: Any, wire: Any
) -> None:
    """A sign-up on another host than the link's, as a signal reports it."""
    wire(
        [
            (
                "User registered",
                "django.db.models.signals.post_save",
                "affiliations.triggers.object_created",
                settings.AUTH_USER_MODEL,
            )
        ]
    )
    request = RequestFactory().post("/", headers={"Host": "127.0.0.1:8000"})
    with binding.binding(request):
        UserFactory()
    [line] = console()
    assert "“User registered” had no effect: no visitor is known in this request on 127." in line


@pytest.mark.parametrize("debug", [True, False])
def test_the_command_shows_no_numbers_between_the_lines(
    console: Any, settings: Any, monkeypatch: pytest.MonkeyPatch, debug: bool
) -> None:
    settings.DEBUG = debug
    shown: list[str] = []
    monkeypatch.setattr(deliver_callbacks.Command, "show", lambda self, text: shown.append(text))
    deliver_callbacks.Command()._report(Summary(delivered=1))
    assert shown == ([] if debug else ["1 delivered, 0 failed"])
