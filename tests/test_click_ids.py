"""Why a visitor has no click id: each reason is told where the click id is missed."""

from __future__ import annotations

from typing import Any

import pytest

from affiliations import privacy, timeline
from affiliations.models import Callback, Visitor
from affiliations.models.visitor import LOST_CLICK_IDS, MAX_CLICK_ID
from affiliations.tracking import register_visitor
from affiliations.triggers import complete_trigger
from tests.browsers import HANDLERS, Browser
from tests.factories import SubscriptionFactory, UserFactory, VisitorFactory
from tests.test_admin import shown, url

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.test_middleware")]

TOO_LONG = "The visitor’s click id has more than 500 characters."
NOT_TEXT = "The visitor’s click id is not valid text."
NONE = "The visitor came without a click id."


@pytest.fixture(params=HANDLERS)
def browser(request: pytest.FixtureRequest) -> Browser:
    return request.param()


def undecided(request: Any) -> None:
    """Say that the visitor has not decided yet."""


def reason(visitor: Visitor, callback_url: str = "https://a.example/?c={click_id}") -> str:
    """Return why the callback of a conversion of the visitor is cancelled."""
    SubscriptionFactory(partner=visitor.partner, callback_url=callback_url)
    complete_trigger(None, "Order placed", visitor=visitor)
    return Callback.objects.get().reason


def arrival(visitor: Visitor) -> str:
    (built,) = timeline.build([visitor.pk])
    return built.entries[0].text


@pytest.mark.parametrize(
    ("query", "code", "text"),
    [
        ("click_id=" + "x" * 501, "too_long", TOO_LONG),
        ("click_id=" + "%F0%9F%98%80" * 501, "too_long", TOO_LONG),
        ("click_id=%FF", "not_text", NOT_TEXT),
        ("click_id=a%00b", "not_text", NOT_TEXT),
        ("click_id=%C3", "not_text", NOT_TEXT),
        ("click_id=1&click_id=%ED%A0%80", "not_text", NOT_TEXT),
        ("click_id=", "", NONE),
        ("click_id=%FF&click_id=", "", NONE),
        ("other=1", "", NONE),
    ],
)
def test_a_callback_without_one_says_why(
    browser, partner, query: str, code: str, text: str
) -> None:
    browser.get(f"/?affiliate_id={partner.uid}&{query}")

    visitor = Visitor.objects.get()
    assert (visitor.click_id, visitor.lost_click_id) == ("", code)
    assert reason(visitor) == text


@pytest.mark.parametrize("click_id", ["42", "x" * 256, "é" * 500, "😀" * 500])
def test_one_that_is_kept_is_sent_in_full(browser, partner, click_id: str) -> None:
    browser.get(partner.link("/", click_id=click_id))

    visitor = Visitor.objects.get()
    assert (visitor.click_id, visitor.lost_click_id) == (click_id, "")
    assert reason(visitor) == ""
    assert timeline.find(click_id=click_id) == [visitor.pk]


def test_the_partner_who_gets_the_visitor_s_id_misses_none(browser, partner) -> None:
    browser.get(f"/?affiliate_id={partner.uid}&click_id=%FF")

    assert reason(Visitor.objects.get(), "https://a.example/?v={visitor_id}&c={click_id}") == ""


@pytest.mark.urls("tests.urls")
@pytest.mark.parametrize(("code", "text"), LOST_CLICK_IDS.items())
def test_the_timeline_says_why(staff, code: str, text: str) -> None:
    visitor = VisitorFactory(lost_click_id=code)

    assert text in arrival(visitor)
    assert "no click id" not in arrival(visitor)
    assert text in shown(staff.get(url(visitor)))


def test_the_timeline_has_the_sub_ids_of_such_a_click_too() -> None:
    visitor = VisitorFactory(lost_click_id="too_long", sub1="mail")

    assert f"{TOO_LONG} The click has: sub1 mail." in arrival(visitor)
    assert "The click has no click id and no sub ids." in arrival(VisitorFactory())


def test_it_waits_for_consent_with_the_click(browser, partner, settings) -> None:
    settings.AFFILIATE_CONSENT = f"{__name__}.undecided"
    browser.get(f"/?affiliate_id={partner.uid}&click_id=%FF")
    settings.AFFILIATE_CONSENT = None
    browser.get(f"/?affiliate_id={partner.uid}&click_id=1")

    assert Visitor.objects.order_by("pk")[0].lost_click_id == "not_text"


def test_a_link_given_later_says_it_too(rf, partner) -> None:
    register_visitor(rf.get("/"), f"/?affiliate_id={partner.uid}&click_id={'x' * 501}")

    assert Visitor.objects.get().lost_click_id == "too_long"


def test_one_that_was_erased_says_that() -> None:
    user = UserFactory()
    with_one, without = VisitorFactory(user=user, click_id="42"), VisitorFactory(user=user)
    privacy.blank(user)

    for visitor, code in ((with_one, "erased"), (without, "")):
        visitor.refresh_from_db()
        assert (visitor.click_id, visitor.lost_click_id) == ("", code)
    assert reason(with_one) == "The visitor’s click id was erased."


@pytest.mark.urls("tests.urls")
@pytest.mark.parametrize("page", ["credit", "test_link"])
def test_staff_can_type_one_of_that_length(staff, partner, page: str) -> None:
    SubscriptionFactory(partner=partner)

    assert f'maxlength="{MAX_CLICK_ID}"' in staff.get(url(partner, page)).text


def test_the_messages_name_the_limit() -> None:
    assert str(MAX_CLICK_ID) in LOST_CLICK_IDS["too_long"]
