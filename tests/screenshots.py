"""The pictures of the documentation; ``tox -e screenshots`` takes them again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.chromium import Window, take_picture
from tests.shop import PASSWORD, furnish, pages
from tests.tutorial import PORTS, everything, reading

PICTURES = Path(__file__).parent.parent / "docs" / "images"

#: The pages to show, by their names in ``tests.shop``.
SHOWN = ("partner-list", "partner", "subscription", "conversion", "report-list", "own-page")

#: Wide enough for the list of partners, and narrow enough that the text is readable in the docs.
WINDOW = (1200, 600)

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.server]


@pytest.mark.django_db(transaction=True)
def test_pictures(live_server: Any, browser: Any) -> None:
    paths = dict(pages(furnish()))
    with Window.open(browser, WINDOW) as window:
        window.log_in(live_server.url, "staff", PASSWORD)
        window.page.goto(live_server.url + paths["partner-list"])
        window.page.locator("#toggle-nav-sidebar").click()  # The Admin remembers that it is closed.
        for name in SHOWN:
            window.page.goto(live_server.url + paths[name])
            take_picture(window.page, PICTURES / f"{name}.png")


def test_pictures_of_the_tutorial(tmp_path: Path, browser: Any) -> None:
    with reading(tmp_path, browser, pictures=PICTURES) as reader:
        for part in everything(PORTS):
            reader.follow(part)
