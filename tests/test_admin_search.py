"""What staff type into a search as customers and partners have said it."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from itertools import count
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from affiliations.admin import search
from affiliations.conversions.adjustments import adjust
from affiliations.exceptions import Reason
from affiliations.models import (
    Adjustment,
    Callback,
    CallbackAttempt,
    Conversion,
    FailedTrigger,
    UncreditedTrigger,
    Visitor,
)
from tests.factories import CallbackFactory, ConversionFactory, UserFactory, VisitorFactory
from tests.test_admin import shown, url
from tests.test_admin_visitors import found
from tests.testapp.models import Newsletter

pytestmark = pytest.mark.django_db

User = get_user_model()
FAILED = "AFFILIATE_SEARCH, this site’s own search function, failed."


@pytest.fixture
def attempt() -> CallbackAttempt:
    """Return the attempt of a callback of a conversion with a reference, and make others."""
    sale = {"status": "approved", "payout": Decimal(5), "payout_currency": "EUR"}
    attempts = []
    for number, reference in enumerate(("10201", "10200", "200"), start=1):
        conversion = ConversionFactory(reference=reference, **sale)
        callback = CallbackFactory(conversion=conversion)
        attempts.append(
            CallbackAttempt.objects.create(
                callback=callback, number=number, started_on=timezone.now(), duration_ms=1
            )
        )
        adjust(conversion, payout=Decimal(-1), reason="Refund")
        FailedTrigger.objects.create(
            trigger="x", kind="credit", reference=reference, due_on=timezone.now()
        )
    return attempts[1]


class TestReferences:
    @pytest.mark.parametrize(
        "text",
        [
            "10200",
            " 10200 ",
            "#10200",
            "# 10200",
            "№10200",
            "Order 10200",
            "order  10200",
            "ORDER #10200",
            "Order: 10200",
            "order:10200",
            "order#10200",
            "No. 10200",
            "No.10200",
            "Order No. 10200",
            "Order no.: 10200.",
            "Ordre nr. 10200",
            "Nº10200",
            "n° 10200",
            "(#10200)",
            "“10200”",
            "10 200",
            "Order\u00a010\u202f200",
            "my order 10200?",
        ],
    )
    def test_are_found_as_customers_quote_them(
        self, staff: Client, attempt: CallbackAttempt, text: str
    ) -> None:
        callback = attempt.callback
        conversion: Any = callback.conversion
        assert found(staff, Conversion, text) == [conversion]
        assert found(staff, Callback, text) == [callback]
        assert found(staff, CallbackAttempt, text) == [attempt]
        assert found(staff, Visitor, text) == [conversion.visitor]
        assert found(staff, Adjustment, text) == [conversion.adjustments.get()]
        assert [row.reference for row in found(staff, FailedTrigger, text)] == ["10200"]

    @pytest.mark.parametrize(
        "reference",
        [
            "#10200",
            "Order 10200",
            "ORD-10200",
            "A-10200",
            "10 200",
            "shop.order:17",
            "no. 5",
            "A b",
        ],
    )
    def test_are_found_as_they_are(self, staff: Client, reference: str) -> None:
        conversion = ConversionFactory(reference=reference)
        ConversionFactory(reference="elsewhere")
        assert found(staff, Conversion, reference) == [conversion]

    def test_with_a_sign_are_found_without(self, staff: Client) -> None:
        conversion = ConversionFactory(reference="#10200")
        for text in ("10200", "Order 10200", "Order #10200"):
            assert found(staff, Conversion, text) == [conversion], text

    @pytest.mark.parametrize("text", ["ORD-10200", "10200x", "Order 1020", "#", "Order", "A10200"])
    def test_of_others_are_not_found(
        self, staff: Client, attempt: CallbackAttempt, text: str
    ) -> None:
        for model in (Conversion, Callback, CallbackAttempt, Visitor, Adjustment, FailedTrigger):
            assert found(staff, model, text) == []

    def test_of_what_was_not_credited_are_found(self, staff: Client) -> None:
        visitor = VisitorFactory()
        UncreditedTrigger.objects.add(visitor, "x", Reason.NO_REFERENCE, "10200", timezone.now())
        assert found(staff, Visitor, "Order 10200") == [visitor]

    def test_longer_than_their_column_are_found(self, staff: Client) -> None:
        conversion = ConversionFactory(reference="1" * 255)
        assert found(staff, Conversion, "1" * 300) == [conversion]

    def test_may_be_any_text(self, staff: Client) -> None:
        for text in ("\0", "#\0", "%", "'", "\\", "1" * 2000, "# " * 500, "١٠٢٠٠", "1²"):
            assert found(staff, Conversion, text) == []


class TestAnAddress:
    @pytest.mark.parametrize("stored", ["anna.b+tea@shop.example", "Anna.B+Tea@Shop.EXAMPLE"])
    @pytest.mark.parametrize("typed", ["anna.b+tea@shop.example", " ANNA.B+TEA@SHOP.EXAMPLE"])
    def test_is_found_in_any_case(self, staff: Client, stored: str, typed: str) -> None:
        user = UserFactory(email=stored)
        UserFactory(email="annaxb+tea@shop.example")
        callback = CallbackFactory(conversion__user=user, conversion__visitor__user=user)
        CallbackFactory(conversion__user=UserFactory(), conversion__visitor__user=UserFactory())
        assert found(staff, Conversion, typed) == [callback.conversion]
        assert found(staff, Visitor, typed) == [callback.conversion.visitor]
        assert found(staff, Callback, typed) == [callback]

    def test_finds_all_users_who_write_it_differently(self) -> None:
        users = [UserFactory(email=email) for email in ("a@shop.example", "A@shop.example")]
        assert search.users_found("a@SHOP.example") == sorted(user.pk for user in users)

    @pytest.mark.parametrize("typed", ["%@shop.example", "a_b@shop.example", "@", "a@shop"])
    def test_is_no_pattern(self, typed: str) -> None:
        UserFactory(email="axb@shop.example")
        assert search.users_found(typed) == []

    def test_that_is_a_username_is_found_in_any_case(self) -> None:
        user = UserFactory(**{User.USERNAME_FIELD: "Anna@Shop.example"})
        assert search.users_found("anna@shop.EXAMPLE") == [user.pk]

    def test_costs_one_query_of_users_or_two(self) -> None:
        UserFactory(email="anna@shop.example")
        for text, most in (("Anna@Shop.example", 1), ("nobody@shop.example", 2), ("10200", 1)):
            with CaptureQueriesContext(connection) as queries:
                search.users_found(text)
            assert 1 <= len(queries) <= most
            assert all(User._meta.db_table in query["sql"] for query in queries)


def by_address(text: str) -> Any:
    """Find what a guest has signed up for; the host's own rows."""
    return (
        Newsletter.objects.filter(email__iexact=text).order_by("-pk").values_list("pk", flat=True)
    )


def endless(text: str) -> Iterator[int]:
    return count(1)


def nothing(text: str) -> None:
    return None


def one(text: str) -> str:
    return "10200"


def odd(text: str) -> list[Any]:
    return [None, "", 10200, "a\0b", "x" * 300]


def broken(text: str) -> list[str]:
    raise RuntimeError("The host's function is broken.")


def late(text: str) -> Iterator[str]:
    yield "10200"
    raise RuntimeError("Broken after the first.")


def breaks_the_database(text: str) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT nothing FROM nowhere")
    return []


def no_iterable(text: str) -> int:
    return 5


class TestTheFunctionOfTheHost:
    @pytest.fixture
    def attempt(self, settings: Any, attempt: CallbackAttempt) -> CallbackAttempt:
        settings.AFFILIATE_SEARCH = f"{__name__}.by_address"
        Newsletter.objects.create(pk=10200, email="guest@shop.example")
        return attempt

    def test_finds_what_only_the_host_knows(self, staff: Client, attempt: CallbackAttempt) -> None:
        conversion: Any = attempt.callback.conversion
        for model, row in (
            (Conversion, conversion),
            (Callback, attempt.callback),
            (CallbackAttempt, attempt),
            (Visitor, conversion.visitor),
            (Adjustment, conversion.adjustments.get()),
        ):
            assert found(staff, model, "Guest@Shop.example") == [row]
            assert found(staff, model, "nobody@shop.example") == []

    def test_is_asked_once(self, staff: Client, settings: Any, attempt: CallbackAttempt) -> None:
        Newsletter.objects.bulk_create(
            Newsletter(email="guest@shop.example") for _ in range(search.MAX_MATCHES)
        )
        with CaptureQueriesContext(connection) as queries:
            found(staff, Conversion, "guest@shop.example")
        table = Newsletter._meta.db_table
        [query] = [
            query["sql"]
            for query in queries
            if f"FROM {connection.ops.quote_name(table)}" in query["sql"]
        ]
        assert f"LIMIT {search.MAX_MATCHES}" in query

    @pytest.mark.parametrize("name", ["one", "odd", "endless"])
    def test_may_return_what_it_wants(
        self, staff: Client, settings: Any, attempt: CallbackAttempt, name: str
    ) -> None:
        settings.AFFILIATE_SEARCH = f"{__name__}.{name}"
        page = staff.get(url(Conversion), {"q": "guest"})
        references = {row.reference for row in page.context["cl"].result_list}
        assert references == ({"200"} if name == "endless" else {"10200"})
        assert FAILED not in page.text

    def test_may_find_nothing(self, staff: Client, settings: Any, attempt: CallbackAttempt) -> None:
        settings.AFFILIATE_SEARCH = f"{__name__}.nothing"
        page = staff.get(url(Conversion), {"q": "#10200"})
        assert list(page.context["cl"].result_list) == [attempt.callback.conversion]
        assert FAILED not in page.text

    @pytest.mark.parametrize(
        "path", ["broken", "late", "breaks_the_database", "no_iterable", "not_there"]
    )
    @pytest.mark.parametrize("model", [Conversion, Callback, CallbackAttempt, Visitor, Adjustment])
    def test_that_fails_is_told_and_the_rest_is_found(
        self,
        staff: Client,
        settings: Any,
        caplog: pytest.LogCaptureFixture,
        attempt: CallbackAttempt,
        path: str,
        model: Any,
    ) -> None:
        settings.AFFILIATE_SEARCH = f"{__name__}.{path}"
        page = staff.get(url(model), {"q": "#10200"})
        assert len(page.context["cl"].result_list) == 1
        assert FAILED in shown(page)
        [record] = [record for record in caplog.records if record.name == "affiliations"]
        assert record.exc_info

    def test_is_not_asked_without_a_text(
        self, staff: Client, settings: Any, attempt: CallbackAttempt
    ) -> None:
        settings.AFFILIATE_SEARCH = f"{__name__}.broken"
        assert FAILED not in staff.get(url(Conversion), {"q": " \0"}).text
