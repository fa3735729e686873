"""The review queue in a real browser: with the keyboard, with the mouse, and without its script."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from affiliations.models import Conversion
from tests.chromium import PHONE, WIDE, Window
from tests.factories import UserFactory
from tests.test_admin import url
from tests.test_admin_conversions import states
from tests.test_admin_review import flagged, without_amount

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [
    pytest.mark.needs("chromium"),
    pytest.mark.django_db(transaction=True),
    pytest.mark.server,
]

#: Three minutes allow for so many keys, at a second and a half for each.
MAX_KEYS = 120


@pytest.fixture
def window(browser: Browser, live_server: Any) -> Iterator[Window]:
    user = UserFactory(is_staff=True, is_superuser=True)
    with Window.open(browser, WIDE) as window:
        window.log_in(live_server.url, user.get_username(), "secret")
        yield window
        assert window.complaints == []


def open_queue(window: Window, site: Any) -> Page:
    window.page.goto(site.url + url(Conversion, "review"))
    return window.page


def focused(page: Page) -> str:
    name: str = page.evaluate("document.activeElement.name || document.activeElement.localName")
    return name


def test_sixty_are_decided_with_few_keys(window: Window, live_server: Any) -> None:
    rows = [flagged() for _ in range(60)]
    rejected = {row.pk for row in rows[::12]}
    pressed: Counter[str] = Counter()
    page = open_queue(window, live_server)

    def press(key: str) -> None:
        pressed[key] += 1
        page.keyboard.press(key)

    while page.locator("#aff-queue").count():
        for value in page.locator("[name=conversion]").evaluate_all(
            "(inputs) => inputs.map((input) => input.value)"
        ):
            assert focused(page) == f"{value}-decision"
            if int(value) in rejected:
                press("r")
                for letter in "Own order.":
                    press(letter)
                press("Enter")
            else:
                press("a")
        with page.expect_navigation():
            press("Enter")  # Not in a text field: saves.
    assert states() == ["rejected" if row.pk in rejected else "approved" for row in rows]
    assert set(Conversion.objects.filter(status="rejected").values_list("reason", flat=True)) == {
        "Own order."
    }
    assert pressed.total() <= MAX_KEYS
    page.get_by_text("No conversions need review.").wait_for()


def test_the_keys_move_choose_and_leave_text_alone(window: Window, live_server: Any) -> None:
    rows = [flagged(), without_amount(), flagged()]
    first, second, third = (row.pk for row in rows)
    page = open_queue(window, live_server)
    page.get_by_text("Keys:").wait_for()
    names = []
    for key in ("k", "j", "J", "j", "k"):
        page.keyboard.press(key)
        names.append(focused(page))
    assert names == [f"{key}-decision" for key in (first, second, third, third, second)]
    # The amount is needed for an approval.
    page.keyboard.press("a")
    assert focused(page) == f"{second}-amount"
    page.keyboard.press("Tab")
    page.keyboard.type("jar")
    assert page.locator(f"[name='{second}-currency']").input_value() == "jar"
    page.keyboard.press("Enter")
    assert focused(page) == f"{third}-decision"
    page.keyboard.press("r")
    assert focused(page) == f"{third}-reason"
    page.keyboard.type("A jar")
    assert page.locator(f"[name='{third}-reason']").input_value() == "A jar"
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("k")
    page.keyboard.press("k")
    page.keyboard.press("Control+a")
    page.keyboard.press("x")
    assert focused(page) == f"{first}-decision"
    assert page.locator(":checked").evaluate_all("(all) => all.map((one) => one.value)") == [
        "approve",
        "reject",
    ]
    # Elsewhere they are only keys.
    page.locator("#site-name a").focus()
    page.keyboard.press("a")
    assert page.locator(f"[name='{first}-decision']:checked").count() == 0
    assert states() == ["pending"] * 3


def test_a_missing_reason_has_the_focus_again(window: Window, live_server: Any) -> None:
    rows = [flagged(), flagged()]
    page = open_queue(window, live_server)
    for key in ("a", "r", "Enter"):
        page.keyboard.press(key)
    with page.expect_navigation():
        page.keyboard.press("Enter")
    page.get_by_text("Nothing was saved.").wait_for()
    assert focused(page) == f"{rows[1].pk}-decision"
    assert window.faults() == []


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_the_mouse_alone_and_no_script_are_enough(
    browser: Browser, live_server: Any, size: tuple[int, int]
) -> None:
    user = UserFactory(is_staff=True, is_superuser=True)
    rows = [flagged(), flagged()]
    with Window.open(browser, size) as window:
        window.log_in(live_server.url, user.get_username(), "secret")
        window.page.route("**/review.js", lambda route: route.abort())
        page = open_queue(window, live_server)
        assert page.get_by_text("Keys:").is_hidden()
        reason = page.locator(f"[name='{rows[1].pk}-reason']")
        assert reason.is_hidden()
        page.get_by_role("radio", name="Approve").first.check()
        page.get_by_role("radio", name="Reject").last.check()
        reason.fill("Own order.")
        assert window.faults() == []
        page.get_by_role("button", name="Save decisions").click()
        page.get_by_text("Rejected 1 conversion.").wait_for()
    assert states() == ["approved", "rejected"]
