"""The ten typical mistakes of a first hour: what the console, check or the command say of each."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.test import Client

from affiliations import registry
from affiliations.callbacks import results, transport
from affiliations.callbacks.results import AttemptResult
from affiliations.exceptions import InvalidCallBackURL, Reason
from affiliations.models import CallbackAttempt, Partner, Subscription
from tests.arrivals import commit
from tests.claiming import claim
from tests.factories import PartnerFactory

pytestmark = pytest.mark.django_db

USER = ("User registered", "django.db.models.signals.post_save",
        "affiliations.triggers.object_created")  # fmt: skip


class Newcomer:
    """Follows a link in a browser and signs up, then reads the console and the command."""

    def __init__(self, client: Client, partner: Partner, console: Callable[[], list[str]]) -> None:
        self.client, self.partner, self.console = client, partner, console

    def tries(self, *, sign_up_on: str = "localhost", **headers: str) -> None:
        self.client.get(self.partner.link("/"), headers={"Host": "localhost"} | headers)
        commit()
        if sign_up_on != "localhost":
            self.client.cookies.clear()  # A browser sends those of another host to no other.
        self.client.post(
            "/sign-up/", {"email": "anna@shop.example"}, headers={"Host": sign_up_on} | headers
        )
        commit()
        for callback in claim():
            result = transport.send(callback.url)
            results.record([AttemptResult(callback, callback.created_on, result)])

    def explained(self) -> str:
        output = StringIO()
        call_command("explain_affiliation", stdout=output)
        return output.getvalue()


@pytest.fixture
def newcomer(client: Client, console: Any, wire: Any, settings: Any) -> Newcomer:
    wire([(*USER, settings.AUTH_USER_MODEL)])
    settings.ALLOWED_HOSTS = ["*"]
    settings.ROOT_URLCONF = "tests.test_first_mistakes"
    partner = PartnerFactory(name="Steep Notes", uid="moox6esi")
    return Newcomer(client, partner, console)


def sign_up(request: Any) -> Any:
    from django.http import HttpResponse

    if request.method == "POST":
        get_user_model().objects.create(email=request.POST["email"])
    return HttpResponse()


def urls() -> list[Any]:
    from django.urls import path

    return [path("", sign_up), path("sign-up/", sign_up)]


urlpatterns = urls()


def subscribe(newcomer: Newcomer, **fields: Any) -> Subscription:
    defaults = {"trigger": "User registered", "callback_url": "https://127.0.0.1/?id={visitor_id}"}
    return Subscription.objects.create(partner=newcomer.partner, **defaults | fields)


def is_said(text: object, newcomer: Newcomer) -> bool:
    """Tell whether the console and the command both say it."""
    found = str(text)
    return any(found in line for line in newcomer.console()) and found in newcomer.explained()


def test_curl_is_a_crawler(newcomer: Newcomer) -> None:
    subscribe(newcomer)
    newcomer.tries(**{"User-Agent": "curl/8.5.0"})
    assert is_said(Reason.BOT.cure, newcomer)


def test_an_inactive_partner_is_to_be_made_active(newcomer: Newcomer) -> None:
    subscribe(newcomer)
    newcomer.partner.active = False
    newcomer.partner.save()
    newcomer.tries()
    assert is_said(Reason.PARTNER_INACTIVE.cure, newcomer)
    assert "  - Steep Notes (moox6esi) is inactive. Tick “Active”" in newcomer.explained()


def test_a_partner_without_a_subscription_needs_one(newcomer: Newcomer) -> None:
    newcomer.tries()
    assert is_said(Reason.NOT_SUBSCRIBED.cure, newcomer)
    assert "No active partner subscribes to “User registered”" in newcomer.explained()


def test_a_private_address_has_a_line_for_the_settings(newcomer: Newcomer) -> None:
    subscribe(newcomer)
    newcomer.tries()
    assert is_said(CallbackAttempt.Error.BLOCKED_ADDRESS.cure, newcomer)


def test_a_wrong_placeholder_is_refused_with_the_one_that_is_meant(newcomer: Newcomer) -> None:
    with pytest.raises(InvalidCallBackURL, match=r"Did you mean \{click_id\}\?"):
        subscribe(newcomer, callback_url="https://partner.example/?id={clickid}")


def test_localhost_and_127_0_0_1_have_different_sessions(newcomer: Newcomer) -> None:
    subscribe(newcomer)
    newcomer.tries(sign_up_on="127.0.0.1")
    lines = newcomer.console()
    assert " on localhost: visitor " in lines[0]
    assert "no visitor is known in this request on 127.0.0.1" in lines[1]
    assert str(Reason.NO_VISITOR.cure) in lines[1]
    assert "localhost and 127.0.0.1 have different sessions" in newcomer.explained()


def test_a_misspelt_setting_is_named_by_check(newcomer: Newcomer, settings: Any) -> None:
    settings.AFFILIATE_IGNORE_BOT = False
    said = StringIO()
    call_command("check", tags=["affiliations"], stderr=said)
    assert "Did you mean AFFILIATE_IGNORE_BOTS?" in said.getvalue()


def test_a_wrong_sender_is_shown_beside_its_trigger(newcomer: Newcomer, wire: Any) -> None:
    subscribe(newcomer)
    wire([(*USER, "auth.Group")])
    newcomer.tries()
    assert "“User registered” is waiting for django.db.models.signals.post_save of auth.Group" in (
        newcomer.explained()
    )


def test_a_sender_that_does_not_exist_stops_the_start(settings: Any) -> None:
    settings.AFFILIATE_TRIGGERS = [(*USER, "auth.Grup")]
    with pytest.raises(ImproperlyConfigured, match=r"Did you mean 'auth\.Group'\?"):
        registry.read()


def test_a_percentage_without_an_amount_says_where_to_name_it(newcomer: Newcomer) -> None:
    subscribe(newcomer, payout_type="percent", payout_value=10)
    newcomer.tries()
    assert is_said(Reason.NO_AMOUNT.cure, newcomer)


def test_callbacks_without_a_worker_say_how_to_start_one(
    newcomer: Newcomer, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.AFFILIATE_CALLBACK_DISPATCHER = "affiliations.dispatchers.worker"
    monkeypatch.setattr("tests.test_first_mistakes.claim", list)
    subscribe(newcomer)
    newcomer.tries()
    assert is_said("Start manage.py deliver_callbacks --loop.", newcomer)
    assert "Callbacks that wait: 1, the oldest for " in newcomer.explained()
