"""Links that mailers, networks and people have bent: whose click it is, and what stays."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from affiliations import links, query_strings
from affiliations.models import FilteredClicks, Visitor
from affiliations.tracking.consent import register_visitor
from tests.arrivals import commit, request_of
from tests.browsers import HANDLERS, Browser
from tests.factories import PartnerCodeFactory, PartnerFactory
from tests.growth import assert_linear

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.test_middleware")]

KEYS = ("affiliate_id",)


@pytest.fixture(params=HANDLERS)
def browser(request: pytest.FixtureRequest) -> Browser:
    return request.param()


@pytest.fixture(autouse=True)
def own_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail every test in which something of ours went wrong and was only logged."""
    caplog.set_level(logging.INFO, "affiliations")
    yield
    assert [record for record in caplog.records if record.name == "affiliations"] == []


#: The query string, and what stays of it.
BENT = [
    # a second "?"
    ("affiliate_id=moox6esi?utm_source=x", "utm_source=x"),
    ("affiliate_id=moox6esi?utm_source=x&utm_medium=y", "utm_source=x&utm_medium=y"),
    ("a=1?affiliate_id=moox6esi", "a=1"),
    ("a=1?affiliate_id=moox6esi&b=2", "a=1&b=2"),
    ("a=1?affiliate_id=moox6esi?b=2?c=3", "a=1&b=2?c=3"),
    ("?affiliate_id=moox6esi", ""),
    ("affiliate_id=moox6esi?", ""),
    ("affiliate_id=moox6esi?)", ""),
    ("affiliate_id=moox6esi%26%3D", ""),
    ("affiliate_id=moox6esi/?utm_source=x", "utm_source=x"),
    ("affiliate_id=moox6esi?next=/page/?a=1", "next=/page/?a=1"),
    # an encoded "?" or "&"
    ("affiliate_id=moox6esi%3Futm_source=x", "utm_source=x"),
    ("affiliate_id=moox6esi%3futm_source%3dx", "utm_source=x"),
    ("affiliate_id=moox6esi%26utm_source%3Dx%26b%3D%2B", "utm_source=x&b=%2B"),
    ("affiliate_id=moox6esi%26utm_source=x%26y", "utm_source=x%26y"),
    ("affiliate_id=moox6esi%26amp%3Butm_source=x", "utm_source=x"),
    ("affiliate_id=moox6esi%2526utm_source%253Dx", "utm_source=x"),
    ("affiliate_id=moox6esi%26next%3D%2Fpage%3Fa%3D1", "next%3D%2Fpage%3Fa%3D1"),
    ("a=1%26affiliate_id=moox6esi", "a=1"),
    # "&amp;"
    ("a=1&amp;affiliate_id=moox6esi", "a=1"),
    ("a=1&amp;affiliate_id=moox6esi&amp;b=2", "a=1&amp;b=2"),
    ("a=1&AMP;affiliate_id=moox6esi", "a=1"),
    ("a=1&amp;amp;affiliate_id=moox6esi&b=2", "a=1&b=2"),
    ("a=1&amp%3Baffiliate_id=moox6esi", "a=1"),
    ("a=1%26amp;affiliate_id=moox6esi", "a=1"),
    ("affiliate_id=moox6esi;b=2", "b=2"),
    ("a=1&%23038;affiliate_id=moox6esi&b=2", "a=1&b=2"),
    # an "&", "?" or "=" that is escaped as in JSON
    (r"a=1\u0026affiliate_id=moox6esi\u0026b=2", "a=1&b=2"),
    (r"affiliate_id=moox6esi%5Cu0026b=2", "b=2"),
    (r"affiliate_id\u003dmoox6esi", ""),
    # quoted-printable
    ("affiliate_id=3Dmoox6esi", ""),
    ("affiliate_id=3dmoox6esi&a=1", "a=1"),
    ("affiliate_id=3Dmoo=%0D%0Ax6esi", ""),
    ("affiliate_id=3Dmoo=%0Ax6esi", ""),
    ("affiliate_id=3Dmoo=x6esi", ""),
    ("affiliate_id=moo=%0D%0Ax6esi&a=1", "a=1"),
    ("affiliate_id=moox6esi=%0D%0A", ""),
    ("affiliate_id=%0D%0A=3Dmoox6esi", ""),
    ("affil=%0D%0Aiate_id=3Dmoox6esi&a=1", "a=1"),
    ("affil=%0Aiate_id=moox6esi", ""),
    ("affil=iate_id=3Dmoox6esi&a=1", "a=1"),
    ("affil=iate_id=3dmoo=x6esi", ""),
    ("a=3D1&=%0D%0Aaffiliate_id=3Dmoox6esi", "a=3D1"),
    ("affiliate_id=3D%22moox6esi%22", ""),
    # quotes, brackets, line breaks and a text around the uid
    ("affiliate_id=%22moox6esi%22", ""),
    ("affiliate_id='moox6esi'&a=1", "a=1"),
    ("affiliate_id=%E2%80%9Cmoox6esi%E2%80%9D", ""),
    ("affiliate_id=%C2%ABmoox6esi%C2%BB", ""),
    ("affiliate_id=&quot;moox6esi&quot;&a=1", "a=1"),
    ("affiliate_id=moox6esi&gt;", ""),
    ("affiliate_id=%26quot%3Bmoox6esi%26quot%3B&a=1", "a=1"),
    ("affiliate_id=%26%2339%3Bmoox6esi%26%2339%3B", ""),
    ("a=1&Affiliate_ID=%26lt%3Bmoox6esi%26gt%3B", "a=1"),
    ("affiliate_id=moox6esi?b=&lt;x%26quot%3B", "b=&lt;x%26quot%3B"),
    ("affiliate_id=%2522moox6esi%2522", ""),
    ("affiliate_id=%3Cmoox6esi%3E", ""),
    ("affiliate_id=[moox6esi]", ""),
    ("affiliate_id={moox6esi}", ""),
    ("affiliate_id=(moox6esi).", ""),
    ("affiliate_id=%22+moox6esi+%22", ""),
    ("affiliate_id==moox6esi", ""),
    ("%22affiliate_id%22=%22moox6esi%22", ""),
    ("%22affiliate_id=moox6esi%22&a=1", "a=1"),
    ("affiliate_id=moox6esi%22%3EClick+here%3C/a%3E", ""),
    ("affiliate_id=moox6esi+is+great", ""),
    ("affiliate_id=moox6esi,+thanks", ""),
    ("affiliate_id=moox%0D%0A6esi", ""),
    ("affiliate_id=moox+6esi", ""),
    ("affiliate_id=moox%E2%80%8B6esi", ""),
    # spaces and other text before the key
    ("a=1&%20affiliate_id=moox6esi", "a=1"),
    ("+affiliate_id=moox6esi&a=1", "a=1"),
    ("%C2%A0affiliate_id=moox6esi", ""),
    ("a=1&%0D%0Aaffiliate_id=moox6esi", "a=1"),
    ("%23affiliate_id=moox6esi", ""),
    ("affiliate_id=affiliate_id=moox6esi", ""),
    ("affiliate_id=%26affiliate_id%3Dmoox6esi", ""),
    ("affiliate_id=https://shop.example/?affiliate_id=moox6esi", ""),
    # the key in another case
    ("Affiliate_ID=moox6esi", ""),
    ("AFFILIATE_ID=moox6esi&a=1", "a=1"),
    ("%41FFILIATE%5FID=moox6esi&a=1", "a=1"),
    # an encoded "="
    ("affiliate_id%3Dmoox6esi", ""),
    ("affiliate_id%3dmoox6esi&a=1", "a=1"),
    ("affiliate_id%253Dmoox6esi", ""),
    ("a%3D1%26affiliate_id%3Dmoox6esi%26b%3D2", "a=1&b=2"),
    ("a=1?affiliate_id%3Dmoox6esi", "a=1"),
    # several at once
    ("a=1&amp;Affiliate_ID=3Dmoox6esi?b=2", "a=1&b=2"),
    ("affiliate_id=&amp;affiliate_id=moox6esi", ""),
    ("affiliate_id=moox6esi&affiliate_id=unknown1?a=1&Affiliate_ID=moox6esi", "a=1"),
]


@pytest.mark.parametrize(("query", "rest"), BENT)
def test_a_uid_that_can_be_told_counts_and_the_rest_stays(browser, query: str, rest: str) -> None:
    partner = PartnerFactory(uid="moox6esi")

    answer = browser.get(f"/page/?{query}")

    assert (answer.status, answer["Location"].decode()) == (302, "/page/" + (rest and f"?{rest}"))
    assert Visitor.objects.get().partner == partner
    assert browser.get(answer["Location"]).status == 200  # no second redirect


@pytest.mark.parametrize(("query", "rest"), BENT)
def test_the_rest_stays_where_no_partner_has_the_uid(browser, query: str, rest: str) -> None:
    answer = browser.get(f"/page/?{query.replace('moo', 'unk')}")

    assert (answer.status, answer["Location"].decode()) == (302, "/page/" + (rest and f"?{rest}"))
    commit()
    (filtered,) = FilteredClicks.objects.all()
    assert (filtered.reason, filtered.count) == ("unknown_partner", 1)
    assert not Visitor.objects.exists()


@pytest.mark.parametrize(
    "query",
    [
        "affiliate_id=moox6es",
        "affiliate_id=3Dmoo=",
        "affiliate_id=%22moo",
        "Affiliate_ID=",
        "AFFILIATE_ID=MOOX6ESI",
        "a&amp;affiliate_id",
        "affiliate_id%3D",
        "affiliate_id=moox6esimoox6esi",
        "affiliate_id=moox6esi-1",
        "affiliate_id=moox6esi%00?",
        "affiliate_id=see+moox6esi",
    ],
)
def test_a_uid_that_cannot_be_told_is_filtered(browser, query: str) -> None:
    PartnerFactory(uid="moox6esi")

    answer = browser.get(f"/page/?{query}&b=2")

    assert answer.status == 302
    assert answer["Location"].endswith(b"b=2")
    commit()
    assert FilteredClicks.objects.get().reason == "unknown_partner"
    assert not Visitor.objects.exists()


@pytest.mark.parametrize(
    "query",
    [
        "next=/?affiliate_id=moox6esi",
        "next=https://shop.example/?affiliate_id=moox6esi",
        "next=%2Fpage%2F%3Faffiliate_id%3Dmoox6esi",
        "next=%252Fpage%252F%253Faffiliate_id%253Dmoox6esi",
        "next=https%3A%2F%2Fshop.example%2F%3Fa%3D1%26affiliate_id%3Dmoox6esi",
        "q=x%26affiliate_id%3Dmoox6esi",
        "q=x%3Faffiliate_id%3Dmoox6esi",
        # the link of another site, or of any page
        "url=other.example/?affiliate_id=moox6esi",
        "url=www.other.example/shop?affiliate_id=moox6esi",
        "url=other.example:8000%2Fshop%3Faffiliate_id=moox6esi",
        "url=%20https://other.example/?affiliate_id=moox6esi",
        "url=%22https://other.example/?affiliate_id=moox6esi",
        "url=(https://other.example/?affiliate_id=moox6esi",
        r"url=https:\\other.example?affiliate_id=moox6esi",
        "text=Look:+https://other.example/?affiliate_id=moox6esi",
        "text=Look%20https%3A%2F%2Fother.example%2F%3Fa=1%26affiliate_id=moox6esi",
        'data={"url":"https://other.example/?affiliate_id=moox6esi"}',
        "https://other.example/?affiliate_id=moox6esi",
        "https%3A%2F%2Fother.example%2F%3Faffiliate_id%3Dmoox6esi",
        "https://other.example/?a=1%26affiliate_id=moox6esi",
        "other.example/?affiliate_id=moox6esi",
        "//other?affiliate_id=moox6esi",
        "/page/?affiliate_id=moox6esi",
        "%2Fpage%2F%3Faffiliate_id%3Dmoox6esi",
        "next=../page?affiliate_id=moox6esi",
        "next=.%2Fpage%3Faffiliate_id=moox6esi",
        # a search for the word, and a filter of an API
        "q=what+is?affiliate_id",
        "q=a;affiliate_id",
        "filter=name==x;affiliate_id==moox6esi",
        "a=1;affiliate_id=moox6esi",
        "filter=name:x;affiliate_id:moox6esi",
        "x_affiliate_id=moox6esi",
        "affiliate_id_x=moox6esi",
        "affiliate+id=moox6esi",
        "a=affiliate_id&b=3D",
        "my=affiliate_id=3Dx",
        "affiliate_id%00=moox6esi",
        "affiliateid=moox6esi",
    ],
)
def test_a_value_that_only_has_the_key_in_it_is_not_ours(
    browser, query: str, django_assert_num_queries
) -> None:
    PartnerFactory(uid="moox6esi")

    with django_assert_num_queries(0):
        answer = browser.get(f"{browser.views}echo/?{query}")

    assert answer.status == 200
    assert "Vary" not in answer


@pytest.mark.parametrize(
    ("target", "location"),
    [
        ("/page&affiliate_id=moox6esi", "/page"),
        ("/page/&affiliate_id=moox6esi&b=%C3%A9%25", "/page/?b=%C3%A9%25"),
        ("/page/&amp;affiliate_id=moox6esi", "/page/"),
        ("/page/&a=1&Affiliate_ID=moox6esi/", "/page/?a=1"),
        ("/page/%3Faffiliate_id=moox6esi", "/page/"),
        ("/page/%3Faffiliate_id%3Dmoox6esi%26next%3D%2Fa%2F", "/page/?next=/a/"),
        ("/page/%3Faffiliate_id=moox6esi?b=%2B", "/page/?b=%2B"),
        ("/a&b/page&affiliate_id=moox6esi", "/a&b/page"),
    ],
)
def test_a_link_that_has_lost_its_question_mark_counts(browser, target: str, location: str) -> None:
    partner = PartnerFactory(uid="moox6esi")

    answer = browser.get(target)

    assert (answer.status, answer["Location"].decode()) == (302, location)
    assert b"no-store" in answer["Cache-Control"]
    assert Visitor.objects.get().partner == partner
    assert Visitor.objects.get().entry_point.endswith(location)


@pytest.mark.parametrize(
    "target",
    [
        "/affiliate_id=moox6esi",
        "/page/affiliate_id=moox6esi/",
        "/nowhere&affiliate_id",
        "/nowhere&x_affiliate_id=moox6esi",
        "/nowhere&q=affiliate_id",
        "/go/https:%2F%2Fother.example%2F%3Faffiliate_id=moox6esi",
        "/go/other.example%2F%3Fnext=/%3Faffiliate_id=moox6esi",
        "/nowhere?q=affiliate_id",
    ],
)
def test_a_path_without_a_page_that_is_no_link_is_not_found(
    browser, target: str, django_assert_num_queries
) -> None:
    PartnerFactory(uid="moox6esi")

    with django_assert_num_queries(0):
        answer = browser.get(target)

    assert answer.status == 404
    assert "Vary" not in answer


def test_a_form_to_a_path_without_a_page_is_no_click(browser, partner) -> None:
    assert browser.request("POST", f"/nowhere&affiliate_id={partner.uid}").status == 404


@pytest.mark.parametrize(
    ("given_uid", "read_uid"),
    [("3DABCDEF", "ABCDEF"), ("3dabcdef", "abcdef"), ("3Dabc", "abc")],
)
def test_a_uid_as_it_is_given_wins_over_a_reading(browser, given_uid: str, read_uid: str) -> None:
    read = PartnerFactory(uid=read_uid)
    browser.get(f"/?affiliate_id={given_uid}&click_id=3D1")
    visitor = Visitor.objects.get()
    assert (visitor.partner, visitor.click_id) == (read, "1")
    given = PartnerFactory(uid=given_uid)

    browser.cookies.clear()
    browser.get(f"/?affiliate_id={given_uid}&click_id=3D1")

    visitor = Visitor.objects.latest("pk")
    assert (visitor.partner, visitor.click_id) == (given, "3D1")


def test_the_key_as_it_is_set_wins_over_a_bent_one(browser) -> None:
    partner, other = PartnerFactory.create_batch(2)
    for query in (
        f"affiliate_id={partner.uid}&Affiliate_ID={other.uid}",
        f"Affiliate_ID={other.uid}&affiliate_id={partner.uid}",
        f"affiliate_id={partner.uid}?affiliate_id={other.uid}",
    ):
        browser.cookies.clear()
        assert browser.get(f"/?{query}&a=1")["Location"] == b"/?a=1"
        assert Visitor.objects.latest("pk").partner == partner


def test_readings_cost_two_queries(browser, django_assert_num_queries) -> None:
    # One as uids, one as codes.
    with django_assert_num_queries(2):
        browser.get("/?affiliate_id=3Dabc=def?x=1&Affiliate_ID=%22unknown1%22+x")


@pytest.mark.parametrize(
    ("query", "click_id", "sub1"),
    [
        ("affiliate_id=moox6esi&amp;click_id=42&amp;sub1=a", "42", "a"),
        ("affiliate_id=moox6esi&amp;amp;click_id=42&amp%3Bsub1=a", "42", "a"),
        ("amp;click_id=42&affiliate_id=moox6esi&SUB1=a", "42", "a"),
        ("affiliate_id=moox6esi?click_id=42&sub1=a%2B", "42", "a+"),
        ("affiliate_id=moox6esi%26click_id%3D42%26sub1%3Da", "42", "a"),
        ("affiliate_id%3Dmoox6esi%26click_id%3D42%26sub1%3Da%2520b", "42", "a%20b"),
        ("affiliate_id=3Dmoox6esi&click_id=3D4=%0D%0A2&sub1=3Da=3Db", "42", "a=b"),
        ("affiliate_id=3Dmoox6esi&clic=%0D%0Ak_id=3D42&su=b1=3Da", "42", "a"),
        ("affiliate_id=moox6esi&click_id=3D42&sub1=a=b", "3D42", "a=b"),
        ("affiliate_id=moox6esi&click_id=4?2&sub1=a%26click_id%3D5", "4?2", "a&click_id=5"),
        ("click_id=42?affiliate_id=moox6esi&sub1=a", "42", "a"),
        ("Affiliate_ID=moox6esi&Click_ID=1&click_id=42&amp;click_id=2&sub1=a", "42", "a"),
        ("affiliate_id=%22moox6esi%22&click_id=&sub1=a", "", "a"),
        # what is added to the end of a link
        ("affiliate_id=moox6esi&sub1=a&click_id=42?utm_source=x", "42", "a"),
        ("affiliate_id=moox6esi&click_id=42&sub1=a?fbclid=x&click=1", "42", "a"),
        ("affiliate_id=moox6esi&click_id=42?sub1=a", "42", "a"),
        ("affiliate_id=moox6esi&click_id=4%3F2%3Da&sub1=/?a=b", "4?2=a", "/?a=b"),
        ("affiliate_id=moox6esi&click_id=1;sub1=a", "1;sub1=a", ""),
    ],
)
def test_the_partners_own_ids_are_read_as_well(
    browser, query: str, click_id: str, sub1: str
) -> None:
    PartnerFactory(uid="moox6esi")

    browser.get(f"/?{query}")

    visitor = Visitor.objects.get()
    assert (visitor.click_id, visitor.sub1) == (click_id, sub1)


@pytest.mark.parametrize(
    "bent", ["{}?a=1", "%22{}%22&a=1", "3D{}&a=1", "{}%26a%3D1", "{}.&amp;a=1"]
)
def test_a_test_link_that_was_bent_is_still_one(browser, partner, bent: str) -> None:
    answer = browser.get(f"/?affiliate_id={bent.format(links.signed_uid(partner.uid))}")

    assert answer.status == 302
    assert answer["Location"].endswith(b"a=1")
    assert Visitor.objects.get().is_test


@pytest.mark.parametrize("key", ["a&b", "a=b", "100%", "a b", "партнёр", "Ref", "x?y"])
def test_any_key_is_read(browser, partner, settings, key: str) -> None:
    settings.AFFILIATE_QUERY_STRING_KEY = (key, "via")

    for query in (
        f"{quote(key)}={partner.uid}?x=1",
        f"{quote(key)}={partner.uid}&x=1",
        f"x=1&amp;VIA={partner.uid}",
    ):
        browser.cookies.clear()
        assert browser.get(f"/?{query}")["Location"] == b"/?x=1", query
    assert Visitor.objects.filter(partner=partner).count() == 3


@pytest.mark.parametrize(
    ("key", "spelled"),
    [("партнёр", "ПАРТНЁР"), ("Ref", "rEF"), ("a b", "A+B"), ("100%", "100%25"), ("ß", "%C3%9F")],
)
def test_another_case_of_any_key_is_read(browser, partner, settings, key: str, spelled) -> None:
    settings.AFFILIATE_QUERY_STRING_KEY = key

    assert browser.get(f"/?x=1&amp;{spelled}={partner.uid}")["Location"] == b"/?x=1"
    assert Visitor.objects.get().partner == partner


def test_a_click_id_may_have_the_name_of_the_key_in_another_case(
    browser, partner, settings
) -> None:
    settings.AFFILIATE_QUERY_STRING_KEY = "A"
    settings.AFFILIATE_CLICK_ID_KEY = "a"

    browser.get(f"/?A={partner.uid}&a=42")

    assert Visitor.objects.get().click_id == "42"


def test_a_bent_link_can_be_registered_late(partner) -> None:
    visitor = register_visitor(
        request_of(None), f"https://shop.example/page/?a=1&amp;Affiliate_ID={partner.uid}?b=2"
    )

    assert visitor is not None
    assert visitor.partner == partner
    assert visitor.entry_point.endswith("/page/?a=1&b=2")


def test_a_bent_uid_is_replaced_in_a_new_link() -> None:
    assert links.stripped("/?a=1&amp;Affiliate_ID=x?b=2#c") == "/?a=1&b=2#c"
    assert links.tracking_link("/?a=1?affiliate_id=x", "y") == "/?a=1&affiliate_id=y"


def test_personal_data_behind_a_bent_uid_is_not_stored(browser, partner) -> None:
    browser.get(f"/?affiliate_id={partner.uid}?token=secret&b=2")

    assert Visitor.objects.get().entry_point.endswith("/?token=(redacted)&b=2")


FRAGMENTS = [
    *(
        "&",
        "?",
        ";",
        "=",
        "%26",
        "%3F",
        "%3D",
        "%3B",
        "%253D",
        "%2526",
        "&amp;",
        "amp;",
        "%26amp%3B",
    ),
    *("\\u0026", "\\u003d", "%5C", "%26lt%3B", "&lt;", "#38", ".", "==", "//", "a.bc/", " "),
    *("affiliate_id", "AFFILIATE_ID", "affil", "iate_id", "click_id", "a", "/", "%2F", "https://"),
    *(
        "=3D",
        "3D",
        "=%0D%0A",
        "%0D%0A",
        "=\r\n",
        "&quot;",
        "%22",
        "moox6esi",
        "%25",
        "%",
        "+",
        "\0",
    ),
]


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=24).map("".join))
@example("affiliate_id;affiliate_id=3")
@example("x?affiliate_id?affiliate_id=1")
@example("affiliate_id=1?affiliate_id")
@example("affiliate_id%3D1%26b%3D%2Fc%26affiliate_id%3D2")
@example("a=1%26affiliate_id=x%26affiliate_id%3Dy")
@example("affiliate_id;affiliate_id=%0D%0Amoox6esi")
@example("affiliate_id%26%26lt%3B%26affiliate_id=x")
@pytest.mark.only_on("sqlite")
def test_what_stays_has_nothing_more_to_read(query: str) -> None:
    """A redirect leads to a page, not to another redirect."""
    found = query_strings.read(query.encode(), KEYS, ["click_id"])

    assert found is None or query_strings.may_name(KEYS)(query.lower())
    if found is not None:
        assert query_strings.read(found.rest, KEYS) is None
        assert len(found.uids) <= 13


@pytest.mark.only_on("sqlite")
@pytest.mark.parametrize("unit", FRAGMENTS)
def test_a_long_query_string_takes_linear_time(unit: str) -> None:
    def read(length: int) -> None:
        for text in (unit, f"affiliate_id={unit}", f"{unit}affiliate_id=x"):
            query = text * (length // len(text))
            query_strings.read(f"affiliate_id={query}".encode(), KEYS, ["click_id"])
            query_strings.may_name(KEYS)(query.lower())

    assert_linear(read, 100_000)


@pytest.mark.parametrize(
    ("query", "click_id"),
    [
        ("affiliate_id=steep-notes&click_id=42", "42"),
        ("AFFILIATE_ID=%22Steep-Notes%22.&click_id=42", "42"),
        ("affiliate_id=steep-notes?click_id=42", "42"),
        ("affiliate_id%3Dsteep-notes%26click_id%3D42", "42"),
        ("affiliate_id=3Dsteep-notes&click_id=3D42", "42"),
        ("affiliate_id=3Dsteep=%0D%0A-notes&clic=%0D%0Ak_id=3D42", "42"),
        ("affiliate_id=3dp-shop&click_id=3D42", "3D42"),
    ],
)
def test_a_bent_readable_link_counts(browser, query: str, click_id: str) -> None:
    PartnerCodeFactory(code="Steep-Notes")
    PartnerCodeFactory(code="3dp-shop")
    assert browser.get(f"/?{query}").status == 302
    visitor = Visitor.objects.get()
    assert visitor.partner.codes.exists()
    assert (visitor.source, visitor.click_id) == ("link", click_id)
