"""Whatever strangers and partners have written is text on every page of the Admin."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib import admin
from django.test import Client
from django.urls import NoReverseMatch
from django.utils import timezone
from django.utils.html import escape

from affiliations.admin.pages import ObjectViewsMixin
from affiliations.models import (
    Callback,
    CallbackAttempt,
    Conversion,
    Partner,
    Subscription,
    UncreditedTrigger,
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
from tests.test_admin import url
from tests.test_admin_visitors import table

pytestmark = pytest.mark.django_db

MARKUP = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'"
TEXTS = [
    MARKUP,
    '=HYPERLINK("https://evil.example","A")',
    "\u202egnp.exe\u2066\u200b",
    "{{ 7|add:7 }}{% now 'Y' %}%(x)s %s {0}",
    "x" * 2000,
]
PAGES = [Partner, Subscription, Visitor, Conversion, Callback, CallbackAttempt]


def everything(text: str) -> dict[type[Any], Any]:
    """Make one of everything with a text wherever there is room for it."""
    short, middle = text[:100], text[:250]
    partner = PartnerFactory(name=middle)
    subscription = SubscriptionFactory(partner=partner)
    now = timezone.now()
    Subscription.objects.update(
        trigger=short, failure_count=10, failing_since=now, callbacks_suspended_on=now
    )
    subscription.refresh_from_db()
    first = VisitorFactory(partner=partner)
    visitor = VisitorFactory(
        partner=partner,
        user=UserFactory(),
        entry_point=text,
        referrer=text,
        click_id=middle,
        previous=first,
        is_test=True,
        **{f"sub{number}": middle for number in range(1, 6)},
    )
    conversion = ConversionFactory(
        visitor=visitor,
        subscription=subscription,
        trigger=short,
        reference=middle,
        reason=middle,
        status="pending",
    )
    ConversionFactory(visitor=visitor, subscription=subscription, trigger=short, dedupe_key="2")
    callback = CallbackFactory(
        conversion=conversion, subscription=subscription, url=text, reason=middle
    )
    test = Callback.objects.create(
        subscription=subscription, partner=partner, event="test", url=text
    )
    for one in (callback, test):
        attempt = CallbackAttempt.objects.create(
            callback=one,
            number=1,
            started_on=now,
            duration_ms=1,
            error="lost",
            message=text,
            response_excerpt=text,
        )
    UncreditedTrigger.objects.create(
        visitor=visitor,
        trigger=short,
        reason=text[:20],
        reference=middle,
        count=2,
        first_on=now,
        last_on=now,
    )
    return {
        Partner: partner,
        Subscription: subscription,
        Visitor: visitor,
        Conversion: conversion,
        Callback: callback,
        CallbackAttempt: attempt,
    }


def addresses(rows: dict[type[Any], Any]) -> list[str]:
    """Return every address there is of these rows, those that show and those that ask."""
    found = []
    for model, row in rows.items():
        its_admin = admin.site._registry[model]
        names = ["change", "history"]
        if isinstance(its_admin, ObjectViewsMixin):
            names += its_admin.object_views
        found += [url(model), *(url(row, name) for name in names)]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("text", TEXTS, ids=["markup", "formula", "direction", "template", "long"])
def test_hostile_text_is_text_on_every_page(text: str, staff: Client) -> None:
    rows = everything(text)
    seen = 0
    for address in addresses(rows):
        page = staff.get(address, follow=True)
        assert page.status_code == 200, address
        assert "<script>alert" not in page.text, address
        assert "<img src=x" not in page.text, address
        seen += escape(text[:15]) in page.text
    assert seen >= len(PAGES)


def test_no_text_turns_the_direction_of_the_sentence_that_it_stands_in(staff: Client) -> None:
    """Or an amount would be read from its end."""
    rows = everything("\u202e1\u2066 \u2067 \u2068 \u200f \u061c")
    for model in (Visitor, Conversion):
        told = re.findall(
            r'<span class="aff-text">(.*?)</span>', staff.get(url(rows[model])).text, re.S
        )
        assert len(told) > 3
        assert not re.search("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]", "".join(told))


@pytest.mark.parametrize("text", TEXTS, ids=["markup", "formula", "direction", "template", "long"])
def test_hostile_text_is_text_where_something_is_done_to_many(text: str, staff: Client) -> None:
    rows = everything(text)
    Callback.objects.update(status="queued")  # with which each of them can be done
    for model in (Conversion, Callback):
        for action in admin.site._registry[model].actions or []:
            form = {"action": action, "_selected_action": [rows[model].pk]}
            page = staff.post(url(model), form)
            assert page.status_code == 200
            assert "<script>alert" not in page.text


@pytest.mark.parametrize("text", TEXTS, ids=["markup", "formula", "direction", "template", "long"])
@pytest.mark.parametrize("model", [Visitor, Conversion, Callback, CallbackAttempt])
def test_hostile_text_is_no_formula_in_a_csv_file(model: Any, text: str, staff: Client) -> None:
    everything(text)
    # The visitor who has all of it is a test.
    asked = {"is_test__exact": 1} if model is Visitor else {}
    _header, *rows = table(staff.get(url(model, "csv"), asked))
    assert rows
    for row in rows:
        assert not [cell for cell in row if cell.lstrip()[:1] in ("=", "+", "@")]


@pytest.mark.parametrize("text", TEXTS, ids=["markup", "formula", "direction", "template", "long"])
def test_a_hostile_reason_is_text_in_the_history(text: str, staff: Client) -> None:
    conversion = ConversionFactory(status="pending")
    staff.post(url(conversion, "reject"), {"reason": text[:250]})
    page = staff.get(url(conversion, "history"))
    assert "<script>alert" not in page.text
    assert escape(text[:10]) in page.text
    conversion.refresh_from_db()
    assert (conversion.status, conversion.reason) == ("rejected", text[:250].strip())


def test_every_page_has_an_address() -> None:
    """So that a page without one is not left out of the tests above."""
    for its_admin in admin.site._registry.values():
        if isinstance(its_admin, ObjectViewsMixin):
            for name in its_admin.object_views:
                with pytest.raises(NoReverseMatch):
                    url(its_admin.model, name)  # a page of a row wants a row


def test_a_url_of_a_strangers_choice_is_no_link(staff: Client) -> None:
    address = "https://evil.example/x"
    rows = everything(address)
    shown = 0
    for page_address in addresses(rows):
        page = staff.get(page_address, follow=True).text
        assert not re.search(r"""(href|src|action)=["']?\s*https?://evil""", page), page_address
        shown += address in page
    assert shown >= 3
    page = staff.get(url(rows[Visitor])).text
    assert page.count(address) >= 2
    assert "without its query string" in page  # the help text of the field
    first = staff.get(url(Visitor.objects.order_by("pk")[0])).text
    assert re.search(r'field-referrer.*?<div class="readonly">-</div>', first, re.S)
