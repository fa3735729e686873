from __future__ import annotations

import doctest
from urllib.parse import parse_qsl, quote_plus

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from affiliations import links, query_strings
from affiliations.models import Partner

KEY = ("affiliate_id",)
UID = "moox6esi"

# What may stand between two "&": anything.
raw_pairs = st.binary(max_size=12).map(lambda raw: raw.replace(b"&", b""))
foreign_pairs = raw_pairs.filter(lambda raw: not is_affiliate(raw))
#: Without what separates parameters of a bent link, encoded or not.
values = (
    st.binary(max_size=12)
    .filter(lambda raw: not set(raw) & set(b"?&;=%"))
    .map(quote_plus)
    .map(str.encode)
)


def is_affiliate(raw_pair: bytes) -> bool:
    """Ask the standard library, which knows a pair by its decoded name."""
    parsed = parse_qsl(raw_pair.decode("latin-1"), keep_blank_values=True, encoding="latin-1")
    return [name for name, _ in parsed] == ["affiliate_id"]


@st.composite
def spelled_keys(draw: st.DrawFn) -> bytes:
    """Spell the key, some of its letters as percent escapes in either case."""
    forms = ("{}", "%{:02X}", "%{:02x}")
    spelled = "".join(
        form.format(letter if form == "{}" else ord(letter))
        for letter in "affiliate_id"
        for form in [draw(st.sampled_from(forms))]
    )
    return spelled.encode()


@given(
    left=st.lists(foreign_pairs), taken=st.lists(st.tuples(st.integers(0), spelled_keys(), values))
)
def test_only_the_key_is_taken_out_of_a_query_and_no_other_byte_changes(
    left: list[bytes], taken: list[tuple[int, bytes, bytes]]
) -> None:
    """(D9)"""
    query = list(left)
    for place, key, value in taken:
        query.insert(place % (len(query) + 1), key + b"=" + value)
    assume(query)

    found = query_strings.read(b"&".join(query), KEY)

    assert (found is None) == (not taken)
    assert found is None or found.rest == b"&".join(left)


@given(st.binary(max_size=60))
def test_a_parameter_counts_where_django_would_find_it(query: bytes) -> None:
    """(D6)"""
    query = query.replace(b"?", b"affiliate_id").replace(b"!", b"affiliate%5Fid=")
    parsed = parse_qsl(query.decode("latin-1"), keep_blank_values=True, encoding="latin-1")
    values = [value.encode("latin-1") for name, value in parsed if name == "affiliate_id"]

    found = query_strings.read(query, KEY)

    if values:
        assert found is not None
        assert found.uids[0].value == values[-1]
    if found is not None:
        assert query_strings.read(found.rest, KEY) is None


@pytest.mark.parametrize(
    ("query", "left", "value"),
    [
        (b"", b"", None),
        (b"a=1&b=2", b"a=1&b=2", None),
        (b"affiliate_id=x", b"", b"x"),
        (b"affiliate_id=", b"", b""),
        (b"affiliate_id", b"", b""),
        (b"affiliate%5Fid=x", b"", b"x"),
        (b"%61ffiliate_id=x&a=1", b"a=1", b"x"),
        (b"affiliate_id=x&affiliate_id=y", b"", b"y"),
        (b"affiliate_id=x&a=1&affiliate_id=", b"a=1", b""),
        (b"affiliate_id=a=b", b"", b"a=b"),
        (b"affiliate_id=a+b%20c", b"", b"a b c"),
        (b"affiliate_id=%ff%zz%", b"", b"\xff%zz%"),
        (b"x_affiliate_id=1", b"x_affiliate_id=1", None),
        (b"affiliate_id_x=1", b"affiliate_id_x=1", None),
        (b"affiliate_id+=1", b"affiliate_id+=1", None),
        (b"affiliate_id%00=1", b"affiliate_id%00=1", None),
        (b"next=/?affiliate_id=x", b"next=/?affiliate_id=x", None),
        (b"=affiliate_id", b"=affiliate_id", None),
        (b"a=&b&a=1&a=2&=&&c=%e4+%E4&affiliate_id=x&", b"a=&b&a=1&a=2&=&&c=%e4+%E4&", b"x"),
        (b"\xff=1&affiliate_id=x&\xc3\xa9=\xff", b"\xff=1&\xc3\xa9=\xff", b"x"),
    ],
)
def test_a_query_without_the_key_is_what_stood_around_it(
    query: bytes, left: bytes, value: bytes | None
) -> None:
    """(D6, D7, D9)"""
    found = query_strings.read(query, KEY)

    assert (found.rest, found.uids[0].value) == (left, value) if found else value is None


def test_names_that_differ_in_broken_bytes_alone_are_two_names() -> None:
    pairs = query_strings.raw_pairs(b"%ef%bf%bd=3&%ff=1&%fe=2")

    assert [name for _, name, _ in pairs] == ["\N{REPLACEMENT CHARACTER}", "\udcff", "\udcfe"]


@pytest.mark.parametrize(
    ("key", "spelled"),
    [
        ("affiliate id", b"affiliate+id"),
        ("affiliate id", b"affiliate%20id"),
        ("a+b", b"a%2Bb"),
        ("a&b", b"a%26b"),
        ("a=b", b"a%3Db"),
        ("100%", b"100%25"),
        ("100%", b"100%"),
        ("партнёр", "партнёр".encode()),
        ("партнёр", b"%D0%BF%D0%B0%D1%80%D1%82%D0%BD%D1%91%D1%80"),
    ],
)
def test_a_key_may_be_any_text(key: str, spelled: bytes) -> None:
    found = query_strings.read(spelled + b"=x&a=1", (key,))

    assert found is not None
    assert (found.rest, found.uids[0].value) == (b"a=1", b"x")


def test_all_keys_are_read_and_the_first_is_written(settings) -> None:
    settings.AFFILIATE_QUERY_STRING_KEY = ("ref", "affiliate_id")

    assert links.stripped("/?affiliate_id=x&a=1&ref=y") == "/?a=1"
    assert links.tracking_link("/?affiliate_id=x", UID) == "/?ref=moox6esi"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("/", "/"),
        ("", ""),
        ("/?", "/?"),
        ("/?affiliate_id=x", "/"),
        ("/?affiliate_id", "/"),
        ("/?affiliate_id=x#part", "/#part"),
        ("/?a=1#affiliate_id=x&?affiliate_id=y", "/?a=1#affiliate_id=x&?affiliate_id=y"),
        ("/affiliate_id=x/?a=1", "/affiliate_id=x/?a=1"),
        ("https://shop.example?affiliate_id=x", "https://shop.example"),
        ("/?q=é&affiliate_id=x&q=%C3%A9", "/?q=é&q=%C3%A9"),
        ("/?a?b=1&affiliate_id=x", "/?a?b=1"),
    ],
)
def test_a_url_is_stripped_of_its_affiliate_part_alone(url: str, expected: str) -> None:
    assert links.stripped(url) == expected


@pytest.mark.parametrize(
    ("url", "link"),
    [
        ("/", "/?affiliate_id=moox6esi"),
        ("/?", "/?affiliate_id=moox6esi"),
        ("/path/?x=1", "/path/?x=1&affiliate_id=moox6esi"),
        ("/path/?x=1#part", "/path/?x=1&affiliate_id=moox6esi#part"),
        ("/?affiliate_id=another&x=%e4", "/?x=%e4&affiliate_id=moox6esi"),
        ("https://shop.example", "https://shop.example?affiliate_id=moox6esi"),
    ],
)
def test_a_partner_has_a_link_to_any_page(url: str, link: str) -> None:
    assert Partner(uid=UID).link(url) == link


def test_a_partner_has_a_link_to_the_front_page() -> None:
    assert Partner(uid=UID).link() == "/?affiliate_id=moox6esi"


@given(
    path=st.text("/aé%.", max_size=6),
    query=st.text("ab=&%+é?", max_size=12),
    fragment=st.text("#a?&=", max_size=4),
)
def test_a_link_leads_back_to_the_page_that_it_was_made_for(
    path: str, query: str, fragment: str
) -> None:
    url = path + (f"?{query}" if query else "") + (f"#{fragment}" if fragment else "")

    link = links.tracking_link(url, UID)

    assert links.stripped(link) == url
    assert UID in link


def test_a_link_carries_the_partners_own_ids() -> None:
    link = Partner(uid=UID).link("/", click_id="4 2&/é", sub1="mail", sub5="x=y")

    assert link == "/?affiliate_id=moox6esi&click_id=4+2%26%2F%C3%A9&sub1=mail&sub5=x%3Dy"


def test_a_link_has_nothing_of_ids_that_are_blank() -> None:
    assert Partner(uid=UID).link("/", click_id="", sub1="") == "/?affiliate_id=moox6esi"


def test_a_link_names_its_ids_as_the_settings_do(settings) -> None:
    settings.AFFILIATE_CLICK_ID_KEY = "cid"
    settings.AFFILIATE_SUB_ID_KEYS = ("campaign", "placement")

    link = links.tracking_link("/", UID, click_id="42", sub1="spring", sub2="top")

    assert link == "/?affiliate_id=moox6esi&cid=42&campaign=spring&placement=top"


@pytest.mark.parametrize("sub_id", ["sub6", "sub3", "campaign"])
def test_a_link_refuses_an_id_that_would_be_lost(settings, sub_id: str) -> None:
    settings.AFFILIATE_SUB_ID_KEYS = ("campaign", "placement")

    with pytest.raises(TypeError, match=sub_id):
        links.tracking_link("/", UID, **{sub_id: "x"})


@pytest.mark.parametrize(
    "macro",
    ["{clickid}", "{{ad.id}}", "${cid}", "[cid]", "#s2#", "%%CID%%", "<cid>", "$cid$", "{a}-{b}"],
)
def test_a_network_finds_its_macros_as_it_wrote_them(macro: str) -> None:
    link = Partner(uid=UID).link_with_macros("/a#b", click_id=macro, sub2=f"a b{macro}&c")

    assert link == f"/a?affiliate_id={UID}&click_id={macro}&sub2=a+b{macro}%26c#b"


@pytest.mark.parametrize("label", ["a b", "{", "}{", "50%", "#", "a#b", "{a b}", "x&y=z", "é"])
def test_what_is_no_macro_is_a_label_as_any_other(label: str) -> None:
    with_macros = links.link_with_macros("/", UID, click_id=label, sub1=label)

    assert with_macros == links.tracking_link("/", UID, click_id=label, sub1=label)


def test_a_macro_for_an_id_that_would_be_lost_is_refused(settings) -> None:
    settings.AFFILIATE_SUB_ID_KEYS = ("campaign",)

    with pytest.raises(TypeError, match="sub2"):
        links.link_with_macros("/", UID, sub2="{x}")


def test_the_examples_in_the_docstrings_are_true() -> None:
    attempted = doctest.testmod(links)

    assert attempted.attempted
    assert not attempted.failed
