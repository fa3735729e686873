"""The partner builds links to other pages of the site, on their own page."""

from __future__ import annotations

import re
from html import unescape
from typing import Any
from urllib.parse import urlencode

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from affiliations.models import Partner, Visitor
from tests.browsers import HANDLERS, Browser
from tests.factories import PartnerFactory
from tests.test_views import link

pytestmark = pytest.mark.django_db

FOREIGN = "This page is not on this site. Enter a path, such as /shoes/."
OPEN = "<details open>"


@pytest.fixture
def partner() -> Partner:
    made: Partner = PartnerFactory(uid="moox6esi", name="Steep Notes")
    made.replace_page_link()
    return made


def asked(partner: Partner, page: str | bytes, **ids: str | bytes) -> str:
    query = {"link-page": page} | {f"link-{name}": value for name, value in ids.items()}
    return link(partner, f"?{urlencode(query)}")


def built(page: str) -> str | None:
    """Return the link that a page shows, if one was built."""
    found = re.search(r'id="built-link".*?<code>(.*?)</code>', page, re.DOTALL)
    return found and unescape(found[1])


def mistakes(page: str) -> list[str]:
    errors = re.findall(r'<ul class="errorlist".*?</ul>', page, re.DOTALL)
    return [unescape(one) for lines in errors for one in re.findall("<li>(.*?)</li>", lines)]


class TestTheBuilder:
    @pytest.mark.parametrize(
        ("page", "ids", "expected"),
        [
            ("/shoes/", {}, "http://testserver/shoes/?affiliate_id=moox6esi"),
            ("http://testserver/a", {}, "http://testserver/a?affiliate_id=moox6esi"),
            ("", {"sub2": "a b&c"}, "http://testserver/?affiliate_id=moox6esi&sub2=a+b%26c"),
            (
                " shoes/?x=1#new ",
                {"click_id": "{clickid}", "sub1": "#s2#"},
                "http://testserver/shoes/?x=1&affiliate_id=moox6esi&click_id={clickid}&sub1=#s2##new",
            ),
            (
                "https://www.shop.example/?affiliate_id=another1&x=1",
                {},
                "https://www.shop.example/?x=1&affiliate_id=moox6esi",
            ),
        ],
    )
    def test_makes_links_to_every_page_of_the_site(
        self, client: Client, partner: Partner, page: str, ids: dict[str, str], expected: str
    ) -> None:
        shown = client.get(asked(partner, page, **ids)).text
        assert built(shown) == expected
        assert mistakes(shown) == []
        assert OPEN in shown

    def test_is_closed_and_empty_until_it_is_used(self, client: Client, partner: Partner) -> None:
        shown = client.get(link(partner, "?days=90&page=2")).text
        assert OPEN not in shown
        assert built(shown) is None
        assert mistakes(shown) == []

    def test_is_not_there_for_a_partner_without_a_deal(
        self, client: Client, partner: Partner
    ) -> None:
        Partner.objects.update(active=False)
        shown = client.get(asked(partner, "/shoes/")).text
        assert built(shown) is None
        assert "link-page" not in shown

    @pytest.mark.parametrize(
        "page",
        [
            "https://evil.example/",
            "//evil.example/",
            "///evil.example/",
            "javascript:alert(1)",
            "data:text/html,x",
            "mailto:x@shop.example",
            "http:evil.example",
            "https://www.shop.example@evil.example/",
            "https://www.shop.example:x@evil.example/",
            "https://evil.example\\@www.shop.example/",
            "https://evil.example\\.shop.example/",
            "ht\ttp://evil.example/",
            "\\\\evil.example/",
            "/\\evil.example/",
            "/\t/evil.example/",
            "https:\\\\evil.example/",
            "https://",
            "https:///evil.example/",
        ],
    )
    def test_leads_to_no_other_site(self, client: Client, partner: Partner, page: str) -> None:
        shown = client.get(asked(partner, page)).text
        found = built(shown)
        if found is None:
            assert mistakes(shown) == [FOREIGN]
        else:  # a path of this site, for every browser
            assert re.match(r"http://testserver/[\w%]", found)

    def test_says_what_is_wrong_beside_the_field(self, client: Client, partner: Partner) -> None:
        shown = client.get(asked(partner, "https://evil.example/", sub1="x" * 256)).text
        assert mistakes(shown) == [
            FOREIGN,
            "Ensure this value has at most 255 characters (it has 256).",
        ]
        assert built(shown) is None
        assert OPEN in shown
        assert 'value="https://evil.example/"' in shown
        [field] = re.findall(r'<input[^>]*name="link-page"[^>]*>', shown)
        assert 'aria-invalid="true"' in field
        assert "id_link-page_helptext" in field
        assert 'id="id_link-page_helptext"' in shown

    def test_reads_a_url_that_is_none(self, client: Client, partner: Partner) -> None:
        for page in ("http://[", "http://[::1", "//[x]/", "http://a℀b/"):
            shown = client.get(asked(partner, page)).text
            assert built(shown) is None
            assert len(mistakes(shown)) == 1

    @pytest.mark.parametrize("handler", HANDLERS, ids=["wsgi", "asgi"])
    @pytest.mark.parametrize(
        "bad",
        [
            b"\0",
            b"\xff\xfe",
            b"\xed\xa0\x80",
            "\u202e",
            "💥",
            "a\nb\rc",
            '"><script>alert(1)</script>',
            "{" * 500,
            "[" * 250 + "]" * 250,
            "$" * 500,
            "<a" * 200,
            "x" * 100_000,
            "%" * 3000,
            "9" * 5000,
        ],
    )
    def test_takes_anything(self, handler: Any, partner: Partner, bad: str | bytes) -> None:
        browser: Browser = handler()
        for query in ({"link-page": bad}, {"link-click_id": bad, "link-sub3": bad, "days": bad}):
            answer = browser.get(link(partner, f"?{urlencode(query)}"))
            assert answer.status == 200
            assert b"<script" not in answer.body
            assert b"no-store" in answer["Cache-Control"]
            assert "Set-Cookie" not in answer

    def test_takes_a_parameter_that_comes_twice(self, client: Client, partner: Partner) -> None:
        shown = client.get(link(partner, "?link-page=/a/&link-page=/b/&link-page[]=/c/")).text
        assert built(shown) == "http://testserver/b/?affiliate_id=moox6esi"

    def test_keeps_the_period(self, client: Client, partner: Partner) -> None:
        shown = client.get(f"{asked(partner, '/a/')}&days=90").text
        assert '<input type="hidden" name="days" value="90">' in shown
        assert 'action="#link-heading"' in shown

    def test_costs_no_query_and_writes_nothing(self, client: Client, partner: Partner) -> None:
        def queries(url: str) -> list[str]:
            with CaptureQueriesContext(connection) as captured:
                client.get(url)
            return [query["sql"] for query in captured]

        usual, asking = queries(link(partner)), queries(asked(partner, "/a/", click_id="{c}"))
        assert len(usual) == len(asking)
        assert not [sql for sql in asking if re.match("INSERT|UPDATE|DELETE", sql)]
        assert not Visitor.objects.exists()

    def test_has_the_parameters_of_the_settings(
        self, client: Client, partner: Partner, settings: Any
    ) -> None:
        settings.AFFILIATE_QUERY_STRING_KEY = "via"
        settings.AFFILIATE_CLICK_ID_KEY = "cid"
        settings.AFFILIATE_SUB_ID_KEYS = ("source",)
        shown = client.get(asked(partner, "/a/", click_id="1", sub1="mail", sub2="lost")).text
        assert built(shown) == "http://testserver/a/?via=moox6esi&cid=1&source=mail"
        assert "link-sub2" not in shown

    def test_leaves_no_private_link_on_the_page(self, client: Client, partner: Partner) -> None:
        token = link(partner).split("/")[-2]
        assert token not in client.get(asked(partner, "/a/")).text
