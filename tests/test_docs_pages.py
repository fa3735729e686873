"""The pages of the documentation as a browser shows them, on a phone and on a desk."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parent.parent
NARROW, WIDE = 400, 1280

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.server, pytest.mark.slow]

#: What does not fit: a page or an element that is wider than the window, unless it is in a box that
#: scrolls by itself; text that is cut off; and a picture that is missing or cannot be opened.
FAULTS = r"""() => {
    const width = document.documentElement.clientWidth;
    const found = document.documentElement.scrollWidth > width ? ["the page is too wide"] : [];
    const name = (element) => element.outerHTML.slice(0, 150);
    for (const element of document.querySelectorAll("#furo-main-content *")) {
        const style = getComputedStyle(element);
        if (/hidden|clip/.test(style.overflowX) && element.scrollWidth > element.clientWidth + 1
            && style.display !== "inline")
            found.push(`cut off: ${name(element)}`);
        let box = element.parentElement;
        while (box && !/auto|scroll/.test(getComputedStyle(box).overflowX)) box = box.parentElement;
        const {left, right} = element.getBoundingClientRect();
        if (!box && (right > width + 1 || left < -1)) found.push(`too wide: ${name(element)}`);
    }
    for (const picture of document.querySelectorAll("#furo-main-content img")) {
        if (!picture.naturalWidth) found.push(`missing: ${name(picture)}`);
        if (picture.closest("a")?.href !== picture.src) found.push(`no link: ${name(picture)}`);
    }
    return found;
}"""


class Parsed(HTMLParser):
    """A page: its links, and the ids and the sections that links can lead to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.sections: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids.add(given.get("id") or "")
        if tag == "a" and not re.match(r"\w+:", given.get("href") or ""):
            self.links.append(unquote(given.get("href") or ""))
        if tag == "section" and given.get("id"):
            self.sections.append(given["id"] or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the documentation, with each warning an error."""
    built = tmp_path_factory.mktemp("docs") / "html"
    line = [sys.executable, "-m", "sphinx", "-q", "-W", "-n", "-b", "html", "docs", str(built)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)
    assert (done.returncode, done.stderr) == (0, "")
    return built


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Parsed]:
    return {page: Parsed(page) for page in sorted(site.rglob("*.html"))}


@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_every_page_fits_and_shows_its_pictures(
    site: Path, pages: dict[Path, Parsed], browser: Any, width: int
) -> None:
    window = browser.new_page(viewport={"width": width, "height": 900})
    faults = {}
    for page in pages:
        window.goto(page.as_uri())
        if found := window.evaluate(FAULTS):
            faults[str(page.relative_to(site))] = found
    window.close()
    assert faults == {}


def test_a_picture_opens_in_full_size(site: Path, browser: Any) -> None:
    window = browser.new_page(viewport={"width": NARROW, "height": 900})
    window.goto((site / "staff" / "guide.html").as_uri())
    shown = window.locator("#furo-main-content img").first
    size = shown.evaluate("picture => [picture.width, picture.naturalWidth]")
    shown.click()
    assert window.url.endswith(".png")
    assert size[0] < size[1] == window.evaluate("document.images[0].naturalWidth")
    window.close()


def test_every_link_within_the_documentation_leads_somewhere(pages: dict[Path, Parsed]) -> None:
    dead = []
    for page, parsed in pages.items():
        for link in parsed.links:
            path, _, name = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            if not target.exists() or (name and name not in pages[target].ids):
                dead.append(f"{page.name}: {link}")
    assert len(pages) > 50
    assert dead == []


def test_all_sections_are_listed(site: Path, pages: dict[Path, Parsed]) -> None:
    listed = pages[site / "contents.html"].links
    sections = [
        f"{page.relative_to(site).as_posix()}#{name}"
        for page, parsed in pages.items()
        # The first one of a page is its title.
        for name in parsed.sections[1:]
        if page.name not in ("index.html", "genindex.html")
    ]
    assert len(sections) > 200
    assert sorted(set(sections) - set(listed)) == []
