"""What people paste as a callback URL."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from affiliations import aliases, placeholders
from affiliations.exceptions import InvalidCallBackURL
from affiliations.placeholders import NAMES, render
from affiliations.url_mistakes import Rules, correct, correct_one, doubts, mistakes, validate
from tests.growth import assert_linear

URL = "https://partner.example/cb?v={visitor_id}"
EVERY_NAME = f"{URL}&" + "&".join(f"{name}={{{name}}}" for name in NAMES)


def mistake(url: str) -> str:
    """Return what is said against a URL; it must be one thing."""
    with pytest.raises(InvalidCallBackURL) as refused:
        validate(url)
    (message,) = refused.value.messages
    return message


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
        "https://bücher.example/?v={visitor_id}",
        "https://BÜCHER.example/?v={visitor_id}",
        "https://xn--bcher-kva.example/?v={visitor_id}",
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
        ("{transaction_id}", "Use {click_id} for the click or {reference} for the order."),
        ("{transactionId}", "Use {click_id} for the click or {reference} for the order."),
        ("{txid}", "Use {click_id} for the click or {reference} for the order."),
    ],
)
def test_an_unknown_placeholder_is_refused_with_the_one_that_is_meant(
    placeholder: str, meant: str
) -> None:
    message = mistake(f"{URL}&x={placeholder}")

    question = f"Did you mean {meant}?" if meant.startswith("{") else meant
    assert message == f"Unknown placeholder {placeholder}. {question}"


@pytest.mark.parametrize("placeholder", ["{colour}", "{}", "{0}"])
def test_a_placeholder_that_resembles_none_is_refused_with_the_list(placeholder: str) -> None:
    message = mistake(f"{URL}&x={placeholder}")

    assert placeholder in message
    assert all(f"{{{name}}}" in message for name in NAMES)


@pytest.mark.parametrize(
    ("macro", "meant"),
    [
        ("#s2#", "{sub2}"),
        ("[clickid]", "{click_id}"),
        ("[[currency]]", "{currency}"),
        ("${click_id}", "{click_id}"),
        ("#{order_id}", "{reference}"),
        ("{{click_id}}", "{click_id}"),
        ("{{{click_id}}}", "{click_id}"),
        ("{{order.number}}", "{reference}"),
        ("%%CID%%", "{click_id}"),
        ("%PAYOUT%", "{payout}"),
        ("%CLICK_ID%", "{click_id}"),
        ("__ORDER__", "{reference}"),
        ("!!!clickref!!!", "{click_id}"),
        ("*|CURRENCY|*", "{currency}"),
        ("<cid>", "{click_id}"),
        ("$cid$", "{click_id}"),
    ],
)
def test_another_systems_macro_is_refused_once_with_the_placeholder_that_is_meant(
    macro: str, meant: str
) -> None:
    url = f"{URL}&x={macro}"
    assert mistake(url) == f"“{macro}” is another system’s macro. Did you mean {meant}?"
    assert correct(url) == f"{URL}&x={meant}"


@pytest.mark.parametrize("macro", ["#zzz#", "[zzz]", "${zzz}", "{{zzz}}", "%%zzz%%", "<zzz>"])
def test_a_macro_that_resembles_none_of_ours_is_refused_and_stays(macro: str) -> None:
    url = f"{URL}&x={macro}"
    assert "“" + macro + "” is another system’s macro. Replace it" in mistake(url)
    assert correct(url) == url


def test_a_macro_with_two_meanings_is_refused_with_both() -> None:
    assert "{payout} for the partner’s payout or {amount}" in mistake(f"{URL}&x=[revenue]")


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("https://partner.example/cb", "{visitor_id} or {click_id}"),
        ("https://partner.example/cb?v=visitor_id", "{visitor_id} or {click_id}"),
        ("https://partner.example/cb?v={sub1}", "{visitor_id} or {click_id}"),
        ("https://partner.example/?v={visitor_id}#part", "%23"),
        ("https://partner.example/?v={visitor_id}#", "%23"),
        ("https://{click_id}.partner.example/?v={visitor_id}", "domain"),
        ("https://{visitor_id}@partner.example/?v={visitor_id}", "domain"),
        ("https://partner.example:{visitor_id}/", "domain"),
        ("https://partner.example/?v={visitor_id}&x={", "%7B"),
        ("https://partner.example/?v={visitor_id}&x=}", "%7D"),
        ("https://partner.example/?v={visitor_id", "A brace of “{visitor_id” is missing."),
        ("ftp://partner.example/?v={visitor_id}", "https://"),
        ("javascript:alert({visitor_id})", "https://"),
        ("//partner.example/?v={visitor_id}", "https://"),
        ("{visitor_id}", "https://"),
        ("https://[partner.example/?v={visitor_id}", "not a valid URL"),
        ("partner.example/?v={visitor_id}", "https://"),
        ("https://partner.example/?rate=50%off&v={visitor_id}", "%25"),
        ("https://partner.example/%/?v={visitor_id}", "%25"),
        ("https://partner.example/%{visitor_id}", "%25"),
        ("https://partner。example/?v={visitor_id}", "domain"),
        ("https://part\u200bner.example/?v={visitor_id}", "invisible"),
        ("https://" + "ü" * 60 + ".example/?v={visitor_id}", "domain"),
        ("https://" + "a" * 64 + ".example/?v={visitor_id}", "domain"),
        ("https://partner..example/?v={visitor_id}", "domain"),
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


def test_an_alias_means_one_placeholder_and_is_the_name_of_none() -> None:
    names = [*NAMES, *" ".join(one.aliases for one in placeholders.PLACEHOLDERS).split()]
    joined = [name.replace("_", "") for name in names]
    assert {name for name in joined if joined.count(name) > 1} == set()
    assert not set(joined) & set(aliases.AMBIGUOUS)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("subid", "sub1"),
        ("epi", "sub1"),
        ("epi2", "sub2"),
        ("click_ref", "click_id"),
        ("clickref2", "sub2"),
        ("order_ref", "reference"),
        ("commission_amount", "payout"),
        ("externalid", "click_id"),
        ("aff_click_id", "click_id"),
        ("$orderid", "reference"),
        ("extra_data3", "sub3"),
        ("TotalCost", "amount"),
        ("sale_currency", "currency"),
        ("conversion_unix_timestamp", "timestamp"),
        ("cnv_status", "status"),
        ("event_name", "trigger"),
        ("publisherId", "partner_uid"),
        ("a_aid", "partner_uid"),
        ("referral", "visitor_id"),
        ("zzz", None),
        ("x" * 500, None),
        ("", None),
    ],
)
def test_a_name_of_a_network_means_one_of_ours(name: str, meant: str | None) -> None:
    assert aliases.meant(name) == meant


@pytest.mark.parametrize(
    ("pasted", "corrected"),
    [
        (f"{URL}&amp;x=1", f"{URL}&x=1"),
        (f"{URL}&amp;amp;x=1", f"{URL}&x=1"),
        (f"{URL}&#38;x=1", f"{URL}&x=1"),
        (f"{URL}&x=&lt;clickid&gt;", f"{URL}&x={{click_id}}"),
        (f"{URL}&x=a\u200bb\ufeff\xadc\xa0", f"{URL}&x=abc"),
        (f"{URL}&x={{click\u200b_id}}", f"{URL}&x={{click_id}}"),
        (f" {URL}\n&x=1 ", f"{URL}&x=1"),
        (f"{URL}&x=a b", f"{URL}&x=a%20b"),
        (f"{URL}&x=%7Bclick_id%7D", f"{URL}&x={{click_id}}"),
        (f"{URL}&x=%257bclickid%257d", f"{URL}&x={{click_id}}"),
        (f"{URL}&x=%7Bclickid}}", f"{URL}&x={{click_id}}"),
        (f"{URL}&x={{click_id%7D", f"{URL}&x={{click_id}}"),
        (f"{URL}&x=“{{click_id}}”", f"{URL}&x={{click_id}}"),
        (f"{URL}&x=l’avion", f"{URL}&x=l'avion"),
        (f"“{URL}”", URL),
        (f'"{URL}"', URL),
        (f"'{URL}'", URL),
        (f"<{URL}>", URL),
        (f"([{URL}])", URL),
        (f"{URL}&x={{click_id", f"{URL}&x={{click_id}}"),
        (f"{URL}&x=click_id}}", f"{URL}&x={{click_id}}"),
        (f"{URL}&x={{", f"{URL}&x=%7B"),
        (f"{URL}&x={{zz", f"{URL}&x=%7Bzz"),
        (f"{URL}&x=zz}}", f"{URL}&x=zz%7D"),
        (f"{URL}&x=50%", f"{URL}&x=50%25"),
        (f"{URL}#x", f"{URL}%23x"),
        (URL.removeprefix("https://"), URL),
        (URL.removeprefix("https:"), URL),
        (f"({URL.removeprefix('https://')})", URL),
    ],
)
def test_what_can_be_corrected_is_corrected(pasted: str, corrected: str) -> None:
    with pytest.raises(InvalidCallBackURL):
        validate(pasted)
    assert correct(pasted) == corrected
    validate(corrected)


@pytest.mark.parametrize(
    "url",
    [
        f"{URL}&x=%7Bcolour%7D",
        f"{URL}&x=%7B3F2504E0-4F89-11D3-9A0C-0305E82C3301%7D",
        f"{URL}&x=%7B%22v%22:{{visitor_id}}%7D",
        f"{URL}&x=__all__",
        f"{URL}&x=[]&filter[currency]=EUR",
        f"{URL}&x=%41BC",
        f"{URL}&x=(a)(b)",
        "https://partner.example/__init__/Foo_(bar)?v={visitor_id}",
        "https://partner.example/click/REPLACEMENTS/?v={visitor_id}&ampere=1&lt=5",
    ],
)
def test_a_value_that_is_only_similar_is_accepted(url: str) -> None:
    assert mistakes(url) == []
    assert correct(url) == url


def test_http_is_corrected_where_the_settings_refuse_it() -> None:
    rules = Rules(require_https=True)
    (found,) = mistakes("http://partner.example/?v={visitor_id}", rules)
    assert "over HTTPS only" in found.message
    assert correct_one("http://partner.example/?v={visitor_id}", found.correction, rules) == (
        "https://partner.example/?v={visitor_id}"
    )


def test_each_button_corrects_its_own_mistake_only() -> None:
    url = f"{URL}&amp;x={{clickid}}&y=[order_id]&z=50%&a=l’eau"
    buttons = {found.correction: correct_one(url, found.correction) for found in mistakes(url)}
    assert buttons == {
        "Replace &amp; with &": url.replace("&amp;", "&"),
        "Correct the curly quotes": url.replace("’", "'"),
        "Replace {clickid} with {click_id}": url.replace("{clickid}", "{click_id}"),
        "Replace [order_id] with {reference}": url.replace("[order_id]", "{reference}"),
        "Replace % with %25": url.replace("50%", "50%25"),
    }


def test_a_button_corrects_others_too_if_it_takes_them() -> None:
    url = f"{URL}&amp;x={{click\u200bid}}"
    assert correct_one(url, "Replace {clickid} with {click_id}") == f"{URL}&x={{click_id}}"


def test_a_button_of_another_text_changes_nothing() -> None:
    assert correct_one(URL, "Replace {clickid} with {click_id}") == URL
    assert correct_one("{" * 3000, "Replace {clickid} with {click_id}") == "{" * 3000


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ("payout=REPLACE", "payout={payout}"),
        ("cid=REPLACE_ME", "cid={click_id}"),
        ("a=:clickid", "a={click_id}"),
        ("a=@clickid@", "a={click_id}"),
        ("a=(clickid)", "a={click_id}"),
        ("a=~payout~", "a={payout}"),
        ("a=YOUR_CLICK_ID", "a={click_id}"),
        ("a=your-click-id", "a={click_id}"),
        ("cid=XXX", "cid={click_id}"),
        ("a=click_id", "a={click_id}"),
        ("a=clickid", "a={click_id}"),
        ("a=XXX", None),
        ("a=__NOTHING__", None),
    ],
)
def test_what_looks_like_a_placeholder_is_accepted_with_a_warning(
    value: str, meant: str | None
) -> None:
    url = f"{URL}&{value}"
    validate(url)
    (doubt,) = doubts(url)
    question = f" Did you mean {{{meant.partition('{')[2]}?" if meant else ""
    assert doubt.message == f"“{value}” looks like a placeholder, but is sent as it is.{question}"
    assert correct(url) == url
    assert correct_one(url, doubt.correction or "-") == (f"{URL}&{meant}" if meant else url)


def test_a_part_of_the_path_can_be_doubtful() -> None:
    (doubt,) = doubts("https://partner.example/:click_id/?v={visitor_id}")
    assert doubt.correction == "Replace :click_id with {click_id}"


@pytest.mark.parametrize(
    "value", ["trigger=event", "a=order", "a=1", "status=approved", "t=12:30", "x=a(b)", "u=@me"]
)
def test_a_plain_value_is_not_doubtful(value: str) -> None:
    assert doubts(f"https://partner.example/cb/sub1/?v={{visitor_id}}&{value}") == []


def test_what_is_refused_is_not_doubtful_as_well() -> None:
    assert doubts(f"{URL}&x={{zzz}}&y=[zzz]&z=[clickid]") == []
    assert doubts(f"{URL}&x=XXX{'x' * 3000}") == []


PIECES = [
    *(
        "{visitor_id}",
        "{click_id}",
        "{clickid}",
        "{zzz}",
        "{",
        "}",
        "{{",
        "}}",
        "[",
        "]",
        "[clickid]",
    ),
    *("#s2#", "#", "%", "%7B", "%7D", "%257B", "25", "7B", "payout", "click_id", "%PAYOUT%", "$"),
    *("${", "__ORDER__", "<", ">", "&amp;", "amp;", "&", "&lt;", "&#123;", "\u200b", "\xa0", " "),
    *("\n", "“", "”", "’", '"', "(", ")", "=", "/", "?", ":", "@", "REPLACE", "XXX", "http://"),
    *("https://", "a", "é", "!!!", "*|", "|*", "\0"),
]
pasted_texts = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)


@given(pasted_texts, st.sampled_from(["", URL, f"{URL}&x=", "https://partner.example/"]))
@example("{{{{clickid}}}}", URL)
@example("&amp;amp;lt;clickid&gt;", URL)
@example("{\u200b{cl ick“id}}", URL)
@example("[[[[clickid]]]]", f"{URL}&x=")
@example("%%7Bclick_id%7D", URL)
def test_after_all_is_corrected_only_a_person_can_correct_the_rest(text: str, start: str) -> None:
    corrected = correct(start + text)

    assert [found for found in mistakes(corrected) if found.correction] == []
    assert correct(corrected) == corrected


@given(pasted_texts)
def test_each_correction_changes_the_url(text: str) -> None:
    url = URL + text
    for found in [*mistakes(url), *doubts(url)]:
        if found.correction:
            assert correct_one(url, found.correction) != url


@given(pasted_texts)
def test_a_valid_url_is_not_corrected(text: str) -> None:
    try:
        validate(URL + text)
    except InvalidCallBackURL:
        assume(False)
    assert correct(URL + text) == URL + text


@pytest.mark.parametrize("piece", [*PIECES, "{a}", "&amp;amp;", "{{a}}", "/XXX", "%7Bcid%7D"])
def test_the_longest_url_is_examined_and_corrected_at_once(piece: str) -> None:
    def examine(length: int) -> None:
        url = (URL + piece * length)[:length]
        mistakes(url)
        doubts(url)
        correct(url)

    assert_linear(examine, 2048)
    assert len(mistakes(URL + piece * 100_000)) == 1
