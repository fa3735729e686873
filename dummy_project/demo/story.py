"""
The demo's story, played over HTTP: from a partner's link to the partner's callbacks.

Each step prints what it does, does it with the demo's browser, and checks the result.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import requests

from affiliations.exceptions import Reason
from affiliations.models import Callback, CallbackAttempt, Conversion, FilteredClicks, Visitor
from demo import deal
from demo.browser import Browser, BrowserError
from demo.sites import Site, SiteDown
from store.models import Order


class StepFailed(Exception):
    """A step did not have the expected result."""


def check(fact: object, otherwise: str) -> None:
    """Raise `StepFailed` with the message `otherwise` unless `fact` is true."""
    if not fact:
        raise StepFailed(otherwise)


class Story:
    """A reader of the partner's site becomes a customer of the shop."""

    def __init__(
        self,
        shop: Site,
        partner: Site,
        provider: Site,
        *,
        say: Callable[[str], object],
        patience: float,
    ) -> None:
        self.shop = shop
        self.partner = partner
        self.provider = provider
        self.patience = patience
        self.reader = Browser(patience)
        self._say = say
        self._steps = 0
        self._click_id = ""
        self._name = f"reader-{secrets.token_hex(3)}"
        self._paid = ""
        self._checked: list[dict[str, str]] = []

    def play(self) -> None:
        """Play every step; raise `StepFailed` at the first one that fails."""
        try:
            self.follow_the_link()
            self.sign_up()
            self.order_the_newsletter()
            self.order_and_pay()
            self.get_money_back()
            self.order_and_not_pay()
            self.renew_an_order()
            self.order_with_the_code()
            self.look_into_the_admin()
            self.look_at_the_partners_page()
        except (BrowserError, SiteDown, requests.RequestException) as error:
            raise StepFailed(str(error)) from error

    def follow_the_link(self) -> None:
        """Follow the partner's link to the shop."""
        self._begin("A reader of the partner's site follows a link to the shop.")
        self.reader.open(self.partner.url)
        page = self.reader.follow("Try the Assam Breakfast")
        for hop in self.reader.hops:
            self._say(f"     {hop.status} {hop.url}")
        self._say(f"     {page.status} {page.url}")
        check(len(self.reader.hops) == 2, "The partner and the shop should redirect once each.")
        landing = self.reader.hops[1]
        clicked = parse_qs(urlsplit(landing.url).query)
        check("click_id" in clicked, "The partner's link has no click id.")
        self._click_id = clicked["click_id"][0]
        check(landing.status == 302, f"The shop answered the link with {landing.status}, not 302.")
        check(
            urlsplit(landing.url)[:3] == urlsplit(page.url)[:3],
            f"The shop redirected to another page: {page.url}",
        )
        check("affiliate_id" not in page.url, "The partner's uid is still in the address.")
        check(page.status == 200, f"The shop's page answered {page.status}.")
        check(
            f"You come from {deal.PARTNER_NAME}" in page.text,
            "The shop does not show which partner the visitor came from.",
        )
        self._let_an_agent_follow_it()

    def sign_up(self) -> None:
        """Sign up, and check that the partner receives a callback."""
        self._begin("The reader signs up.")
        name = self._name
        password = secrets.token_urlsafe(12)
        self.reader.follow("Sign up")
        page = self.reader.press(
            "Sign up",
            username=name,
            email=f"{name}@reader.example",
            password1=password,
            password2=password,
        )
        check(f"Welcome, {name}" in page.text, f"The sign-up failed. {self._complaints()}")
        self._hear("User registered", payout="2.00")

    def order_the_newsletter(self) -> None:
        """Order the newsletter twice, and check that it is credited once."""
        self._begin("The reader orders the newsletter, and again for a second address.")
        for address in (f"{self._name}@reader.example", f"{self._name}@office.example"):
            self.reader.open(self.shop.url)
            page = self.reader.press("Send me the letter", email=address)
            check(
                "The next letter comes to you" in page.text,
                f"The order of the newsletter failed. {self._complaints()}",
            )
        self._hear("Newsletter ordered", payout="0.50")
        self._say("     The second address is not credited: the trigger counts once per visitor.")

    def order_and_pay(self) -> None:
        """Order and pay: the provider notifies the shop, and the shop calls its partner."""
        self._begin("The reader orders a tea and pays. The payment provider notifies the shop.")
        self._paid = order = self._order("Green Sencha", "12.00", payout="0.84")
        self._pay(order, "12.00", payout="0.84")
        staff = self._at_the_provider("Notify the shop again")
        check("answered 200, 200" in staff.page.text, "The shop refused the repeated notice.")
        self._say("     The provider notifies the shop again. This changes nothing.")

    def get_money_back(self) -> None:
        """Order once more, pay, and return the tea: the conversion is rejected."""
        self._begin("The reader orders another tea, pays, and gets a refund.")
        order = self._order("White Peony", "16.80", payout="1.18")
        self._pay(order, "16.80", payout="1.18")
        self._at_the_provider(f"Refund order {order}")
        page = self.reader.open(self.reader.page.url)
        check("Your money is on its way back" in page.text, "The order is not marked as refunded.")
        self._hear("Order placed", "rejection", "rejected", order, "16.80", payout="1.18")

    def order_and_not_pay(self) -> None:
        """Order a third time without paying: the conversion stays pending."""
        self._begin("The reader orders a third tea and does not pay.")
        self._order("Assam Breakfast", "9.50", payout="0.67")

    def renew_an_order(self) -> None:
        """Renew the first order without the reader's browser: the earning period is running."""
        self._begin("The payment provider renews the paid order, while the reader is away.")
        self._at_the_provider(f"Renew order {self._paid}")
        renewal = str(Order.objects.latest("pk").pk)
        for event, status in (("conversion", "pending"), ("approval", "approved")):
            self._hear("Order placed", event, status, renewal, "12.00", payout="0.84")
        self._say("     No browser is known: the earning period of the customer is running.")

    def order_with_the_code(self) -> None:
        """Order with the partner's code in another browser, which followed no link."""
        self._begin("Another reader follows no link, and orders with the partner's code.")
        self.reader, self._click_id = Browser(self.patience), ""
        fields = {"email": "friend@reader.example", "coupon": deal.PARTNER_CODE}
        self._order("Smoked Lapsang", "11.20", payout="0.78", **fields)
        self._say(f"     It is credited by the code {deal.PARTNER_CODE}. No click is counted.")

    def look_into_the_admin(self) -> None:
        """Log in as staff and find the conversions and the delivered callbacks."""
        self._begin("Staff look at the conversions and callbacks in the Admin.")
        visitors = {callback["visitor_id"] for callback in self._checked}
        callbacks = Callback.objects.filter(conversion__visitor__in=visitors)
        undelivered = callbacks.exclude(status=Callback.Status.DELIVERED)
        self._wait(lambda: not undelivered.exists(), "Not every callback was delivered.")
        # The shop writes callbacks before it answers, so there is no need to wait for more.
        rows = callbacks.count()
        check(rows == len(self._checked), f"The shop has written {rows} callbacks.")
        staff = Browser(self.patience)
        staff.open(f"{self.shop.url}admin/affiliations/conversion/")
        page = staff.press("Log in", username=deal.ADMIN_NAME, password=deal.ADMIN_PASSWORD)
        check(page.status == 200, f"The Admin's conversions answer {page.status}.")
        for callback in self._checked:
            check(callback["trigger"] in page.text, f"The Admin shows no “{callback['trigger']}”.")
        by_code = Conversion.objects.filter(code=deal.PARTNER_CODE).latest("pk")
        page = staff.open(f"{self.shop.url}admin/affiliations/conversion/{by_code.pk}/change/")
        check(f"Code: {by_code.code}" in page.text, "The Admin shows no code of the conversion.")
        page = staff.open(f"{self.shop.url}admin/affiliations/overview/")
        check(deal.PARTNER_NAME in page.text, "The overview does not show the partner.")
        page = staff.open(f"{self.shop.url}admin/affiliations/callback/")
        check(page.status == 200, f"The Admin's callbacks answer {page.status}.")
        for conversion in Conversion.objects.order_by("pk"):
            payout = f"{conversion.payout:.2f} {conversion.payout_currency}"
            self._say(f"     {conversion!s:<45}  payout {payout}  {conversion.status}")
        self._say(f"     {rows} callbacks, all delivered.")

    def look_at_the_partners_page(self) -> None:
        """Open the partner page by its private link, and find the same conversions."""
        self._begin("The partner opens the partner page of the shop.")
        page = Browser(self.patience).open(deal.page_of_partner(self.shop.url))
        check(page.status == 200, f"The partner page answers {page.status}.")
        for conversion in Conversion.objects.order_by("pk"):
            found = f"{conversion.trigger} …" in page.text
            check(found, f"The partner page shows no “{conversion.trigger}”.")
        check(
            "Opened by an AI agent" in page.text, "The partner page hides the click of the agent."
        )
        clicks = Visitor.objects.filter(source=Visitor.Source.LINK).count()
        check(f"Counted {clicks} " in page.text, "The partner page counts other clicks.")
        self._say("     It shows the payouts of the partner. Customers are not shown.")

    def _let_an_agent_follow_it(self) -> None:
        """Let an AI agent follow the link: its click is filtered."""
        agent = Browser(self.patience, "Mozilla/5.0 (compatible; ChatGPT-User/1.0)")
        agent.open(self.partner.url)
        page = agent.follow("Try the Assam Breakfast")
        check("You come from" not in page.text, "The shop takes an AI agent for a visitor.")
        filtered = FilteredClicks.objects.filter(reason=Reason.AGENT)
        self._wait(filtered.exists, "The click of the AI agent was not filtered.")
        self._say("     An AI agent follows the same link. This click is filtered.")

    def _order(self, tea: str, price: str, *, payout: str, **fields: str) -> str:
        """Order a tea, check the callback, and return the order number."""
        self.reader.open(self.shop.url)
        self.reader.follow(tea)
        page = self.reader.press("Order", **fields)
        check("Waiting for payment" in page.text, f"The order failed. {self._complaints()}")
        order = page.text.partition("Order ")[2].split()[0]
        self._say(f"     {page.url}")
        self._hear("Order placed", "conversion", "pending", order, price, payout=payout)
        return order

    def _pay(self, order: str, price: str, *, payout: str) -> None:
        """Pay the order of the current page, and check the callback."""
        page = self.reader.follow(f"Pay {price} EUR")
        self._say(f"     {page.url.partition('?')[0]}")
        check(page.url.startswith(self.provider.url), "The shop did not link to its provider.")
        page = self.reader.press("Pay now")
        check(page.url.startswith(self.shop.url), f"The shop was not notified: {page.text}")
        check("Thank you, it is paid" in page.text, "The order is not marked as paid.")
        self._say(f"     {page.url}  paid")
        self._hear("Order placed", "approval", "approved", order, price, payout=payout)

    def _at_the_provider(self, button: str) -> Browser:
        """Press a button in the provider's list of payments."""
        staff = Browser(self.patience)
        staff.open(self.provider.url)
        staff.press(button)
        return staff

    def _begin(self, what: str) -> None:
        self._steps += 1
        self._say(f"{self._steps:>3}. {what}")

    def _hear(
        self,
        trigger: str,
        event: str = "conversion",
        status: str = "approved",
        order: str = "",
        price: str = "",
        *,
        payout: str,
    ) -> None:
        """Wait until the partner has received one more callback of an event, and check it."""
        self._wait(lambda: self._new(event), self._silence(trigger))
        new = self._new(event)
        check(len(new) == 1, f"The partner received {len(new)} callbacks, not one.")
        callback = new[0]
        self._say(f"     The partner received: {describe(callback)}")
        wanted = {
            "click_id": self._click_id,
            "event": event,
            "status": status,
            "trigger": trigger,
            "amount": price,
            "currency": "EUR" if price else "",
            "payout": payout,
            "payout_currency": "EUR",
        }
        if order:
            wanted["reference"] = order
        for name, value in wanted.items():
            actual = callback[name]
            check(actual == value, f"The callback has {name} “{actual}”, not “{value}”.")
        same = [each for each in self._checked if each["click_id"] == self._click_id]
        visitors = {each["visitor_id"] for each in [*same, callback]}
        check(len(visitors) == 1, "The callbacks of a click belong to different visitors.")
        self._checked.append(callback)

    def _new(self, event: str) -> list[dict[str, str]]:
        # Two callbacks that are sent at once arrive in any order.
        received = received_by(self.partner, timeout=self.patience)
        return [each for each in received if each["event"] == event and each not in self._checked]

    def _silence(self, trigger: str) -> Callable[[], str]:
        """Return a function that explains why a callback has not arrived."""

        def explanation() -> str:
            attempts = CallbackAttempt.objects.filter(callback__conversion__trigger=trigger)
            tried = ", ".join(
                f"{attempt.get_error_display()} ({attempt.status_code or attempt.error})"
                for attempt in attempts
            )
            missing = f"The partner received no callback of “{trigger}” in {self.patience:g} s."
            return f"{missing} The shop tried: {tried or 'nothing'}."

        return explanation

    def _wait(self, done: Callable[[], object], otherwise: str | Callable[[], str]) -> None:
        deadline = time.monotonic() + self.patience
        while not done():
            for site in (self.shop, self.partner, self.provider):
                site.check()
            if time.monotonic() > deadline:
                raise StepFailed(otherwise if isinstance(otherwise, str) else otherwise())
            time.sleep(0.1)

    def _complaints(self) -> str:
        return " ".join([f"It answered {self.reader.page.status}.", *self.reader.page.complaints])


def received_by(partner: Site, *, timeout: float) -> list[dict[str, str]]:
    """Return the callbacks that the partner's site has received, oldest first."""
    with requests.Session() as session:
        session.trust_env = False
        answer = session.get(f"{partner.url}callbacks.json", timeout=timeout)
        answer.raise_for_status()
        callbacks: list[dict[str, str]] = answer.json()
    return callbacks


def describe(callback: dict[str, str]) -> str:
    """Format a callback on one line."""
    hidden = ("callback_id", "received_on")
    return "  ".join(
        f"{name}={value}" for name, value in callback.items() if value and name not in hidden
    )
