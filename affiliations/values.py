"""
What each setting may be: a type and a range, with the words and the line for the message.

Triggers are looked at by ``affiliations.wiring``; whether the settings go together is asked in
``affiliations.checks``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_names(value: object) -> bool:
    return isinstance(value, list | tuple) and all(_is_name(name) for name in value)


def _is_key(value: object) -> bool:
    return _is_name(value) or (_is_names(value) and bool(value))


def _is_sub_ids(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) <= 5 and _is_names(value)


def _is_path(value: object) -> bool:
    return value is None or _is_name(value)


def _is_model(value: object) -> bool:
    return value in ("last_click", "first_click")


def _is_cookie_name(value: object) -> bool:
    # What Python's cookies can hold as a name, which is what RFC 6265 has as a token.
    return value is None or (
        isinstance(value, str) and re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", value, re.ASCII) is not None
    )


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_seconds(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 10**6


def _is_window(value: object) -> bool:
    # Django could not reckon with a date before the year 1.
    longest = timedelta(days=36_500)
    return value is None or (isinstance(value, timedelta) and timedelta(0) < value <= longest)


def _is_schedule(value: object) -> bool:
    # The first attempt follows the commit, whatever stands here.
    if not isinstance(value, list | tuple) or not value or value[0] != 0:
        return False
    return all(delay == 0 or _is_seconds(delay) for delay in value)


def _is_timeout(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_seconds, value))


_WINDOW = "a timedelta above zero and of at most a hundred years, or None"
_SECONDS = "a number of seconds above zero and below a million"

#: (setting, test of its value, what it must be, a right value to write)
SETTINGS: tuple[tuple[str, Callable[[object], bool], str, str], ...] = (
    (
        "AFFILIATE_QUERY_STRING_KEY",
        _is_key,
        "the name of a parameter, or a tuple of names",
        '"affiliate_id"',
    ),
    ("AFFILIATE_SESSION_KEY", _is_name, "a text that is not empty", '"affiliate_visitor_id"'),
    ("AFFILIATE_CLICK_ID_KEY", _is_name, "the name of a parameter", '"click_id"'),
    (
        "AFFILIATE_SUB_ID_KEYS",
        _is_sub_ids,
        "a tuple of at most five names of parameters",
        '("sub1", "sub2", "sub3", "sub4", "sub5")',
    ),
    (
        "AFFILIATE_ATTRIBUTION_WINDOW",
        _is_window,
        _WINDOW,
        "timedelta(days=30)",
    ),
    (
        "AFFILIATE_ATTRIBUTION_MODEL",
        _is_model,
        '"last_click" or "first_click"',
        '"last_click"',
    ),
    (
        "AFFILIATE_CLICK_DEDUPE_WINDOW",
        _is_window,
        _WINDOW,
        "timedelta(hours=1)",
    ),
    (
        "AFFILIATE_COOKIE_NAME",
        _is_cookie_name,
        "a name that a cookie can have, or None",
        '"referral"',
    ),
    ("AFFILIATE_CONSENT", _is_path, "the dotted path of a function, or None", "None"),
    (
        "AFFILIATE_SCREEN",
        _is_name,
        "the dotted path of a function",
        '"affiliations.screening.own_account"',
    ),
    ("AFFILIATE_ATTRIBUTE_BY_USER", _is_bool, "True or False", "False"),
    ("AFFILIATE_IGNORE_BOTS", _is_bool, "True or False", "True"),
    (
        "AFFILIATE_CALLBACK_DISPATCHER",
        _is_name,
        "the dotted path of a function",
        '"affiliations.callbacks.dispatchers.thread"',
    ),
    (
        "AFFILIATE_CALLBACK_TIMEOUT",
        _is_timeout,
        f"a tuple of two numbers, to connect and to read, each {_SECONDS}",
        "(3.05, 10)",
    ),
    ("AFFILIATE_CALLBACK_DEADLINE", _is_seconds, _SECONDS, "15"),
    (
        "AFFILIATE_CALLBACK_RETRY_SCHEDULE",
        _is_schedule,
        "numbers of seconds, one for each attempt, and 0 for the first",
        "(0, 5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)",
    ),
    ("AFFILIATE_CALLBACK_LEASE", _is_seconds, _SECONDS, "90"),
    ("AFFILIATE_CALLBACK_ALLOW_PRIVATE_ADDRESSES", _is_bool, "True or False", "False"),
    ("AFFILIATE_CALLBACK_REQUIRE_HTTPS", _is_bool, "True or False", "False"),
)
