"""The history of the Admin says from what to what, and holds nothing of a person or a secret."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.apps import apps
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from affiliations import privacy
from affiliations.models import Callback, Partner, Subscription
from tests.factories import (
    CallbackFactory,
    ConversionFactory,
    PartnerFactory,
    SubscriptionFactory,
    UserFactory,
    VisitorFactory,
)
from tests.test_admin import as_stored, partner_form, shown, url
from tests.test_admin_changes import _Form
from tests.test_admin_partners import said

pytestmark = pytest.mark.django_db

URL = "https://partner.example/cb?click={click_id}&sub={sub1}"
PERSONAL = "https://partner.example/cb?click=4711&sub=anna"


class TestFromWhatToWhat:
    def test_is_said_of_a_partner(self, staff: Client) -> None:
        partner = PartnerFactory(name="Before", active=True)
        staff.post(url(partner), partner_form(name="After", active="", window="30"))
        assert said(partner) == [
            (
                "Changed Name from Before to After, Active from Yes to No and "
                "Attribution window in days from - to 30."
            )
        ]

    def test_is_said_of_a_subscription(self, staff: Client) -> None:
        subscription = SubscriptionFactory(
            payout_type="fixed", payout_value="5.0000", payout_currency="EUR"
        )
        form = as_stored(subscription, payout_value="8.50", payout_currency="EUR", method="GET")
        assert staff.post(url(subscription), form).status_code == 302
        form |= {"callback_url": URL, "payout_type": "percent", "payout_currency": "", "active": ""}
        assert staff.post(url(subscription), form).status_code == 302
        assert said(subscription) == [
            "Changed Payout value from 5 to 8.5.",
            (
                f"Changed Callback URL from {subscription.callback_url} to {URL}, Active from Yes "
                "to No, Payout from Fixed amount to Percentage of the amount and Payout currency "
                "from EUR to -."
            ),
        ]
        text = shown(staff.get(url(subscription, "history")))
        assert "Changed Payout value from 5 to 8.5." in text
        assert f"from {subscription.callback_url} to {URL}" in text

    def test_is_said_of_the_subscriptions_on_a_partners_page(self, staff: Client) -> None:
        partner = PartnerFactory(name="Steep Notes", active=True)
        first, second, third = (
            SubscriptionFactory(partner=partner, trigger=name, payout_type="percent",
                                payout_value=value)
            for name, value in (("Order placed", 5), ("User registered", 6), ("Old", 7))
        )  # fmt: skip
        forms = [
            as_stored(first, payout_value="5", method="GET"),
            as_stored(second, payout_value="8", method="GET"),
            as_stored(third, payout_value="7", method="GET", active=""),
        ]
        page = partner_form(*forms, name="Other")
        assert staff.post(url(partner), page).status_code == 302
        assert said(partner) == [
            (
                "Changed Name from Steep Notes to Other. "
                "Changed Payout value from 6 to 8 for subscription “User registered”. "
                "Changed Active from Yes to No for subscription “Old”."
            )
        ]
        assert "Payout value from 6 to 8 for subscription" in shown(
            staff.get(url(partner, "history"))
        )

    def test_is_not_said_of_what_is_new_or_removed(self, staff: Client) -> None:
        partner = PartnerFactory(name="Steep Notes", active=True)
        old = SubscriptionFactory(partner=partner)
        forms = [
            as_stored(old, method="GET", DELETE="on"),
            {**as_stored(old, method="GET", trigger="User registered"), "id": ""},
        ]
        page = partner_form(*forms, name="Steep Notes") | {"subscriptions-INITIAL_FORMS": 1}
        assert staff.post(url(partner), page).status_code == 302
        assert said(partner) == [
            "Added subscription “User registered”. Deleted subscription “Order placed”."
        ]
        assert "Added subscription “User registered”." in shown(staff.get(url(partner, "history")))

    @pytest.mark.urls("tests.test_admin_changes")
    def test_is_said_of_an_editable_column(self, staff: Client) -> None:
        partner = PartnerFactory(active=True)
        address = "/host/affiliations/partner/"
        form = _Form(staff.get(address).text).sent | {"_save": "Save"}
        del form["form-0-active"]
        assert staff.post(address, form).status_code == 302
        assert said(partner) == ["Changed Active from Yes to No."]

    @pytest.mark.urls("tests.test_admin_changes")
    def test_names_no_account_and_nothing_that_is_not_the_models(self, staff: Client) -> None:
        partner = PartnerFactory(name="Before", active=True)
        user = UserFactory()
        address = f"/host/affiliations/partner/{partner.pk}/deal/"
        form = _Form(staff.get(address).text).sent | {"users": str(user.pk), "agreed": "on"}
        assert staff.post(address, form).status_code == 302
        assert said(partner) == ["Changed Users and Agreed."]

    def test_is_not_said_of_a_form_of_the_hosts_that_is_not_ours(self, staff: Client) -> None:
        """An inline of the host's may hold anything."""
        from django import forms
        from django.contrib import admin

        class Plain(forms.ModelForm):
            class Meta:
                model = Partner
                fields = ("name",)

        form = Plain({"name": "After"}, instance=PartnerFactory(name="Before"))
        assert form.is_valid()
        its_admin: Any = admin.site._registry[Partner]
        message = its_admin.construct_change_message(None, form, None)
        assert message == [{"changed": {"fields": ["Name"]}}]

    def test_is_in_the_readers_language(self, staff: Client, settings: Any) -> None:
        partner = PartnerFactory(name="x", active=True)
        staff.post(url(partner), partner_form(name="x", active=""))
        settings.LANGUAGE_CODE = "da"
        text = shown(staff.get(url(partner, "history")))
        assert "Aktiv" in text
        assert "Ja" in text
        assert "Nej" in text

    def test_is_english_where_django_itself_reads_it(self, staff: Client, settings: Any) -> None:
        settings.LANGUAGE_CODE = "da"
        partner = PartnerFactory(name="x", active=True)
        staff.post(url(partner), partner_form(name="x", active=""))
        [change] = json.loads(LogEntry.objects.get().change_message)
        assert change["changed"]["fields"] == ["Active from Yes to No"]

    def test_of_a_long_url_is_whole_and_markup_is_text(self, staff: Client) -> None:
        subscription = SubscriptionFactory()
        long = f"https://partner.example/<b>/{'x' * 400}?v={{visitor_id}}&end"
        Subscription.objects.update(callback_url=long)
        subscription.refresh_from_db()
        staff.post(url(subscription), as_stored(subscription, method="GET", callback_url=URL))
        assert said(subscription) == [f"Changed Callback URL from {long} to {URL}."]
        assert "<b>" not in staff.get(url(subscription, "history")).text

    def test_costs_no_query_for_each_entry(self, staff: Client) -> None:
        partner = PartnerFactory(name="x", active=True)
        counts = []
        for number in range(6):
            staff.post(url(partner), partner_form(name=f"x{number}"))
            with CaptureQueriesContext(connection) as captured:
                assert staff.get(url(partner, "history")).status_code == 200
            counts.append(len(captured))
        assert counts[0] == counts[-1]

    def test_of_a_row_that_is_not_there_leads_home(self, staff: Client) -> None:
        missing = url(PartnerFactory(), "history").replace("/history/", "0000/history/")
        assert staff.get(missing).status_code == 302


def test_no_signing_secret_is_ever_in_the_history(staff: Client) -> None:
    partner = PartnerFactory(name="x")
    secrets = {partner.signing_secret}
    for form in ({"show": "x"}, {"replace": "x"}, {"show": "x"}, {"end": "x"}):
        staff.post(url(partner, "secret"), form)
        partner.refresh_from_db()
        secrets |= {partner.signing_secret}
    form = partner_form(name="y", signing_secret="mine", previous_signing_secret="mine")
    staff.post(url(partner), form)
    assert len(said(partner)) == 5
    assert "Viewed the signing secret." in shown(staff.get(url(partner, "history")))
    for entry in LogEntry.objects.all():
        for secret in secrets | {"mine"}:
            assert secret not in f"{entry.change_message} {entry.object_repr}"


# Names


def test_a_callback_is_named_by_its_partner_and_number(staff: Client) -> None:
    callback = CallbackFactory(url=PERSONAL)
    assert str(callback) == f"{callback.partner.name}: {callback.pk}"
    staff.post(url(callback, "cancel"), {"reason": "Twice."})
    [entry] = LogEntry.objects.all()
    assert entry.object_repr == str(callback)


def test_no_name_of_a_row_holds_what_an_erasure_erases() -> None:
    visitor = VisitorFactory(
        click_id="secret-1", entry_point="https://shop.example/secret-2",
        referrer="https://secret-3.example/", sub1="secret-4", user=UserFactory(email="secret@x.x"),
    )  # fmt: skip
    conversion = ConversionFactory(visitor=visitor, user=visitor.user, sub1="secret-4")
    callback = CallbackFactory(
        conversion=conversion, url="https://x.example/secret-5", body="secret"
    )
    attempt = callback.attempts.create(
        number=1, started_on=timezone.now(), duration_ms=1, message="secret",
        response_excerpt="secret",
    )  # fmt: skip
    for row in (visitor, conversion, callback, attempt):
        assert "secret" not in str(row)


# What older versions wrote


def logged(row: Any, name: str) -> LogEntry:
    return LogEntry.objects.create(
        user=UserFactory(),
        content_type=ContentType.objects.get_for_model(row),
        object_id=str(row.pk),
        object_repr=name,
        action_flag=CHANGE,
        change_message="Sent again.",
    )


class TestAnErasure:
    def test_covers_the_names_that_older_versions_wrote(self) -> None:
        user = UserFactory()
        visitor = VisitorFactory(user=user, click_id="4711")
        callback = CallbackFactory(conversion=ConversionFactory(visitor=visitor), url=PERSONAL)
        entries = [
            logged(callback, PERSONAL),
            logged(visitor, "/teas/?email=anna@example.com"),
            logged(visitor, "https://shop.example/?email=anna@example.com"),
            logged(visitor, "Steep Notes (/teas/anna/)"),
        ]
        privacy.blank(user)
        for entry in entries:
            entry.refresh_from_db()
            assert (entry.object_repr, entry.change_message) == (entry.object_id, "Sent again.")
        assert privacy.personal_data(user).rows == 0

    def test_covers_callbacks_and_visitors_that_have_been_purged(self) -> None:
        """Whose they were cannot be told any more."""
        callback, visitor = CallbackFactory(url=PERSONAL), VisitorFactory()
        entries = [logged(callback, PERSONAL), logged(visitor, "/teas/?click_id=4711")]
        callback.delete()
        visitor.delete()
        privacy.blank(UserFactory())
        for entry in entries:
            entry.refresh_from_db()
            assert entry.object_repr == entry.object_id

    def test_leaves_every_other_name(self, staff: Client) -> None:
        subscription = SubscriptionFactory(partner__name="Tea / Notes")
        callback = CallbackFactory(subscription=subscription)
        entries = {
            logged(callback, str(callback)): f"Tea / Notes: {callback.pk}",
            logged(callback.conversion, "Order placed: https://1"): "Order placed: https://1",
            logged(callback.partner, "https://a partner"): "https://a partner",
            logged(UserFactory(), "https://anna"): "https://anna",
        }
        privacy.blank(UserFactory())
        for entry, name in entries.items():
            entry.refresh_from_db()
            assert entry.object_repr == name

    @pytest.mark.parametrize(("count", "most"), [(0, 1), (1, 3), (7, 5)])
    def test_takes_a_query_or_two_for_each_batch(self, count: int, most: int) -> None:
        callback = CallbackFactory(url=PERSONAL)
        user, entry = UserFactory(), ContentType.objects.get_for_model(Callback)
        LogEntry.objects.bulk_create(
            LogEntry(user=user, content_type=entry, object_id=str(callback.pk), action_flag=CHANGE,
                     object_repr=PERSONAL)
            for _ in range(count)
        )  # fmt: skip
        with CaptureQueriesContext(connection) as captured:
            privacy._rename_in_history(batch=4)
        assert len(captured) <= most
        assert not LogEntry.objects.filter(object_repr=PERSONAL).exists()

    def test_needs_no_admin(self, monkeypatch: pytest.MonkeyPatch) -> None:
        user = UserFactory()
        callback = CallbackFactory(conversion=ConversionFactory(user=user), url=PERSONAL)
        installed = apps.is_installed
        monkeypatch.setattr(
            apps, "is_installed", lambda name: name != "django.contrib.admin" and installed(name)
        )
        entry = logged(callback, PERSONAL)
        with CaptureQueriesContext(connection) as captured:
            privacy.blank(user)
        assert not any("django_admin_log" in one["sql"] for one in captured)
        entry.refresh_from_db()
        assert entry.object_repr == PERSONAL
