"""What a browser says about a request in its Sec-Fetch headers, and whether it is a click."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from django.test import RequestFactory

from affiliations.exceptions import Reason
from affiliations.models import Visitor
from affiliations.tracking.clicks import Click
from tests.browsers import HANDLERS, Browser

FRAMES = ["iframe", "frame"]
#: Every destination and mode of the Fetch standard, and those that are missing or unknown.
DESTINATIONS = [
    *("document", "empty", *FRAMES, "fencedframe", "embed", "object", "image", "audio", "video"),
    *("track", "font", "style", "script", "json", "text", "manifest", "xslt", "report"),
    *("worker", "sharedworker", "serviceworker", "audioworklet", "paintworklet"),
    *("webidentity", "speculationrules", "nested-document", "", "unheard-of"),
]
MODES = ["navigate", "same-origin", "cors", "no-cors", "websocket", None, "", "unheard-of"]

DOCUMENTS = set(product(["document"], MODES))
#: What Chromium says of a page that a service worker fetches.
THROUGH_WORKER = {("empty", "navigate")}
FETCHES = {("empty", "cors"), ("empty", "same-origin")}
IN_FRAMES = set(product(FRAMES, MODES))


def sent(destination: str | None, mode: str | None, site: str | None = None) -> dict[str, str]:
    values = {"Sec-Fetch-Dest": destination, "Sec-Fetch-Mode": mode, "Sec-Fetch-Site": site}
    return {name: value for name, value in values.items() if value is not None}


def reason(headers: dict[str, str]) -> Reason | None:
    click = Click.of(RequestFactory().get("/?affiliate_id=x", headers=headers))
    assert click is not None
    return click.filter_reason()


@pytest.mark.parametrize("frames", [False, True])
@pytest.mark.parametrize("fetches", [False, True])
@pytest.mark.parametrize("site", [None, "same-origin", "same-site", "cross-site", "none"])
def test_each_destination_and_mode_is_a_click_or_not(
    settings: Any, fetches: bool, frames: bool, site: str | None
) -> None:
    settings.AFFILIATE_COUNT_FETCHES = fetches
    settings.AFFILIATE_COUNT_FRAMES = frames
    counted = DOCUMENTS | THROUGH_WORKER
    if site != "cross-site":
        counted |= (FETCHES if fetches else set()) | (IN_FRAMES if frames else set())

    for destination, mode in product(DESTINATIONS, MODES):
        expected = None if (destination, mode) in counted else Reason.SUBRESOURCE
        assert reason(sent(destination, mode, site)) is expected, (destination, mode)


@pytest.mark.parametrize("mode", MODES)
def test_a_browser_that_names_no_destination_may_be_followed_by_a_person(mode: str | None) -> None:
    assert reason(sent(None, mode)) is None


@pytest.mark.parametrize("purpose", ["prefetch", "prefetch;prerender", "prerender"])
def test_a_prefetch_through_a_service_worker_is_one(settings: Any, purpose: str) -> None:
    settings.AFFILIATE_COUNT_FETCHES = True

    for mode in ("navigate", "cors"):
        headers = sent("empty", mode) | {"Sec-Purpose": purpose}
        assert reason(headers) is Reason.PREFETCH


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("headers", "referrer", "is_internal"),
    [
        (sent("document", "navigate", "same-origin"), "", True),
        (sent("empty", "cors", "same-origin"), "", True),
        (sent("empty", "navigate", "same-origin"), "", False),
        (sent("empty", "navigate", "same-origin"), "https://blog.example/", False),
        (sent("empty", "navigate", "same-origin"), "http://testserver/page/", True),
        (sent("empty", "navigate", "cross-site"), "http://testserver/page/", True),
        (sent("empty", "navigate", "cross-site"), "https://blog.example/", False),
    ],
)
def test_the_origin_of_a_service_worker_is_not_that_of_the_click(
    headers: dict[str, str], referrer: str, is_internal: bool
) -> None:
    """A click in an e-mail has no referrer, and the worker says "same-origin"."""
    headers |= {"Referer": referrer} if referrer else {}
    click = Click.of(RequestFactory().get("/?affiliate_id=x", headers=headers))

    assert click is not None
    assert click.facts()["is_internal"] is is_internal


@pytest.mark.django_db
@pytest.mark.urls("tests.test_middleware")
@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize(
    ("headers", "setting"),
    [
        (sent("empty", "navigate", "cross-site"), None),
        (sent("empty", "cors", "same-origin"), "AFFILIATE_COUNT_FETCHES"),
        (sent("iframe", "navigate", "same-origin"), "AFFILIATE_COUNT_FRAMES"),
    ],
)
def test_a_visitor_is_registered_with_the_setting_alone(
    handler: type[Browser], partner, settings: Any, headers: dict[str, str], setting: str | None
) -> None:
    if setting is not None:
        handler().request("GET", partner.link("/page/"), headers)
        assert not Visitor.objects.exists()
        setattr(settings, setting, True)

    answer = handler().request("GET", partner.link("/page/"), headers)

    assert (answer.status, answer["Location"]) == (302, b"/page/")
    assert Visitor.objects.count() == 1
