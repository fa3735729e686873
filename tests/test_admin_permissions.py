"""Who may only look changes nothing, by no button, no action and no address."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.test import Client
from django.utils import timezone

from affiliations.admin.pages import ObjectViewsMixin
from affiliations.conversions import adjustments, settlements
from affiliations.exceptions import Reason
from affiliations.models import (
    Adjustment,
    Callback,
    CallbackAttempt,
    Conversion,
    Partner,
    Settlement,
    Subscription,
    UncreditedTrigger,
    Visitor,
)
from tests.factories import (
    CallbackFactory,
    ConversionFactory,
    SubscriptionFactory,
    UserFactory,
    VisitorFactory,
)
from tests.test_admin import allowed, some_of_everything, url

pytestmark = pytest.mark.django_db

ROW_PAGES = [
    (model, name)
    for model, its_admin in admin.site._registry.items()
    if model._meta.app_label == "affiliations" and isinstance(its_admin, ObjectViewsMixin)
    for name in its_admin.object_views
    if getattr(its_admin, name).permission != "view"
]
ACTIONS = [
    (model, action)
    for model in (Conversion, Callback)
    for action in admin.site._registry[model].actions
]
#: Everything that any page could want to be posted.
FORM = {
    "reason": "x",
    "page": "/",
    "click_id": "x",
    "show": "x",
    "replace": "x",
    "trigger": "Order placed",
    "reference": "x",
    "confirmed": "yes",
}


def everything() -> dict[str, list[Any]]:
    """Return all rows there are of ours, and what was written down of them."""
    rows = {
        model._meta.label: list(model._default_manager.order_by("pk").values())
        for model in apps.get_app_config("affiliations").get_models()
    }
    return rows | {"log": list(LogEntry.objects.values())}


def looking() -> Client:
    """Log in somebody who may look at everything of ours."""
    models = apps.get_app_config("affiliations").get_models()
    return allowed(*(f"view_{model._meta.model_name}" for model in models))


def test_there_are_pages_and_actions_to_test() -> None:
    assert len(ROW_PAGES) >= 12
    assert len(ACTIONS) >= 5


@pytest.mark.parametrize(("model", "name"), ROW_PAGES)
def test_who_may_only_look_gets_to_no_page_that_does_something(model: Any, name: str) -> None:
    some_of_everything()
    row = model.objects.get()
    client = looking()
    assert url(row, name) not in client.get(url(row)).text
    before = everything()
    assert client.get(url(row, name)).status_code == 403
    assert client.post(url(row, name), FORM).status_code == 403
    assert client.head(url(row, name)).status_code == 403
    assert everything() == before


@pytest.mark.parametrize(("model", "name"), ROW_PAGES)
def test_who_may_do_it_needs_to_be_allowed_to_look_too(model: Any, name: str) -> None:
    some_of_everything()
    row = model.objects.get()
    others = [m for m in (Partner, Subscription, Visitor, Conversion, Callback) if m is not model]
    client = allowed(
        *(f"{verb}_{m._meta.model_name}" for m in others for verb in ("add", "change"))
    )
    before = everything()
    assert client.post(url(row, name), FORM).status_code == 403
    assert everything() == before


@pytest.mark.parametrize(("model", "name"), ROW_PAGES)
def test_a_page_of_a_row_that_is_not_there_leads_home(model: Any, name: str, staff: Client) -> None:
    some_of_everything()
    row = model.objects.get()
    for key in ("0", "abc", "9" * 30):
        missing = url(row, name).replace(f"/{row.pk}/", f"/{key}/")
        assert staff.get(missing).status_code == 302
        assert staff.post(missing, FORM).status_code == 302
        assert looking().get(missing).status_code == 403


@pytest.mark.parametrize(("model", "name"), ROW_PAGES)
def test_a_page_that_does_something_wants_its_token(model: Any, name: str) -> None:
    some_of_everything()
    row = model.objects.get()
    client = Client(enforce_csrf_checks=True)
    client.force_login(UserFactory(is_staff=True, is_superuser=True))
    before = everything()
    assert client.post(url(row, name), FORM).status_code == 403
    assert everything() == before


@pytest.mark.parametrize(("model", "name"), ROW_PAGES)
def test_looking_at_a_page_changes_nothing(model: Any, name: str, staff: Client) -> None:
    some_of_everything()
    row = model.objects.get()
    before = everything()
    assert staff.get(url(row, name), FORM).status_code in (200, 302)
    assert everything() == before


@pytest.mark.parametrize(("model", "action"), ACTIONS)
def test_who_may_only_look_runs_no_action(model: Any, action: str) -> None:
    some_of_everything()
    row = model.objects.get()
    client = looking()
    assert action not in client.get(url(model)).text
    before = everything()
    form = FORM | {"action": action, "_selected_action": row.pk}
    for step in ({}, {"index": "0"}, {"select_across": "1", "index": "0"}):
        client.post(url(model), form | step)
        assert everything() == before


def test_who_may_only_look_switches_nobody_off_in_the_list() -> None:
    some_of_everything()
    partner = Partner.objects.get()
    before = everything()
    form = {"form-TOTAL_FORMS": 1, "form-INITIAL_FORMS": 1, "form-0-id": partner.pk, "_save": "1"}
    looking().post(url(Partner), form)
    assert everything() == before


@pytest.mark.parametrize("model", [Visitor, Conversion, Callback])
def test_a_csv_file_is_for_who_may_look(model: Any) -> None:
    some_of_everything()
    name = model._meta.model_name
    assert allowed(f"view_{name}").get(url(model, "csv")).status_code == 200
    assert allowed("view_partner").get(url(model, "csv")).status_code == 403
    assert Client().get(url(model, "csv")).status_code == 302


def test_the_link_is_written_for_who_may_look() -> None:
    some_of_everything()
    link = url(Partner.objects.get(), "link")
    assert allowed("view_partner").get(link).status_code == 200
    assert allowed("view_visitor").get(link).status_code == 403


def test_who_may_change_conversions_decides_and_still_changes_no_fact() -> None:
    some_of_everything()
    conversion = Conversion.objects.get()
    client = allowed("change_conversion")
    assert client.post(url(conversion), {"amount": "1"}).status_code == 403
    assert client.post(url(conversion, "reject"), {"reason": "x"}).status_code == 302
    conversion.refresh_from_db()
    assert conversion.status == "rejected"


def test_who_may_change_partners_but_not_conversions_does_not_stop_one() -> None:
    subscription = SubscriptionFactory()
    stop = url(subscription.partner, "stop_for_fraud")
    client = allowed("change_partner")
    assert stop not in client.get(url(subscription.partner)).text
    assert client.post(stop, FORM).status_code == 403
    client = allowed("change_partner", "change_conversion")
    assert stop in client.get(url(subscription.partner)).text


def test_who_may_look_at_callbacks_sees_the_attempts() -> None:
    some_of_everything()
    page = allowed("view_callback").get(url(Callback.objects.get()))
    assert "returned an error" in page.text


def links(page: Any) -> set[str]:
    """Return where a page leads to, of ours."""
    paths = re.findall(r'href="(/admin/affiliations/[^"?#]*)', page.text)
    return {path for path in paths if not path.endswith(("/history/", "/delete/"))}


def some_of_all_pages() -> dict[Any, Any]:
    """Make a row of everything, which refer to each other as far as they can; by its model."""
    some_of_everything()
    callback = Callback.objects.get()
    conversion = callback.conversion
    assert conversion is not None
    visitor, partner, subscription = conversion.visitor, conversion.partner, callback.subscription
    now = timezone.now()
    Subscription.objects.update(callbacks_suspended_on=now, failing_since=now)
    Visitor.objects.update(previous=VisitorFactory(partner=partner, is_test=True))
    ConversionFactory(
        visitor=visitor, subscription=subscription, dedupe_key="other", reference="other-order"
    )
    UncreditedTrigger.objects.add(visitor, "x", Reason.NO_REFERENCE, "R-5", now)
    Conversion.objects.update(payout=10, payout_currency="EUR", decided_on=now)
    settlement = settlements.settle(partner, "EUR", now + timedelta(days=1))
    conversion.refresh_from_db()
    adjustment = adjustments.adjust(conversion, payout=Decimal(-3), reason="A part")
    CallbackAttempt.objects.update(response_excerpt="the answer", message="the message")
    rows = [partner, subscription, visitor, conversion, callback, callback.attempts.get(),
            settlement, adjustment]  # fmt: skip
    return {type(row): row for row in rows}


MODELS = [Partner, Subscription, Visitor, Conversion, Callback, CallbackAttempt, Settlement,
          Adjustment]  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
def test_who_may_look_at_one_thing_is_led_to_nothing_else(model: Any) -> None:
    row = some_of_all_pages()[model]
    name = model._meta.model_name
    client = allowed(*(f"{verb}_{name}" for verb in ("view", "change", "add")))
    pages = [url(row), url(model)]
    its_admin: Any = admin.site._registry[model]
    pages += [
        url(row, page) for page in getattr(its_admin, "object_views", ()) if page != "download"
    ]
    for page in pages:
        answer = client.get(page)
        if answer.status_code == 200:
            for path in links(answer):
                assert client.get(path, follow=True).status_code == 200, (page, path)


def test_callbacks_and_what_partners_answered_are_for_who_may_look_at_them() -> None:
    rows = some_of_all_pages()
    heard = [rows[Callback].url, "the answer", "the message", "Latest callbacks"]
    for model in (Partner, Subscription, Visitor, Conversion):
        name = f"view_{model._meta.model_name}"
        page = allowed(name).get(url(rows[model]))
        for text in [*heard, "Attempt 1 of callback", 'id="aff-callbacks"']:
            assert text not in page.text, (model, text)
        assert ("clicked a link of" in page.text) is (model in (Visitor, Conversion))
        page = allowed(name, "view_callback").get(url(rows[model]))
        assert any(text in page.text for text in heard)


def test_conversions_are_on_a_visitors_page_for_who_may_look_at_them() -> None:
    visitor = some_of_all_pages()[Visitor]
    assert "aff-conversions" not in allowed("view_visitor").get(url(visitor)).text
    assert "other-order" in allowed("view_visitor", "view_conversion").get(url(visitor)).text


def test_who_may_credit_and_not_look_at_conversions_stays_where_they_were() -> None:
    visitor = VisitorFactory()
    SubscriptionFactory(partner=visitor.partner)
    client = allowed("view_visitor", "add_conversion")
    answer = client.post(url(visitor, "credit"), {"trigger": "Order placed", "reason": "Lost."})
    assert answer["Location"] == url(visitor)
    assert Conversion.objects.count() == 1


def test_the_permissions_are_djangos_own() -> None:
    """So that what somebody was allowed in 0.12 goes on being allowed."""
    CallbackFactory()
    ours = Permission.objects.filter(content_type__app_label="affiliations")
    verbs = {permission.codename.split("_")[0] for permission in ours}
    assert verbs >= {"add", "change", "delete", "view"}
