from __future__ import annotations

import re
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from django.core.exceptions import ValidationError
from django.core.validators import URLValidator
from django.test import Client
from django.utils import translation
from hypothesis import assume, example, given, reject
from hypothesis import strategies as st
from requests import PreparedRequest
from requests.exceptions import InvalidURL

from affiliations import placeholders
from affiliations.amounts import plain
from affiliations.callbacks.test_callback import send_test_callback
from affiliations.exceptions import InvalidCallBackURL
from affiliations.models import Callback, Partner, Subscription
from affiliations.placeholders import NAMES, Placeholder, identifies, render, target
from affiliations.triggers import complete_trigger
from affiliations.url_mistakes import validate
from tests.factories import SubscriptionFactory, VisitorFactory
from tests.raw_partner import OK, RawPartner
from tests.test_url_mistakes import mistake

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
@example(url="https://partner.example/a%2fb%7e?rate=50%off&x=%20&cid={visitor_id}", visitor_id=5)
@example(url="https://partner.example/%2f?rate=50%", visitor_id=5)
@example(url="https://user\\@partner.example/?v={visitor_id}", visitor_id=5)
def test_a_callback_url_of_0_12_is_sent_as_the_same_bytes_as_by_0_12(
    url: str, visitor_id: int
) -> None:
    try:
        URLValidator()(url)
    except ValidationError:
        assume(False)

    rendered = render(url, {"visitor_id": visitor_id})

    as_by_0_12 = PreparedRequest()
    try:
        as_by_0_12.prepare_url(url.format(visitor_id=visitor_id), None)
    except InvalidURL:
        reject()
    path = urlsplit(rendered).path
    assume(not re.search(r"/\.{1,2}(/|$)", unquote(path)))  # 0.12 left these segments out
    sent = target(rendered)
    assert sent in rendered
    # requests leaves out an empty query, and a second slash at the beginning.
    assert as_by_0_12.path_url.lstrip("/") == re.sub(r"^([^?]*)\?$", r"\1", sent).lstrip("/")


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
    url = "https://partner.example/cb?a="

    rendered = render(url + field + "&v={visitor_id}", {"visitor_id": 7})

    assert rendered.startswith(url)
    assert unquote(rendered.removeprefix(url)) == field + "&v=7"


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
@example("ab/cd")
@example("")
def test_a_value_in_the_path_stays_one_segment_of_it(value: str) -> None:
    url = "https://partner.example/cb/{click_id}/end?v={visitor_id}"
    values = {"click_id": value, "visitor_id": 7}
    if {".", ".."} & set(re.split(r"[/\\]", value)):
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
        ("/cb/{sub1}/done", "../admin/delete-all"),
        ("/cb/{sub1}/done", "x/../../admin"),
        ("/cb/{sub1}/done", "x/.."),
        ("/cb/{sub1}/done", "..\\admin"),
        ("/cb/{sub1}", "x\\.."),
        ("/cb/%2e%2e/{sub1}", ".."),
        ("/cb/..{sub1}", "/x"),
        ("/cb/{sub1};v=1/done", ".."),
        ("/cb/{sub1}/done", "..;/admin"),
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
        ("https://partner.example/cb?path=../{sub1}", ".."),
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
    assert "evil" not in render(url, {"click_id": "evil"})


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
        assert plain(Decimal(amount)) == written
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


def test_saving_a_subscription_refuses_what_cannot_be_called() -> None:
    subscription = Subscription(trigger="Order placed", callback_url="https://partner.example/")

    with pytest.raises(InvalidCallBackURL, match="visitor_id"):
        subscription.save()


def test_the_placeholder_of_0_12_is_one_of_ours() -> None:
    assert Subscription.CALLBACK_URL_PLACEHOLDER.strip("{}") in NAMES
    assert set(placeholders.IDENTIFYING) < set(NAMES)


@pytest.fixture
def colour(monkeypatch: pytest.MonkeyPatch) -> Placeholder:
    """Add a placeholder to the table, as a new row in ``affiliations.placeholders`` does."""
    added = Placeholder(
        "colour",
        "The colour of the partner’s banner.",
        "sample-red",
        lambda callback: f"red-{callback.conversion.visitor.sub1}",
    )
    table = (*placeholders.PLACEHOLDERS, added)
    monkeypatch.setattr(placeholders, "PLACEHOLDERS", table)
    monkeypatch.setattr(placeholders, "NAMES", tuple(placeholder.name for placeholder in table))
    return added


COLOURED = "https://partner.example/cb?v={visitor_id}&c={colour}"


@pytest.mark.usefixtures("colour")
class TestANewRowOfTheTable:
    def test_is_accepted_and_suggested(self) -> None:
        validate(COLOURED)
        assert "Did you mean {colour}?" in mistake(f"{URL}&c={{color}}")

    def test_is_in_the_list_of_those_that_there_are(self) -> None:
        assert "{timestamp} {colour}" in mistake(f"{URL}&c={{zzz}}")

    @pytest.mark.django_db
    def test_is_filled_in_from_the_callback(self) -> None:
        visitor = VisitorFactory(sub1="dark")
        SubscriptionFactory(partner=visitor.partner, callback_url=COLOURED)
        complete_trigger(None, "Order placed", visitor=visitor)
        rendered = f"https://partner.example/cb?v={visitor.pk}&c=red-dark"
        assert Callback.objects.get().url == rendered

    @pytest.mark.django_db
    def test_is_a_sample_in_a_test_callback(self, settings: Any) -> None:
        settings.AFFILIATE_CALLBACK_ALLOWED_NETWORKS = ["127.0.0.0/8"]
        with RawPartner(OK) as server:
            url = f"{server.url}?v={{visitor_id}}&c={{colour}}"
            send_test_callback(SubscriptionFactory(callback_url=url))
        assert Callback.objects.get().url == f"{server.url}?v=0&c=sample-red"

    def test_is_a_sample_in_the_preview(self, staff: Client) -> None:
        rendered = "https://partner.example/cb?v=0&c=sample-red"
        answer = staff.get("/admin/affiliations/subscription/preview/", {"url": COLOURED})
        assert answer.json()["rendered"] == rendered

    def test_is_explained_to_staff(self, staff: Client, colour: Placeholder) -> None:
        subscription = SubscriptionFactory(callback_url=COLOURED)
        page = staff.get(f"/admin/affiliations/subscription/{subscription.pk}/change/").text
        assert '<code data-placeholder="{colour}">' in page
        assert colour.explanation in page


def test_names_are_those_of_the_table() -> None:
    assert tuple(placeholder.name for placeholder in placeholders.PLACEHOLDERS) == NAMES
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize(
    "host", ["tracker", "my_tracker", "tracker:8000", "a_b.internal", "user:secret@tracker:80"]
)
def test_a_host_of_a_local_network_is_accepted_where_such_networks_are_called(
    host: str, settings: Any, partner: Partner
) -> None:
    subscription = Subscription(
        partner=partner, trigger="User registered", callback_url=f"http://{host}/?v={{visitor_id}}"
    )
    settings.AFFILIATE_CALLBACK_ALLOWED_NETWORKS = ["10.0.0.0/8"]
    subscription.full_clean()

    settings.AFFILIATE_CALLBACK_ALLOWED_NETWORKS = []
    with pytest.raises(ValidationError):
        subscription.full_clean()


@pytest.mark.parametrize("host", ["-x", "", "a b", "x-", ":80", "a..b", "a" * 64])
def test_what_is_no_host_is_refused_there_too(host: str, settings: Any, partner: Partner) -> None:
    settings.AFFILIATE_CALLBACK_ALLOWED_NETWORKS = ["10.0.0.0/8"]
    url = f"http://{host}/?v={{visitor_id}}"
    with pytest.raises(ValidationError):
        Subscription(partner=partner, trigger="x", callback_url=url).full_clean()
