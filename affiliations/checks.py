"""
System checks of what the host's settings say.

Triggers are not checked here: an unusable one stops the start-up itself (``affiliations.wiring``).
Each id is explained in ``docs/checks.rst``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

from django.apps import AppConfig
from django.conf import settings as django_settings
from django.core import checks
from django.core.checks import CheckMessage, Error
from django.utils.module_loading import import_string

from affiliations.conf import settings
from affiliations.middleware import AffiliateVisitorsRegistrationMiddleware

_OURS = "affiliations.middleware.AffiliateVisitorsRegistrationMiddleware"
_OLD = "tls.TLSRequestMiddleware"


def check_middleware(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Check that our middleware is listed once, behind what it needs."""
    from django.contrib.auth.middleware import AuthenticationMiddleware
    from django.contrib.sessions.middleware import SessionMiddleware

    listed = list(django_settings.MIDDLEWARE)
    messages: list[CheckMessage] = []
    if _OLD in listed:
        messages.append(
            Error(
                f"MIDDLEWARE lists {_OLD!r}, which Django cannot run.",
                hint=f"Remove that line: {_OURS!r} binds the request for django-tls itself.",
                id="affiliations.E001",
            )
        )
    ours = _places(listed, AffiliateVisitorsRegistrationMiddleware)
    if not ours:
        messages.append(
            Error(
                "MIDDLEWARE does not list the middleware of affiliations: no visitor is registered "
                "and no trigger finds one.",
                hint=f"Add the line {_OURS!r}, below those of sessions and authentication.",
                id="affiliations.E002",
            )
        )
        return messages
    if len(ours) > 1:
        messages.append(
            Error(
                "MIDDLEWARE lists the middleware of affiliations more than once.",
                hint=f"Keep one line, such as {_OURS!r}.",
                id="affiliations.E003",
            )
        )
    needed = (
        (SessionMiddleware, "E004", "W001", "visitors are registered, and never recognised again"),
        (AuthenticationMiddleware, "E005", "W002", "nothing says which user a visitor was"),
    )
    for middleware, error_id, warning_id, lost in needed:
        name = f"{middleware.__module__}.{middleware.__qualname__}"
        places = _places(listed, middleware)
        if not places:
            messages.append(
                checks.Warning(
                    f"MIDDLEWARE does not list {name!r}: {lost}.",
                    hint=f"Add the line {name!r} above {_OURS!r}.",
                    id=f"affiliations.{warning_id}",
                )
            )
        elif places[0] > ours[0]:
            messages.append(
                Error(
                    f"MIDDLEWARE lists {name!r} below the middleware of affiliations: {lost}.",
                    hint=f"Move the line {_OURS!r} below it.",
                    id=f"affiliations.{error_id}",
                )
            )
    return messages


def check_settings(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Check each setting that is set, and then whether they go together."""
    if wrong := list(_check_values()):
        return wrong
    return [*_check_dispatcher(), *_check_parameters(), *_check_lease()]


def _check_values() -> Iterator[CheckMessage]:
    """Find a value of a wrong type or out of range."""
    for name, is_right, wanted, line in _SETTINGS:
        if hasattr(django_settings, name) and not is_right(getattr(django_settings, name)):
            yield Error(
                f"{name} is {getattr(django_settings, name)!r}, but must be {wanted}.",
                hint=f"Write, for example: {name} = {line}",
                id="affiliations.E006",
            )


def _check_dispatcher() -> Iterator[CheckMessage]:
    """Find a dispatcher that nobody could call."""
    try:
        dispatcher: object = settings.callback_dispatcher
    except ImportError as error:
        problem = f"cannot be imported: {error}"
    else:
        if callable(dispatcher):
            return
        problem = "cannot be called"
    yield Error(
        f"AFFILIATE_CALLBACK_DISPATCHER is {django_settings.AFFILIATE_CALLBACK_DISPATCHER!r}, "
        f"which {problem}.",
        hint="Write, for example: AFFILIATE_CALLBACK_DISPATCHER = "
        '"affiliations.callbacks.dispatchers.thread"',
        id="affiliations.E007",
    )


def _check_parameters() -> Iterator[CheckMessage]:
    """Find a parameter of the link that would have to mean two things."""
    names = [*settings.query_string_keys, settings.click_id_key, *settings.sub_id_keys]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Error(
            f"AFFILIATE_QUERY_STRING_KEY, AFFILIATE_CLICK_ID_KEY and AFFILIATE_SUB_ID_KEYS name "
            f"the parameter {name!r} more than once.",
            hint="Give each its own name.",
            id="affiliations.E008",
        )


def _check_lease() -> Iterator[CheckMessage]:
    """Find a lease that ends while its callback may still be on its way."""
    lease, deadline = settings.callback_lease.total_seconds(), settings.callback_deadline
    if lease <= deadline:
        yield Error(
            f"AFFILIATE_CALLBACK_LEASE is {lease:g} seconds and AFFILIATE_CALLBACK_DEADLINE "
            f"{deadline:g}: a callback that takes its time would be sent twice.",
            hint="Keep the lease well above the deadline: 90 and 15 are the defaults.",
            id="affiliations.E009",
        )


def _places(listed: Sequence[str], middleware: type) -> list[int]:
    """Return where in MIDDLEWARE a class or a subclass of it stands."""
    places = []
    for place, path in enumerate(listed):
        try:
            found = import_string(path)
        except ImportError:
            continue  # Django says so itself, when it loads the middleware
        if isinstance(found, type) and issubclass(found, middleware):
            places.append(place)
    return places


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_names(value: object) -> bool:
    return isinstance(value, list | tuple) and all(_is_name(name) for name in value)


def _is_key(value: object) -> bool:
    return _is_name(value) or (_is_names(value) and bool(value))


def _is_sub_ids(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) <= 5 and _is_names(value)


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_seconds(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 10**6


def _is_window(value: object) -> bool:
    # Django could not reckon with a date before the year 1.
    longest = timedelta(days=36_500)
    return value is None or (isinstance(value, timedelta) and timedelta(0) < value <= longest)


def _is_timeout(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_seconds, value))


_SECONDS = "a number of seconds above zero and below a million"

#: (setting, test of its value, what it must be, a right value to write)
_SETTINGS: tuple[tuple[str, Callable[[object], bool], str, str], ...] = (
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
        "a timedelta above zero and of at most a hundred years, or None",
        "timedelta(days=30)",
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
    ("AFFILIATE_CALLBACK_LEASE", _is_seconds, _SECONDS, "90"),
    ("AFFILIATE_CALLBACK_ALLOW_PRIVATE_ADDRESSES", _is_bool, "True or False", "False"),
    ("AFFILIATE_CALLBACK_REQUIRE_HTTPS", _is_bool, "True or False", "False"),
)
