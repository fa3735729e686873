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
    // Words as long as real ones, without the parts of ids and addresses; and amounts.
    const WORD = new RegExp(
        /(?<![^\s(“"])[\p{L}\p{M}’']{2,24}(?=[.,:;!?…)”"]*(?:\s|$))/u.source
        + /|[\d.,]*\d\u00a0[A-Z]{3}\b/u.source, "gu");
    const UNBROKEN = "code, pre, svg, script, style, template, textarea, select, datalist";
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
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let text = texts.nextNode(); text; text = texts.nextNode()) {
        if (!text.parentElement.checkVisibility() || text.parentElement.closest(UNBROKEN)) continue;
        for (const word of text.data.matchAll(WORD)) {
            const range = document.createRange();
            range.setStart(text, word.index);
            range.setEnd(text, word.index + word[0].length);
            const lines = new Set([...range.getClientRects()].map((line) => line.top));
            if (lines.size > 1) found.push(`${word[0]} is broken`);
        }
    }
    return found;
}""".replace("CONTROLS", CONTROLS)

#: What is hard to read at a glance: a list that must be scrolled, numbers that are not aligned. The
#: references, click ids and days must not look like numbers.
CLUMSY = r"""() => {
    const AMOUNT = /-?\d[\d.,\u00a0]*(?:\u00a0(?:%|[A-Z]{3}))?/.source;
    const NUMBERS = new RegExp(`^${AMOUNT}((?:,|\\s+of)\\s${AMOUNT})*$`);
    const found = [];
    for (const list of document.querySelectorAll(".app-affiliations .results")) {
        if (list.scrollWidth > list.clientWidth)
            found.push(`the list needs ${list.scrollWidth} px and has ${list.clientWidth}`);
    }
    for (const table of document.querySelectorAll("#content table")) {
        [...(table.tHead?.rows[0].cells ?? [])].forEach((head, index) => {
            const rows = [...table.tBodies].flatMap((body) => [...body.rows]);
            const cells = rows.map((row) => row.cells[index])
                .filter((cell) => cell && /[^-\u2013\s]/.test(cell.innerText));
            if (!cells.length) return;
            if (!cells.every((cell) => NUMBERS.test(cell.innerText.trim()))) return;
            if (cells.some((cell) => cell.querySelector("a"))) return;  // An id.
            const aligned = [head, ...cells].map((cell) => getComputedStyle(cell).textAlign);
            if (!aligned.every((side) => side === "end" || side === "right"))
                found.push(`the numbers below ${head.innerText} are not right-aligned`);
        });
    }
    return found;
}"""

#: The rules of axe that Django's own templates break, and where.
DJANGOS_OWN = [
    # The picture in the label of the search, with its alternative text, is no label to axe.
    ("label-title-only", "#changelist-search"),
    # The columns of the rows' names and of the boxes that delete them.
    ("empty-table-header", ".tabular.inline-related thead"),
]
BARRIERS = """async (own) => {
    const found = await axe.run({resultTypes: ["violations"]});
    return found.violations.flatMap((rule) => rule.nodes
        .filter((node) => !own.some(([name, place]) =>
            name === rule.id && document.querySelector(node.target[0]).closest(place)))
        .map((node) => `${rule.id} (${rule.impact}): ${node.html.slice(0, 200)}`));
}"""

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


#: The rest of a long page in a picture, in pixels, is cut off.
HEIGHT = 1500


def take_picture(page: Page, file: Path) -> None:
    """Take a picture of a page for the documentation."""
    from PIL import Image

    page.wait_for_load_state("networkidle")
    page.evaluate("scrollTo(0, 0)")
    page.screenshot(path=file, full_page=True)
    with Image.open(file) as drawn:
        top = drawn.crop((0, 0, drawn.width, min(drawn.height, HEIGHT)))
        # Few colours keep the files small.
        top.quantize(64).save(file, optimize=True)


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
        *,
        scripts: bool = True,
    ) -> Iterator[Window]:
        """Open a window with cookies of its own."""
        width, height = size
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            locale=language,
            java_script_enabled=scripts,
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
        """Return what axe finds on the page, but for what Django's own templates are to blame."""
        import axe_playwright_python

        script = Path(axe_playwright_python.__file__).with_name("axe.min.js")
        # Evaluated, not added to the page, whose policy forbids that.
        self.page.evaluate(script.read_text(encoding="utf-8"))
        return [f"{self.page.url}: {one}" for one in self.page.evaluate(BARRIERS, DJANGOS_OWN)]

    def misfits(self) -> list[str]:
        """Return what does not fit: a wide page, a control outside its box, a broken word."""
        return [f"{self.page.url}: {found}" for found in self.page.evaluate(MISFITS)]

    def clumsy(self) -> list[str]:
        """Return which list must be scrolled, and which numbers are not right-aligned."""
        return [f"{self.page.url}: {found}" for found in self.page.evaluate(CLUMSY)]

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
