"""What the columns of the Admin's lists and pages show at a glance."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest
from django.db.models import Model
from django.test import Client
from django.utils import timezone

from affiliations.models import Callback, CallbackAttempt
from tests.factories import CallbackFactory, ConversionFactory, VisitorFactory
from tests.test_admin import url

pytestmark = pytest.mark.django_db

BADGE = '<span class="aff-badge aff-quiet">{}</span>'


def attempts(callback: Callback, *numbers: int, manual: bool = False) -> list[CallbackAttempt]:
    return [
        CallbackAttempt.objects.create(
            callback=callback,
            number=number,
            manual=manual,
            started_on=timezone.now(),
            duration_ms=9,
            response_excerpt=f"Answer {number}.",
        )
        for number in numbers
    ]


def answers(page: str) -> list[str]:
    return re.findall(r"Answer \d", page)


def test_the_newest_attempt_comes_first_wherever_attempts_are_shown(staff: Client) -> None:
    callback = CallbackFactory()
    attempts(callback, 1, 2, 3)
    expected = ["Answer 3", "Answer 2", "Answer 1"]
    assert answers(staff.get(url(callback)).text) == expected
    Callback.objects.update(event="test")
    assert answers(staff.get(url(callback.subscription, "send_test")).text) == expected
    listed = staff.get(url(CallbackAttempt)).context["cl"].result_list
    assert [attempt.number for attempt in listed] == [3, 2, 1]


@pytest.mark.parametrize("is_test", [True, False])
def test_only_a_test_is_marked_as_one_and_nothing_has_a_cross(staff: Client, is_test: bool) -> None:
    visitor = VisitorFactory(is_test=is_test)
    for row in (visitor, ConversionFactory(visitor=visitor, is_test=is_test)):
        page = staff.get(url(row)).text
        assert (BADGE.format("test") in page) is is_test
        assert "icon-no" not in page
        assert "icon-yes" not in page
        assert "icon-no" not in staff.get(url(type(row))).text


@pytest.mark.parametrize("manual", [True, False])
def test_only_an_attempt_of_staff_is_marked_as_sent_manually(staff: Client, manual: bool) -> None:
    [attempt] = attempts(CallbackFactory(), 1, manual=manual)
    rows: list[Model | type[Model]] = [attempt, CallbackAttempt]
    for row in rows:
        page = staff.get(url(row)).text
        assert (BADGE.format("Yes") in page) is manual
        assert "icon-no" not in page


def test_a_conversion_has_its_trigger_below_the_reference_and_its_amount_below_the_payout(
    staff: Client,
) -> None:
    conversion = ConversionFactory(
        reference="4711",
        amount=Decimal("1200"),
        currency="JPY",
        payout=Decimal("7.5"),
        payout_currency="EUR",
    )
    page = staff.get(url(type(conversion))).text
    assert '4711 <span class="aff-below">Order placed</span>' in page
    assert '7.50\xa0EUR <span class="aff-below">of 1200\xa0JPY</span>' in page
    type(conversion).objects.update(amount=None, payout=None)
    assert '<td class="field-payout_and_amount">-</td>' in staff.get(url(type(conversion))).text


def test_a_callback_links_its_conversion_by_the_reference(staff: Client) -> None:
    callback = CallbackFactory(conversion__reference="WEB-2026-00004711-1130")
    assert ">WEB-2026-00004711-1130</a>" in staff.get(url(Callback)).text
    type(callback.conversion).objects.update(reference="")
    assert f">{callback.conversion.pk}</a>" in staff.get(url(Callback)).text
