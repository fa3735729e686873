"""
The whole story, played over HTTP: from a partner's link to the partner's callbacks.

Each step says what is done, does it as a person would, and checks what came of it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import requests

from affiliations.models import Callback, CallbackAttempt
from demo import deal
from demo.browser import Browser, BrowserError
from demo.sites import Site, SiteDown


class StepFailed(Exception):
    """A step did not end as it should."""


def check(fact: object, otherwise: str) -> None:
    """Go on if `fact` is true; else raise `StepFailed` with what is the matter."""
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
        self._order = ""
        self._told: list[dict[str, str]] = []

    def play(self) -> None:
        """Play every step; raise `StepFailed` at the first that does not end as it should."""
        try:
            self.follow_the_link()
            self.sign_up()
            self.order()
            self.pay()
            self.pay_nothing_twice()
            self.look_into_the_admin()
        except (BrowserError, SiteDown, requests.RequestException) as error:
            raise StepFailed(str(error)) from error

    def follow_the_link(self) -> None:
        """Come to the shop through the partner's link."""
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
            f"The shop led the reader elsewhere: {page.url}",
        )
        check("affiliate_id" not in page.url, "The partner's uid is still in the address.")
        check(page.status == 200, f"The shop's page answered {page.status}.")
        check(
            f"You come from {deal.PARTNER_NAME}" in page.text,
            "The shop does not know whose reader this is.",
        )

    def sign_up(self) -> None:
        """Open an account, and see that the partner hears of it."""
        self._begin("The reader signs up.")
        name = f"reader-{secrets.token_hex(3)}"
        password = secrets.token_urlsafe(12)
        self.reader.follow("Sign up")
        page = self.reader.press(
            "Sign up",
            username=name,
            email=f"{name}@reader.example",
            password1=password,
            password2=password,
        )
        check(f"Welcome, {name}" in page.text, f"The shop opened no account. {self._complaints()}")
        self._hear("User registered")

    def order(self) -> None:
        """Order a tea, and see that the partner hears of it."""
        self._begin("The reader orders a tea.")
        self.reader.follow("Green Sencha")
        page = self.reader.press("Order")
        check("Waiting for payment" in page.text, f"The shop took no order. {self._complaints()}")
        self._order = page.text.partition("Order ")[2].split()[0]
        self._say(f"     {page.url}")
        self._hear("Order placed", about_order=True)

    def pay(self) -> None:
        """Pay at the provider, whose own process tells the shop; see that the partner hears."""
        self._begin("The reader pays. The payment provider tells the shop, from another process.")
        page = self.reader.follow("Pay 12.00 EUR")
        self._say(f"     {page.url.partition('?')[0]}")
        check(page.url.startswith(self.provider.url), "The shop did not lead to its provider.")
        page = self.reader.press("Pay now")
        check(page.url.startswith(self.shop.url), f"The shop heard of no payment: {page.text}")
        check("Thank you, it is paid" in page.text, "The order is not marked as paid.")
        self._say(f"     {page.url}  paid")
        told = self._hear("Order paid", about_order=True)
        check(told["reference"] == self._order, f"The reference is not {self._order}.")
        check(told["amount"] == "12.00", "The amount is not 12.00.")
        check(told["currency"] == "EUR", "The currency is not EUR.")

    def pay_nothing_twice(self) -> None:
        """Repeat the notice of the payment, order again, and see that neither counts."""
        self._begin("The provider repeats itself, and the reader orders once more.")
        staff = Browser(self.patience)
        staff.open(self.provider.url)
        page = staff.press("Tell the shop again")
        check("answered 200, 200" in page.text, "The shop did not take the notice a second time.")
        page = self.reader.open(self.shop.url)
        check("You come from" not in page.text, "The payment has not ended the referral.")
        self.reader.follow("White Peony")
        page = self.reader.press("Order")
        check("Waiting for payment" in page.text, "The shop took no second order.")
        # A row would have been written before the shop's answer, so there is nothing to wait for.
        rows = Callback.objects.count()
        check(rows == len(self._told), f"The shop has queued {rows} callbacks, not 3.")
        self._say("     Nothing more is counted: the payment has ended the referral.")

    def look_into_the_admin(self) -> None:
        """Log in as staff and find the three conversions and the delivered callbacks."""
        self._begin("The staff look at it in the Admin.")
        delivered = Callback.objects.filter(status=Callback.Status.DELIVERED)
        self._wait(
            lambda: delivered.count() == len(self._told), "Not every callback counts as delivered."
        )
        staff = Browser(self.patience)
        staff.open(f"{self.shop.url}admin/affiliations/conversion/")
        page = staff.press("Log in", username=deal.ADMIN_NAME, password=deal.ADMIN_PASSWORD)
        check(page.status == 200, f"The Admin's conversions answer {page.status}.")
        for told in self._told:
            check(told["trigger"] in page.text, f"The Admin shows no “{told['trigger']}”.")
        page = staff.open(f"{self.shop.url}admin/affiliations/callback/")
        check(page.status == 200, f"The Admin's callbacks answer {page.status}.")
        self._say("     3 conversions, 3 callbacks, all delivered.")

    def _begin(self, what: str) -> None:
        self._steps += 1
        self._say(f"{self._steps:>3}. {what}")

    def _hear(self, trigger: str, *, about_order: bool = False) -> dict[str, str]:
        """Wait until the partner has received one callback more, and check what it says."""
        self._wait(lambda: len(self._received()) > len(self._told), self._silence(trigger))
        received = self._received()
        new = received[len(self._told) :]
        check(len(new) == 1, f"The partner received {len(new)} callbacks, not one.")
        told = new[0]
        self._say(f"     The partner received: {describe(told)}")
        check(told["trigger"] == trigger, f"The callback is not of “{trigger}”.")
        check(told["event"] == "conversion", "The event is not “conversion”.")
        check(told["click_id"] == self._click_id, f"The click id is not {self._click_id}.")
        check(told["visitor_id"], "There is no visitor id.")
        visitors = {earlier["visitor_id"] for earlier in [*self._told, told]}
        check(len(visitors) == 1, "The callbacks are of different visitors.")
        check(
            not about_order or self._order in told["reference"],
            f"The reference does not name order {self._order}.",
        )
        self._told = received
        return told

    def _received(self) -> list[dict[str, str]]:
        return received_by(self.partner, timeout=self.patience)

    def _silence(self, trigger: str) -> Callable[[], str]:
        """Say, when it has come to that, what the shop knows of a callback that did not arrive."""

        def explanation() -> str:
            attempts = CallbackAttempt.objects.filter(callback__conversion__trigger=trigger)
            tried = ", ".join(
                f"{attempt.get_error_display()} ({attempt.status_code or attempt.error})"
                for attempt in attempts
            )
            missing = f"The partner received no callback of “{trigger}” in {self.patience:g} s."
            return f"{missing} The shop tried: {tried or 'nothing'}."

        return explanation

    def _wait(self, done: Callable[[], bool], otherwise: str | Callable[[], str]) -> None:
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
    """Ask the partner's site which callbacks it has received, oldest first."""
    with requests.Session() as session:
        session.trust_env = False
        answer = session.get(f"{partner.url}callbacks.json", timeout=timeout)
        answer.raise_for_status()
        callbacks: list[dict[str, str]] = answer.json()
    return callbacks


def describe(callback: dict[str, str]) -> str:
    """Put a callback into one line."""
    names = ("visitor_id", "click_id", "event", "trigger", "reference", "amount", "currency")
    return "  ".join(f"{name}={callback[name]}" for name in names if callback[name])
