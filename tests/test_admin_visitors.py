"""Visitors: what became of a click, and making good for a partner who was wronged."""

from __future__ import annotations

import csv
import io
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from affiliations.admin.search import users_found
from affiliations.exceptions import Reason
from affiliations.models import Callback, CallbackAttempt, Conversion, UncreditedTrigger, Visitor
from tests.factories import (
    CallbackFactory,
    ConversionFactory,
    PartnerFactory,
    SubscriptionFactory,
    UserFactory,
    VisitorFactory,
)
from tests.test_admin import shown, url
from tests.test_admin_partners import said

pytestmark = pytest.mark.django_db


def found(staff: Client, model: Any, term: str) -> list[Any]:
    page = staff.get(url(model), {"q": term})
    assert page.status_code == 200
    return list(page.context["cl"].result_list)


def table(response: Any) -> list[list[str]]:
    """Read a CSV file."""
    assert response.status_code == 200
    text = b"".join(response.streaming_content).decode("utf-8-sig")
    return list(csv.reader(io.StringIO(text)))


class TestAVisitor:
    def test_is_found_by_all_that_somebody_may_ask_with(self, staff: Client) -> None:
        user = UserFactory()
        visitor = VisitorFactory(click_id="click-42", user=user)
        ConversionFactory(visitor=visitor, reference="shop.order:17")
        UncreditedTrigger.objects.add(visitor, "x", Reason.NO_REFERENCE, "R-5", timezone.now())
        VisitorFactory(click_id="click-421", user=UserFactory())
        for term in (
            str(visitor.pk),
            "click-42",
            " click-42 ",
            "shop.order:17",
            "R-5",
            user.email,
            user.get_username(),
        ):
            assert found(staff, Visitor, term) == [visitor], term
        assert found(staff, Visitor, "nothing") == []
        assert len(found(staff, Visitor, " ")) == 2

    def test_is_nobodys_where_users_have_no_name_that_is_text(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        user = UserFactory()
        assert users_found(user.email) == [user.pk]
        monkeypatch.setattr(get_user_model(), "USERNAME_FIELD", "last_login")
        monkeypatch.setattr(get_user_model(), "EMAIL_FIELD", "no_such_field", raising=False)
        assert users_found(user.email) == []
        assert users_found("2026-05-01") == []

    def test_tells_its_story_with_a_link_to_everything_in_it(self, staff: Client) -> None:
        conversion = ConversionFactory(reference="shop.order:17")
        callback = CallbackFactory(conversion=conversion)
        CallbackAttempt.objects.create(
            callback=callback, number=1, started_on=timezone.now(), duration_ms=1, error="dns"
        )
        UncreditedTrigger.objects.add(
            conversion.visitor, "User registered", Reason.NOT_SUBSCRIBED, "", timezone.now()
        )
        page = staff.get(url(conversion.visitor))
        text = shown(page)
        assert "clicked a link of" in text
        assert "was recorded as conversion" in text
        assert "“User registered” fired but was not credited" in text
        for row in (conversion, callback):
            assert f'href="{url(row)}"' in page.text
        assert f'href="{url(callback)}#attempts-group"' in page.text

    def test_shows_how_long_it_took_to_the_order(self, staff: Client) -> None:
        conversion = ConversionFactory()
        now = timezone.now()
        for minutes, words in ((0, "less than a minute"), (90, "1 hour, 30 minutes")):
            Visitor.objects.update(referred_on=now - timedelta(minutes=minutes))
            Conversion.objects.update(created_on=now)
            for row in (conversion.visitor, conversion):
                assert words in shown(staff.get(url(row)))[-5000:]

    def test_shows_whom_it_displaced_and_by_whom_it_was(self, staff: Client) -> None:
        first = VisitorFactory()
        second = VisitorFactory(previous=first)
        assert f'href="{url(first)}"' in staff.get(url(second)).text
        assert f'href="{url(second)}"' in staff.get(url(first)).text

    def test_leaves_out_the_labels_that_it_has_not(self, staff: Client) -> None:
        visitor = VisitorFactory(sub3="banner")
        text = shown(staff.get(url(visitor)))
        assert "Sub id 3: banner" in text
        assert "Sub id 1" not in text
        assert "Sub id" not in shown(staff.get(url(VisitorFactory())))

    def test_shows_its_source_and_is_narrowed_by_it(self, staff: Client) -> None:
        by_link, by_code = VisitorFactory(), VisitorFactory(source="api")
        assert "Without a landing page" in shown(staff.get(url(by_code)))
        for value, expected in (
            ("api", [by_code]),
            ("link", [by_link]),
            ("code", []),
            ("", []),
            ("\0", []),
            ("x" * 5000, []),
        ):
            page = staff.get(url(Visitor), {"source__exact": value})
            found = list(page.context["cl"].result_list) if page.status_code == 200 else []
            assert (page.status_code in (200, 302), found) == (True, expected), value
        assert "Without a landing page" in shown(staff.get(url(Visitor)))
        header, *rows = table(staff.get(url(Visitor, "csv")))
        assert header[-1] == "Source"
        assert [row[-1] for row in rows] == ["Link", "Without a landing page"]

    def test_is_narrowed_by_success(self, staff: Client) -> None:
        won, other = VisitorFactory(successful_on=timezone.now()), VisitorFactory()
        for value, expected in (("yes", [won]), ("no", [other]), ("nonsense", [other, won])):
            page = staff.get(url(Visitor), {"success": value})
            assert list(page.context["cl"].result_list) == expected

    def test_costs_the_same_queries_however_much_has_happened(self, staff: Client) -> None:
        visitor = VisitorFactory()
        subscription = SubscriptionFactory(partner=visitor.partner)

        def more(count: int) -> int:
            for number in range(count):
                conversion = ConversionFactory(
                    visitor=visitor,
                    subscription=subscription,
                    dedupe_key=f"r:{count}:{number}",
                )
                callback = CallbackFactory(conversion=conversion)
                CallbackAttempt.objects.create(
                    callback=callback, number=1, started_on=timezone.now(), duration_ms=1
                )
                VisitorFactory(previous=visitor)
            with CaptureQueriesContext(connection) as captured:
                assert staff.get(url(visitor)).status_code == 200
            return len(captured)

        more(1)  # It reads the content types, which are then cached.
        few = more(2)
        assert more(12) == few


class TestCreditingByHand:
    def form(self, **fields: Any) -> dict[str, Any]:
        return {
            "trigger": "Order placed",
            "reference": "shop.order:17",
            "amount": "49.90",
            "currency": "eur",
            "reason": "The shop had forgotten the session.",
        } | fields

    def test_goes_through_the_door_of_every_conversion(self, staff: Client) -> None:
        visitor = VisitorFactory(user=UserFactory())
        SubscriptionFactory(partner=visitor.partner, payout_type="percent", payout_value=10)
        page = staff.post(url(visitor, "credit"), self.form(), follow=True)
        conversion = Conversion.objects.get()
        assert page.redirect_chain[-1][0] == url(conversion)
        assert "Credited 4.99 EUR to" in shown(page)
        assert (str(conversion.payout), conversion.payout_currency) == ("4.9900", "EUR")
        assert (conversion.user, conversion.reference) == (visitor.user, "shop.order:17")
        assert Callback.objects.get().conversion == conversion
        [entry] = LogEntry.objects.all()
        assert (entry.object_id, entry.is_addition()) == (str(conversion.pk), True)
        assert said(conversion) == ["Credited manually: The shop had forgotten the session."]

    @pytest.mark.parametrize("wrong", ["closed", "expired", "inactive"])
    def test_is_possible_where_the_referral_is_not_open_any_more(
        self, wrong: str, staff: Client
    ) -> None:
        now = timezone.now()
        visitor = VisitorFactory(partner=PartnerFactory(active=wrong != "inactive"))
        SubscriptionFactory(partner=visitor.partner)
        Visitor.objects.update(
            closed_on=now if wrong == "closed" else None,
            referred_on=now - timedelta(days=90 if wrong == "expired" else 1),
        )
        assert "No more conversions are credited to this visitor automatically" in shown(
            staff.get(url(visitor, "credit"))
        )
        staff.post(url(visitor, "credit"), self.form())
        assert Conversion.objects.count() == 1
        visitor.refresh_from_db()
        # Closed by this conversion, or as it was.
        assert (visitor.closed_on == now) == (wrong == "closed")
        assert visitor.closed_on is not None

    def test_pays_nothing_twice(self, staff: Client) -> None:
        visitor = VisitorFactory()
        SubscriptionFactory(partner=visitor.partner)
        staff.post(url(visitor, "credit"), self.form())
        page = staff.post(url(visitor, "credit"), self.form(reference="other"))
        assert "This was already credited." in shown(page)
        assert Conversion.objects.count() == 1

    def test_says_what_is_missing(self, staff: Client) -> None:
        visitor = VisitorFactory()
        SubscriptionFactory(partner=visitor.partner, counting="every")
        for fields, message in (
            ({"reason": ""}, "This field is required."),
            ({"reference": ""}, "This subscription counts every order. Enter a reference."),
            ({"amount": "-1"}, "greater than or equal to 0"),
            ({"amount": "abc"}, "Enter a number."),
            ({"amount": "NaN"}, "Enter a number."),
            ({"trigger": "nonsense"}, "Select a valid choice."),
            ({"reference": "\0"}, "Null characters"),
        ):
            page = staff.post(url(visitor, "credit"), self.form(**fields))
            assert message in shown(page), fields
        assert not Conversion.objects.exists()
        assert not LogEntry.objects.exists()

    @pytest.mark.parametrize(
        ("pays", "fields", "message"),
        [
            ("percent", {"amount": ""}, "Enter the amount: the payout is a percentage of it."),
            ("percent", {"currency": ""}, "Enter the three-letter currency code, such as EUR."),
            (
                "percent",
                {"currency": "eup"},
                ("Enter the three-letter currency code, such as EUR."),
            ),
            ("percent", {"currency": "€"}, ("Enter the three-letter currency code, such as EUR.")),
            ("none", {"currency": "EURO"}, "Ensure this value has at most 3 characters"),
            ("none", {"currency": ""}, "Enter the three-letter currency code, such as EUR."),
            ("none", {"currency": "ZZZ"}, "Enter the three-letter currency code, such as EUR."),
            ("none", {"amount": "0", "currency": ""}, "Enter the three-letter currency code"),
            ("percent", {"amount": "1e9999999"}, "no more than 15 digits"),
        ],
    )
    def test_leaves_nothing_that_could_never_be_paid(
        self, staff: Client, pays: str, fields: dict[str, str], message: str
    ) -> None:
        visitor = VisitorFactory()
        value = {"percent": 10}.get(pays)
        SubscriptionFactory(partner=visitor.partner, payout_type=pays, payout_value=value)
        for row in (visitor, visitor.partner):
            page = staff.post(url(row, "credit"), self.form(**fields))
            assert message in shown(page)
            [errors] = page.context["form"].errors.values()
            assert len(errors) == 1
            assert set(page.context["form"].errors) <= {"amount", "currency"}
        assert not Conversion.objects.exists()

    def test_needs_no_amount_where_none_is_reckoned_with(self, staff: Client) -> None:
        visitor = VisitorFactory()
        SubscriptionFactory(
            partner=visitor.partner, payout_type="fixed", payout_value=2, payout_currency="EUR"
        )
        staff.post(url(visitor, "credit"), self.form(amount="", currency=""))
        assert Conversion.objects.get().payout == 2

    def test_needs_a_subscription(self, staff: Client) -> None:
        visitor = VisitorFactory()
        assert "no active subscription" in shown(staff.get(url(visitor, "credit")))
        staff.post(url(visitor, "credit"), self.form())
        assert not Conversion.objects.exists()

    def test_does_nothing_by_looking(self, staff: Client) -> None:
        visitor = VisitorFactory()
        SubscriptionFactory(partner=visitor.partner)
        assert "Credit manually" in shown(staff.get(url(visitor, "credit")))
        assert not Conversion.objects.exists()


class TestTheCSVFile:
    def test_has_all_that_is_filtered_whatever_page_is_shown(self, staff: Client) -> None:
        partner, other = PartnerFactory(name="Steep Notes"), PartnerFactory()
        Visitor.objects.bulk_create(
            Visitor(partner=one, entry_point="https://shop.example/", click_id=f"c{number}")
            for one in (partner, other)
            for number in range(150)
        )
        query = {"partner": partner.uid, "p": "2"}
        page = staff.get(url(Visitor), query)
        link = f"/admin/affiliations/visitor/csv/?partner={partner.uid}&amp;p=2"
        assert link in page.text
        header, *rows = table(staff.get(url(Visitor, "csv"), query))
        assert header[:3] == ["ID", "Partner", "User"]
        assert len(rows) == 150
        assert {row[1] for row in rows} == {"Steep Notes"}

    def test_costs_queries_by_thousands_and_not_by_rows(
        self, staff: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        user = UserFactory()
        Visitor.objects.bulk_create(
            Visitor(partner=PartnerFactory(), user=user, entry_point="https://shop.example/")
            for _ in range(30)
        )
        with CaptureQueriesContext(connection) as captured:
            assert len(table(staff.get(url(Visitor, "csv")))) == 31
        assert len(captured) <= 6

    def test_is_no_formula_to_a_spreadsheet(self, staff: Client) -> None:
        VisitorFactory(click_id="=cmd|'/c calc'!A1", partner=PartnerFactory(name="@SUM(A1)"))
        [_header, row] = table(staff.get(url(Visitor, "csv")))
        assert "'=cmd|'/c calc'!A1" in row
        assert "'@SUM(A1)" in row

    def test_of_what_no_database_can_answer_is_the_whole(self, staff: Client) -> None:
        answer = staff.get(url(Visitor, "csv"), {"id__exact": "abc"})
        assert (answer.status_code, answer["Location"]) == (
            302,
            "/admin/affiliations/visitor/csv/?",
        )
