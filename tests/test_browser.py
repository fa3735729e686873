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
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from affiliations.callbacks.worker import DeliveryWorker
from affiliations.models import Partner
from tests.chromium import PHONE, POLICY, WIDE, Window
from tests.factories import PartnerFactory, SubscriptionFactory, UserFactory
from tests.long_data import lengthen
from tests.raw_partner import RawPartner
from tests.shop import PASSWORD, furnish, pages, tour
from tests.urls import urlpatterns as usual_urlpatterns

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = [
    pytest.mark.needs("chromium"),
    pytest.mark.django_db(transaction=True),
    pytest.mark.server,
]


#: The method and the cookies of each request to the shop's payment pages.
seen: list[tuple[str, set[str]]] = []


@csrf_exempt
def payment(request: HttpRequest) -> HttpResponse:
    """Answer as the guide says: the bank's POST is continued with a GET."""
    seen.append((str(request.method), set(request.COOKIES)))
    return redirect("/payment/") if request.method == "POST" else HttpResponse("Paid")


urlpatterns = [*usual_urlpatterns, path("payment/", payment)]


#: What a row is called in a list.
NUMBER = re.compile(r"^\d+$")


@pytest.fixture
def site(live_server: Any, settings: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    # The rows of a list are all alike.
    monkeypatch.setattr(ModelAdmin, "list_per_page", 20)
    settings.AFFILIATE_CALLBACK_ALLOWED_NETWORKS = ["127.0.0.0/8"]
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
def colleague(request: pytest.FixtureRequest, browser: Browser, site: str) -> Iterator[Colleague]:
    with Window.open(browser, request.param) as window:
        yield Colleague(window, site)
        assert window.complaints == []


@pytest.mark.urls(__name__)
def test_a_banks_post_has_no_cookies_and_the_page_behind_it_has(
    browser: Browser, live_server: Any, settings: Any
) -> None:
    settings.AFFILIATE_COOKIE_NAME = "referral"
    form = f"<form method=post action={live_server.url}/payment/><button>Continue</button></form>"
    seen.clear()
    with Window.open(browser, WIDE) as window:
        window.page.route(
            "http://bank.example/", lambda route: route.fulfill(content_type="text/html", body=form)
        )
        window.page.goto(live_server.url + PartnerFactory().link("/payment/"))
        window.page.goto("http://bank.example/")
        window.page.get_by_role("button").click()
        window.page.get_by_text("Paid").wait_for()

    cookies = {"referral", "sessionid"}
    assert seen == [("GET", cookies), ("POST", set()), ("GET", cookies)]


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
    page.get_by_text("Available placeholders").first.click()
    colleague.press("{click_id}")
    colleague.choose("Payout", "Fixed amount")
    page.get_by_role("spinbutton", name="Payout value").first.fill("5")
    colleague.type("Payout currency", "EUR")
    colleague.choose("Approval", "Manual, or by your shop")
    colleague.press("Save and continue editing")
    colleague.sees("was added successfully")

    # The link to hand over, for a page of the shop and with the place for the network's click id.
    colleague.follow("Link and numbers")
    page.get_by_text("Deep link and network macros").click()
    colleague.type("Landing page", "/page/")
    colleague.type("Click id", "{clickid}")
    shown = page.get_by_role("textbox", name="Tracking link")
    expect(shown).to_have_value(re.compile(r"/page/\?affiliate_id=\w{8}&click_id={clickid}$"))
    link = shown.input_value()

    # Is the partner's server right?
    colleague.follow("Deal")
    colleague.follow("Change")
    colleague.follow("Send test callback")
    colleague.press("Send now")
    colleague.sees("accepted")
    assert b"GET /cb?click=test-click " in partner_server.requests[0]
    partner_server.requests.clear()

    # Does the deal work, from end to end?
    colleague.home("Partners")
    colleague.follow(re.compile("^Steep Notes"))
    colleague.follow("Try this deal")
    colleague.press("Create link")
    buys(browser, page.get_by_role("textbox", name="Test link").input_value(), site)
    page.reload()
    colleague.sees("with a conversion")
    assert not partner_server.requests

    # Somebody comes through the partner's link and orders.
    buys(browser, link.replace("{clickid}", "click-42"), site)
    DeliveryWorker().run()
    assert b"GET /cb?click=click-42 " in partner_server.requests[0]

    # The colleague approves that, and sees what has become of it.
    colleague.home("Conversions")
    colleague.search("click-42")
    page.get_by_role("checkbox", name=re.compile("Order placed")).check()
    colleague.choose("Action", "Approve selected conversions")
    colleague.press("Run")
    colleague.press("Approve")
    colleague.sees("Approved 1 conversion.")
    colleague.follow(NUMBER, page.get_by_role("row", name=re.compile("Order placed")))
    colleague.sees("approved")

    # To whom was it told, and with what result?
    colleague.follow(NUMBER, page.get_by_role("region", name="Callbacks"))
    colleague.sees("delivered")
    colleague.sees("click-42")
    colleague.follow("Send again")
    colleague.press("Send again")
    DeliveryWorker().run()
    assert len(partner_server.requests) == 2

    # The month's end.
    colleague.home("Partners")
    colleague.follow(re.compile("^Steep Notes"))
    colleague.follow("Create statement")
    page.get_by_label("Day (included)").fill("")
    colleague.press("Show unpaid commission")
    way_on = page.get_by_role("link", name=re.compile("5.00.EUR, Steep Notes$")).bounding_box()
    assert way_on is not None
    assert page.viewport_size is not None
    assert way_on["x"] + way_on["width"] <= page.viewport_size["width"]
    colleague.follow(re.compile("5.00.EUR, Steep Notes$"))
    colleague.type("Reference", "Voucher 1")
    colleague.press("Create statement")
    colleague.sees("Created a payout statement: 5.00 EUR for Steep Notes.")
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
    colleague.follow(re.compile("^Steep Notes"))
    colleague.follow("Create statement")
    page.get_by_label("Day (included)").fill("")
    colleague.press("Show unpaid commission")
    page.get_by_role("link", name=re.compile("-5.00.EUR, Steep Notes$")).wait_for()

    # How is it going, and what does the partner see of it?
    colleague.home("Report")
    colleague.sees("Steep Notes")
    colleague.home("Partners")
    colleague.follow(re.compile("^Steep Notes"))
    colleague.follow("Partner page")
    colleague.press("Create link")
    private = page.get_by_role("textbox", name="Private link").input_value()
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

    # The partner's server is down. Of what waits, one is not to go out any more.
    colleague.home("Callbacks")
    page.locator("#changelist-filter").get_by_role("link", name="queued").click()
    colleague.follow(
        NUMBER, page.get_by_role("row", name=re.compile("paused|suspended", re.I)).first
    )
    colleague.follow("Cancel")
    colleague.type("Reason", "They know already.")
    colleague.press("Cancel")
    colleague.sees("The callback was cancelled.")

    # It is well again.
    colleague.home("Partners")
    colleague.follow(re.compile("^The Kettle Review"))
    colleague.sees("Callbacks for “Order placed” are suspended.")
    colleague.follow("Resume callbacks")
    colleague.press("Resume callbacks")
    colleague.sees("Callbacks resumed. 2 paused callbacks are being sent.")

    # A part of an order has come back.
    colleague.home("Conversions")
    page.locator("#changelist-filter").get_by_role("link", name="approved").click()
    colleague.follow(NUMBER, page.get_by_role("row", name=re.compile("Order placed")).first)
    colleague.follow("Adjust payout")
    page.get_by_role("spinbutton", name="The order is now worth, in EUR").fill("0.50")
    colleague.type("Reason", "One of two teas came back.")
    colleague.press("Preview")
    colleague.press("Adjust payout")
    colleague.sees(re.compile(r"The payout was adjusted by -\d+\.\d\d\sEUR"))

    # A partner was wronged, and is credited; and then turns out to cheat.
    colleague.home("Partners")
    colleague.follow(re.compile("^Leaf & Cup"))
    colleague.follow("Credit manually")
    colleague.choose("Trigger", "Order placed")
    colleague.type("Reference", "9001")
    page.get_by_role("spinbutton", name="Amount").fill("50")
    colleague.type("Currency", "EUR")
    colleague.type("Reason", "The link was wrong on our side.")
    colleague.press("Credit")
    colleague.sees("(pending).")
    colleague.sees("3.50 EUR")
    colleague.follow("Leaf & Cup")
    colleague.follow("Stop for fraud")
    colleague.type("Reason", "They order themselves.")
    colleague.press("Stop for fraud")
    colleague.home("Conversions")
    colleague.search("9001")
    colleague.sees("They order themselves.")


PASTED = "“https://partner.example/cb?v={visitor_id}&amp;c={clickid}&p=:payout”"
CORRECTED = "https://partner.example/cb?v={visitor_id}&c={click_id}&p=:payout"


def test_a_pasted_url_is_corrected_while_it_is_typed(colleague: Colleague, site: str) -> None:
    subscription = SubscriptionFactory()
    page = colleague.page
    page.goto(f"{site}/admin/affiliations/subscription/{subscription.pk}/change/")
    field = page.locator("#id_callback_url")
    field.fill(PASTED)
    colleague.sees("Unknown placeholder {clickid}. Did you mean {click_id}?")
    colleague.press("Replace {clickid} with {click_id}")
    assert field.input_value() == PASTED.replace("{clickid}", "{click_id}")
    colleague.sees("The URL contains curly quotes")
    colleague.press("Correct all")
    assert field.input_value() == CORRECTED
    colleague.sees("https://partner.example/cb?v=0&c=test-click&p=:payout")
    colleague.press("Replace p=:payout with p={payout}")
    colleague.sees("https://partner.example/cb?v=0&c=test-click&p=10.00")
    colleague.press("Save")
    colleague.sees("was changed successfully")


def test_a_pasted_url_is_corrected_without_script(browser: Browser, site: str) -> None:
    """The key Enter saves, although the buttons of the URL stand before those of the form."""
    subscription = SubscriptionFactory()
    with Window.open(browser, PHONE, scripts=False) as window:
        colleague = Colleague(window, site)
        page = colleague.page
        page.goto(f"{site}/admin/affiliations/subscription/{subscription.pk}/change/")
        field = page.locator("#id_callback_url")
        field.fill(PASTED)
        field.press("Enter")
        page.get_by_text("Unknown placeholder {clickid}. Did you mean {click_id}?").wait_for()
        field.press("Enter")
        page.get_by_text("Unknown placeholder {clickid}. Did you mean {click_id}?").wait_for()
        assert field.input_value() == PASTED
        page.get_by_role("button", name="Correct all").click()
        page.get_by_text("The URL was corrected, but not saved yet.").wait_for()
        assert field.input_value() == CORRECTED
        field.press("Enter")
        page.get_by_text("was changed successfully").wait_for()
        page.get_by_text("“p=:payout” looks like a placeholder").wait_for()


def test_several_subscriptions_are_edited_at_once(colleague: Colleague) -> None:
    furnish()
    page = colleague.page
    colleague.home("Subscriptions")
    for box in page.locator("[name=_selected_action]").all()[:3]:
        box.check()
    page.locator("[name=action]").select_option("edit_selected")
    page.locator("[name=index]").click()
    colleague.look()
    page.get_by_role("spinbutton", name="Payout value").fill("7")
    colleague.choose("Active", "No")
    colleague.press("Show changes")
    page.get_by_role("button", name=re.compile("Change . subscriptions")).click()
    colleague.look()
    colleague.sees("Changed 3 subscriptions.")


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
        row.adjustments.update(payout=Decimal("-99999999999.99"), reason="W" * 255)
    found = []
    with Window.open(browser, size) as window:
        window.log_in(site, "staff", PASSWORD)
        for name in tour(window, site, shown):
            found += [f"{name}: {misfit}" for misfit in window.misfits()]
    assert "\n".join(found) == ""


#: The elements that look different without the styles for themes.
CHANGED = """() => {
    const looks = () => [...document.querySelectorAll("body, body *")].map((element) => {
        const style = getComputedStyle(element);
        return [element, [...style].map((name) => `${name}: ${style.getPropertyValue(name)}`)];
    });
    const sheet = [...document.styleSheets].find(({href}) => href.endsWith("themes.css"));
    const before = looks();
    sheet.disabled = true;
    return looks().flatMap(([element, look], number) => {
        const lost = before[number][1].filter((one) => !look.includes(one));
        return lost.length ? [`${element.outerHTML.slice(0, 120)} loses ${lost.join("; ")}`] : [];
    });
}"""


def test_the_styles_for_themes_change_nothing_in_the_admin_of_django(
    browser: Browser, site: str
) -> None:
    paths = dict(pages(furnish()))
    found = []
    with Window.open(browser) as window:
        window.log_in(site, "staff", PASSWORD)
        for name in (
            "conversion-list",
            "callback-resend",
            "conversion",
            "partner",
            "partner-credit",
            "partner-secret",
            "report-list",
            "settlement-settle",
        ):
            window.page.goto(site + paths[name])
            found += [f"{name}: {change}" for change in window.page.evaluate(CHANGED)]
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


def test_the_preview_of_a_post_shows_its_body_at_once(browser: Browser, site: str) -> None:
    user = UserFactory(is_staff=True, is_superuser=True)
    SubscriptionFactory(method="POST")
    with Window.open(browser) as window:
        window.log_in(site, user.get_username(), PASSWORD)
        window.page.goto(f"{site}/admin/affiliations/partner/{Partner.objects.get().pk}/deal/")
        preview = window.page.locator(".aff-callback-url:visible .aff-rendered")
        preview.filter(has_text='"type":"test"').wait_for()


def test_paper_has_nothing_to_click(browser: Browser, site: str) -> None:
    shown = furnish()
    printed = {"settlement-settle", "settlement-statement", "own-page", "own-page-statement",
               "own-page-link", "own-page-failing"}  # fmt: skip
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


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_real_names_and_amounts_fit_and_are_read_at_a_glance(
    browser: Browser, site: str, size: tuple[int, int]
) -> None:
    shown = furnish()
    lengthen()
    found = []
    with Window.open(browser, size) as window:
        window.log_in(site, "staff", PASSWORD)
        for name, path in pages(shown):
            window.page.goto(site + path)
            faults = window.misfits() + (window.clumsy() if size == WIDE else [])
            found += [f"{name}: {fault}" for fault in faults]
    assert "\n".join(found) == ""


def test_lists_fit_in_every_language_of_the_app(browser: Browser, site: str, settings: Any) -> None:
    """Danish has longer words and dates than English."""
    settings.LANGUAGE_CODE = "da"
    settings.USE_THOUSAND_SEPARATOR = True
    shown = furnish()
    lengthen()
    found = []
    with Window.open(browser) as window:
        window.log_in(site, "staff", PASSWORD)
        for name, path in pages(shown):
            if name.endswith("-list"):
                window.page.goto(site + path)
                assert window.page.locator("html").get_attribute("lang") == "da"
                found += [f"{name}: {fault}" for fault in window.clumsy() if "px" in fault]
    assert "\n".join(found) == ""
