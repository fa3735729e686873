"""
System checks of what the host's settings say.

Triggers are not checked here: an unusable one stops the start-up itself (``affiliations.wiring``).
Each id is explained in ``docs/checks.rst``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.apps import AppConfig
from django.conf import settings as django_settings
from django.core import checks
from django.core.checks import CheckMessage, Error
from django.utils.module_loading import import_string

from affiliations import values
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
    return [*_check_functions(), *_check_parameters(), *_check_lease(), *_check_cookie()]


def check_production(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Check, before a deployment, that visitors are remembered, and for as long as they count."""
    if any(_check_values()):
        return []  # Then nothing can be said of them together.
    return [*_check_window(), *_check_session()]


def _check_window() -> Iterator[CheckMessage]:
    """Find a window that outlives the session, where no cookie does."""
    window = settings.attribution_window
    session = timedelta(seconds=django_settings.SESSION_COOKIE_AGE)
    ends = f"after {_days(session)}"
    if django_settings.SESSION_EXPIRE_AT_BROWSER_CLOSE:
        session, ends = timedelta(0), "with the browser"
    if settings.cookie_name is None and window is not None and window > session:
        yield checks.Warning(
            f"AFFILIATE_ATTRIBUTION_WINDOW is {_days(window)}, but the session that remembers the "
            f"visitor ends {ends}.",
            hint='Write, for example: AFFILIATE_COOKIE_NAME = "referral"',
            id="affiliations.W006",
        )


def _check_session() -> Iterator[CheckMessage]:
    """Find a session that a partner's link would end."""
    if django_settings.SESSION_COOKIE_SAMESITE == "Strict":
        yield checks.Warning(
            "SESSION_COOKIE_SAMESITE is 'Strict', so no browser sends the session along when "
            "somebody follows a partner's link: they get a new one, and are logged in no more.",
            hint='Write: SESSION_COOKIE_SAMESITE = "Lax"',
            id="affiliations.W007",
        )


def _check_values() -> Iterator[CheckMessage]:
    """Find a value of a wrong type or out of range."""
    for name, is_right, wanted, line in values.SETTINGS:
        if hasattr(django_settings, name) and not is_right(getattr(django_settings, name)):
            yield Error(
                f"{name} is {getattr(django_settings, name)!r}, but must be {wanted}.",
                hint=f"Write, for example: {name} = {line}",
                id="affiliations.E006",
            )


def _check_functions() -> Iterator[CheckMessage]:
    """Find a function that nobody could call."""
    for name, imported, line in (
        (
            "AFFILIATE_CALLBACK_DISPATCHER",
            lambda: settings.callback_dispatcher,
            "affiliations.callbacks.dispatchers.thread",
        ),
        ("AFFILIATE_CONSENT", lambda: settings.consent, "shop.privacy.agrees"),
        ("AFFILIATE_SCREEN", lambda: settings.screen, "affiliations.screening.own_account"),
    ):
        try:
            function: object = imported()
        except ImportError as error:
            problem = f"cannot be imported: {error}"
        else:
            if iscoroutinefunction(function):
                problem = "is async, and nobody would await it"
            elif function is None or callable(function):
                continue
            else:
                problem = "cannot be called"
        yield Error(
            f"{name} is {getattr(django_settings, name)!r}, which {problem}.",
            hint=f'Write, for example: {name} = "{line}"',
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
    """
    Find a lease that ends while its callback may still be on its way.

    It may first have to wait for a place, as long as the calls of others may take.
    """
    # Late: a web server runs no checks, and has no use for requests before a callback is sent.
    from affiliations.callbacks.delivery import IN_HAND

    lease, deadline = settings.callback_lease.total_seconds(), settings.callback_deadline
    if lease <= IN_HAND * deadline:
        yield Error(
            f"AFFILIATE_CALLBACK_LEASE is {lease:g} seconds and AFFILIATE_CALLBACK_DEADLINE "
            f"{deadline:g}: a callback that takes its time would be sent twice.",
            hint="Keep the lease well above four times the deadline: 90 and 15 are the defaults.",
            id="affiliations.E009",
        )


def _check_cookie() -> Iterator[CheckMessage]:
    """Find a cookie that would write over another of the site."""
    for name in ("SESSION_COOKIE_NAME", "CSRF_COOKIE_NAME", "LANGUAGE_COOKIE_NAME"):
        if settings.cookie_name == getattr(django_settings, name):
            yield Error(
                f"AFFILIATE_COOKIE_NAME is {settings.cookie_name!r}, and so is {name}.",
                hint='Write, for example: AFFILIATE_COOKIE_NAME = "referral"',
                id="affiliations.E013",
            )


def _days(duration: timedelta) -> str:
    days = duration / timedelta(days=1)
    return f"{days:g} day{'' if days == 1 else 's'}"


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
