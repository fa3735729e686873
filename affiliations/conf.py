"""
The settings of the app, read from the host's settings whenever they are asked for.

Nothing is kept, so ``override_settings`` works, and nothing is checked here: what is written
wrongly is told by ``affiliations.checks`` and, for triggers, by ``affiliations.wiring``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from django.conf import settings as django_settings
from django.utils.module_loading import import_string

if TYPE_CHECKING:
    from django.contrib.auth.models import User
    from django.http import HttpRequest

# The example schedule of Standard Webhooks: at once, 5 s, 5 min, 30 min, then 2 h to 24 h.
_RETRY_SCHEDULE = (0, 5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)


class Settings:
    """Each ``AFFILIATE_*`` setting as a typed property, with its default."""

    @property
    def query_string_keys(self) -> tuple[str, ...]:
        """``AFFILIATE_QUERY_STRING_KEY``: the first is written into links, all are read."""
        value = getattr(django_settings, "AFFILIATE_QUERY_STRING_KEY", "affiliate_id")
        return (value,) if isinstance(value, str) else tuple(value)

    @property
    def session_key(self) -> str:
        """``AFFILIATE_SESSION_KEY``: the session key that holds the visitor's id."""
        return cast(str, getattr(django_settings, "AFFILIATE_SESSION_KEY", "affiliate_visitor_id"))

    @property
    def triggers(self) -> Sequence[Sequence[Any]]:
        """``AFFILIATE_TRIGGERS``, raw. Mandatory: ``AttributeError`` where it is missing."""
        return cast("Sequence[Sequence[Any]]", django_settings.AFFILIATE_TRIGGERS)

    @property
    def counting_triggers(self) -> tuple[str, ...]:
        """The names of those that count something, not of those that decide on others."""
        return tuple(
            dict.fromkeys(
                entry[0] for entry in self.triggers if "of" not in (entry[4] if entry[4:] else {})
            )
        )

    @property
    def click_id_key(self) -> str:
        """``AFFILIATE_CLICK_ID_KEY``: the link's parameter with the partner's id of the click."""
        return cast(str, getattr(django_settings, "AFFILIATE_CLICK_ID_KEY", "click_id"))

    @property
    def sub_id_keys(self) -> tuple[str, ...]:
        """``AFFILIATE_SUB_ID_KEYS``: the link's parameters kept as ``sub1`` to ``sub5``."""
        default = ("sub1", "sub2", "sub3", "sub4", "sub5")
        return tuple(getattr(django_settings, "AFFILIATE_SUB_ID_KEYS", default))

    @property
    def attribution_window(self) -> timedelta | None:
        """``AFFILIATE_ATTRIBUTION_WINDOW``: how long a visitor counts; ``None`` for ever."""
        return cast(
            "timedelta | None",
            getattr(django_settings, "AFFILIATE_ATTRIBUTION_WINDOW", timedelta(days=30)),
        )

    @property
    def first_click_wins(self) -> bool:
        """``AFFILIATE_ATTRIBUTION_MODEL``: whether an open referral stays, or the last wins."""
        model = getattr(django_settings, "AFFILIATE_ATTRIBUTION_MODEL", "last_click")
        return cast(str, model) == "first_click"

    @property
    def click_dedupe_window(self) -> timedelta | None:
        """``AFFILIATE_CLICK_DEDUPE_WINDOW``: so long the same link again is the same visitor."""
        return cast(
            "timedelta | None",
            getattr(django_settings, "AFFILIATE_CLICK_DEDUPE_WINDOW", timedelta(hours=1)),
        )

    @property
    def cookie_name(self) -> str | None:
        """``AFFILIATE_COOKIE_NAME``: the signed cookie that outlives the session, if any."""
        return cast("str | None", getattr(django_settings, "AFFILIATE_COOKIE_NAME", None))

    @property
    def consent(self) -> Callable[[HttpRequest], bool | None] | None:
        """``AFFILIATE_CONSENT``, imported: who asks whether a visitor agrees to be remembered."""
        path = getattr(django_settings, "AFFILIATE_CONSENT", None)
        return (
            None
            if path is None
            else cast("Callable[[HttpRequest], bool | None]", import_string(path))
        )

    @property
    def screen(self) -> Callable[[Any, User | None, object], str | None]:
        """``AFFILIATE_SCREEN``, imported: of the visitor, the buyer and what was bought."""
        path = getattr(django_settings, "AFFILIATE_SCREEN", "affiliations.screening.own_account")
        return cast("Callable[[Any, User | None, object], str | None]", import_string(path))

    @property
    def attribute_by_user(self) -> bool:
        """``AFFILIATE_ATTRIBUTE_BY_USER``: whether the buyer's own latest referral counts."""
        return bool(getattr(django_settings, "AFFILIATE_ATTRIBUTE_BY_USER", False))

    @property
    def ignore_bots(self) -> bool:
        """``AFFILIATE_IGNORE_BOTS``: whether known crawlers are left uncounted."""
        return bool(getattr(django_settings, "AFFILIATE_IGNORE_BOTS", True))

    @property
    def callback_dispatcher(self) -> Callable[[Sequence[int]], None]:
        """``AFFILIATE_CALLBACK_DISPATCHER``, imported. It gets the ids of callbacks."""
        path = getattr(
            django_settings,
            "AFFILIATE_CALLBACK_DISPATCHER",
            "affiliations.callbacks.dispatchers.thread",
        )
        return cast("Callable[[Sequence[int]], None]", import_string(path))

    @property
    def callback_timeout(self) -> tuple[float, float]:
        """``AFFILIATE_CALLBACK_TIMEOUT``: seconds to connect, seconds between two bytes."""
        connect, read = cast(
            "Iterable[float]", getattr(django_settings, "AFFILIATE_CALLBACK_TIMEOUT", (3.05, 10))
        )
        return connect, read

    @property
    def callback_deadline(self) -> float:
        """``AFFILIATE_CALLBACK_DEADLINE``: seconds for the whole call."""
        return cast(float, getattr(django_settings, "AFFILIATE_CALLBACK_DEADLINE", 15))

    @property
    def callback_retry_schedule(self) -> tuple[timedelta, ...]:
        """``AFFILIATE_CALLBACK_RETRY_SCHEDULE``: seconds before each attempt, 0 for the first."""
        seconds = getattr(django_settings, "AFFILIATE_CALLBACK_RETRY_SCHEDULE", _RETRY_SCHEDULE)
        return tuple(timedelta(seconds=delay) for delay in seconds)

    @property
    def callback_lease(self) -> timedelta:
        """``AFFILIATE_CALLBACK_LEASE``: how long a claimed callback belongs to its worker."""
        return timedelta(seconds=getattr(django_settings, "AFFILIATE_CALLBACK_LEASE", 90))

    @property
    def callback_allow_private_addresses(self) -> bool:
        """``AFFILIATE_CALLBACK_ALLOW_PRIVATE_ADDRESSES``: for a partner on this machine."""
        return bool(getattr(django_settings, "AFFILIATE_CALLBACK_ALLOW_PRIVATE_ADDRESSES", False))

    @property
    def callback_require_https(self) -> bool:
        """``AFFILIATE_CALLBACK_REQUIRE_HTTPS``: refuse plain http on saving and on sending."""
        return bool(getattr(django_settings, "AFFILIATE_CALLBACK_REQUIRE_HTTPS", False))


settings = Settings()
