"""Payout, approval and activity of several subscriptions at once."""

from __future__ import annotations

import re
from decimal import Decimal
from html import unescape
from typing import Any

import pytest
from django.test import Client

from affiliations.admin import bulk_edit
from affiliations.models import Conversion, Subscription
from tests.factories import ConversionFactory, SubscriptionFactory
from tests.test_admin import allowed, shown, url
from tests.test_admin_partners import said

pytestmark = pytest.mark.django_db

LIST = "/admin/affiliations/subscription/"


def ask(client: Client, *rows: Subscription, path: str = LIST, **data: Any) -> Any:
    keys = [row.pk for row in rows]
    return client.post(
        path, {"action": "edit_selected", "_selected_action": keys} | data, follow=True
    )


def preview(client: Client, *rows: Subscription, **chosen: Any) -> Any:
    return ask(client, *rows, confirmed="Show changes", **chosen)


def confirm(client: Client, page: Any, *rows: Subscription, path: str = LIST) -> Any:
    """Send the form of a preview."""
    hidden = re.findall(r'<input type="hidden" name="(\w+)"(?: value="([^"]*)")?', page.text)
    data = {name: unescape(value) for name, value in hidden if name != "_selected_action"}
    assert "shown" in data
    return ask(client, *rows, path=path, **data)


@pytest.fixture
def rows() -> list[Subscription]:
    return SubscriptionFactory.create_batch(2)


def test_the_action_asks_and_changes_nothing(staff: Client, rows: list[Subscription]) -> None:
    page = ask(staff, *rows)
    text = shown(page)
    assert "You selected 2 subscriptions." in text
    assert "Existing conversions keep their payout" in text
    assert page.text.count("Leave as it is") == 4
    assert not page.context["form"].is_bound


def test_nothing_chosen_changes_nothing(staff: Client, rows: list[Subscription]) -> None:
    assert "Choose at least one change." in shown(preview(staff, *rows))


def test_an_invalid_value_is_asked_for_again(staff: Client, rows: list[Subscription]) -> None:
    page = preview(staff, *rows, payout_value="x")
    assert "Enter a number." in shown(page)
    assert "Choose at least one change." not in shown(page)


def test_the_changes_are_shown_row_by_row_and_then_made(
    staff: Client, rows: list[Subscription]
) -> None:
    first, second = rows
    other = SubscriptionFactory()
    chosen = {"payout_type": "fixed", "payout_value": "2.50", "payout_currency": "eur"}
    page = preview(staff, first, second, **chosen, approve_after="14", active="False")
    changes = {one.row: one.values for one in page.context["changed"]}
    expected = [
        ("Payout", "No commission", "2.50\xa0EUR"),
        ("Hold period (days)", "-", "14"),
        ("Active", "Yes", "No"),
    ]
    assert changes == {first: expected, second: expected}
    assert not Subscription.objects.exclude(payout_type="none").exists()

    answer = confirm(staff, page, first, second)

    assert "Changed 2 subscriptions." in shown(answer)
    for row in rows:
        row.refresh_from_db()
        assert (row.payout_type, row.payout_value) == ("fixed", Decimal("2.5"))
        assert (row.payout_currency, row.approve_after, row.active) == ("EUR", 14, False)
    (message,) = said(first)
    assert "Payout from No commission to Fixed amount" in message
    other.refresh_from_db()
    assert (other.payout_type, other.active) == ("none", True)
    assert said(other) == []


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"payout_type": "none"}, ("none", None, "", "automatic", 7)),
        (
            {"payout_type": "percent", "payout_value": "5"},
            ("percent", Decimal(5), "", "automatic", 7),
        ),
        ({"payout_value": "3"}, ("fixed", Decimal(3), "EUR", "automatic", 7)),
        ({"payout_currency": "DKK"}, ("fixed", Decimal(2), "DKK", "automatic", 7)),
        ({"approval": "manual"}, ("fixed", Decimal(2), "EUR", "manual", None)),
        ({"approve_after": "0"}, ("fixed", Decimal(2), "EUR", "automatic", None)),
    ],
)
def test_a_choice_clears_what_it_excludes_and_leaves_the_rest(
    staff: Client, chosen: dict[str, str], expected: tuple[Any, ...]
) -> None:
    row = SubscriptionFactory(
        payout_type="fixed", payout_value=2, payout_currency="EUR", approve_after=7
    )
    confirm(staff, preview(staff, row, **chosen), row)
    row.refresh_from_db()
    assert (
        row.payout_type,
        row.payout_value,
        row.payout_currency,
        row.approval,
        row.approve_after,
    ) == expected


def test_rows_that_the_values_do_not_fit_are_named_and_stay(staff: Client) -> None:
    fixed = SubscriptionFactory(payout_type="fixed", payout_value=2, payout_currency="EUR")
    nothing = SubscriptionFactory()
    same = SubscriptionFactory(payout_type="percent", payout_value=3)
    rejecting = SubscriptionFactory(payout_type="percent", payout_value=5)
    Subscription.objects.filter(pk=rejecting.pk).update(
        call_on_conversion=False, call_on_rejection=True
    )
    rows = (fixed, nothing, same, rejecting)
    page = preview(staff, *rows, payout_value="3")
    assert [one.row for one in page.context["changed"]] == [fixed]
    text = shown(page)
    assert "Choose a fixed amount or a percentage, or leave the payout value empty." in text
    assert "A rejection is only sent after an earlier callback." in text
    assert "1 subscription has these values already" in text
    assert "Changed 1 subscription." in shown(confirm(staff, page, *rows))
    values = dict(Subscription.objects.values_list("pk", "payout_value"))
    assert values == {fixed.pk: 3, nothing.pk: None, same.pk: 3, rejecting.pk: 5}


def test_a_preview_without_a_change_cannot_be_confirmed(staff: Client) -> None:
    row = SubscriptionFactory(active=True)
    assert 'name="shown"' not in preview(staff, row, active="True").text


def test_a_row_that_another_user_has_changed_meanwhile_stays(
    staff: Client, rows: list[Subscription]
) -> None:
    first, second = rows
    page = preview(staff, first, second, payout_type="percent", payout_value="5")
    Subscription.objects.filter(pk=first.pk).update(approval="manual")
    answer = confirm(staff, page, first, second)
    assert "Changed 1 subscription." in shown(answer)
    assert f"in the meantime: {first.partner}, {first}." in shown(answer)
    first.refresh_from_db()
    second.refresh_from_db()
    assert (first.payout_type, second.payout_type) == ("none", "percent")


def test_a_row_that_changes_at_the_same_moment_stays(
    staff: Client, rows: list[Subscription], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = preview(staff, rows[0], active="False")
    is_valid = bulk_edit.RowForm.is_valid

    def late(form: bulk_edit.RowForm) -> bool:
        Subscription.objects.update(approve_after=3)
        return is_valid(form)

    monkeypatch.setattr(bulk_edit.RowForm, "is_valid", late)
    assert "Changed 0 subscriptions." in shown(confirm(staff, page, rows[0]))
    assert Subscription.objects.filter(active=True).count() == 2


def test_a_stored_url_that_would_be_refused_today_does_not_matter(staff: Client) -> None:
    row = SubscriptionFactory()
    Subscription.objects.update(callback_url="https://partner.example/?c={clickid}")
    page = preview(staff, row, active="False")
    assert "Changed 1 subscription." in shown(confirm(staff, page, row))


def test_the_same_form_changes_once(staff: Client, rows: list[Subscription]) -> None:
    page = preview(staff, *rows, active="False")
    confirm(staff, page, *rows)
    Subscription.objects.update(active=True)
    assert "This form was already sent." in shown(confirm(staff, page, *rows))
    assert Subscription.objects.filter(active=True).count() == 2


def test_only_rows_that_were_shown_are_changed(staff: Client, rows: list[Subscription]) -> None:
    first, second = rows
    page = preview(staff, first, active="False")
    confirm(staff, page, first, second)
    assert list(Subscription.objects.filter(active=False)) == [first]


def test_a_payout_is_shown_with_its_unit(staff: Client) -> None:
    rows = [
        SubscriptionFactory(payout_type="fixed", payout_value=2, payout_currency="JPY"),
        SubscriptionFactory(payout_type="percent", payout_value=Decimal("2.5")),
    ]
    changed = preview(staff, *rows, payout_value="7").context["changed"]
    assert [one.values for one in changed] == [
        [("Payout", "2\xa0JPY", "7\xa0JPY")],
        [("Payout", "2.5\xa0%", "7\xa0%")],
    ]


def test_what_is_hardly_intended_is_said_before_it_is_done(staff: Client) -> None:
    first = SubscriptionFactory(callback_url="https://partner.example/?c={click_id}")
    doubtful = SubscriptionFactory(approval="manual", call_on_approval=False)
    Subscription.objects.filter(pk=doubtful.pk).update(callback_url="http://10.0.0.1/{click_id}")
    rows = (first, doubtful)
    page = preview(staff, *rows, payout_type="fixed", payout_value="2", payout_currency="EUR")
    assert [one.warnings for one in page.context["changed"]] == [[], []]
    assert "Check this" not in shown(page)
    page = preview(staff, *rows, payout_type="percent", payout_value="5", approval="manual")
    [ours, other] = [one.warnings for one in page.context["changed"]]
    percentage = "The payout is a percentage, but the settings name no amount"
    assert [text.startswith(percentage) for text in other] == [True]
    assert [text.startswith(percentage) for text in ours] == [True, False]
    assert "but no callback is sent then" in ours[1]
    for row in rows:
        assert f"{row.partner}, {row.trigger}: {percentage}" in shown(page)
    assert "Changed 2 subscriptions." in shown(confirm(staff, page, *rows))


def test_a_row_that_has_left_the_filtered_list_meanwhile_is_named(
    staff: Client, rows: list[Subscription]
) -> None:
    first, second = rows
    chosen = {"payout_type": "percent", "payout_value": "5"}
    page = preview(staff, first, second, **chosen)
    Subscription.objects.filter(pk=first.pk).update(active=False)
    answer = confirm(staff, page, first, second, path=f"{LIST}?active__exact=1")
    assert "Changed 1 subscription." in shown(answer)
    assert f"in the meantime: {first.partner}, {first}." in shown(answer)
    first.refresh_from_db()
    assert first.payout_type == "none"


@pytest.mark.parametrize(
    "values", ["", "x", "[]", '{"1": 1}', "null", '{"1": {}}', "[" * 100_000, ":" * 9, "é:\0"]
)
def test_a_broken_page_changes_nothing(
    staff: Client, rows: list[Subscription], values: str
) -> None:
    answer = preview(staff, *rows, active="False", shown=values)
    assert "Changed 0 subscriptions." in shown(answer)
    assert not Subscription.objects.filter(active=False).exists()


def test_back_shows_the_form_with_what_was_chosen(staff: Client, rows: list[Subscription]) -> None:
    page = preview(staff, *rows, active="False", back="yes")
    assert page.context["form"]["active"].value() == "False"
    assert 'name="shown"' not in page.text


def test_past_conversions_keep_their_payout(staff: Client) -> None:
    conversion = ConversionFactory()
    row = conversion.subscription
    before = Conversion.objects.values().get()
    page = preview(staff, row, payout_type="percent", payout_value="50", approval="manual")
    confirm(staff, page, row)
    assert Conversion.objects.values().get() == before


def test_it_takes_the_permission_to_change(rows: list[Subscription]) -> None:
    viewer = allowed("view_subscription")
    page = viewer.get(LIST)
    assert "edit_selected" not in page.text
    preview(viewer, *rows, active="False", shown="{}")
    assert not Subscription.objects.filter(active=False).exists()
    changer = allowed("view_subscription", "change_subscription")
    page = preview(changer, *rows, active="False")
    assert "Changed 2 subscriptions." in shown(confirm(changer, page, *rows))


def test_too_many_rows_are_refused(
    staff: Client, rows: list[Subscription], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_edit, "AT_ONCE", 1)
    assert "Select at most 1 subscriptions at once." in shown(ask(staff, *rows))
    assert "You selected 1 subscription." in shown(ask(staff, rows[0]))


def test_the_number_of_queries_does_not_depend_on_the_rows(
    staff: Client, django_assert_max_num_queries: Any
) -> None:
    rows = SubscriptionFactory.create_batch(20)
    for chosen in (rows[:2], rows):
        with django_assert_max_num_queries(8):
            ask(staff, *chosen)
        with django_assert_max_num_queries(8):
            preview(staff, *chosen, payout_type="percent", payout_value="5")


def test_a_page_of_a_row_is_not_a_part_of_it(staff: Client) -> None:
    row = SubscriptionFactory()
    assert "Edit selected subscriptions" not in staff.get(url(row)).text
