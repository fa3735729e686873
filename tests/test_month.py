"""
A month of an affiliate manager, in a real browser, from an empty database.

Each click is counted: what took too many of them fails.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from django.contrib.auth.models import Permission
from django.test import Client

from affiliations.dates import today
from affiliations.models import Conversion, Partner, Settlement
from tests.chromium import WIDE, Window
from tests.factories import PartnerFactory, SubscriptionFactory, UserFactory

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator

pytestmark = [
    pytest.mark.needs("chromium"),
    pytest.mark.django_db(transaction=True),
    pytest.mark.server,
]

PARTNERS, REVIEWS = 30, 60
BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


def screened(visitor: Any, user: Any, instance: Any) -> str | None:
    """Let two of three orders of each partner need review."""
    orders = Conversion.objects.filter(partner=visitor.partner)
    return "Look at it." if orders.count() % 3 else None


class Manager:
    """An affiliate manager at a wide screen, who counts clicks and pages."""

    def __init__(self, window: Window, site: str) -> None:
        self.window, self.page = window, window.page
        self.clicks = 0
        user = UserFactory(is_staff=True)
        user.user_permissions.set(Permission.objects.filter(content_type__app_label="affiliations"))
        window.log_in(site, user.get_username(), "secret")

    def click(self, what: Locator) -> None:
        self.clicks += 1
        what.first.click()
        self.page.wait_for_load_state()

    def follow(self, name: str | re.Pattern[str]) -> None:
        place = self.page.locator("#content, .breadcrumbs, #site-name")
        self.click(place.get_by_role("link", name=name, exact=True))

    def press(self, name: str) -> None:
        self.click(self.page.get_by_role("button", name=name, exact=True))

    def type(self, label: str, text: str) -> None:
        self.page.get_by_role("textbox", name=label).first.fill(text)

    def choose(self, label: str, choice: str) -> None:
        self.page.get_by_role("combobox", name=label).first.select_option(choice)

    def spent(self) -> int:
        """Return the clicks since it was last asked."""
        clicks, self.clicks = self.clicks, 0
        return clicks


@pytest.fixture
def manager(browser: Browser, live_server: Any, settings: Any) -> Iterator[Manager]:
    settings.AFFILIATE_SCREEN = "tests.test_month.screened"
    with Window.open(browser, WIDE) as window:
        yield Manager(window, live_server.url)
        assert window.complaints == []


def test_a_month(manager: Manager) -> None:
    page = manager.page

    # A partner with a subscription.
    manager.follow("Partners")
    manager.follow(re.compile("Add partner", re.IGNORECASE))
    manager.type("Name", "Steep Notes")
    manager.click(page.get_by_role("checkbox", name="Active"))
    manager.click(page.get_by_text("Add another Subscription"))
    manager.choose("Trigger", "Order placed")
    manager.choose("Count conversions", "Every order (unique reference)")
    manager.choose("Payout", "Fixed amount")
    page.get_by_role("spinbutton", name="Payout value").first.fill("5")
    manager.type("Payout currency", "EUR")
    manager.press("Save and continue editing")
    assert manager.spent() <= 5

    # Clicks and orders of this partner and 29 others.
    for _ in range(PARTNERS - 1):
        SubscriptionFactory(
            partner=PartnerFactory(),
            callback_url="",
            counting="every",
            closes_referral=False,
            payout_type="fixed",
            payout_value=5,
            payout_currency="EUR",
        )
    for partner in Partner.objects.all():
        for _ in range(3):
            client = Client(headers={"user-agent": BROWSER})
            client.get(partner.link())
            assert client.post("/order/").status_code == 200
    assert Conversion.objects.needing_review().count() == REVIEWS

    # The morning look: what waits is on the first page, and all of it on one that needs no scroll.
    manager.follow("Home")
    manager.spent()
    page.get_by_role("link", name=f"{REVIEWS} conversions need review").wait_for()
    manager.follow("Overview")
    assert manager.spent() == 1
    words = page.locator(".aff-page").inner_text()
    for text in (f"{REVIEWS} conversions need review", "unpaid balances", "Partners with the most"):
        assert text in words
    assert page.evaluate("document.documentElement.scrollHeight <= window.innerHeight")
    assert manager.window.faults() == []

    # Each conversion that needs review is decided with one key, as soon as it is read.
    manager.follow(f"{REVIEWS} conversions need review")
    manager.spent()
    decided = 0
    while (rows := page.locator("#aff-queue tbody tr")).count():
        for _ in range(rows.count()):
            page.keyboard.press("a")
            decided += 1
        manager.press("Save decisions")
    assert (decided, manager.spent()) == (REVIEWS, 3)
    assert Conversion.objects.filter(status="approved").count() == 3 * PARTNERS

    # The month is closed: 30 statements, their payment and the accounting file.
    manager.follow("Affiliate tracking")
    manager.follow("Overview")
    page.get_by_text("Nothing needs review.").wait_for()
    manager.spent()
    manager.click(page.locator("div:has(> dt:text-is('unpaid balances')) a"))
    manager.press("Create statements")
    page.get_by_text(f"Created {PARTNERS} payout statements").wait_for()
    manager.type("Payment reference", "Transfer 12")
    manager.press("Save payment")
    with page.expect_download() as downloading:
        manager.follow("Download accounting file")
    assert manager.spent() <= 8
    accounting = downloading.value.path().read_text(encoding="utf-8-sig")
    assert accounting.count("15.00") >= PARTNERS
    assert f"{15 * PARTNERS}.00" in accounting
    assert set(Settlement.objects.values_list("paid_on", "payment_reference")) == {
        (today(), "Transfer 12")
    }
