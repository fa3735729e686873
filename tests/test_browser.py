"""
The colleague's day and the month's end, in a real browser, by what is seen on the pages.

Nobody here knows an address, a row or a field: whoever plays follows links, reads labels and types,
on a wide screen and on a phone. Where a page complains in the console, has a barrier for somebody
or must be scrolled sideways, the day has failed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import pytest
from django.contrib.admin import ModelAdmin
from django.contrib.auth.models import Permission

from affiliations.callbacks.delivery import Courier
from affiliations.models import Partner
from tests.chromium import PHONE, POLICY, WIDE, Window, chromium
from tests.factories import UserFactory
from tests.gallery import PASSWORD, furnish, pages, tour
from tests.raw_partner import RawPartner

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = [
    pytest.mark.needs("chromium"),
    pytest.mark.django_db(transaction=True),
]


#: What a row is called in a list.
NUMBER = re.compile(r"^\d+$")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def site(live_server: Any, settings: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    # The rows of a list are all alike.
    monkeypatch.setattr(ModelAdmin, "list_per_page", 20)
    settings.AFFILIATE_CALLBACK_ALLOW_PRIVATE_ADDRESSES = True
    with urlopen(f"{live_server.url}/admin/login/") as page:
        assert page.headers["Content-Security-Policy"] == POLICY
    return str(live_server.url)


@pytest.fixture
def partner_server() -> Iterator[RawPartner]:
    with RawPartner() as server:
        yield server


class Colleague:
    """Somebody of the marketing staff, at the Admin."""

    def __init__(self, window: Window, site: str) -> None:
        self.window = window
        self.page: Page = window.page
        user = UserFactory(is_staff=True)
        user.user_permissions.set(Permission.objects.filter(content_type__app_label="affiliations"))
        window.log_in(site, user.get_username(), "secret")

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).first.click()
        self.look()

    def follow(self, name: str | re.Pattern[str], within: Locator | None = None) -> None:
        # Not in what stands beside each page of the Admin: on a phone that is folded away.
        place = within or self.page.locator("#content")
        place.get_by_role("link", name=name, exact=True).first.click()
        self.look()

    def home(self, model: str) -> None:
        """Go to a list, from the first page of the Admin."""
        self.page.locator(".breadcrumbs, #site-name").get_by_role("link").first.click()
        self.page.locator("#content-main").get_by_role("link", name=model, exact=True).click()
        self.look()

    def type(self, label: str, text: str) -> None:
        self.page.get_by_role("textbox", name=label).first.fill(text)

    def tick(self, label: str) -> None:
        self.page.get_by_role("checkbox", name=label).first.check()

    def choose(self, label: str, choice: str) -> None:
        self.page.get_by_role("combobox", name=label).first.select_option(choice)

    def search(self, words: str) -> None:
        self.page.get_by_role("textbox", name="Search").fill(words)
        self.press("Search")

    def look(self) -> None:
        """Look at the page as it is, and note what is wrong with it."""
        self.page.wait_for_load_state()
        found = self.window.faults()
        assert not found, "\n".join(found)

    def sees(self, text: str | re.Pattern[str]) -> None:
        self.page.locator("#container").get_by_text(text).first.wait_for()


@pytest.fixture(params=[WIDE, PHONE], ids=["wide", "phone"])
def colleague(
    request: pytest.FixtureRequest, browser: Browser, site: str, permissions: None
) -> Iterator[Colleague]:
    with Window.open(browser, request.param) as window:
        yield Colleague(window, site)
        assert window.complaints == []


def test_the_day_of_a_colleague(
    colleague: Colleague, browser: Browser, site: str, partner_server: RawPartner
) -> None:
    from playwright.sync_api import expect  # which the other environments do not have

    page = colleague.page

    # A new partner, who is paid 5 euros for an order, once somebody has looked at it.
    colleague.home("Partners")
    colleague.follow(re.compile("Add partner", re.IGNORECASE))
    colleague.type("Name", "Steep Notes")
    colleague.tick("Active")
    page.get_by_text("Add another Subscription").click()
    colleague.choose("Trigger", "Order placed")
    colleague.type("Callback URL", partner_server.url + "?click=")
    page.get_by_text("Placeholders: what the partner can be told").first.click()
    colleague.press("{click_id}")
    colleague.choose("Payout", "a fixed amount")
    page.get_by_role("spinbutton", name="Payout value").first.fill("5")
    colleague.type("Payout currency", "EUR")
    colleague.choose("Approval", "by hand, or by a signal")
    colleague.press("Save and continue editing")
    colleague.sees("was added successfully")

    # The link to hand over, for a page of the shop and with the place for the network's click id.
    page.get_by_text("For another page").click()
    colleague.type("Landing page", "/page/")
    colleague.type("Click id", "{clickid}")
    shown = page.get_by_role("textbox", name="Tracking link")
    expect(shown).to_have_value(re.compile(r"/page/\?affiliate_id=\w{8}&click_id={clickid}$"))
    link = shown.input_value()

    # Is the partner's server right?
    colleague.follow("Change")
    colleague.follow("Send a test callback")
    colleague.press("Send it now")
    colleague.sees("taken")
    assert b"GET /cb?click=test-click " in partner_server.requests[0]
    partner_server.requests.clear()

    # Does the deal work, from end to end?
    colleague.home("Partners")
    colleague.follow("Steep Notes")
    colleague.follow("Try this deal")
    colleague.press("Make a link")
    buys(browser, page.get_by_role("textbox", name="The link for trying").input_value(), site)
    page.reload()
    colleague.sees("something was counted")
    assert not partner_server.requests

    # Somebody comes through the partner's link and orders.
    buys(browser, link.replace("{clickid}", "click-42"), site)
    Courier().run()
    assert b"GET /cb?click=click-42 " in partner_server.requests[0]

    # The colleague approves that, and sees what has become of it.
    colleague.home("Conversions")
    colleague.search("click-42")
    page.get_by_role("checkbox", name=re.compile("Order placed")).check()
    colleague.choose("Action", "Approve selected conversions")
    colleague.press("Run")
    colleague.press("Approve")
    colleague.sees("1 conversion: Approved.")
    colleague.follow(NUMBER, page.get_by_role("row", name=re.compile("Order placed")))
    colleague.sees("approved")

    # To whom was it told, and with what result?
    colleague.follow(NUMBER, page.get_by_role("region", name="Callbacks"))
    colleague.sees("delivered")
    colleague.sees("click-42")
    colleague.follow("Send again")
    colleague.press("Send again")
    Courier().run()
    assert len(partner_server.requests) == 2

    # The month's end.
    colleague.home("Partners")
    colleague.follow("Steep Notes")
    colleague.follow("Settle")
    colleague.type("Decided before", "")
    colleague.press("Show what is open")
    way_on = page.get_by_role("link", name="Settle 5.00 EUR with Steep Notes").bounding_box()
    assert way_on is not None
    assert page.viewport_size is not None
    assert way_on["x"] + way_on["width"] <= page.viewport_size["width"]
    colleague.follow("Settle 5.00 EUR with Steep Notes")
    colleague.type("Reference", "Voucher 1")
    colleague.press("Settle")
    colleague.sees("Settled: 5.00 EUR for Steep Notes.")
    with page.expect_download() as downloading:
        page.get_by_role("link", name="Download as CSV").click()
    statement = downloading.value.path().read_text(encoding="utf-8-sig")
    assert "click-42" in statement
    assert "5.00" in statement

    # The goods come back after all: what was paid too much goes off the next settlement.
    colleague.follow("Conversion", page.get_by_role("region", name="Lines"))
    colleague.follow("Reject")
    colleague.type("Reason", "The goods came back.")
    colleague.press("Reject")
    colleague.home("Partners")
    colleague.follow("Steep Notes")
    colleague.follow("Settle")
    colleague.type("Decided before", "")
    colleague.press("Show what is open")
    colleague.sees("-5.00 EUR")

    # How is it going, and what does the partner see of it?
    colleague.home("Report")
    colleague.sees("Steep Notes")
    colleague.home("Partners")
    colleague.follow("Steep Notes")
    colleague.follow("The partner’s own page")
    colleague.press("Make a link")
    private = page.get_by_role("textbox", name="The private link").input_value()
    with Window.open(browser, tuple(page.viewport_size.values())) as theirs:
        theirs.page.goto(private)
        theirs.page.get_by_text("click-42").first.wait_for()
        theirs.page.get_by_text("The goods came back.").first.wait_for()
        assert theirs.faults() == []
        assert theirs.complaints == []


def buys(browser: Browser, link: str, site: str) -> None:
    """Come through a link and order, as a customer does."""
    with Window.open(browser) as window:
        window.page.goto(link)
        assert "affiliate_id" not in window.page.url
        assert window.page.request.post(f"{site}/order/").ok


def test_the_day_when_things_go_wrong(colleague: Colleague) -> None:
    furnish()
    page = colleague.page

    # The partner's server is down. Of what is held, one is not to go out any more.
    colleague.home("Callbacks")
    page.locator("#changelist-filter").get_by_role("link", name="held").click()
    colleague.follow(NUMBER, page.get_by_role("row", name=re.compile("held")).first)
    colleague.follow("Cancel")
    colleague.type("Reason", "They know already.")
    colleague.press("Cancel")
    colleague.sees("It is cancelled.")

    # It is well again.
    colleague.home("Partners")
    colleague.follow("The Kettle Review")
    colleague.sees("Callbacks of “Order placed” are suspended.")
    colleague.follow("Resume callbacks")
    colleague.press("Resume callbacks")
    colleague.sees("Callbacks are resumed. 2 were held, and go out now.")

    # A part of an order has come back.
    colleague.home("Conversions")
    page.locator("#changelist-filter").get_by_role("link", name="approved").click()
    colleague.follow(NUMBER, page.get_by_role("row", name=re.compile("Order placed")).first)
    colleague.follow("Correct the payout")
    page.get_by_role("spinbutton", name="Payout from now on, in EUR").fill("0.10")
    colleague.type("Reason", "One of two teas came back.")
    colleague.press("Correct the payout")
    colleague.sees(re.compile(r"The payout was corrected by -\d+\.\d\d EUR"))

    # A partner was wronged, and is credited; and then turns out to cheat.
    colleague.home("Partners")
    colleague.follow("Leaf & Cup")
    colleague.follow("Credit by hand")
    colleague.choose("Trigger", "Order placed")
    colleague.type("Reference", "9001")
    page.get_by_role("spinbutton", name="Amount").fill("50")
    colleague.type("Currency", "EUR")
    colleague.type("Reason", "The link was wrong on our side.")
    colleague.press("Credit")
    colleague.sees("Credited by hand: The link was wrong on our side.")
    colleague.sees("3.50 EUR")
    colleague.follow("Leaf & Cup")
    colleague.follow("Stop for fraud")
    colleague.type("Reason", "They order themselves.")
    colleague.press("Stop for fraud")
    colleague.home("Conversions")
    colleague.search("9001")
    colleague.sees("They order themselves.")


def test_a_script_within_a_page_is_refused(browser: Browser, site: str) -> None:
    with Window.open(browser) as window:
        window.page.goto(f"{site}/admin/login/")
        window.page.evaluate(
            "document.head.append(Object.assign("
            "document.createElement('script'), {textContent: 'window.hasRun = true'}))"
        )
        assert not window.page.evaluate("'hasRun' in window")
        assert any("Content Security Policy" in complaint for complaint in window.complaints)


@pytest.mark.parametrize(
    ("size", "scheme", "language"),
    [
        (WIDE, "dark", "en-us"),
        (PHONE, "light", "en-us"),
        (PHONE, "dark", "da"),
    ],
    ids=str,
)
def test_every_page_is_for_everybody(
    browser: Browser, site: str, settings: Any, size: tuple[int, int], scheme: str, language: str
) -> None:
    settings.LANGUAGE_CODE = language
    shown = furnish()
    found = []
    with Window.open(browser, size, scheme) as window:
        window.log_in(site, "staff", PASSWORD)
        for name in tour(window, site, shown):
            found += [f"{name}: {fault}" for fault in window.faults()]
    assert "\n".join(found + window.complaints) == ""


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_every_page_has_room_for_a_long_name_and_large_sums(
    browser: Browser, site: str, size: tuple[int, int]
) -> None:
    shown = furnish()
    for row in Partner.objects.all():
        Partner.objects.filter(pk=row.pk).update(name=f"{row.pk}{'M' * 249}")
        row.conversions.filter(status="approved").update(payout=Decimal("123456789012.34"))
        row.corrections.update(payout=Decimal("-99999999999.99"), reason="W" * 255)
    found = []
    with Window.open(browser, size) as window:
        window.log_in(site, "staff", PASSWORD)
        for name in tour(window, site, shown):
            found += [f"{name}: {misfit}" for misfit in window.misfits()]
    assert "\n".join(found) == ""


def test_a_wide_screen_shows_all_that_is_in_the_list_of_partners(
    browser: Browser, site: str
) -> None:
    furnish()
    with Window.open(browser) as window:
        window.log_in(site, "staff", PASSWORD)
        window.page.goto(f"{site}/admin/affiliations/partner/")
        shown, needed = window.page.locator(".results").evaluate(
            "(list) => [list.clientWidth, list.scrollWidth]"
        )
        assert needed <= shown


def test_paper_has_nothing_to_click(browser: Browser, site: str) -> None:
    shown = furnish()
    printed = {"settlement-settle", "settlement-statement", "own-page", "own-page-statement"}
    found = []
    with Window.open(browser) as window:
        window.log_in(site, "staff", PASSWORD)
        window.page.emulate_media(media="print")
        for name, path in pages(shown):
            if name in printed:
                window.page.goto(site + path)
                found += [f"{name}: {control}" for control in window.controls()]
                found += [f"{name}: {misfit}" for misfit in window.misfits()]
                printed.remove(name)
    assert "\n".join(found) == ""
    assert not printed
