"""Tables and connections of MySQL and MariaDB that have not all characters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection, connections
from django.test.utils import CaptureQueriesContext

from affiliations import db
from affiliations.database_checks import check_charsets
from affiliations.models import Callback, Conversion, RecentFilteredClick, Visitor
from affiliations.triggers import complete_trigger
from tests.arrivals import commit
from tests.browsers import HANDLERS, Browser
from tests.factories import SubscriptionFactory

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.urls("tests.test_middleware")]

VISITORS = "affiliations_visitor"
CHARSET = "The visitor’s click id has characters that the database cannot store."


@pytest.fixture(params=HANDLERS)
def browser(request: pytest.FixtureRequest) -> Browser:
    return request.param()


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Let each test read the charsets as a new process does."""
    db._narrow_charsets.clear()
    yield
    db._narrow_charsets.clear()


@pytest.fixture
def convert() -> Iterator[Callable[[str, str], None]]:
    """Convert tables to a charset, until the end of the test."""
    converted = []

    def to(table: str, charset: str) -> None:
        converted.append(table)
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {table} CONVERT TO CHARACTER SET {charset}")

    yield to
    with connection.cursor() as cursor:
        for table in converted:
            # Without the rows that the test has made: some fit in no other charset.
            cursor.execute(f"ALTER TABLE {table} CONVERT TO CHARACTER SET utf8mb4")


def test_a_link_keeps_every_character_where_it_can(browser, partner) -> None:
    browser.get(partner.link("/", click_id="😀", sub1="é😀"))

    visitor = Visitor.objects.get()
    assert (visitor.click_id, visitor.sub1, visitor.lost_click_id) == ("😀", "é😀", "")


@pytest.mark.only_on("mariadb")
@pytest.mark.parametrize(
    ("charset", "kept", "lost"),
    [
        ("utf8mb3", "æøå 中文 \u20ac", "😀"),
        ("latin1", "æøå \u20ac", "中文"),
        ("utf8mb3", "a", "\U0001d482"),
    ],
)
def test_a_label_with_other_characters_is_empty_and_the_visitor_stays(
    browser, partner, convert, charset: str, kept: str, lost: str
) -> None:
    convert(VISITORS, charset)
    referer = f"https://blog.example/{lost}/".encode()
    browser.get(partner.link("/", click_id=kept, sub1=f"{kept}{lost}", sub2=kept))
    browser.get(partner.link("/é/", click_id=lost, sub1=kept), Referer=referer)

    first, second = Visitor.objects.order_by("pk")
    assert (first.click_id, first.sub1, first.sub2) == (kept, "", kept)
    assert (second.click_id, second.lost_click_id, second.sub1) == ("", "charset", kept)
    assert second.referrer == ""
    SubscriptionFactory(partner=partner, callback_url="https://a.example/?c={click_id}")
    complete_trigger(None, "Order placed", visitor=second)
    assert Callback.objects.get().reason == CHARSET


@pytest.mark.only_on("mariadb")
@pytest.mark.parametrize("table", ["affiliations_conversion", "affiliations_callback"])
def test_a_label_is_empty_if_a_table_that_it_is_copied_to_has_not_its_characters(
    browser, partner, convert, table: str
) -> None:
    """So tables are after an upgrade whose three old tables were converted, and no other."""
    convert(table, "utf8mb3")
    SubscriptionFactory(
        partner=partner, method="POST", callback_url="https://a.example/?v={visitor_id}"
    )
    browser.get(partner.link("/", click_id="😀", sub1="😀", sub2="é"))
    visitor = Visitor.objects.get()
    assert (visitor.sub1, visitor.sub2) == ("", "é")
    complete_trigger(None, "Order placed", visitor=visitor)

    assert Conversion.objects.get().sub2 == "é"
    assert '"sub2":"é"' in Callback.objects.get().body


@pytest.mark.only_on("mariadb")
@pytest.mark.parametrize("charset", ["utf8mb3", "latin1"])
def test_a_uid_of_no_partner_is_kept_with_escapes(browser, convert, charset: str) -> None:
    convert("affiliations_recentfilteredclick", charset)
    browser.get("/?affiliate_id=a%F0%9F%98%80")
    commit()

    assert RecentFilteredClick.objects.get().uid == r"a\U0001f600"


@pytest.mark.only_on("mariadb")
def test_the_charsets_are_read_once_and_only_for_what_is_not_ascii(convert) -> None:
    convert(VISITORS, "utf8mb3")
    with CaptureQueriesContext(connection) as captured:
        assert db.can_store("a" * 500)
        assert not captured.captured_queries
        assert [db.can_store(text) for text in ("é", "😀", "中")] == [True, False, True]
    assert len(captured) == 1


@pytest.mark.parametrize(
    ("charset", "text", "is_stored"),
    [
        ("utf8", "中", True),
        ("utf8mb3", "😀", False),
        ("latin1", "€", True),
        ("latin1", "\u0142", False),
        ("latin2", "\u0142", True),
        ("cp1251", "ж", True),
        ("geostd8", "ж", False),
    ],
)
def test_a_charset_has_these_characters(charset: str, text: str, is_stored: bool) -> None:
    assert db._has_characters(charset, text) == is_stored


@pytest.mark.parametrize("charset", ["utf8", "utf8mb3", "latin1"])
def test_a_connection_has_a_charset_as_well(monkeypatch, charset: str) -> None:
    monkeypatch.setattr(connections["default"], "vendor", "mysql")
    monkeypatch.setitem(connections["default"].settings_dict, "OPTIONS", {"charset": charset})
    monkeypatch.setattr(db, "narrow_columns", lambda alias: [])

    assert db.can_store("é")
    assert not db.can_store("😀")
    (message,) = check_charsets(databases=["default"])
    assert message.id == "affiliations.W012"
    assert message.msg.startswith(f"The charset of the connection to the database is {charset}.")
    assert message.hint == 'Write in DATABASES: "OPTIONS": {"charset": "utf8mb4"}'


def test_the_tables_of_the_tests_pass() -> None:
    assert check_charsets(databases=["default"]) == []
    assert db.narrow_columns("default") == []


COLUMNS = [
    ("affiliations_partner", "name", "utf8mb3"),
    ("affiliations_visitor", "click_id", "utf8mb3"),
    ("affiliations_visitor", "sub1", "utf8mb3"),
]


def test_the_check_names_tables_columns_and_statements(monkeypatch) -> None:
    monkeypatch.setattr(db, "narrow_columns", lambda alias: COLUMNS)
    name = connection.settings_dict["NAME"]

    (message,) = check_charsets(databases=["default", "other"])
    assert message.id == "affiliations.W012"
    assert message.msg == (
        "Columns of the app are not utf8mb4: affiliations_partner is utf8mb3 (name); "
        "affiliations_visitor is utf8mb3 (click_id, sub1). Texts of links with other characters, "
        "such as emoji, are not stored."
    )
    assert message.hint == (
        f"Run, and then restart the site: ALTER DATABASE `{name}` CHARACTER SET utf8mb4; "
        "ALTER TABLE affiliations_partner CONVERT TO CHARACTER SET utf8mb4; "
        "ALTER TABLE affiliations_visitor CONVERT TO CHARACTER SET utf8mb4;"
    )


@pytest.mark.parametrize("databases", [None, [], ["other"]])
def test_the_check_asks_no_database_that_is_not_checked(monkeypatch, databases: Any) -> None:
    monkeypatch.setattr(db, "narrow_columns", lambda alias: COLUMNS)

    assert check_charsets(databases=databases) == []


@pytest.mark.only_on("mariadb")
def test_the_statements_of_the_check_end_it(convert, browser, partner) -> None:
    convert(VISITORS, "utf8mb3")
    convert("affiliations_conversion", "latin1")
    (message,) = check_charsets(databases=["default"])
    assert "affiliations_conversion is latin1 (" in message.msg
    assert "affiliations_visitor is utf8mb3 (" in message.msg
    _what, statements = message.hint.split(": ", 1)
    with connection.cursor() as cursor:
        for statement in filter(None, map(str.strip, statements.split(";"))):
            cursor.execute(statement)

    assert check_charsets(databases=["default"]) == []
    browser.get(partner.link("/", click_id="😀"))
    assert Visitor.objects.get().click_id == "😀"
