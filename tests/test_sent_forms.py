"""A form that is sent twice acts once: a double click, the Back button, a page that is reloaded."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connections
from django.test import Client
from django.utils import timezone

from affiliations.admin.manual import CreditPage
from affiliations.callbacks import test_callback
from affiliations.conversions import adjustments
from affiliations.models import (
    Adjustment,
    Callback,
    CallbackAttempt,
    Conversion,
    Partner,
    SentForm,
    Settlement,
    Subscription,
    Visitor,
)
from tests.factories import (
    CallbackFactory,
    ConversionFactory,
    PartnerFactory,
    SubscriptionFactory,
    UserFactory,
    VisitorFactory,
)
from tests.test_admin import shown, url
from tests.test_admin_conversions import choose, confirmed
from tests.test_admin_partners import said
from tests.test_admin_settlements import asked, seen
from tests.test_races import at_once
from tests.test_settlements import earned

SENT = "This form was already sent."
MANUALLY = {"trigger": "Order placed", "reference": "A-1", "reason": "Lost."}


def token(page: Any) -> dict[str, str]:
    """Return the token that all forms of a page have in common."""
    (value,) = set(re.findall(r'name="form_token" value="([\w-]+)"', page.text))
    return {"form_token": value}


def send_twice(staff: Client, address: str, **fields: Any) -> Any:
    """Send the form of a page twice, and return the last page."""
    sent = token(staff.get(address)) | fields
    assert SENT not in shown(staff.post(address, sent, follow=True))
    return staff.post(address, sent, follow=True)


@pytest.mark.django_db
class TestTheSameFormTwice:
    @pytest.mark.parametrize("of", ["visitor", "partner"])
    def test_credits_once(self, staff: Client, subscription: Subscription, of: str) -> None:
        visitor = VisitorFactory(partner=subscription.partner)
        row = visitor if of == "visitor" else subscription.partner
        # Without a reference, a second visitor could be credited.
        page = send_twice(staff, url(row, "credit"), **MANUALLY | {"reference": ""})
        assert SENT in shown(page)
        assert page.redirect_chain == [(url(row), 302)]
        assert Conversion.objects.count() == 1
        assert Visitor.objects.count() == 1 if of == "visitor" else 2

    @pytest.mark.parametrize(
        ("before", "name"), [("pending", "approve"), ("pending", "reject"), ("rejected", "reopen")]
    )
    def test_decides_once(self, staff: Client, before: str, name: str) -> None:
        conversion = ConversionFactory(status=before)
        page = send_twice(staff, url(conversion, name), reason="Checked.")
        assert SENT in shown(page)
        assert len(said(conversion)) == 1

    def test_adjusts_once(self, staff: Client) -> None:
        conversion = earned("10", reference="A-1")
        address = url(conversion, "adjust")
        filled = seen(staff.get(address), payout="4", reason="Returned.")
        page = staff.post(address, filled)
        sent = filled | token(page) | {"confirmed": "yes"}
        staff.post(address, sent)
        # Meanwhile the payout is what the form has shown.
        adjustments.adjust(conversion, payout=Decimal(6), reason="A mistake.")
        assert SENT in shown(staff.post(address, sent, follow=True))
        assert Adjustment.objects.count() == 2

    def test_settles_once(self, staff: Client) -> None:
        conversion = earned("10")
        page = staff.get(asked(conversion))
        sent = seen(page) | token(page)
        address = asked(conversion)
        assert staff.post(address, sent).status_code == 302
        page = staff.post(address, sent, follow=True)
        assert SENT in shown(page)
        assert "No statement was created" not in shown(page)
        assert Settlement.objects.count() == 1

    def test_stops_a_partner_once(self, staff: Client, partner: Partner) -> None:
        page = send_twice(staff, url(partner, "stop_for_fraud"), reason="Own orders.")
        assert SENT in shown(page)
        assert len(said(partner)) == 1

    def test_replaces_the_secret_once(self, staff: Client, partner: Partner) -> None:
        address = url(partner, "secret")
        sent = token(staff.get(address)) | {"replace": "yes"}
        shown_secret = staff.post(address, sent).context["secret"]
        assert SENT in shown(staff.post(address, sent, follow=True))
        partner.refresh_from_db()
        assert partner.signing_secret == shown_secret
        # To look at it is no act.
        for _ in range(2):
            assert staff.post(address, {"show": "yes"}).context["secret"] == shown_secret

    @pytest.mark.parametrize("has_link", [True, False])
    def test_replaces_the_partners_link_once(
        self, staff: Client, partner: Partner, has_link: bool
    ) -> None:
        if has_link:
            partner.replace_page_link()
        name = "replace" if has_link else "create"
        assert SENT in shown(send_twice(staff, url(partner, "page_link"), **{name: "yes"}))
        assert len(said(partner)) == 1

    def test_makes_one_test_link(self, staff: Client, partner: Partner) -> None:
        assert SENT in shown(send_twice(staff, url(partner, "test_link")))
        assert said(partner) == ["Created a test link."]

    def test_resumes_once(self, staff: Client) -> None:
        subscription = SubscriptionFactory(callbacks_suspended_on=timezone.now())
        assert SENT in shown(send_twice(staff, url(subscription, "resume")))
        assert len(said(subscription)) == 1

    def test_sends_one_test_callback(
        self, staff: Client, subscription: Subscription, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sent: list[Subscription] = []

        def send(subscription: Subscription) -> CallbackAttempt:
            sent.append(subscription)
            return CallbackAttempt()

        monkeypatch.setattr(test_callback, "send_test_callback", send)
        assert SENT in shown(send_twice(staff, url(subscription, "send_test")))
        assert sent == [subscription]

    @pytest.mark.parametrize("name", ["resend", "resend_anew"])
    def test_sends_a_callback_again_once(self, staff: Client, name: str) -> None:
        callback = CallbackFactory(status="delivered", delivered_on=timezone.now())
        address = url(callback, name)
        sent = token(staff.get(address))
        staff.post(address, sent)
        Callback.objects.update(status="delivered")
        page = staff.post(address, sent, follow=True)
        assert SENT in shown(page)
        assert Callback.objects.count() == (1 if name == "resend" else 2)
        assert not Callback.objects.exclude(status="delivered").exists()

    def test_sends_the_selected_callbacks_again_once(self, staff: Client) -> None:
        callback = CallbackFactory(status="delivered", delivered_on=timezone.now())
        page = staff.post(url(Callback), choose([callback], "resend_selected_anew"))
        sent = confirmed(page)
        for _ in range(2):
            page = staff.post(url(Callback), sent, follow=True)
        assert SENT in shown(page)
        assert Callback.objects.count() == 2


@pytest.mark.django_db
class TestAForm:
    def test_that_was_wrong_can_be_corrected_after_going_back(
        self, staff: Client, subscription: Subscription
    ) -> None:
        address = url(VisitorFactory(partner=subscription.partner), "credit")
        sent = token(staff.get(address)) | MANUALLY
        assert "This field is required." in shown(staff.post(address, sent | {"reason": ""}))
        staff.post(address, sent)
        assert Conversion.objects.count() == 1

    def test_that_was_refused_can_be_sent_again(
        self, staff: Client, subscription: Subscription
    ) -> None:
        address = url(subscription.partner, "credit")
        sent = token(staff.get(address)) | MANUALLY
        staff.post(address, MANUALLY | {"reference": "A-2"})
        assert "already credited" in shown(staff.post(address, sent | {"reference": "A-2"}))
        staff.post(address, sent)
        assert Conversion.objects.filter(reference="A-1").count() == 1

    def test_whose_act_failed_can_be_sent_again(
        self, staff: Client, subscription: Subscription, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        address = url(VisitorFactory(partner=subscription.partner), "credit")
        sent = token(staff.get(address)) | MANUALLY

        def fail(*args: Any) -> None:
            raise NotImplementedError

        with monkeypatch.context() as patch:
            patch.setattr(CreditPage, "_finish", fail)
            with pytest.raises(NotImplementedError):
                staff.post(address, sent)
        assert Conversion.objects.count() == 0
        staff.post(address, sent)
        assert Conversion.objects.count() == 1

    @pytest.mark.parametrize("value", [{}, {"form_token": "\0"}, {"form_token": "x" * 65}])
    def test_without_a_valid_token_is_accepted(
        self, staff: Client, subscription: Subscription, value: dict[str, str]
    ) -> None:
        address = url(subscription.partner, "credit")
        staff.post(address, MANUALLY | value)
        assert Conversion.objects.count() == 1

    def test_is_remembered_for_a_week(self, capsys: pytest.CaptureFixture[str]) -> None:
        now = timezone.now()
        for days in (6, 8):
            SentForm.objects.create(token=f"{days}", sent_on=now - timedelta(days=days))
        call_command("purge_affiliations", dry_run=True)
        assert SentForm.objects.count() == 2
        call_command("purge_affiliations")
        assert [str(form) for form in SentForm.objects.all()] == ["6"]


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
class TestADoubleClick:
    """Two requests at the same moment."""

    @pytest.fixture(
        params=[
            False,
            # On SQLite a transaction that reads before it writes fails with any host.
            pytest.param(True, marks=pytest.mark.only_on("postgresql", "mariadb")),
        ],
        ids=["in_autocommit", "in_transactions"],
    )
    def double_click(
        self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
    ) -> Callable[..., list[Any]]:
        monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", request.param)
        user = UserFactory(is_staff=True, is_superuser=True)

        def clicks(address: str, of: int = 2, **fields: Any) -> list[Any]:
            browsers = [Client() for _ in range(of)]
            for browser in browsers:
                browser.force_login(user)
            sent = token(browsers[0].get(address)) | fields
            return at_once(*[lambda one=one: one.post(address, sent) for one in browsers])

        return clicks

    def test_credits_once(self, double_click: Callable[..., list[Any]]) -> None:
        partner = PartnerFactory()
        SubscriptionFactory(partner=partner, counting="every")
        for number in range(1, 6):
            pages = double_click(url(partner, "credit"), **MANUALLY | {"reference": f"{number}"})
            assert [page.status_code for page in pages] == [302, 302]
            assert Conversion.objects.count() == Visitor.objects.count() == number

    def test_replaces_a_secret_once(self, double_click: Callable[..., list[Any]]) -> None:
        partner = PartnerFactory()
        pages = double_click(url(partner, "secret"), replace="yes")
        assert sorted(page.status_code for page in pages) == [200, 302]
        assert len(said(partner)) == 1

    def test_on_a_form_that_is_wrong_shows_what_is_wrong(
        self, double_click: Callable[..., list[Any]]
    ) -> None:
        partner = PartnerFactory()
        SubscriptionFactory(partner=partner)
        pages = double_click(url(partner, "credit"), **MANUALLY | {"reason": ""})
        assert [page.status_code for page in pages] == [200, 200]
