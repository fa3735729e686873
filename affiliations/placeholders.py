"""
The placeholders of callback URLs.

The URL comes from a form and the values come from visitors, so this does not use ``str.format``:
only the known names in braces are placeholders.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, unquote_to_bytes

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, gettext_noop

from affiliations.amounts import plain
from affiliations.exceptions import InvalidCallBackURL

if TYPE_CHECKING:
    from django.utils.functional import _StrPromise as StrPromise

    from affiliations.models import Callback


@dataclass(frozen=True)
class Placeholder:
    """
    A value that a callback URL can contain.

    ``explanation`` is for staff. ``get`` returns the value for a callback; a missing one is
    ``None`` or empty. The preview shows ``sample``, which cannot be mistaken for a real value. Test
    callbacks have no conversion, so they contain the sample if ``needs_conversion``. ``aliases``
    are names of the value in other systems, separated by blanks, for which the form suggests this
    placeholder. Case and ``_`` in them do not matter.
    """

    name: str
    explanation: StrPromise | str
    sample: object
    # Any: a Callback. Its conversion is not None if the value needs it.
    get: Callable[[Any], object]
    needs_conversion: bool = True
    aliases: str = ""

    @cached_property
    def all_names(self) -> frozenset[str]:
        return frozenset(joined(name) for name in (self.name, *self.aliases.split()))


def joined(name: str) -> str:
    """Return the letters and digits of a name, in lower case."""
    return re.sub("[^a-z0-9]+", "", name.lower())


#: What other systems call a sub id, before its number: TUNE “aff_sub”, Impact “subId”, Cake “s”,
#: Awin “clickref”, Tradedoubler “epi”, Post Affiliate Pro “data”, Rakuten “u”,
#: Voluum “custom_variable”.
_SUB_IDS = (
    "sub_id aff_sub s clickref epi data extra_data u p t tid var custom custom_variable "
    "custom_field"
)
#: The same without a number.
_FIRST_SUB_IDS = "sub sub_id aff_sub epi sid sub_aff_id link_sub_id shared_id partner_sub_id"


def _sub_id(number: int, explanation: StrPromise | str) -> Placeholder:
    name = f"sub{number}"
    aliases = " ".join(f"{alias}{number}" for alias in _SUB_IDS.split())
    return Placeholder(
        name,
        explanation,
        f"test-{name}",
        lambda callback: getattr(callback.conversion.visitor, name),
        aliases=f"{aliases} {_FIRST_SUB_IDS}" if number == 1 else aliases,
    )


#: Every placeholder, in the order in which documentation and forms show them.
PLACEHOLDERS = (
    Placeholder(
        "visitor_id",
        gettext_lazy("The id of the visitor on this site."),
        0,
        lambda callback: callback.conversion.visitor.pk,
        aliases="session_id visit_id visitor referral referral_id",
    ),
    Placeholder(
        "click_id",
        gettext_lazy("The partner’s own click id, as passed in the link."),
        "test-click",
        lambda callback: callback.conversion.visitor.click_id,
        aliases=(
            "cid click external_id click_ref aff_click_id affiliate_click_id "
            "partner_click_id publisher_click_id click_hash click_uuid cnv_id uclick "
            "ir_click_id cj_event awc tduid rtk_cid rt_click_id network_click_id "
            "unique_click_id"
        ),
    ),
    _sub_id(1, gettext_lazy("The partner’s first sub id, as passed in the link.")),
    _sub_id(2, gettext_lazy("The second sub id.")),
    _sub_id(3, gettext_lazy("The third sub id.")),
    _sub_id(4, gettext_lazy("The fourth sub id.")),
    _sub_id(5, gettext_lazy("The fifth sub id.")),
    Placeholder(
        "partner_uid",
        gettext_lazy("The partner’s uid."),
        "test-uid",
        lambda callback: callback.partner.uid,
        needs_conversion=False,
        aliases=(
            "affiliate_id aid aff_id publisher_id pub_id partner_id affiliate pid a_aid "
            "media_partner_id affiliate_uid affiliate_token aff_uid publisher partner"
        ),
    ),
    Placeholder(
        "trigger",
        gettext_lazy("The trigger’s name."),
        "test-trigger",
        # The conversion's first: the subscription may be to another trigger by now.
        lambda callback: (callback.conversion or callback.subscription).trigger,
        needs_conversion=False,
        aliases=(
            "goal goal_id goal_name action action_name action_code action_tracker_id "
            "event_name event_id event_type conversion_type commission_group"
        ),
    ),
    Placeholder(
        "event",
        gettext_lazy("The event: conversion, approval or rejection."),
        "test",
        lambda callback: callback.event,
        needs_conversion=False,
        aliases="callback_event postback_event postback_type callback_type",
    ),
    Placeholder(
        "reference",
        gettext_lazy("This site’s own id of the event, such as the order number."),
        "test-order",
        lambda callback: callback.conversion.reference,
        aliases=(
            "order_id order_ref order_reference order order_number order_no order_num oid "
            "invoice_id sale_id lead_id lead_number reference_id transaction_ref "
            "transaction_reference merchant_order_id external_order_id purchase_id "
            "payment_id basket_id checkout_id advertiser_ref adv_reference xid"
        ),
    ),
    Placeholder(
        "amount",
        gettext_lazy("The order amount that the payout is based on, such as 49.90."),
        Decimal("100.00"),
        lambda callback: callback.conversion_amount,
        aliases=(
            "sale_amount order_amount order_value order_total order_sum order_price total "
            "total_amount total_cost sale sale_value sale_price price subtotal "
            "transaction_amount transaction_value basket_value cart_value cart_total "
            "purchase_amount purchase_value conversion_value"
        ),
    ),
    Placeholder(
        "currency",
        gettext_lazy("The currency of the amount, such as EUR."),
        "EUR",
        lambda callback: callback.conversion.currency,
        aliases=(
            "currency_code currency_iso curr cur order_currency sale_currency "
            "amount_currency transaction_currency local_currency"
        ),
    ),
    Placeholder(
        "payout",
        gettext_lazy("The partner’s payout for the conversion, such as 4.99."),
        Decimal("10.00"),
        lambda callback: callback.conversion_payout,
        aliases=(
            "commission commission_amount commission_value commissions order_commission "
            "sale_commission payout_amount payout_value reward reward_amount earnings "
            "earning cpa affiliate_payout aff_payout affiliate_commission "
            "publisher_commission partner_payout partner_commission payment "
            "conversion_payout"
        ),
    ),
    Placeholder(
        "payout_currency",
        gettext_lazy("The currency of the payout."),
        "EUR",
        lambda callback: callback.conversion.payout_currency,
        aliases=("commission_currency reward_currency payout_cur payout_curr payment_currency"),
    ),
    Placeholder(
        "status",
        gettext_lazy("The status of the conversion: pending, approved or rejected."),
        "approved",
        lambda callback: callback.conversion_status,
        aliases=(
            "conversion_status order_status sale_status transaction_status "
            "commission_status approval_status action_status lead_status cnv_status "
            "p_status state"
        ),
    ),
    Placeholder(
        "callback_id",
        gettext_lazy(
            "The id of the callback. It is the same in every attempt, so the partner can ignore "
            "duplicates."
        ),
        "0" * 32,
        lambda callback: callback.webhook_id,
        needs_conversion=False,
        aliases=("conversion_id postback_id notification_id webhook_id action_id commission_id"),
    ),
    Placeholder(
        "timestamp",
        gettext_lazy("The time of the event, in seconds since 1970 (Unix time)."),
        1_700_000_000,
        lambda callback: int(callback.created_on.timestamp()),
        needs_conversion=False,
        aliases=(
            "time date datetime ts unix_time unix_timestamp epoch conversion_time "
            "conversion_date conversion_datetime conversion_timestamp "
            "conversion_unix_timestamp event_time event_date event_timestamp created_at "
            "order_date sale_date transaction_date transaction_time"
        ),
    ),
)

NAMES = tuple(placeholder.name for placeholder in PLACEHOLDERS)

#: The length of the column of the callback URL. A longer text is not parsed.
MAX_LENGTH = 2048
#: The values that identify the visitor. A callback with neither would be useless.
IDENTIFYING = ("visitor_id", "click_id")

_BRACES = re.compile(r"\{\{|\}\}|\{(\w+)\}")
# A backslash ends the host, as it does for urllib3.
_ORIGIN = re.compile(r"\A[^:/?#]*://[^\\/?#]*")
#: The characters that path and query may have unescaped, beside the unreserved ones (RFC 3986).
_PATH_CHARACTERS = "!$&'()*+,;=:@/"
_QUERY_CHARACTERS = _PATH_CHARACTERS + "?"
_PERCENT = re.compile("%(?:[0-9A-Fa-f]{2})?")
LONE_PERCENT = re.compile("%(?![0-9A-Fa-f]{2})")
#: A segment “.” or “..” of a decoded path. Some servers take a backslash for a slash, and others
#: leave out what follows a semicolon.
_DOT_SEGMENT = re.compile(r"(?<=[/\\])\.{1,2}(?=[/\\;]|$)")

#: Why a URL cannot be rendered; stored in English, shown in the reader's language.
CLIMBS = gettext_noop("A placeholder value would turn into the path segment “.” or “..”.")


def values_for(callback: Callback) -> dict[str, object]:
    """
    Return the values of the placeholders that a callback needs.

    A GET needs those in the callback URL of its subscription, and a POST needs all. If the callback
    has no conversion, the conversion's values are samples.
    """
    has_conversion = callback.conversion is not None
    url = callback.subscription.callback_url
    return {
        placeholder.name: placeholder.get(callback)
        if has_conversion or not placeholder.needs_conversion
        else placeholder.sample
        for placeholder in PLACEHOLDERS
        if callback.method == "POST" or f"{{{placeholder.name}}}" in url
    }


def samples() -> dict[str, object]:
    return {placeholder.name: placeholder.sample for placeholder in PLACEHOLDERS}


def identifies(url: str, values: Mapping[str, object]) -> bool:
    """Return whether the URL, rendered with ``values``, identifies the visitor."""
    return any(f"{{{name}}}" in url and values.get(name) for name in IDENTIFYING)


def render(url: str, values: Mapping[str, object]) -> str:
    """
    Fill the placeholders of a callback URL. Path and query are exactly those that are sent.

    ``values`` maps names to text, numbers, ``Decimal`` or ``None``; a missing one is empty. Values
    are percent-encoded. Outside of path and query only ``{visitor_id}`` is filled, as in 0.12, so
    that a visitor cannot choose the user, host or port. Doubled braces become single ones and
    unknown names stay, so that URLs of 0.12 are sent as the same bytes.

    Raises:
        InvalidCallBackURL: If a value would add a path segment ``.`` or ``..``, which leads to
            another page of the partner.
    """
    origin, path, query, fragment = _split(url)
    sent_path = _encoded_and_filled(path, _PATH_CHARACTERS, values)
    if _dot_segments(sent_path) > _dot_segments(path):
        raise InvalidCallBackURL(_(CLIMBS))
    sent_query = _encoded_and_filled(query, _QUERY_CHARACTERS, values)
    return _filled(origin, values) + sent_path + sent_query + _filled(fragment, values)


def body(event: str, happened_on: datetime, values: Mapping[str, object]) -> str:
    """
    Return the body of a POST: the envelope of Standard Webhooks, as JSON.

    Its ``data`` are the values of all placeholders. Amounts are text, so that they stay exact.
    """
    data = {
        name: plain(value) if isinstance(value, Decimal) else value
        for name, value in values.items()
    }
    timestamp = happened_on.astimezone(timezone.utc).isoformat()
    envelope = {"type": event, "timestamp": timestamp, "data": data}
    return json.dumps(envelope, ensure_ascii=False, separators=(",", ":"))


def target(url: str) -> str:
    """
    Return path and query of a URL as they are sent: ASCII, and each ``%`` part of an escape.

    A URL from ``render()`` has this form already.
    """
    _origin, path, query, _fragment = _split(url)
    return _encoded(path, _PATH_CHARACTERS) + _encoded(query, _QUERY_CHARACTERS)


def _split(url: str) -> tuple[str, str, str, str]:
    """Split a URL into origin, path, ``?`` and query, ``#`` and fragment."""
    origin = match[0] if (match := _ORIGIN.match(url)) else ""
    rest, hash_sign, fragment = url[len(origin) :].partition("#")
    path, question_mark, query = rest.partition("?")
    path = f"/{path.removeprefix('/')}"
    return origin, path, question_mark + query, hash_sign + fragment


def _encoded_and_filled(template: str, characters: str, values: Mapping[str, object]) -> str:
    # If any “%” begins no escape, 0.12 encoded every “%”, and partners expect that.
    if LONE_PERCENT.search(template):
        template = template.replace("%", "%25")
    filled, end = "", 0
    for match in _BRACES.finditer(template):
        filled += _encoded(template[end : match.start()], characters)
        end, name = match.end(), match[1]
        if name in NAMES:
            filled += quote(_text(values.get(name)), safe="")
        else:
            filled += _encoded(match[0] if name else match[0][0], characters)
    return filled + _encoded(template[end:], characters)


def _encoded(text: str, characters: str) -> str:
    """Percent-encode all but ``characters``; existing escapes get the form that is sent."""
    quoted = quote(text, safe=characters + "%")
    return _PERCENT.sub(lambda match: quote(unquote_to_bytes(match[0]), safe=""), quoted)


def _filled(template: str, values: Mapping[str, object]) -> str:
    """Fill the placeholder of 0.12 outside of path and query."""

    def fill(match: re.Match[str]) -> str:
        if (name := match[1]) is None:
            return match[0][0]
        return quote(_text(values.get(name)), safe="") if name == "visitor_id" else match[0]

    return _BRACES.sub(fill, template)


def _text(value: object) -> str:
    if isinstance(value, Decimal):
        return plain(value)
    return "" if value is None else str(value)


def _dot_segments(path: str) -> int:
    """Count the segments that are ``.`` or ``..`` once a server has decoded the path."""
    return len(_DOT_SEGMENT.findall(unquote(path)))
