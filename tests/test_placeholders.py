from __future__ import annotations

import re
from decimal import Decimal
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from django.core.exceptions import ValidationError
from django.core.validators import URLValidator
from django.utils import translation
from hypothesis import assume, example, given
from hypothesis import strategies as st

from affiliations import placeholders
from affiliations.exceptions import InvalidCallBackURL
from affiliations.models import Subscription
from affiliations.placeholders import NAMES, identifies, money, render, validate

URL = "https://partner.example/cb?v={visitor_id}"
EVERY_NAME = "https://partner.example/cb?v={visitor_id}&" + "&".join(
    f"{name}={{{name}}}" for name in NAMES
)

# What no database stores is stored as empty text, and does not get as far as a callback.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@st.composite
def urls_of_0_12(draw: st.DrawFn) -> str:
    """Draw a callback URL that 0.12 could save and send: ``{visitor_id}`` and doubled braces."""
    printed = st.characters(
        codec="utf-8", exclude_categories=["Z", "C"], exclude_characters="{}[]/:@?#"
    )
    piece = st.one_of(st.text(printed, max_size=4), st.sampled_from(["{visitor_id}", "{{", "}}"]))
    user = "".join(draw(st.lists(piece)))
    tail = "".join(draw(st.lists(st.one_of(piece, st.sampled_from("/:@?#")))))
    return (
        draw(st.sampled_from(["http://", "https://"]))
        + (f"{user}@" if user else "")
        + "partner.example:8000"
        + draw(st.sampled_from(["/", "?", "#"]))
        + draw(st.sampled_from([tail + "{visitor_id}", "{visitor_id}" + tail]))
    )


@given(url=urls_of_0_12(), visitor_id=st.integers(1, 2**31 - 1))
@example(url="https://{visitor_id}:{{@partner.example/", visitor_id=5)
@example(url="https://partner.example/#{visitor_id}}}", visitor_id=5)
@example(url="https://partner.example/{{{visitor_id}}}/{{visitor_id}}", visitor_id=5)
def test_a_callback_url_of_0_12_renders_to_the_same_bytes_as_in_0_12(
    url: str, visitor_id: int
) -> None:
    """Rule 12."""
    try:
        URLValidator()(url)
    except ValidationError:
        assume(False)

    assert render(url, {"visitor_id": visitor_id}) == url.format(visitor_id=visitor_id)


@pytest.mark.parametrize(
    "field",
    [
        "{visitor_id.__class__}",
        "{visitor_id.__init__.__globals__}",
        "{visitor_id!r}",
        "{visitor_id:>9999999999}",
        "{visitor_id[0]}",
        "{0}",
        "{}",
        "{",
        "}",
        "{nothing}",
        "{ visitor_id }",
    ],
)
def test_what_is_no_placeholder_is_text(field: str) -> None:
    """(D18)"""
    url = f"https://partner.example/cb?a={field}&v="

    assert render(url + "{visitor_id}", {"visitor_id": 7}) == url + "7"


def test_every_placeholder_is_filled() -> None:
    values = {name: f"<{name}>" for name in NAMES}

    rendered = render(EVERY_NAME, values)

    query = parse_qsl(urlsplit(rendered).query, strict_parsing=True)
    assert query == [("v", "<visitor_id>"), *((name, f"<{name}>") for name in NAMES)]


@given(texts)
@example("a b&c=d/e?f#g%h+i")
@example("{visitor_id}")
@example("\r\nHost: evil.example")
def test_a_value_in_the_query_arrives_as_it_was_and_changes_nothing_else(value: str) -> None:
    url = "https://partner.example/cb?c={click_id}&d=1"

    parts = urlsplit(render(url, {"click_id": value}))

    assert parse_qsl(parts.query, keep_blank_values=True) == [("c", value), ("d", "1")]
    assert parts._replace(query="").geturl() == "https://partner.example/cb"
    assert parts.query.isascii()
    assert parts.query.isprintable()


@given(texts)
@example(".")
@example("..")
@example("../..")
@example("a/../../b")
@example("")
def test_a_value_in_the_path_stays_one_segment_of_it(value: str) -> None:
    url = "https://partner.example/cb/{click_id}/end?v={visitor_id}"
    values = {"click_id": value, "visitor_id": 7}
    if value in (".", ".."):
        with pytest.raises(InvalidCallBackURL):
            render(url, values)
        return

    parts = urlsplit(render(url, values))

    assert [unquote(segment) for segment in parts.path.split("/")] == ["", "cb", value, "end"]
    assert (parts.netloc, parts.query, parts.fragment) == ("partner.example", "v=7", "")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("/cb/{sub1}", ".."),
        ("/cb/{sub1}", "."),
        ("/{sub1}/cb", ".."),
        ("/cb/.{sub1}/x", "."),
        ("/cb/%2e{sub1}/x", "."),
        ("/cb/%2E{sub1}", ""),
        ("/cb/{sub1}{sub1}/x", "."),
    ],
)
def test_a_value_does_not_climb_out_of_the_partners_path(path: str, value: str) -> None:
    url = f"https://partner.example{path}?v={{visitor_id}}"

    with pytest.raises(InvalidCallBackURL, match="segment"):
        render(url, {"visitor_id": 7, "sub1": value})


@pytest.mark.parametrize(
    ("url", "value"),
    [
        ("https://partner.example/a/../b/{sub1}", "x"),
        ("https://partner.example/cb?path=/{sub1}/x", ".."),
        ("https://partner.example/cb/a{sub1}", ".."),
        ("https://partner.example/cb/{sub1}", "..."),
    ],
)
def test_dots_that_climb_nowhere_are_let_through(url: str, value: str) -> None:
    assert render(url, {"sub1": value}) == url.replace("{sub1}", value)


@pytest.mark.parametrize(
    "url",
    [
        "https://{click_id}.partner.example/",
        "https://{click_id}/",
        "https://{click_id}@partner.example/",
        "https://partner.example:{click_id}/",
        "{click_id}://partner.example/",
        "https://partner.example/#{click_id}",
    ],
)
def test_nothing_of_a_strangers_choice_gets_outside_of_path_and_query(url: str) -> None:
    assert render(url, {"click_id": "evil"}) == url


@pytest.mark.parametrize("value", [None, ""])
def test_a_value_that_is_missing_is_empty(value: str | None) -> None:
    values = {} if value is None else {"amount": value}

    assert render("https://partner.example/?a={amount}&b=1", values) == (
        "https://partner.example/?a=&b=1"
    )
    assert render("https://partner.example/?a={amount}", {"amount": None}) == (
        "https://partner.example/?a="
    )


@pytest.mark.parametrize(
    ("amount", "written"),
    [
        ("5", "5.00"),
        ("5.5", "5.50"),
        ("5.00", "5.00"),
        ("5.1250", "5.125"),
        ("0.0001", "0.0001"),
        ("0", "0.00"),
        ("-5.1", "-5.10"),
        ("1234567.89", "1234567.89"),
        ("1E+5", "100000.00"),
        ("123456789012345.6789", "123456789012345.6789"),
    ],
)
def test_money_is_written_with_a_dot_in_whatever_language(
    settings, amount: str, written: str
) -> None:
    settings.USE_THOUSAND_SEPARATOR = True

    with translation.override("de"):
        assert money(Decimal(amount)) == written
        assert render("https://partner.example/?a={amount}", {"amount": Decimal(amount)}) == (
            f"https://partner.example/?a={written}"
        )


def test_a_large_number_has_no_separators(settings) -> None:
    settings.USE_THOUSAND_SEPARATOR = True

    with translation.override("de"):
        assert render(URL, {"visitor_id": 1234567}).endswith("v=1234567")


@pytest.mark.parametrize(
    ("url", "values", "does"),
    [
        (URL, {"visitor_id": 7, "click_id": ""}, True),
        ("https://partner.example/?c={click_id}", {"visitor_id": 7, "click_id": "42"}, True),
        ("https://partner.example/?c={click_id}", {"visitor_id": 7, "click_id": ""}, False),
        ("https://partner.example/?c={click_id}", {"visitor_id": 7}, False),
        ("https://partner.example/?c={click_id}&v={visitor_id}", {"visitor_id": 7}, True),
        ("https://partner.example/?c={sub1}", {"visitor_id": 7, "sub1": "x"}, False),
    ],
)
def test_a_callback_says_which_visitor_is_meant_or_says_that_it_does_not(
    url: str, values: dict[str, object], does: bool
) -> None:
    assert identifies(url, values) is does


@pytest.mark.parametrize(
    "url",
    [
        URL,
        EVERY_NAME,
        "http://partner.example/?c={click_id}",
        "https://partner.example/{visitor_id}/{click_id}/",
        "https://partner.example:8443/cb?campaign_id=123&visitor_id={visitor_id}",
        "https://user:secret@partner.example/cb?v={visitor_id}",
        "https://[2001:db8::1]/cb?v={visitor_id}",
        "https://partner.example/cb?v={visitor_id}&x=[]&y=$5&z=100%25&w=a%23b",
        "HTTPS://PARTNER.EXAMPLE/?v={visitor_id}",
    ],
)
def test_a_url_that_can_be_called_is_accepted(url: str) -> None:
    validate(url)


@pytest.mark.parametrize(
    ("placeholder", "meant"),
    [
        ("{sub_id1}", "{sub1}"),
        ("{subid5}", "{sub5}"),
        ("{aff_sub}", "{sub1}"),
        ("{aff_sub2}", "{sub2}"),
        ("{s3}", "{sub3}"),
        ("{clickid}", "{click_id}"),
        ("{click-id}", "{click_id}"),
        ("{ClickID}", "{click_id}"),
        ("{CLICK_ID}", "{click_id}"),
        ("{cid}", "{click_id}"),
        ("{external_id}", "{click_id}"),
        ("{visitorid}", "{visitor_id}"),
        ("{vistor_id}", "{visitor_id}"),
        ("{visitor_id.pk}", "{visitor_id}"),
        ("{order_id}", "{reference}"),
        ("{goal}", "{trigger}"),
        ("{sale_amount}", "{amount}"),
        ("{commission}", "{payout}"),
        ("{payout_amount}", "{payout}"),
        ("{reward}", "{payout}"),
        ("{payoutcurrency}", "{payout_currency}"),
        ("{conversion_id}", "{callback_id}"),
        ("{affiliate_id}", "{partner_uid}"),
        ("{transaction_id}", "The click? {click_id}. The order? {reference}."),
        ("{transactionId}", "The click? {click_id}. The order? {reference}."),
        ("{txid}", "The click? {click_id}. The order? {reference}."),
    ],
)
def test_an_unknown_placeholder_is_refused_with_the_one_that_is_meant(
    placeholder: str, meant: str
) -> None:
    message = mistake(f"{URL}&x={placeholder}")

    question = f"Did you mean {meant}?" if meant.startswith("{") else meant
    assert message == f"There is no placeholder {placeholder}. {question}"


@pytest.mark.parametrize("placeholder", ["{colour}", "{}", "{0}"])
def test_a_placeholder_that_resembles_none_is_refused_with_the_list(placeholder: str) -> None:
    message = mistake(f"{URL}&x={placeholder}")

    assert placeholder in message
    assert all(f"{{{name}}}" in message for name in NAMES)


@pytest.mark.parametrize(
    "macro",
    ["#s2#", "[clickid]", "${click_id}", "{{click_id}}", "%%CID%%", "<cid>", "$cid$"],
)
def test_another_systems_macro_is_refused_once_and_shown(macro: str) -> None:
    message = mistake(f"{URL}&x={macro}")

    assert f"“{macro}”" in message
    assert "{click_id}" in message


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("https://partner.example/cb", "{visitor_id} or {click_id}"),
        ("https://partner.example/cb?v=visitor_id", "{visitor_id} or {click_id}"),
        ("https://partner.example/cb?v={sub1}", "{visitor_id} or {click_id}"),
        ("https://partner.example/?v={visitor_id}#part", "%23"),
        ("https://partner.example/?v={visitor_id}#", "%23"),
        ("https://{click_id}.partner.example/?v={visitor_id}", "host"),
        ("https://{visitor_id}@partner.example/?v={visitor_id}", "host"),
        ("https://partner.example:{visitor_id}/", "host"),
        ("https://partner.example/?v={visitor_id}&x={", "%7B"),
        ("https://partner.example/?v={visitor_id}&x=}", "%7D"),
        ("https://partner.example/?v={visitor_id", "%7B"),
        ("ftp://partner.example/?v={visitor_id}", "https://"),
        ("javascript:alert({visitor_id})", "https://"),
        ("//partner.example/?v={visitor_id}", "https://"),
        ("{visitor_id}", "https://"),
        ("https://[partner.example/?v={visitor_id}", "not a URL"),
    ],
)
def test_a_url_that_cannot_be_called_is_refused_with_its_mend(url: str, complaint: str) -> None:
    with pytest.raises(InvalidCallBackURL, match=re.escape(complaint)):
        validate(url)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(InvalidCallBackURL) as refused:
        validate("ftp://{sub1}.partner.example/?a={zzz}&a={zzz}#x")

    assert len(refused.value.messages) == 5


@given(st.text(max_size=40), st.sampled_from(["", "https://partner.example/", "https://"]))
def test_whatever_staff_write_is_accepted_or_refused_in_words(text: str, start: str) -> None:
    messages = ["accepted"]
    try:
        validate(start + text)
    except InvalidCallBackURL as error:
        messages = error.messages

    assert all(messages)


@given(st.lists(st.sampled_from([*"[]$%/?=.&", "{visitor_id}", "{click_id}", "{sub1}", "{", "}"])))
def test_what_is_accepted_can_be_rendered(pieces: list[str]) -> None:
    url = "https://partner.example/{visitor_id}" + "".join(pieces)
    try:
        validate(url)
    except InvalidCallBackURL:
        assume(False)
    values = {"visitor_id": 7, "click_id": "42", "sub1": "x"}

    rendered = render(url, values)

    assert rendered.startswith("https://partner.example/7")
    assert not set("{}#") & set(rendered)


def test_saving_a_subscription_refuses_what_cannot_be_called() -> None:
    subscription = Subscription(trigger="Order placed", callback_url="https://partner.example/")

    with pytest.raises(InvalidCallBackURL, match="visitor_id"):
        subscription.save()


def test_the_placeholder_of_0_12_is_one_of_ours() -> None:
    assert Subscription.CALLBACK_URL_PLACEHOLDER.strip("{}") in NAMES
    assert set(placeholders.IDENTIFYING) < set(NAMES)


def mistake(url: str) -> str:
    """Return what is said against a URL; it must be one thing."""
    with pytest.raises(InvalidCallBackURL) as refused:
        validate(url)
    (message,) = refused.value.messages
    return message
