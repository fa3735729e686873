"""``AFFILIATE_SEND_CALLBACKS = False``: nothing leaves a copy of the production site."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client
from django.urls import reverse

from affiliations.callbacks import outbox, worker
from affiliations.callbacks.test_callback import send_test_callback
from affiliations.conversions.decisions import decide
from affiliations.models import Callback, CallbackAttempt, Conversion
from affiliations.triggers import complete_trigger
from tests.factories import CallbackFactory, SubscriptionFactory, VisitorFactory
from tests.raw_partner import RawPartner

pytestmark = pytest.mark.django_db

SAYS = "This site sends no callbacks, because AFFILIATE_SEND_CALLBACKS is False."
Status = Callback.Status


@pytest.fixture(autouse=True)
def _off(settings: Any) -> None:
    settings.AFFILIATE_CALLBACK_ALLOWED_NETWORKS = ["127.0.0.0/8"]
    settings.AFFILIATE_SEND_CALLBACKS = False


def test_what_waited_before_is_neither_sent_nor_changed(capsys: pytest.CaptureFixture[str]) -> None:
    with RawPartner() as server:
        callback = CallbackFactory(url=server.url)
        before = Callback.objects.values().get()
        worker.deliver([callback.pk])
        call_command("deliver_callbacks")
        assert not outbox.resend(callback)
    assert server.connections == 0
    assert Callback.objects.values().get() == before
    assert "AFFILIATE_SEND_CALLBACKS is False" in capsys.readouterr().err


def test_what_is_written_meanwhile_is_cancelled_and_can_be_resent(
    settings: Any, staff: Client
) -> None:
    with RawPartner() as server:
        subscription = SubscriptionFactory(callback_url=server.url + "?v={visitor_id}")
        visitor = VisitorFactory(partner=subscription.partner)
        complete_trigger(None, subscription.trigger, visitor=visitor)
        callback = Callback.objects.get()
        assert (callback.status, callback.reason) == (Status.CANCELLED, outbox.SENDING_IS_OFF)

        settings.AFFILIATE_SEND_CALLBACKS = True
        assert outbox.resend(callback)
        worker.deliver([callback.pk])
    assert len(server.requests) == 1


def test_what_a_rejection_contradicts_meanwhile_is_not_resent(settings: Any) -> None:
    subscription = SubscriptionFactory(call_on_rejection=True)
    visitor = VisitorFactory(partner=subscription.partner)
    complete_trigger(None, subscription.trigger, visitor=visitor)
    conversion, callback = Conversion.objects.get(), Callback.objects.get()
    assert decide(conversion, "rejected")
    callback.refresh_from_db()
    assert (callback.status, callback.reason) == (Status.CANCELLED, outbox.DECIDED_SINCE)
    settings.AFFILIATE_SEND_CALLBACKS = True
    assert not outbox.resend(callback)
    settings.AFFILIATE_SEND_CALLBACKS = False

    assert decide(conversion, "pending")
    callback.refresh_from_db()
    assert (callback.status, callback.reason) == (Status.CANCELLED, outbox.SENDING_IS_OFF)
    settings.AFFILIATE_SEND_CALLBACKS = True
    assert outbox.resend(callback)


def test_what_was_resent_before_a_rejection_locks_it_keeps_its_reason() -> None:
    callback = CallbackFactory(status=Status.CANCELLED, reason=outbox.SENDING_IS_OFF)
    Callback.objects.update(status=Status.DELIVERED, reason="")
    outbox._contradict([callback])
    assert Callback.objects.get().reason == ""


def test_no_button_sends(staff: Client) -> None:
    with RawPartner() as server:
        subscription = SubscriptionFactory(callback_url=server.url + "?v={visitor_id}")
        url = reverse("admin:affiliations_subscription_send_test", args=[subscription.pk])
        page = staff.post(url, follow=True)
        assert "The test callback was not sent." in page.text
        attempt = send_test_callback(subscription)
    assert server.connections == 0
    assert attempt.error == CallbackAttempt.Error.CONFIGURATION
    assert attempt.message == "SendingIsOff: AFFILIATE_SEND_CALLBACKS is False"


def test_the_pages_say_so(settings: Any, staff: Client) -> None:
    callback = CallbackFactory()
    pages = [
        reverse("admin:affiliations_callback_changelist"),
        reverse("admin:affiliations_callback_change", args=[callback.pk]),
        reverse("admin:affiliations_callback_resend", args=[callback.pk]),
        reverse("admin:affiliations_subscription_send_test", args=[callback.subscription_id]),
        reverse("admin:affiliations_subscription_change", args=[callback.subscription_id]),
        reverse("admin:affiliations_partner_change", args=[callback.partner_id]),
    ]
    for page in pages:
        assert SAYS in staff.get(page).text, page
    settings.AFFILIATE_SEND_CALLBACKS = True
    for page in pages:
        assert SAYS not in staff.get(page).text, page


@pytest.mark.parametrize("name", ["resend", "resend_anew"])
def test_a_button_says_why_nothing_is_sent(staff: Client, name: str) -> None:
    callback = CallbackFactory(status=Status.DELIVERED)
    url = reverse(f"admin:affiliations_callback_{name}", args=[callback.pk])
    page = staff.post(url, follow=True)
    assert "AFFILIATE_SEND_CALLBACKS" in page.text
    assert not Callback.objects.filter(status=Status.QUEUED).exists()
