"""
The placeholders of a callback URL: what staff may write, and what becomes of it.

A template comes from a form and the values come from strangers, so ``str.format`` has no place
here: what is not a known name in braces is text.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from decimal import Decimal
from difflib import get_close_matches
from urllib.parse import quote, urlsplit

from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from affiliations.exceptions import InvalidCallBackURL

#: Every placeholder, in the order in which documentation and forms show them.
NAMES = (
    "visitor_id",
    "click_id",
    "sub1",
    "sub2",
    "sub3",
    "sub4",
    "sub5",
    "partner_uid",
    "trigger",
    "event",
    "reference",
    "amount",
    "currency",
    "payout",
    "payout_currency",
    "status",
    "callback_id",
    "timestamp",
)

#: What tells the partner which visitor is meant. A callback without either would be of no use.
IDENTIFYING = ("visitor_id", "click_id")

#: What 0.12 had, wherever it stood in the URL.
_OF_0_12 = ("visitor_id",)

#: What other systems call ours; ``transaction_id`` is a click to some of them, an order to others.
_MEANT = {
    "aff_sub": "sub1",
    "affiliate_id": "partner_uid",
    "aid": "partner_uid",
    "cid": "click_id",
    "commission": "payout",
    "conversion_id": "callback_id",
    "external_id": "click_id",
    "goal": "trigger",
    "order_id": "reference",
    "payout_amount": "payout",
    "reward": "payout",
    "sale_amount": "amount",
    "session_id": "visitor_id",
} | {f"{form}{n}": f"sub{n}" for n in range(1, 6) for form in ("sub_id", "subid", "aff_sub", "s")}

_BRACES = re.compile(r"\{\{|\}\}|\{(\w+)\}")
_IN_BRACES = re.compile(r"\{([^{}]*)\}")
# Another system's macro where a value stands: =[clickid], =#s2#, =%%CID%%, =${cid}, =<cid>, =$cid$
_FOREIGN_MACRO = re.compile(
    r"\$\{\w+\}|\{\{.*?\}\}|#\w+#|%%\w+%%|(?<=[=/])(?:\[\w+\]|<\w+>|\$\w+\$)"
)
_ORIGIN = re.compile(r"[^:/?#]*://[^/?#]*")
_DOT_SEGMENT = re.compile(r"/\.{1,2}(?=/|$)")

#: Why a URL cannot be rendered with certain values; in English, shown in the reader's language.
CLIMBS = gettext_noop("A value would have become the path segment “.” or “..”.")


def validate(url: str) -> None:
    """
    Raise ``InvalidCallBackURL``, with each mistake and its mend, unless a callback can be sent.

    Whether the rest of the URL is one is the business of Django's ``URLValidator``.
    """
    if mistakes := list(_mistakes(url)):
        raise InvalidCallBackURL(mistakes)


def identifies(url: str, values: Mapping[str, object]) -> bool:
    """Tell whether the URL, rendered with ``values``, says which visitor is meant."""
    return any(f"{{{name}}}" in url and values.get(name) for name in IDENTIFYING)


def render(url: str, values: Mapping[str, object]) -> str:
    """
    Fill the placeholders of a callback URL.

    ``values`` maps names to text, numbers, ``Decimal`` or ``None``; a missing one is empty. Values
    are percent-encoded whole. Outside of path and query only our own ``{visitor_id}`` is filled in,
    where a URL of 0.12 may have it: what a stranger chose gets into no user, host or port. Doubled
    braces become single ones and unknown names stay, so that each URL that 0.12 could send is the
    same bytes today. ``InvalidCallBackURL`` where a value has made ``.`` or ``..`` a segment of the
    path: it would climb to another page of the partner's.
    """
    origin = match[0] if (match := _ORIGIN.match(url)) else ""
    template, hash_sign, fragment = url[len(origin) :].partition("#")
    rendered = _filled(template, NAMES, values)
    if _dot_segments(rendered) > _dot_segments(template):
        raise InvalidCallBackURL(_(CLIMBS))
    origin, fragment = (_filled(part, _OF_0_12, values) for part in (origin, fragment))
    return origin + rendered + hash_sign + fragment


def money(amount: Decimal) -> str:
    """Write an amount of money for machines: a dot, at least two decimals, never localised."""
    decimals = -int(amount.normalize().as_tuple().exponent)
    return f"{amount:.{max(decimals, 2)}f}"


def _filled(template: str, names: Collection[str], values: Mapping[str, object]) -> str:
    """Fill those of ``names`` that stand in ``template``."""

    def fill(match: re.Match[str]) -> str:
        if (name := match[1]) is None:
            return match[0][0]
        return quote(_text(values.get(name)), safe="") if name in names else match[0]

    return _BRACES.sub(fill, template)


def _text(value: object) -> str:
    if isinstance(value, Decimal):
        return money(value)
    return "" if value is None else str(value)


def _dot_segments(url: str) -> int:
    """Count the segments of the path that are ``.`` or ``..``, however encoded."""
    path = re.split("[?#]", url, maxsplit=1)[0]
    return len(_DOT_SEGMENT.findall(re.sub("%2e", ".", path, flags=re.IGNORECASE)))


def _mistakes(url: str) -> Iterator[str]:
    """Say what keeps ``url`` from being a callback URL."""
    try:
        parts = urlsplit(url)
    except ValueError:
        yield _("This is not a URL.")
        return
    if parts.scheme not in ("http", "https"):
        yield _("A callback URL begins with http:// or https://.")
    foreign = _FOREIGN_MACRO.findall(url)
    for macro in foreign:
        yield _(
            "“%(macro)s” is another system’s macro. Ours have single braces, such as {click_id}."
        ) % {"macro": macro}
    if foreign:
        return
    if "{" in parts.netloc:
        yield _("A placeholder cannot stand in the host of the URL.")
    if parts.fragment or url.endswith("#"):
        yield _("What follows “#” is never sent. Write %23 if you mean the character itself.")
    names = _IN_BRACES.findall(url)
    yield from (_unknown(name) for name in dict.fromkeys(names) if name not in NAMES)
    if not set(IDENTIFYING) & set(names):
        yield _(
            "Put {visitor_id} or {click_id} in it: it tells the partner which visitor is meant."
        )
    if re.search("[{}]", _IN_BRACES.sub("", url)):
        yield _("A brace is open or closed alone. Write %7B or %7D if you mean the character.")


def _unknown(name: str) -> str:
    """Say that a placeholder does not exist, and which one is probably meant."""
    plain = re.sub(r"[^a-z0-9]+", "_", name.strip().lower()).strip("_")
    if plain.replace("_", "") in ("transactionid", "txid", "tid"):
        meant = _("The click? {click_id}. The order? {reference}.")
    elif plain in NAMES:
        meant = _("Did you mean {%(name)s}?") % {"name": plain}
    elif found := _MEANT.get(plain) or _closest(plain):
        meant = _("Did you mean {%(name)s}?") % {"name": found}
    else:
        meant = _("There are: %(names)s.") % {"names": " ".join(f"{{{name}}}" for name in NAMES)}
    return _("There is no placeholder {%(name)s}.") % {"name": name} + " " + meant


def _closest(name: str) -> str | None:
    """Find the placeholder that a name is a misspelling of: ``clickid``, ``visitorid``."""
    plain = {known.replace("_", ""): known for known in NAMES}
    matches = get_close_matches(name.replace("_", ""), plain, n=1, cutoff=0.8)
    return plain[matches[0]] if matches else None
