from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.test import override_settings

from affiliations.callbacks import dispatchers
from affiliations.conf import Settings, settings
from affiliations.screening import own_account
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
    ("attribute_by_user", "AFFILIATE_ATTRIBUTE_BY_USER", False, True, True),
    ("ignore_bots", "AFFILIATE_IGNORE_BOTS", True, False, False),
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
        "callback_allow_private_addresses",
        "AFFILIATE_CALLBACK_ALLOW_PRIVATE_ADDRESSES",
        False,
        True,
        True,
    ),
    ("callback_require_https", "AFFILIATE_CALLBACK_REQUIRE_HTTPS", False, True, True),
]
each = pytest.mark.parametrize(
    ("name", "setting", "default", "value", "read"), EACH, ids=[entry[1] for entry in EACH]
)


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
    named = [name for name, value in vars(Settings).items() if isinstance(value, property)]
    named.remove("counting_triggers")  # some of the triggers
    assert named == [entry[0] for entry in EACH]


def test_several_keys_keep_their_order() -> None:
    with override_settings(AFFILIATE_QUERY_STRING_KEY=("via", "affiliate_id")):
        assert settings.query_string_keys == ("via", "affiliate_id")


def test_a_setting_cannot_be_set_here() -> None:
    with pytest.raises(AttributeError):
        settings.session_key = "visitor"  # type: ignore[misc]
