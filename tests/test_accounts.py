"""Who bought, decided, credited, settled and stopped, also when the account is deleted."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from affiliations import timeline
from affiliations.conversions import adjustments, decisions
from affiliations.models import Adjustment, Conversion, FailedTrigger, Partner, Settlement, Visitor
from affiliations.models.accounts import account_name, user_display
from tests.arrivals import referred
from tests.factories import ConversionFactory, UserFactory
from tests.test_admin import shown
from tests.test_settlements import earned, settle

pytestmark = pytest.mark.django_db

User = get_user_model()


@pytest.fixture
def colleague() -> Any:
    return UserFactory(**{User.USERNAME_FIELD: "mette@shop.example"})


@pytest.fixture
def visitor() -> Visitor:
    return referred("Order placed", approval="manual")


def page(staff: Client, row: Any, name: str = "change") -> str:
    address = reverse(f"admin:affiliations_{row._meta.model_name}_{name}", args=[row.pk])
    return shown(staff.get(address))


def test_a_statement_and_an_adjustment_name_a_deleted_account(
    staff: Client, colleague: Any
) -> None:
    conversion = earned("10")
    adjustments.adjust(conversion, payout=Decimal(-1), reason="Discount", by=colleague)
    settlement = settle(conversion.partner, by=colleague)
    assert colleague.delete()
    [adjustment] = Adjustment.objects.all()
    assert "mette@shop.example" in page(staff, settlement)
    assert "mette@shop.example" in page(staff, settlement, "statement")
    assert "mette@shop.example" in page(staff, adjustment)
    for row in (settlement, adjustment):
        address = reverse(f"admin:affiliations_{row._meta.model_name}_changelist")
        assert "mette@shop.example" in shown(staff.get(address))
        export = staff.get(reverse(f"admin:affiliations_{row._meta.model_name}_csv"))
        assert b"mette@shop.example" in b"".join(export.streaming_content)
    entries = timeline.build([conversion.visitor_id])[0].entries
    assert any("mette@shop.example" in entry.text for entry in entries)


def test_an_account_that_exists_is_shown_by_the_name_that_it_has_now(colleague: Any) -> None:
    settlement = settle(earned("10").partner, by=colleague)
    assert settlement is not None
    User.objects.update(**{User.USERNAME_FIELD: "mette.hansen@shop.example"})
    stored = Settlement.objects.get()
    assert stored.created_by_display == str(stored.created_by) != settlement.created_by_name


def test_a_stop_for_fraud_says_when_why_and_by_whom(colleague: Any) -> None:
    conversion = earned("10", status="pending")
    partner = conversion.partner
    decisions.stop_for_fraud(partner, reason="Own orders", by=colleague)
    # A second call changes none of it.
    decisions.stop_for_fraud(partner, reason="Once more", by=UserFactory())
    colleague.delete()
    stored = Partner.objects.get()
    assert (stored.stopped_on, stored.stopped_reason) == (partner.stopped_on, "Own orders")
    assert stored.stopped_on is not None
    assert stored.stopped_by is None
    assert stored.stopped_by_name == "mette@shop.example"
    rejected = Conversion.objects.get()
    assert (rejected.decided_via, rejected.decided_by_display) == ("person", "mette@shop.example")


def test_what_was_credited_by_hand_says_by_whom_and_why(staff: Client, visitor: Visitor) -> None:
    address = reverse("admin:affiliations_visitor_credit", args=[visitor.pk])
    name = User.objects.get().get_username()
    staff.post(address, {"trigger": "Order placed", "reference": "17", "reason": "Lost cookie"})
    other = Client()
    other.force_login(UserFactory(is_staff=True, is_superuser=True))
    User.objects.filter(**{User.USERNAME_FIELD: name}).delete()
    conversion = Conversion.objects.get()
    assert (conversion.credited_by, conversion.credit_reason) == (None, "Lost cookie")
    # Where the help text stands depends on Django.
    assert f"Credited by: {name} Reason for the credit:" in page(other, conversion)
    entries = timeline.build([conversion.visitor_id])[0].entries
    said = f"It was credited manually by {name} (Lost cookie)."
    assert any(said in entry.text for entry in entries)


def test_a_long_name_is_cut() -> None:
    assert account_name(User(**{User.USERNAME_FIELD: "x" * 200})) == "x" * 150


class Named:
    """A user of a model of the host's own."""

    def __init__(self, name: Any, **fields: Any) -> None:
        self.get_full_name = lambda: name
        vars(self).update(fields)

    def __str__(self) -> str:
        return "u-5c2f"


class Nameless:
    """A user of a model that has neither a name nor an address."""

    def __str__(self) -> str:
        return "u-5c2f"


def other_field() -> str:
    return "address"


@pytest.mark.parametrize(
    ("user", "shown_as"),
    [
        (Named("Anna Berg", email="anna@shop.example"), "Anna Berg (anna@shop.example)"),
        (Named(" Anna\n Berg ", email=None), "Anna Berg"),
        (Named("", email="anna@shop.example"), "anna@shop.example"),
        (Named(None, email="anna@shop.example"), "anna@shop.example"),
        (Named("anna@shop.example", email="anna@shop.example"), "anna@shop.example"),
        (
            Named("Anna", get_email_field_name=other_field, address="a@shop.example", email="x"),
            "Anna (a@shop.example)",
        ),
        (Named("", email=""), "u-5c2f"),
        (Named(" "), "u-5c2f"),
        (Nameless(), "u-5c2f"),
    ],
)
def test_a_user_is_called_by_name_and_address(user: Any, shown_as: str) -> None:
    assert user_display(user) == shown_as


@pytest.fixture
def anna(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a buyer with a random username, of a model that has a name."""
    names = {"anna@shop.example": "Anna Berg"}
    monkeypatch.setattr(
        User, "get_full_name", lambda user: names.get(user.email, ""), raising=False
    )
    random = {"username": "u-5c2f"} if User.USERNAME_FIELD == "username" else {}
    return UserFactory(email="anna@shop.example", **random)


ANNA = "Anna Berg (anna@shop.example)"


class TestABuyer:
    @pytest.fixture
    def rows(self, anna: Any) -> list[Any]:
        conversion = ConversionFactory(user=anna, visitor__user=anna, decided_by=anna)
        failed = FailedTrigger.objects.create(
            trigger="x", kind="credit", user=anna, visitor=conversion.visitor, due_on=timezone.now()
        )
        return [conversion, conversion.visitor, failed]

    def test_is_shown_by_name_and_address(self, staff: Client, rows: list[Any]) -> None:
        for row in rows:
            text = page(staff, row)
            assert f"User: {ANNA}" in text
            assert "u-5c2f" not in text
            export = staff.get(reverse(f"admin:affiliations_{row._meta.model_name}_csv"))
            content = b"".join(export.streaming_content).decode()
            assert ANNA in content
            assert "u-5c2f" not in content
        for row in rows[:2]:
            text = shown(
                staff.get(reverse(f"admin:affiliations_{row._meta.model_name}_changelist"))
            )
            assert ANNA in text
            assert "u-5c2f" not in text
        conversion = page(staff, rows[0])
        assert f"Decided by: {ANNA}" in conversion
        assert f"The buyer is the user {ANNA}." in conversion
        assert f"The visitor is the user {ANNA}." in conversion

    def test_is_a_link_for_those_who_may_view_users(self, staff: Client, rows: list[Any]) -> None:
        own = f"/{User._meta.app_label}/user/{rows[0].user_id}/change/"
        for row in rows:
            change = reverse(f"admin:affiliations_{row._meta.model_name}_change", args=[row.pk])
            found = re.findall(rf'<a href="[^"]*?{own}">([^<]*)</a>', staff.get(change).text)
            assert found == [ANNA] * admin.site.is_registered(User)
        some = UserFactory(is_staff=True)
        some.user_permissions.add(Permission.objects.get(codename="view_visitor"))
        client = Client()
        client.force_login(some)
        text = client.get(reverse("admin:affiliations_visitor_change", args=[rows[1].pk])).text
        assert ANNA in text
        assert own not in text

    def test_costs_no_query_of_its_own(self, staff: Client, rows: list[Any]) -> None:
        def queries(model: str, name: str) -> int:
            with CaptureQueriesContext(connection) as captured:
                response = staff.get(reverse(f"admin:affiliations_{model}_{name}"))
                b"".join(response) if response.streaming else response.content
            return len(captured)

        pages = [(row._meta.model_name, name) for row in rows for name in ("changelist", "csv")]
        before = [queries(*one) for one in pages]
        for _ in range(3):
            other = ConversionFactory(user=UserFactory(), visitor__user=UserFactory())
            FailedTrigger.objects.create(
                trigger="x",
                kind="credit",
                user=UserFactory(),
                visitor=other.visitor,
                due_on=timezone.now(),
            )
        assert [queries(*one) for one in pages] == before
