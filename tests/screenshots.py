"""The pictures of the documentation; ``tox -e screenshots`` takes them again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.chromium import Window, chromium
from tests.shop import PASSWORD, furnish, pages

PICTURES = Path(__file__).parent.parent / "docs" / "images"

#: The pages to show, by their names in ``tests.shop``.
SHOWN = ("partner-list", "partner", "subscription", "conversion", "report-list", "own-page")

#: Wide enough for the list of partners, and narrow enough that the text is readable in the docs.
WINDOW = (1200, 600)
#: The rest of a long page, in pixels, is cut off.
HEIGHT = 1500


@pytest.mark.needs("chromium")
@pytest.mark.server
@pytest.mark.django_db(transaction=True)
def test_pictures(live_server: Any) -> None:
    from PIL import Image

    paths = dict(pages(furnish()))
    PICTURES.mkdir(exist_ok=True)
    with chromium() as browser, Window.open(browser, WINDOW) as window:
        window.log_in(live_server.url, "staff", PASSWORD)
        window.page.goto(live_server.url + paths["partner-list"])
        window.page.locator("#toggle-nav-sidebar").click()  # The Admin remembers that it is closed.
        for name in SHOWN:
            picture = PICTURES / f"{name}.png"
            window.page.goto(live_server.url + paths[name])
            window.page.screenshot(path=picture, full_page=True)
            with Image.open(picture) as drawn:
                top = drawn.crop((0, 0, drawn.width, min(drawn.height, HEIGHT)))
                # Few colours keep the files small.
                top.quantize(64).save(picture, optimize=True)
