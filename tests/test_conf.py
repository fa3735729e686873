from __future__ import annotations

import re
from datetime import timedelta
from ipaddress import ip_network
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.checks import Error
from django.test import override_settings
from django.utils.functional import empty

from affiliations import conf, dispatchers
from affiliations.checks import check_settings
from affiliations.conf import Setting, Settings, import_function, settings, table
from affiliations.conversions.screening import own_account
from tests.dispatchers import ignored

# property, setting, default, another value, and what is read where that is not the value itself
EACH = [
    ("query_string_keys", "AFFILIATE_QUERY_STRING_KEY", ("affiliate_id",), "via", ("via",)),
    ("session_key", "AFFILIATE_SESSION_KEY", "affiliate_visitor_id", "visitor", "visitor"),
    ("triggers", "AFFILIATE_TRIGGERS", AttributeError, [], []),
    ("click_id_key", "AFFILIATE_CLICK_ID_KEY", "click_id", "cid", "cid"),
    (
        "sub_id_keys",
        "AFFILIATE_SUB_ID_KEYS",
        ("sub1", "sub2", "sub3", "sub4", "sub5"),
        ["s1"],
        ("s1",),
    ),
    ("attribution_window", "AFFILIATE_ATTRIBUTION_WINDOW", timedelta(days=30), None, None),
    ("first_click_wins", "AFFILIATE_ATTRIBUTION_MODEL", False, "first_click", True),
    ("click_dedupe_window", "AFFILIATE_CLICK_DEDUPE_WINDOW", timedelta(hours=1), None, None),
    ("cookie_name", "AFFILIATE_COOKIE_NAME", None, "referral", "referral"),
    ("consent", "AFFILIATE_CONSENT", None, "tests.dispatchers.ignored", ignored),
    ("screen", "AFFILIATE_SCREEN", own_account, "tests.dispatchers.ignored", ignored),
    ("search", "AFFILIATE_SEARCH", None, "tests.dispatchers.ignored", ignored),
    ("payout", "AFFILIATE_PAYOUT", None, "affiliations.conversions.own_account", own_account),
    ("attribute_by_user", "AFFILIATE_ATTRIBUTE_BY_USER", False, True, True),
    (
        "staff_namespaces",
        "AFFILIATE_STAFF_NAMESPACES",
        ("admin", "wagtailadmin_home"),
        ["backoffice"],
        ("backoffice",),
    ),
    (
        "entry_point_redacted",
        "AFFILIATE_ENTRY_POINT_REDACTED",
        frozenset(Settings.entry_point_redacted.default),
        ["Slug"],
        frozenset({"slug"}),
    ),
    ("ignore_bots", "AFFILIATE_IGNORE_BOTS", True, False, False),
    ("count_fetches", "AFFILIATE_COUNT_FETCHES", False, True, True),
    ("count_frames", "AFFILIATE_COUNT_FRAMES", False, True, True),
    (
        "callback_dispatcher",
        "AFFILIATE_CALLBACK_DISPATCHER",
        dispatchers.thread,
        "tests.dispatchers.ignored",
        ignored,
    ),
    ("callback_timeout", "AFFILIATE_CALLBACK_TIMEOUT", (3.05, 10), [1, 2], (1, 2)),
    ("callback_deadline", "AFFILIATE_CALLBACK_DEADLINE", 15, 20, 20),
    (
        "callback_retry_schedule",
        "AFFILIATE_CALLBACK_RETRY_SCHEDULE",
        tuple(
            timedelta(seconds=delay)
            for delay in (0, 5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
        ),
        [0, 60],
        (timedelta(0), timedelta(seconds=60)),
    ),
    (
        "callback_lease",
        "AFFILIATE_CALLBACK_LEASE",
        timedelta(seconds=90),
        30,
        timedelta(seconds=30),
    ),
    (
        "callback_allowed_networks",
        "AFFILIATE_CALLBACK_ALLOWED_NETWORKS",
        (),
        ["127.0.0.0/8", "::1"],
        (ip_network("127.0.0.0/8"), ip_network("::1")),
    ),
    ("send_callbacks", "AFFILIATE_SEND_CALLBACKS", True, False, False),
    (
        "notice_recipients",
        "AFFILIATE_NOTICE_RECIPIENTS",
        (),
        ["a@shop.example"],
        ("a@shop.example",),
    ),
    ("site_url", "AFFILIATE_SITE_URL", "", "https://shop.example", "https://shop.example"),
    ("callback_require_https", "AFFILIATE_CALLBACK_REQUIRE_HTTPS", False, True, True),
]
each = pytest.mark.parametrize(
    ("name", "setting", "default", "value", "read"), EACH, ids=[entry[1] for entry in EACH]
)


def properties_by_setting() -> dict[str, str]:
    """Map the settings of the table to the properties of ``conf.settings``."""
    return {setting.name: name for name, setting in table().items()}


@each
def test_a_setting_has_its_default(
    name: str, setting: str, default: Any, value: Any, read: Any
) -> None:
    with override_settings():
        if hasattr(django_settings, setting):
            delattr(django_settings, setting)
        if default is AttributeError:
            with pytest.raises(AttributeError):
                getattr(settings, name)
        else:
            assert getattr(settings, name) == default


@each
def test_a_setting_is_read_when_it_is_asked_for(
    name: str, setting: str, default: Any, value: Any, read: Any
) -> None:
    """(D23) 0.12 froze the settings at import."""
    before = getattr(settings, name)
    with override_settings(**{setting: value}):
        assert getattr(settings, name) == read
    assert getattr(settings, name) == before


def test_every_setting_is_tested_here() -> None:
    assert properties_by_setting() == {entry[1]: entry[0] for entry in EACH}


def test_every_setting_has_one_line_of_documentation() -> None:
    for setting in table().values():
        assert re.fullmatch(r"[A-Z].*\.", str(setting.__doc__)), setting.name


def test_the_class_gives_the_row_of_a_setting() -> None:
    assert Settings.session_key is table()["session_key"]
    assert Settings.session_key.name == "AFFILIATE_SESSION_KEY"
    assert Settings.session_key.default == "affiliate_visitor_id"


def test_a_setting_is_added_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    added = Setting[int](
        "AFFILIATE_ADDED",
        1,
        doc="A setting that is only a row of the table.",
        is_valid=lambda value: value in (1, 2),
        must_be="1 or 2",
    )
    monkeypatch.setattr(Settings, "added", added, raising=False)
    assert properties_by_setting()["AFFILIATE_ADDED"] == "added"
    assert settings.added == 1  # type: ignore[attr-defined]
    assert check_settings() == []
    with override_settings(AFFILIATE_ADDED=3):
        [message] = check_settings()
    assert message == Error(
        "AFFILIATE_ADDED is 3, but must be 1 or 2.",
        hint="Write, for example: AFFILIATE_ADDED = 1",
        id="affiliations.E006",
    )


def test_a_function_is_added_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    added = Setting[Any](
        "AFFILIATE_ADDED",
        "tests.dispatchers.ignored",
        doc="A function that is only a row of the table.",
        convert=import_function,
    )
    monkeypatch.setattr(Settings, "added", added, raising=False)
    assert check_settings() == []
    with override_settings(AFFILIATE_ADDED="nowhere.function"):
        [message] = check_settings()
    assert message.id == "affiliations.E007"
    assert message.hint == 'Write, for example: AFFILIATE_ADDED = "tests.dispatchers.ignored"'


def test_a_setting_without_a_default_is_mandatory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Settings, "added", Setting[int]("AFFILIATE_ADDED", doc=""), raising=False)
    with pytest.raises(AttributeError, match="AFFILIATE_ADDED"):
        settings.added  # type: ignore[attr-defined]  # noqa: B018


def test_several_keys_keep_their_order() -> None:
    with override_settings(AFFILIATE_QUERY_STRING_KEY=("via", "affiliate_id")):
        assert settings.query_string_keys == ("via", "affiliate_id")


def test_a_setting_cannot_be_set_here() -> None:
    with pytest.raises(AttributeError):
        settings.session_key = "visitor"  # type: ignore[misc]


def test_a_setting_can_be_read_before_django_is_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(conf._django_settings, "_wrapped", empty)

    assert settings.triggers == django_settings.AFFILIATE_TRIGGERS


def test_what_is_prepared_of_an_overridden_setting_is_not_kept() -> None:
    read = conf.prepared(Settings.session_key, str.upper)

    assert read() == "AFFILIATE_VISITOR_ID"
    with override_settings(AFFILIATE_SESSION_KEY="other"):
        assert read() == "OTHER"
    assert read() == "AFFILIATE_VISITOR_ID"
