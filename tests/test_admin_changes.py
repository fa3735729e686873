"""Pages that were opened before somebody else's change, and partners who were stopped for fraud."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest
from django import forms
from django.contrib import admin
from django.contrib.admin.sites import AdminSite
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import include, path
from django.utils import timezone

from affiliations import conversions
from affiliations.admin import changes
from affiliations.admin.partners import PartnerAdmin
from affiliations.conversions import decisions
from affiliations.models import Partner, Settlement, Subscription
from tests.factories import PartnerFactory, SubscriptionFactory, UserFactory
from tests.test_admin import shown, url
from tests.test_admin_partners import said
from tests.test_settlements import earned

User = get_user_model()

pytestmark = pytest.mark.django_db


class _Form(HTMLParser):
    """Collects what a browser sends of the form that changes a row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sent: dict[str, Any] = {}
        self._select = ""
        self._is_in_form = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        given = dict(attrs)
        name, value = given.get("name", ""), given.get("value") or ""
        if tag == "form":
            self._is_in_form = str(given.get("id", "")).endswith(("_form", "changelist-form"))
        elif not self._is_in_form:
            return
        elif tag == "select":
            self._select = name
        elif tag == "option" and "selected" in given:
            self.sent[self._select] = value
        elif tag == "input" and "__prefix__" not in name:
            is_ticked = given["type"] != "checkbox" or "checked" in given
            if given["type"] != "submit" and name and is_ticked:
                self.sent[name] = value or "on" if given["type"] == "checkbox" else value


def opened(client: Client, row: Any, query: str = "") -> dict[str, Any]:
    """Open the page of a row, and return what a browser sends if the user only saves it."""
    address = url(row, "deal") if isinstance(row, Partner) else url(row)
    page = client.get(address + query)
    sent = _Form(page.text).sent
    del sent["csrfmiddlewaretoken"]
    return sent


def without(form: dict[str, Any], *names: str) -> dict[str, Any]:
    """Clear checkboxes."""
    return {name: value for name, value in form.items() if name not in names}


def stop(partner: Partner) -> None:
    decisions.stop_for_fraud(Partner.objects.get(pk=partner.pk), reason="Own orders")


class TestAStalePage:
    def test_saved_as_it_is_writes_nothing(self, staff: Client) -> None:
        partner = PartnerFactory(name="Before", window=None)
        partner.users.add(UserFactory())
        SubscriptionFactory(partner=partner)
        form = opened(staff, partner)
        other = UserFactory()
        partner.users.add(other)
        Partner.objects.update(name="After", active=False)
        Subscription.objects.update(payout_type="fixed", payout_value=5, payout_currency="EUR")
        assert staff.post(url(partner), form).status_code == 302
        partner.refresh_from_db()
        assert (partner.name, partner.active) == ("After", False)
        assert other in partner.users.all()
        assert partner.subscriptions.get().payout_value == 5
        assert said(partner) == ["No fields changed."]

    def test_says_of_each_field_what_somebody_else_has_made_of_it(self, staff: Client) -> None:
        partner = PartnerFactory(name="Before", active=True)
        form = opened(staff, partner) | {"window": "30"}
        Partner.objects.update(name="After", active=False)
        page = staff.post(url(partner), form)
        text = shown(page)
        assert "Another user has changed “Name” to “After” since you opened this page." in text
        assert "Another user has changed “Active” to “No” since you opened this page." in text
        partner.refresh_from_db()
        assert (partner.name, partner.active, partner.window) == ("After", False, None)
        # The form shows the present values, and can be sent again.
        again = _Form(page.text).sent
        assert (again["name"], again["window"], "active" in again) == ("After", "30", False)
        assert staff.post(url(partner), again).status_code == 302
        partner.refresh_from_db()
        assert (partner.name, partner.active, partner.window.days) == ("After", False, 30)
        assert said(partner) == ["Changed Attribution window in days from - to 30."]

    def test_overwrites_what_somebody_else_wrote_only_if_sent_again(self, staff: Client) -> None:
        partner = PartnerFactory(name="Before")
        form = opened(staff, partner) | {"name": "Mine"}
        Partner.objects.update(name="Theirs")
        page = staff.post(url(partner), form)
        assert "Another user has changed “Name” to “Theirs”" in shown(page)
        assert staff.post(url(partner), _Form(page.text).sent).status_code == 302
        assert Partner.objects.get().name == "Mine"

    def test_is_no_conflict_where_both_wrote_the_same(self, staff: Client) -> None:
        partner = PartnerFactory(name="Before", active=True)
        form = without(opened(staff, partner), "active") | {"name": "Same"}
        Partner.objects.update(name="Same", active=False)
        assert staff.post(url(partner), form).status_code == 302
        assert said(partner) == ["No fields changed."]

    def test_does_not_put_two_changes_of_a_payout_together(self, staff: Client) -> None:
        """A fixed amount of 5 EUR becomes 10 EUR here and 5 % there, and never 10 %."""
        row = SubscriptionFactory(payout_type="fixed", payout_value=5, payout_currency="EUR")
        form = opened(staff, row) | {"payout_value": "10"}
        Subscription.objects.update(payout_type="percent", payout_currency="")
        page = staff.post(url(row), form)
        assert "Another user has changed “Payout” to “Percentage of the amount”" in shown(page)
        row.refresh_from_db()
        assert (row.payout_type, row.payout_value) == ("percent", 5)

    def test_of_a_payout_that_two_change_tells_the_second_the_first(self, staff: Client) -> None:
        row = SubscriptionFactory(payout_type="fixed", payout_value=5, payout_currency="EUR")
        first, second = opened(staff, row), opened(staff, row)
        assert staff.post(url(row), first | {"payout_value": "7.50"}).status_code == 302
        page = staff.post(url(row), second | {"payout_value": "6"})
        assert "Another user has changed “Payout value” to “7.5”" in shown(page)
        row.refresh_from_db()
        assert row.payout_value == 7.5

    def test_of_a_partner_guards_the_subscriptions_in_it(self, staff: Client) -> None:
        partner = PartnerFactory()
        row = SubscriptionFactory(partner=partner, payout_type="percent", payout_value=5)
        untouched = SubscriptionFactory(partner=partner, trigger="Signed up")
        form = opened(staff, partner)
        Subscription.objects.filter(pk=row.pk).update(payout_value=8)
        Subscription.objects.filter(pk=untouched.pk).update(active=False)
        number = next(n for n in "01" if form[f"subscriptions-{n}-id"] == str(row.pk))
        page = staff.post(url(partner), form | {f"subscriptions-{number}-payout_value": "3"})
        assert "Another user has changed “Payout value” to “8”" in shown(page)
        assert shown(page).count("Another user has changed") == 1
        again = _Form(page.text).sent
        assert staff.post(url(partner), again).status_code == 302
        row.refresh_from_db()
        untouched.refresh_from_db()
        assert (row.payout_value, untouched.active) == (3, False)

    def test_does_not_undo_what_somebody_else_did_to_the_users(self, staff: Client) -> None:
        partner = PartnerFactory()
        form = opened(staff, partner)
        own, other = UserFactory(**{User.USERNAME_FIELD: "anna"}), UserFactory()
        partner.users.add(own)
        page = staff.post(url(partner), form | {"users": str(other.pk)})
        assert "Another user has changed “Users” to “anna”" in shown(page)
        assert list(partner.users.all()) == [own]
        # The page after that still says what the user typed, and does not lose it.
        assert staff.post(url(partner), _Form(page.text).sent).status_code == 302
        assert list(partner.users.all()) == [other]

    def test_in_a_popup_is_guarded_too(self, staff: Client) -> None:
        partner = PartnerFactory(name="Before")
        form = opened(staff, partner, "?_popup=1")
        Partner.objects.update(active=False)
        page = staff.post(url(partner) + "?_popup=1", form | {"name": "Mine"})
        assert "Another user has changed “Active” to “No”" in shown(page)

    def test_is_locked_as_it_was_read_and_costs_little_more(self, staff: Client) -> None:
        partner = PartnerFactory(name="Before")
        partner.users.add(UserFactory())
        form = opened(staff, partner) | {"name": "After"}
        with CaptureQueriesContext(connection) as queries:
            assert staff.post(url(partner), form).status_code == 302
        # The session, the user, the partner, three times the users (as stored, as shown, as typed),
        # the lock, the change, the users to write, the subscriptions, the codes, the log;
        # five savepoints.
        assert len(queries) == 18
        updates = [query["sql"] for query in queries if query["sql"].startswith("UPDATE")]
        assert len(updates) == 2
        assert "WHERE" in updates[0]
        assert "stopped_on" in updates[0]

    def test_that_a_script_sends_without_what_it_saw_is_taken_as_it_is(self, staff: Client) -> None:
        partner = PartnerFactory(name="Before", active=True)
        counts = ("subscriptions-TOTAL_FORMS", "subscriptions-INITIAL_FORMS",
                  "codes-TOTAL_FORMS", "codes-INITIAL_FORMS")  # fmt: skip
        form = {"name": "After", **dict.fromkeys(counts, 0)}
        assert staff.post(url(partner), form).status_code == 302
        partner.refresh_from_db()
        assert (partner.name, partner.active) == ("After", False)

    @pytest.mark.parametrize("column", ["name", "stopped_on"])
    def test_is_refused_where_somebody_saves_at_the_same_moment(
        self, column: str, staff: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        partner = PartnerFactory(name="Before", active=False)
        form = opened(staff, partner) | {"active": "on"}
        is_valid = forms.ModelForm.is_valid

        def beside(self: Any) -> bool:
            value = "Theirs" if column == "name" else timezone.now()
            Partner.objects.update(**{column: value})
            return is_valid(self)

        monkeypatch.setattr(forms.ModelForm, "is_valid", beside)
        page = staff.post(url(partner), form, follow=True)
        assert "Nothing was saved, because another user made a change at the same" in shown(page)
        assert not Partner.objects.get().active

    def test_is_refused_where_the_users_change_at_the_same_moment(
        self, staff: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        partner, other = PartnerFactory(), UserFactory()
        form = opened(staff, partner) | {"users": str(other.pk)}
        own = UserFactory()
        is_valid = forms.ModelForm.is_valid

        def beside(self: Any) -> bool:
            partner.users.add(own)
            return is_valid(self)

        monkeypatch.setattr(forms.ModelForm, "is_valid", beside)
        page = staff.post(url(partner), form, follow=True)
        assert "Nothing was saved" in shown(page)
        assert other not in partner.users.all()


class HostForm(forms.ModelForm):
    agreed = forms.BooleanField(required=False)

    class Meta:
        labels = {"name": "Company"}


class HostAdmin(PartnerAdmin):
    """A host's own Admin of partners, which is written as Django's documentation says."""

    form = HostForm
    list_editable = ["active"]
    save_as = True

    def save_model(self, request: Any, obj: Partner, form: Any, change: bool) -> None:
        obj.name = obj.name.title()
        super().save_model(request, obj, form, change)


site = AdminSite("host")
site.register(Partner, HostAdmin)
urlpatterns = [path("host/", site.urls), path("admin/", admin.site.urls),
               path("affiliations/", include("affiliations.urls"))]  # fmt: skip


@pytest.mark.urls("tests.test_admin_changes")
class TestAHostsOwnAdmin:
    def page(self, partner: Partner) -> str:
        return f"/host/affiliations/partner/{partner.pk}/deal/"

    def opened(self, client: Client, partner: Partner) -> dict[str, Any]:
        return _Form(client.get(self.page(partner)).text).sent

    def test_keeps_its_fields_and_what_it_changes_on_saving(self, staff: Client) -> None:
        partner = PartnerFactory(name="before")
        form = self.opened(staff, partner)
        assert "Company" in shown(staff.get(self.page(partner)))
        assert staff.post(self.page(partner), form | {"window": "9 00:00:00"}).status_code == 302
        partner.refresh_from_db()
        assert (partner.name, partner.window.days) == ("Before", 9)

    def test_is_guarded_against_stale_pages(self, staff: Client) -> None:
        partner = PartnerFactory(name="Before", active=True)
        form = self.opened(staff, partner) | {"name": "Mine"}
        Partner.objects.update(active=False)
        assert "Another user has changed “Active”" in shown(staff.post(self.page(partner), form))
        assert not Partner.objects.get().active

    def test_with_an_editable_column_reactivates_nobody(self, staff: Client) -> None:
        partner = PartnerFactory(active=True)
        address = "/host/affiliations/partner/"
        form = _Form(staff.get(address).text).sent | {"_save": "Save"}
        assert form["form-0-active"] == "on"
        stop(partner)
        assert staff.post(address, form).status_code == 302
        assert not Partner.objects.get().active
        form = _Form(staff.get(address).text).sent | {"_save": "Save", "form-0-active": "on"}
        assert "This partner was stopped for fraud." in shown(staff.post(address, form))
        assert not Partner.objects.get().active

    def test_saves_a_copy_whole(self, staff: Client) -> None:
        partner = PartnerFactory(name="Before", active=True)
        partner.users.add(UserFactory())
        SubscriptionFactory(partner=partner, payout_type="percent", payout_value=5)
        form = self.opened(staff, partner) | {"_saveasnew": "Save as new", "name": "Copy"}
        Partner.objects.update(active=False)
        assert staff.post(self.page(partner), form).status_code == 302
        copy = Partner.objects.get(name="Copy")
        assert (copy.active, copy.users.count()) == (True, 1)
        assert copy.subscriptions.get().payout_value == 5


class TestAStoppedPartner:
    @pytest.fixture
    def stopped(self, partner: Partner) -> Partner:
        user = UserFactory(**{User.USERNAME_FIELD: "anna"})
        decisions.stop_for_fraud(partner, reason="Own orders", by=user)
        return partner

    def test_has_a_banner_that_says_who_when_and_why(self, stopped: Any, staff: Client) -> None:
        day = timezone.localdate().strftime("%m/%d/%Y")
        text = shown(staff.get(url(stopped)))
        assert f"Stopped for fraud on {day}" in text
        assert "by anna: Own orders" in text
        assert "stopped for fraud" in shown(staff.get(url(Partner)))

    def test_has_none_where_nobody_stopped_them(self, partner: Partner, staff: Client) -> None:
        assert "Stopped for fraud" not in shown(staff.get(url(partner)))
        assert url(partner, "reactivate") not in staff.get(url(partner)).text
        assert "This partner is not stopped." in shown(staff.get(url(partner, "reactivate")))

    def test_keeps_who_stopped_them_when_the_account_is_deleted(self, stopped: Any) -> None:
        stopped.stopped_by.delete()
        stopped.refresh_from_db()
        assert "by anna: Own orders" in stopped.stopped_display

    def test_stopped_by_a_program_has_a_banner_without_a_name(self, partner: Partner) -> None:
        stop(partner)
        partner.refresh_from_db()
        assert partner.stopped_display.endswith(": Own orders")
        assert " by " not in partner.stopped_display

    def test_is_not_made_active_by_the_form(self, stopped: Any, staff: Client) -> None:
        form = opened(staff, stopped)
        assert "active" not in form
        staff.post(url(stopped), form | {"active": "on", "name": "Renamed"})
        stopped.refresh_from_db()
        assert (stopped.active, stopped.name) == (False, "Renamed")

    def test_is_not_made_active_by_a_page_from_before(self, partner: Any, staff: Client) -> None:
        form = opened(staff, partner)
        stop(partner)
        assert staff.post(url(partner), form | {"name": "Renamed"}).status_code == 302
        partner.refresh_from_db()
        assert (partner.active, partner.name) == (False, "Renamed")

    def test_is_left_out_of_settling(self, staff: Client) -> None:
        held, paid = earned(), earned()
        stop(held.partner)
        held.partner.refresh_from_db()
        now = timezone.now()
        assert {key for key, _currency in conversions.balances(now)} == {paid.partner_id}
        currency = held.payout_currency
        assert conversions.settle(held.partner, currency, now) is None
        add = url(Settlement, "add")
        text = shown(staff.get(add, {"until": ""}))
        assert "Held back These partners were stopped for fraud." in text
        asked = {"partner": held.partner_id, "currency": currency, "until": ""}
        page = staff.get(add, asked)
        assert "no statement is created" in shown(page)
        assert 'name="earned"' not in page.text
        assert "Held back 10.00" in shown(page)
        assert not Settlement.objects.exists()

    def test_is_reactivated_by_an_action_that_asks_why(self, stopped: Any, staff: Client) -> None:
        page = staff.get(url(stopped, "reactivate"))
        assert "Rejected conversions stay rejected" in shown(page)
        sent = {"stopped_on": stopped.stopped_on.isoformat()}
        assert "This field is required." in shown(staff.post(url(stopped, "reactivate"), sent))
        staff.post(url(stopped, "reactivate"), sent | {"reason": "A mistake."})
        stopped.refresh_from_db()
        assert (stopped.active, stopped.stopped_on, stopped.stopped_reason) == (True, None, "")
        assert said(stopped)[0].startswith("Reactivated: A mistake. (Stopped for fraud on ")

    def test_is_not_reactivated_from_a_page_that_showed_another_stop(
        self, stopped: Any, staff: Client
    ) -> None:
        sent = {"stopped_on": stopped.stopped_on.isoformat(), "reason": "A mistake."}
        stopped.reactivate()
        stop(stopped)
        page = staff.post(url(stopped, "reactivate"), sent, follow=True)
        assert "The partner was not reactivated" in shown(page)
        assert not Partner.objects.get().active

    def test_is_settled_with_after_that(self) -> None:
        held = earned()
        stop(held.partner)
        held.partner.refresh_from_db()
        assert held.partner.reactivate()
        assert not held.partner.reactivate()
        assert conversions.settle(held.partner, held.payout_currency, timezone.now()) is not None


@pytest.mark.urls("tests.test_admin_changes")
def test_a_list_whose_row_has_changed_meanwhile_is_opened_again(
    staff: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def outdated(*args: Any, **kwargs: Any) -> None:
        raise changes.Outdated

    monkeypatch.setattr(admin.ModelAdmin, "changelist_view", outdated)
    page = staff.get("/host/affiliations/partner/")
    assert page.status_code == 302
