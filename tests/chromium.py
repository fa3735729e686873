"""
Chromium, for what only a person at a screen sees: windows of each size and colour scheme.

Each window notes what its console complains of and what the pages answered, so that a test can say
that all was well. Pages are served under the strictest policy that a host may have.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse
    from playwright.sync_api import Browser, Page

POLICY = "default-src 'self'"

WIDE, PHONE = (1280, 900), (390, 844)

CONTROLS = "input, select, textarea, button, summary, .object-tools a, .submit-row a"

#: What is wider than its place; but a table may be, which scrolls on its own, so that no word of it
#: needs to be broken, other than ids and addresses.
MISFITS = r"""() => {
    const root = document.documentElement;
    const found = root.scrollWidth > root.clientWidth ? ["the page is too wide"] : [];
    for (const control of document.querySelectorAll("CONTROLS")) {
        if (!control.checkVisibility({visibilityProperty: true})) continue;
        const right = control.getBoundingClientRect().right;
        for (let box = control.parentElement; box !== root; box = box.parentElement) {
            const style = getComputedStyle(box);
            if (/auto|scroll/.test(style.overflowX) && control.closest("table")) break;
            if (style.display === "contents" || style.display === "inline") continue;
            if (right > box.getBoundingClientRect().right + 1) {
                const where = `<${box.localName} class="${box.className}">`;
                found.push(`${control.outerHTML.slice(0, 120)} sticks out of ${where}`);
                break;
            }
        }
    }
    for (const cell of document.querySelectorAll(".aff-scroll td:not(.aff-id)")) {
        const texts = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
        for (let text = texts.nextNode(); text; text = texts.nextNode()) {
            for (const word of text.data.matchAll(/\p{L}+/gu)) {
                const range = document.createRange();
                range.setStart(text, word.index);
                range.setEnd(text, word.index + word[0].length);
                const lines = new Set([...range.getClientRects()].map((line) => line.top));
                if (lines.size > 1) found.push(`${word[0]} is broken`);
            }
        }
    }
    return found;
}""".replace("CONTROLS", CONTROLS)

#: Nothing that Chromium does by itself: no look for updates, no other machine.
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def strict(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[..., HttpResponse]:
    """Answer under the strictest Content-Security-Policy; a middleware."""

    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        response.headers["Content-Security-Policy"] = POLICY
        return response

    return middleware


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run Chromium until the ``with`` block ends."""
    from playwright.sync_api import sync_playwright

    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=OPTIONS)
        yield browser
        browser.close()


@dataclass
class Window:
    """One person's window."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    @classmethod
    @contextmanager
    def open(
        cls,
        browser: Browser,
        size: tuple[int, int] = WIDE,
        scheme: Any = "light",
        language: str = "en-GB",
    ) -> Iterator[Window]:
        """Open a window with cookies of its own."""
        width, height = size
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            locale=language,
            # Its own is that of a crawler: “HeadlessChrome”.
            user_agent=(
                "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
                f"Chrome/{browser.version} Safari/537.36"
            ),
        )
        context.set_default_timeout(15_000)
        window = cls(context.new_page())
        window.page.on("console", window._note)
        window.page.on("pageerror", lambda error: window.complaints.append(str(error)))
        yield window
        context.close()

    def log_in(self, site: str, name: str, password: str) -> None:
        """Log in to the Admin, in whatever language it is."""
        self.page.goto(f"{site}/admin/")
        self.page.locator("[name=username]").fill(name)
        self.page.locator("[name=password]").fill(password)
        self.page.locator("[type=submit]").click()

    def _note(self, message: Any) -> None:
        if message.location["url"].endswith("/favicon.ico"):
            return  # The test site has none.
        if message.type in ("error", "warning"):
            self.complaints.append(f"{self.page.url}: {message.text}")

    def faults(self) -> list[str]:
        """Return what is wrong with the page for somebody, with all that it folds away opened."""
        with self._unfolded():
            return self.barriers() + self.misfits()

    def barriers(self) -> list[str]:
        """Return what keeps somebody from using the page: what axe calls serious or critical."""
        import axe_playwright_python

        script = Path(axe_playwright_python.__file__).with_name("axe.min.js")
        # Evaluated, not added to the page, whose policy forbids that.
        self.page.evaluate(script.read_text(encoding="utf-8"))
        # But for one rule, which does not take the picture in the label of the Admin's own search,
        # with its alternative text, for a label.
        found = self.page.evaluate(
            "axe.run({resultTypes: ['violations'], rules: {'label-title-only': {enabled: false}}})"
        )
        return [
            f"{self.page.url}: {rule['id']} ({rule['impact']}): {node['html'][:200]}"
            for rule in found["violations"]
            if rule["impact"] in ("serious", "critical")
            for node in rule["nodes"]
        ]

    def misfits(self) -> list[str]:
        """Return what does not fit: a wide page, a control outside its box, a broken word."""
        return [f"{self.page.url}: {found}" for found in self.page.evaluate(MISFITS)]

    def controls(self) -> list[str]:
        """Return what is on the page to be clicked or filled in, but for links within a text."""
        found: list[str] = self.page.evaluate(
            "(controls) => [...document.querySelectorAll(controls)]"
            ".filter((one) => one.checkVisibility()).map((one) => one.outerHTML)",
            CONTROLS + ", nav a, .file",
        )
        return found

    @contextmanager
    def _unfolded(self) -> Iterator[None]:
        """Open every ``<details>``, and close again what was closed."""
        self.page.evaluate(
            "for (const one of document.querySelectorAll('details:not([open])'))"
            " { one.open = true; one.dataset.wasClosed = ''; }"
        )
        yield
        self.page.evaluate(
            "for (const one of document.querySelectorAll('[data-was-closed]'))"
            " { one.open = false; delete one.dataset.wasClosed; }"
        )
