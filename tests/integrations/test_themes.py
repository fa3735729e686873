"""Our lists, forms and pages as staff use them in Chromium, under a theme of the Admin."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from django.apps import apps
from django.core.management import call_command
from django.utils import timezone

from affiliations.models import Conversion
from tests.chromium import Window
from tests.integrations.pages import LISTS, address
from tests.shop import PASSWORD, furnish

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = [
    pytest.mark.needs("chromium"),
    pytest.mark.django_db(transaction=True),
    pytest.mark.server,
]

#: How a theme offers the choices of a filter; its own filters and ours, which are links.
SELECTS = {
    "grappelli": "select.grp-filter-choice",
    "jazzmin": "select.search-filter",
    "unfold": "#changelist-filter :not(details) > ul",
}
#: What opens the filters.
OPENERS = {"grappelli": ".grp-pulldown-handler", "unfold": ".filter-open-button"}
(THEME,) = (name for name in SELECTS if apps.is_installed(name))

#: The contrast of the text of a button with its background, as WCAG 2 defines it.
CONTRAST = """(button) => {
    const style = getComputedStyle(button);
    const [dark, light] = [style.color, style.backgroundColor].map((colour) => {
        const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255);
        const [r, g, b] = parts.map(
            (part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    }).sort((one, other) => one - other);
    return (light + 0.05) / (dark + 0.05);
}"""


class Staff:
    """A member of staff at a page of the Admin."""

    def __init__(self, page: Page, site: str) -> None:
        self.page, self.site, self.rows = page, site, furnish()

    def open(self, model: str, name: str) -> None:
        self.page.goto(self.site + address(self.rows, model, name))

    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.page.url).query))

    def search(self, words: str) -> None:
        self.page.locator("[name=q][type=text]").fill(words)
        self.press_search()

    def press_search(self) -> None:
        self._submit(self.page.locator("form:has([name=q][type=text]) button[type=submit]"))

    def filters(self) -> int:
        return self.page.locator(SELECTS[THEME]).count()

    def choose(self, number: int) -> dict[str, str]:
        """Choose the last value of a filter; return the parameters that this should add."""
        self.open_filters()
        offered = self.page.locator(SELECTS[THEME]).nth(number)
        if THEME == "jazzmin":
            last = offered.locator("option").last
            wanted = {last.get_attribute("data-name"): last.get_attribute("value")}
            offered.locator("+ .select2-container").click()
            self.page.locator(".select2-results__option").last.click()
            self.press_search()
        elif THEME == "grappelli":
            last = offered.locator("option").last.get_attribute("value")
            wanted = dict(parse_qsl(last.lstrip("?")))
            with self.page.expect_navigation():
                offered.select_option(last)
        else:
            last = offered.locator("a").last
            wanted = dict(parse_qsl(last.get_attribute("href").lstrip("?")))
            self._submit(last)
        return wanted

    def type_into_filter(self, name: str, value: str) -> None:
        self.open_filters()
        form = self.page.locator(f".aff-filter:has([name={name}])")
        form.locator(f"[name={name}]").fill(value)
        self._submit(form.get_by_role("button", name="Go"))

    def has_filter(self, name: str) -> bool:
        """Whether the list has a filter of ours with a field of this name."""
        return self.page.locator(f".aff-filter [name={name}]").count() == 1

    def open_filters(self) -> None:
        if THEME in OPENERS and not self.page.locator(SELECTS[THEME]).first.is_visible():
            self.page.locator(OPENERS[THEME]).click()

    def follow(self, name: str) -> None:
        self._submit(self.page.get_by_role("link", name=name, exact=True).locator("visible=true"))

    def row(self, key: int) -> Locator:
        return self.page.locator(f"[name=_selected_action][value='{key}']")

    def act(self, action: str) -> None:
        self.page.locator("select[name=action]").select_option(action)
        self._submit(self.page.locator("[name=index]"))

    def press(self, name: str) -> None:
        self._submit(self.page.get_by_role("button", name=name, exact=True))

    def _submit(self, control: Locator) -> None:
        with self.page.expect_navigation():
            control.click()


@pytest.fixture
def staff_at(browser: Browser, live_server: Any) -> Iterator[Staff]:
    # The other tests of a host share a shop, which stays.
    call_command("flush", interactive=False, verbosity=0)
    with Window.open(browser) as window:
        staff = Staff(window.page, live_server.url)
        window.log_in(live_server.url, "staff", PASSWORD)
        yield staff
        assert window.complaints == []


def test_lists_are_filtered_and_searched(staff_at: Staff) -> None:
    week = timezone.localdate() - timedelta(days=6)
    for model in LISTS:
        staff_at.open(model, "changelist")
        wanted: dict[str, str] = {}
        for number in range(staff_at.filters()):
            wanted |= staff_at.choose(number)
            assert wanted.items() <= staff_at.query().items(), model
        for name, value in (("partner", "Steep Notes"), ("since", f"{week - timedelta(days=1)}")):
            if staff_at.has_filter(name):
                staff_at.type_into_filter(name, value)
                wanted[name] = value
                assert wanted.items() <= staff_at.query().items(), model
        if staff_at.has_filter("since"):
            staff_at.open_filters()
            staff_at.follow("Past 7 days")
            del wanted["since"]
            wanted |= {"period": "7"} if model == "partner" else {"since": f"{week}"}
        staff_at.search("1001")
        wanted["q"] = "1001"
        assert wanted.items() <= staff_at.query().items(), model
    staff_at.open("report", "changelist")
    staff_at.page.locator("[name=partner]").fill("Steep Notes")
    staff_at.press("Show")
    assert staff_at.query()["partner"] == "Steep Notes"


def test_forms_open_and_are_saved(staff_at: Staff) -> None:
    for model in LISTS:
        staff_at.open(model, "change")
    for model, page, field, value in (
        ("partner", "deal", "name", "Steeper Notes"),
        ("subscription", "change", "payout_value", Decimal(8)),
    ):
        staff_at.open(model, page)
        staff_at.page.locator(f"#id_{field}").fill(str(value))
        staff_at.press("Save")
        staff_at.rows[model].refresh_from_db()
        assert getattr(staff_at.rows[model], field) == value


def test_conversions_are_found_and_decided(staff_at: Staff) -> None:
    pending = Conversion.objects.filter(status="pending", review_reason="")
    rejected, *approved = pending.order_by("-pk")[:3]
    staff_at.open("conversion", "changelist")
    for row in approved:
        staff_at.row(row.pk).check()
    staff_at.act("approve_selected")
    staff_at.press("Approve")
    assert not pending.filter(pk__in=[row.pk for row in approved]).exists()

    staff_at.search(rejected.reference)
    assert staff_at.page.locator("[name=_selected_action]").count() == 1
    staff_at.follow(str(rejected.pk))
    staff_at.follow("Reject")
    staff_at.page.get_by_label("Reason").fill("The goods came back.")
    staff_at.press("Reject")
    rejected.refresh_from_db()
    assert (rejected.status, rejected.reason) == ("rejected", "The goods came back.")


def test_the_buttons_of_our_panels_can_be_read(staff_at: Staff) -> None:
    staff_at.open("partner", "change")
    found = staff_at.page.locator(".aff-panel button.button:visible").all()
    assert found
    assert [one.inner_text() for one in found if one.evaluate(CONTRAST) < 4.5] == []
