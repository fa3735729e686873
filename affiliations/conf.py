"""
All ``AFFILIATE_*`` settings, in one table: ``Settings``.

A setting is read from Django's settings at each access, so ``override_settings`` works. It is not
validated then: ``affiliations.checks`` does that, and ``affiliations.registry`` for the triggers.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from difflib import get_close_matches
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

from django.apps import apps
from django.conf import Settings as DjangoSettings
from django.conf import settings as django_settings
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.utils.functional import empty
from django.utils.module_loading import import_string

if TYPE_CHECKING:
    from decimal import Decimal

    from django.contrib.auth.models import User
    from django.http import HttpRequest

#: What the names of all settings begin with.
_PREFIX = "AFFILIATE_"

Network = IPv4Network | IPv6Network
T = TypeVar("T")
P = TypeVar("P")


#: Django looks twice for a setting that the host has not set, and raises twice. That takes as long
#: as everything else that this app does in a request that is not its own.
_django_settings: dict[str, Any] = object.__getattribute__(django_settings, "__dict__")


class Setting(Generic[T]):
    """
    The declaration of one setting.

    ``settings.<attribute>`` is the value, ``Settings.<attribute>`` the declaration.

    Args:
        name: The name in Django's settings.
        default: The default, as a host would write it. Without one the setting is mandatory, and
            reading it raises ``AttributeError`` if it is missing.
        doc: One line of documentation.
        is_valid: Tests a value as written. ``None``: the system check skips this setting.
        must_be: Describes a valid value, to complete "… must be".
        convert: Converts the value as written, or the default, to the value that the code reads.
        example: A valid value as Python source, for hints, if the default is not a good one.
    """

    def __init__(
        self,
        name: str,
        *default: Any,
        doc: str,
        is_valid: Callable[[object], bool] | None = None,
        must_be: str = "",
        convert: Callable[[Any], T] | None = None,
        example: str = "",
    ) -> None:
        self.name = name
        self.default = default[0] if default else None
        self.__doc__ = doc
        self.is_valid = is_valid
        self.must_be = must_be
        self.convert = convert
        self.is_mandatory = not default
        source = repr(self.default).replace("'", '"').removeprefix("datetime.")
        #: A valid line for the settings module.
        self.line = f"{name} = {example or source}"

    @overload
    def __get__(self, instance: None, owner: type[Settings]) -> Setting[T]: ...
    @overload
    def __get__(self, instance: Settings, owner: type[Settings]) -> T: ...
    def __get__(self, instance: Settings | None, owner: type[Settings]) -> Setting[T] | T:
        if instance is None:
            return self
        value: T = self.raw()
        return value if self.convert is None else self.convert(value)

    def raw(self) -> Any:
        """Return the value as written, or the default."""
        wrapped = _django_settings["_wrapped"]
        found = django_settings if wrapped is empty else wrapped  # empty: not set up yet
        if self.is_mandatory:
            return getattr(found, self.name)
        return getattr(found, self.name, self.default)


def prepared(setting: Setting[T], prepare: Callable[[T], P]) -> Callable[[], P]:
    """
    Return a function that returns ``prepare(value)`` of a setting.

    The result is kept for as long as Django's settings have the same object, so that a request
    which is not for this app costs little.
    """
    name = setting.name
    read_from: object = None
    written: object = None
    result = cast("P", None)

    def read() -> P:
        nonlocal read_from, written, result
        holder = _django_settings["_wrapped"]
        # Settings that a test overrides are of another class.
        if holder is read_from and holder.__dict__.get(name) is written:
            return result
        value = prepare(setting.__get__(settings, Settings))
        if type(holder) is DjangoSettings:
            read_from, written, result = holder, holder.__dict__.get(name), value
        return value

    return read


def import_function(path: str | None) -> Any:
    """Import a dotted path. ``checks`` imports each setting that has this conversion."""
    return None if path is None else import_string(path)


def _with_oscar(names: Sequence[str]) -> tuple[str, ...]:
    # Of other sites, "dashboard" may well be the page of a customer.
    return (*names, "dashboard") if apps.is_installed("oscar") else tuple(names)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_names(value: object) -> bool:
    return isinstance(value, list | tuple) and all(_is_name(name) for name in value)


def _is_key(value: object) -> bool:
    return _is_name(value) or (_is_names(value) and bool(value))


def _is_sub_ids(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) <= 5 and _is_names(value)


def _is_cookie_name(value: object) -> bool:
    # A token of RFC 6265, as Python's http.cookies requires.
    return value is None or (
        isinstance(value, str) and re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", value, re.ASCII) is not None
    )


def _is_site_url(value: object) -> bool:
    return value == "" or (
        isinstance(value, str) and re.fullmatch(r"https?://[^\s/?#@]+", value) is not None
    )


def _is_addresses(value: object) -> bool:
    if not _is_names(value):
        return False
    try:
        for address in cast("Sequence[str]", value):
            validate_email(address)
    except ValidationError:
        return False
    return True


def _is_seconds(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 10**6


def _is_networks(value: object) -> bool:
    if not _is_names(value):
        return False
    try:
        for network in cast("Sequence[str]", value):
            ip_network(network)
    except ValueError:
        return False
    return True


def _is_window(value: object) -> bool:
    # A longer window could begin before the year 1, which dates cannot represent.
    longest = timedelta(days=36_500)
    return value is None or (isinstance(value, timedelta) and timedelta(0) < value <= longest)


def _is_schedule(value: object) -> bool:
    # The first attempt follows the commit immediately, so its delay is 0.
    if not isinstance(value, list | tuple) or not value or value[0] != 0:
        return False
    return all(delay == 0 or _is_seconds(delay) for delay in value)


def _is_timeout(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_seconds, value))


_FUNCTION = "the dotted path of a function"
_SECONDS = "a number of seconds above zero and below a million"
_WINDOW = "a timedelta above zero and of at most a hundred years, or None"

_flag = partial(
    Setting[bool],
    is_valid=lambda value: isinstance(value, bool),
    must_be="True or False",
    convert=bool,
)


class Settings:
    """All settings. ``docs/reference/settings.rst`` is generated from them, and adds to them."""

    __slots__ = ()

    triggers = Setting[Sequence[Sequence[Any]]](
        "AFFILIATE_TRIGGERS",
        doc="The events that partners are paid for: name, signal, receiver, sender and options.",
    )
    query_string_keys = Setting[tuple[str, ...]](
        "AFFILIATE_QUERY_STRING_KEY",
        "affiliate_id",
        doc="The link parameter with the partner's uid. New links use the first of several names.",
        is_valid=_is_key,
        must_be="the name of a parameter, or a tuple of names",
        convert=lambda value: (value,) if isinstance(value, str) else tuple(value),
    )
    click_id_key = Setting[str](
        "AFFILIATE_CLICK_ID_KEY",
        "click_id",
        doc="The link parameter with the partner's own id of the click.",
        is_valid=_is_name,
        must_be="the name of a parameter",
    )
    sub_id_keys = Setting[tuple[str, ...]](
        "AFFILIATE_SUB_ID_KEYS",
        ("sub1", "sub2", "sub3", "sub4", "sub5"),
        doc="The link parameters that are stored as sub1 to sub5.",
        is_valid=_is_sub_ids,
        must_be="a tuple of at most five names of parameters",
        convert=tuple,
    )
    session_key = Setting[str](
        "AFFILIATE_SESSION_KEY",
        "affiliate_visitor_id",
        doc="The session key that holds the visitor's id.",
        is_valid=_is_name,
        must_be="a text that is not empty",
    )
    attribution_window = Setting[timedelta | None](
        "AFFILIATE_ATTRIBUTION_WINDOW",
        timedelta(days=30),
        doc="How long after a click a visitor can be credited. None: without a limit.",
        is_valid=_is_window,
        must_be=_WINDOW,
    )
    first_click_wins = Setting[bool](
        "AFFILIATE_ATTRIBUTION_MODEL",
        "last_click",
        doc="Which of two partners is credited if a visitor has clicked on links of both.",
        is_valid=lambda value: value in ("last_click", "first_click"),
        must_be='"last_click" or "first_click"',
        convert=lambda model: model == "first_click",
    )
    click_dedupe_window = Setting[timedelta | None](
        "AFFILIATE_CLICK_DEDUPE_WINDOW",
        timedelta(hours=1),
        doc="How long after a click another one on the same link is a duplicate.",
        is_valid=_is_window,
        must_be=_WINDOW,
        example="timedelta(hours=1)",
    )
    cookie_name = Setting[str | None](
        "AFFILIATE_COOKIE_NAME",
        None,
        doc="The signed cookie that remembers a visitor after the session. None: no cookie.",
        is_valid=_is_cookie_name,
        must_be="a name that a cookie can have, or None",
        example='"referral"',
    )
    consent: Setting[Callable[[HttpRequest], bool | None] | None] = Setting(
        "AFFILIATE_CONSENT",
        None,
        doc="The function that says whether a visitor may be remembered. None: all may be.",
        is_valid=lambda value: value is None or _is_name(value),
        must_be=f"{_FUNCTION}, or None",
        convert=import_function,
    )
    screen: Setting[Callable[[Any, User | None, object], str | None]] = Setting(
        "AFFILIATE_SCREEN",
        "affiliations.conversions.own_account",
        doc="The function that gets visitor, buyer and object, and returns a reason for review.",
        is_valid=_is_name,
        must_be=_FUNCTION,
        convert=import_function,
    )
    payout: Setting[Callable[[Any, Any, Decimal | None, str], object] | None] = Setting(
        "AFFILIATE_PAYOUT",
        None,
        doc="The function that calculates payouts. None: subscriptions alone decide.",
        is_valid=lambda value: value is None or _is_name(value),
        must_be=f"{_FUNCTION}, or None",
        convert=import_function,
    )
    attribute_by_user = _flag(
        "AFFILIATE_ATTRIBUTE_BY_USER",
        False,
        doc="Whether the clicks of a buyer in other browsers can be credited as well.",
    )
    staff_namespaces = Setting[tuple[str, ...]](
        "AFFILIATE_STAFF_NAMESPACES",
        ("admin", "wagtailadmin_home"),
        doc="The URL namespaces of staff pages, and names of URLs with staff pages below.",
        is_valid=_is_names,
        must_be="a tuple of URL namespaces and URL names",
        convert=_with_oscar,
    )
    ignore_bots = _flag(
        "AFFILIATE_IGNORE_BOTS", True, doc="Whether known crawlers and AI agents are filtered."
    )
    count_fetches = _flag(
        "AFFILIATE_COUNT_FETCHES",
        False,
        doc="Whether clicks by scripts of this site count, such as htmx or Turbo.",
    )
    count_frames = _flag(
        "AFFILIATE_COUNT_FRAMES",
        False,
        doc="Whether clicks in a frame of this site count.",
    )
    entry_point_redacted = Setting[frozenset[str]](
        "AFFILIATE_ENTRY_POINT_REDACTED",
        (
            *("email", "e-mail", "mail", "phone", "password", "secret", "key", "token"),
            *("access_token", "reset_token", "uidb36", "uidb64"),
        ),
        doc="The query and URL parameters whose values are not stored with the landing page.",
        is_valid=_is_names,
        must_be="a tuple of names of parameters",
        convert=lambda names: frozenset(name.casefold() for name in names),
        example='("email", "token", "uidb64")',
    )
    search: Setting[Callable[[str], Iterable[object]] | None] = Setting(
        "AFFILIATE_SEARCH",
        None,
        doc="The function that gets the text of a search in the Admin, and returns references.",
        is_valid=lambda value: value is None or _is_name(value),
        must_be=f"{_FUNCTION}, or None",
        convert=import_function,
    )
    callback_dispatcher = Setting[Callable[[Sequence[int]], None]](
        "AFFILIATE_CALLBACK_DISPATCHER",
        "affiliations.dispatchers.thread",
        doc="The function that gets the ids of new callbacks after the commit.",
        is_valid=_is_name,
        must_be=_FUNCTION,
        convert=import_function,
    )
    send_callbacks = _flag(
        "AFFILIATE_SEND_CALLBACKS",
        True,
        doc="Whether callbacks are sent at all; false for a copy of the production site.",
    )
    callback_timeout = Setting[tuple[float, float]](
        "AFFILIATE_CALLBACK_TIMEOUT",
        (3.05, 10),
        doc="Seconds to connect, and seconds to wait for the next byte.",
        is_valid=_is_timeout,
        must_be=f"a tuple of two numbers, to connect and to read, each {_SECONDS}",
        convert=tuple,
    )
    callback_deadline = Setting[float](
        "AFFILIATE_CALLBACK_DEADLINE",
        15,
        doc="Seconds for a whole call, redirects included.",
        is_valid=_is_seconds,
        must_be=_SECONDS,
    )
    callback_retry_schedule = Setting[tuple[timedelta, ...]](
        "AFFILIATE_CALLBACK_RETRY_SCHEDULE",
        # The example of Standard Webhooks: at once, 5 s, 5 min, 30 min, then 2 h to 24 h.
        (0, 5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400),
        doc="Seconds to wait before each attempt.",
        is_valid=_is_schedule,
        must_be="numbers of seconds, one for each attempt, and 0 for the first",
        convert=lambda value: tuple(timedelta(seconds=delay) for delay in value),
    )
    callback_lease = Setting[timedelta](
        "AFFILIATE_CALLBACK_LEASE",
        90,
        doc="Seconds for which a claimed callback belongs to its worker.",
        is_valid=_is_seconds,
        must_be=_SECONDS,
        convert=lambda seconds: timedelta(seconds=seconds),
    )
    callback_allowed_networks = Setting[tuple[Network, ...]](
        "AFFILIATE_CALLBACK_ALLOWED_NETWORKS",
        (),
        doc="Private networks that callbacks may reach, for development.",
        is_valid=_is_networks,
        must_be='a list of networks, such as ["127.0.0.0/8", "::1"]',
        convert=lambda networks: tuple(map(ip_network, networks)),
        example='["127.0.0.0/8", "::1"]',
    )
    callback_require_https = _flag(
        "AFFILIATE_CALLBACK_REQUIRE_HTTPS", False, doc="Whether callback URLs must have https."
    )

    notice_recipients = Setting[tuple[str, ...]](
        "AFFILIATE_NOTICE_RECIPIENTS",
        (),
        doc="The e-mail addresses of staff who get the digest of notify_affiliations.",
        is_valid=_is_addresses,
        must_be="a list of e-mail addresses",
        convert=tuple,
        example='["affiliates@example.com"]',
    )
    site_url = Setting[str](
        "AFFILIATE_SITE_URL",
        "",
        doc="The scheme and host of the links in e-mails. Empty: e-mails have no links.",
        is_valid=_is_site_url,
        must_be="a scheme and a host without a slash at the end, or empty",
        example='"https://www.example.com"',
    )

    @property
    def has_payout_function(self) -> bool:
        """Whether this site calculates payouts itself, by ``AFFILIATE_PAYOUT``."""
        return Settings.payout.raw() is not None

    @property
    def counting_triggers(self) -> tuple[str, ...]:
        """The names of the triggers that create conversions. The others approve or reject them."""
        return tuple(
            dict.fromkeys(
                entry[0] for entry in self.triggers if "of" not in (entry[4] if entry[4:] else {})
            )
        )


def table() -> dict[str, Setting[Any]]:
    return {key: row for key, row in vars(Settings).items() if isinstance(row, Setting)}


def unknown_names() -> Iterator[tuple[str, str]]:
    """Yield each misspelt setting, with the name that may be meant, or an empty text."""
    known = {row.name.removeprefix(_PREFIX): row.name for row in table().values()}
    joined = {name.replace("_", ""): name for name in known.values()}
    written = set(dir(django_settings))
    # Django reads only names in capitals from the module.
    module = sys.modules.get(getattr(django_settings, "SETTINGS_MODULE", None) or "")
    for name in sorted(written.union(vars(module) if module else ())):
        upper = name.upper()
        if name.startswith("_") or upper in (known.values() if name == upper else written):
            continue
        prefix, _, rest = upper.partition("_")
        has_prefix = name == upper and f"{prefix}_" == _PREFIX
        # Another app's settings may begin with a similar word, and so may a variable.
        close = get_close_matches(rest, known, n=1, cutoff=0.6 if has_prefix else 0.85)
        whole = get_close_matches(upper.replace("_", ""), joined, n=1, cutoff=0.95)
        if has_prefix or whole or (close and get_close_matches(f"{prefix}_", [_PREFIX])):
            yield name, known[close[0]] if close else joined[whole[0]] if whole else ""


settings = Settings()
