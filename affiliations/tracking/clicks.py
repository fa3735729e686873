"""
A click on a partner's link: the partner, the parameters, and the page that the link leads to.

All of it comes from the network. Text that a database cannot store becomes empty, and the redirect
never leaves this site.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from functools import cached_property, lru_cache
from ipaddress import ip_address
from typing import Any
from urllib.parse import quote, urlsplit

from crawleruseragents import is_crawler
from django.core.handlers.asgi import ASGIRequest
from django.db import transaction
from django.http import HttpRequest
from django.utils.encoding import escape_uri_path
from django.utils.http import escape_leading_slashes

from affiliations import db, links, logs, query_strings
from affiliations.conf import Settings, prepared, settings
from affiliations.exceptions import Reason
from affiliations.models import (
    FilteredClicks,
    FollowedTestLink,
    Partner,
    PartnerCode,
    RecentFilteredClick,
    Visitor,
)
from affiliations.models.visitor import CLICK_FIELDS, MAX_CLICK_ID
from affiliations.query_strings import FollowedLink, Uid
from affiliations.signals import click_filtered
from affiliations.tracking.landing_pages import (
    LandingPage,
    redacted_path,
    redacted_query,
    redacted_text,
)

logger = logging.getLogger("affiliations")

#: Bytes that a URL must escape. Most servers refuse them, but none may get into a response header.
_CONTROLS = re.compile(rb"[\x00-\x20\x7f]")
#: The query string in a path whose "?" was lost or encoded: the first name with a value.
_LOST_QUERY = re.compile(r"[?&]([^/?&=]*=.*)", re.DOTALL)
#: The longest link that is parsed. Values that fill their columns fit in, even percent-encoded.
_MAX_LINK = 32_768
#: How many bytes of an unknown uid are read.
_MAX_UID = 1_000
#: The part of an absolute URL before its path. A URL in the query is not matched.
_SITE = re.compile(r"\A\s*[a-z][a-z0-9+.-]*://[^/?#]*", re.IGNORECASE)
_SCHEMES = ("http", "https")
#: A part of the name of a host. Containers and some subdomains have an underscore.
_LABEL = re.compile(r"(?!-)[\w-]{1,63}(?<!-)")
#: What a browser accepts first for an image, a film, a sound or a style sheet.
_BACKGROUND_TYPES = ("image/", "video/", "audio/", "text/css")
#: Parts of the user agents of AI agents that open pages for a person. ``_is_crawler()`` knows the
#: crawlers that read pages for a search engine or to train a model.
_AGENTS = re.compile(
    r"-User\b|PerplexityUser|Google-?Agent\b|meta-externalfetcher|AmazonBuyForMe|Nova-?Act\b"
    r"|AgentCore|ChatGPT Agent\b|OAI-Operator",
    re.IGNORECASE,
)
#: Cached, since the patterns take longer than a query and many browsers share a user agent.
_is_crawler = lru_cache(maxsize=1_000)(is_crawler)
#: Parts of user agents and the names of their browsers. The first match counts, since most browsers
#: also name Chrome and Safari.
_BROWSERS = {
    "Edg": "Edge",
    "OPR/": "Opera",
    "SamsungBrowser/": "Samsung Internet",
    "Firefox/": "Firefox",
    "FxiOS/": "Firefox",
    "Chrome/": "Chrome",
    "CriOS/": "Chrome",
    "Safari/": "Safari",
}


#: Returns the function that tells whether a query string may have the parameter with the uid.
_may_name = prepared(Settings.query_string_keys, query_strings.may_name)


class Click:
    """A click on a partner's link: in this request, in an earlier one, or stated by code."""

    def __init__(self, request: HttpRequest, path: str, link: FollowedLink) -> None:
        self.request = request
        # A request line may contain a whole URL, which some servers pass on as the path.
        self.path = f"/{path.removeprefix('/')}"
        self.link = link
        #: The uid as it is in the link. It may belong to no partner.
        self.uid = link.uids[0].value
        self.referrer = ""
        #: Whether the browser says that a page of this site has led to the link.
        self.is_same_origin = False

    @classmethod
    def of(cls, request: HttpRequest) -> Click | None:
        """Return the click of a request; ``None`` if the URL is not a partner's link."""
        # Every request of the site gets here, so the cheapest tests come first.
        raw = request.META.get("QUERY_STRING")
        if not raw or request.method not in ("GET", "HEAD"):
            return None
        if _may_name()(raw.lower()) is None:
            return None
        # WSGI decodes the bytes as Latin-1, Django's ASGI handler as UTF-8.
        query = raw.encode("utf-8" if isinstance(request, ASGIRequest) else "latin-1", "replace")
        link = _read(query)
        return None if link is None else cls._of_link(request, request.path, link)

    @classmethod
    def in_path(cls, request: HttpRequest) -> Click | None:
        """
        Return the click of a request whose URL has lost its ``?``: ``/page&affiliate_id=x``.

        Call it only for a path without a page, since an ordinary path may contain the same text.
        """
        if request.method not in ("GET", "HEAD") or "//" in request.path:
            return None
        match = _LOST_QUERY.search(request.path)
        if match is None or _may_name()(match[1].lower()) is None:
            return None
        query = quote(match[1], safe="!$&'()*+,-./:;=?@_~", errors="replace")
        raw = request.META.get("QUERY_STRING", "")
        link = _read(f"{query}&{raw}".strip("&").encode(errors="replace"))
        return None if link is None else cls._of_link(request, request.path[: match.start()], link)

    @classmethod
    def _of_link(cls, request: HttpRequest, path: str, link: FollowedLink) -> Click:
        prefix = request.META.get("SCRIPT_NAME", "").rstrip("/")
        if not f"{path}/".startswith(f"{prefix}/"):
            path = prefix + path  # Under ASGI Django leaves out the prefix that a proxy removed.
        click = cls(request, escape_uri_path(path), link)
        click.referrer = referring_page(
            request.headers.get("Referer", "").encode("latin-1", "replace")
        )
        # A service worker always has the same origin as the page that it fetches. In that case only
        # the referrer says where the link was.
        click.is_same_origin = (
            request.headers.get("Sec-Fetch-Site") == "same-origin"
            and not click._is_fetched_by_worker()
        )
        return click

    @classmethod
    def in_link(cls, request: HttpRequest, link: str) -> Click | None:
        """
        Return the click on ``link``; ``None`` if it is not a partner's link.

        Only its path and query are used, so the page is always on this site.
        """
        if len(link) > _MAX_LINK:
            return None
        path, _, raw = _SITE.sub("", link.partition("#")[0]).partition("?")
        query = raw.encode(errors="replace")
        if (found := _read(query)) is None:
            return None
        return cls(request, _escaped_path(path), found)

    @classmethod
    def stated(cls, request: HttpRequest, uid: bytes) -> Click:
        """Return a click that the host's code states, with the uid that a link would have."""
        return cls(request, "", FollowedLink(b"", [Uid(uid)], {}))

    @property
    def test_nonce(self) -> str | None:
        """The nonce of a test link; ``None`` for any other link."""
        return self._signed_uid and self._signed_uid.nonce

    @cached_property
    def partner(self) -> Partner | None:
        if (signed := self._signed_uid) is not None:
            return Partner.objects.by_uid(signed.uid.encode())
        return PartnerCode.objects.find_partner(*[uid.value for uid in self.link.uids])

    def refusal(self, partner: Partner | None) -> Reason | None:
        """Return why the click cannot be registered; ``None`` if it can."""
        if self._signed_uid and self._signed_uid.is_expired:
            return Reason.TEST_EXPIRED
        return refusal(partner)

    def facts(self) -> dict[str, Any]:
        """Return the click as fields of ``Visitor``."""
        is_quoted = self._is_quoted_printable()
        ids = {
            name: query_strings.unquoted(self.link.ids.get(key, b""), is_quoted_printable=is_quoted)
            for name, key in _id_keys().items()
        }
        return {
            "test_nonce": self.test_nonce,
            "is_internal": self._is_internal(),
            **stored_texts(ids, entry_point=self._entry_point(), referrer=self.referrer),
        }

    @cached_property
    def page(self) -> LandingPage:
        return LandingPage.of(self.request, self.path)

    def location(self) -> str:
        """Return the path and query to redirect to, which never lead to another site."""
        return _location(self.path, self.link.rest)

    def filter_reason(self) -> Reason | None:
        """Return why the request is not a person's click; ``None`` if it may be one."""
        headers = self.request.headers
        purpose = headers.get("Sec-Purpose") or headers.get("Purpose") or headers.get("X-Moz") or ""
        if "prefetch" in purpose or "prerender" in purpose:
            return Reason.PREFETCH
        if self.request.method == "HEAD":
            return Reason.HEAD
        if not self._is_navigation():
            return Reason.SUBRESOURCE
        # Older browsers say only what they accept.
        accepted = headers.get("Accept", "")
        if accepted.startswith(_BACKGROUND_TYPES) and "text/html" not in accepted:
            return Reason.SUBRESOURCE
        # Cut, since the time that the patterns take grows with the square of the length.
        user_agent = _user_agent(self.request)[:1_000]
        if not settings.ignore_bots:
            return None
        # An agent in an ordinary browser can only be recognized if it signs its requests.
        if _AGENTS.search(user_agent) or headers.get("Signature-Agent"):
            return Reason.AGENT
        return Reason.BOT if _is_crawler(user_agent) else None

    @cached_property
    def _signed_uid(self) -> links.SignedUid | None:
        signed = (links.read_signed_uid(uid.value) for uid in self.link.uids)
        return next(filter(None, signed), None)

    def _is_quoted_printable(self) -> bool:
        """Tell whether the uid belongs to its partner only if the link is in quoted-printable."""
        whose = self.partner.uid.encode() if self.partner else b""
        uids = self.link.uids
        by_uid = [uid.is_quoted_printable for uid in uids if uid.value.startswith(whose)]
        if by_uid:
            return by_uid[0]
        plain = [uid.value for uid in uids if not uid.is_quoted_printable]
        return len(plain) < len(uids) and (PartnerCode.objects.find_partner(*plain) != self.partner)

    def _is_navigation(self) -> bool:
        """Tell whether the browser opens a page, as is assumed without Sec-Fetch headers."""
        headers = self.request.headers
        destination = headers.get("Sec-Fetch-Dest", "document")
        if destination == "document" or self._is_fetched_by_worker():
            return True
        # Cookie stuffing: other sites load links in the background for an unearned commission.
        if headers.get("Sec-Fetch-Site") == "cross-site":
            return False
        if destination == "empty":
            mode = headers.get("Sec-Fetch-Mode")
            return settings.count_fetches and mode in ("cors", "same-origin")
        return settings.count_frames and destination in ("iframe", "frame")

    def _is_fetched_by_worker(self) -> bool:
        """Tell whether a service worker of the site fetches the page that the browser opens."""
        headers = self.request.headers
        destination, mode = headers.get("Sec-Fetch-Dest"), headers.get("Sec-Fetch-Mode")
        return destination == "empty" and mode == "navigate"

    def _is_internal(self) -> bool:
        referring_host = urlsplit(self.referrer).netloc.lower()
        is_own_host = bool(referring_host) and referring_host == _host_of(self.request).lower()
        return self.is_same_origin or is_own_host

    def _entry_point(self) -> str:
        site = f"{self.request.scheme}://{_host_of(self.request)}"
        return _page_url(site, self.path, self.page, self.link.rest)


def stored_texts(ids: Mapping[str, bytes], *, entry_point: str, referrer: str) -> dict[str, str]:
    """
    Return texts of a referral as they are stored, by field of ``Visitor``.

    Long texts are cut. A text that is not UTF-8, or that the database cannot store, becomes empty.
    ``ids`` has a value for each of ``CLICK_FIELDS``. If the click id is not stored,
    ``lost_click_id`` says why.
    """
    texts = {name: _decoded(value) for name, value in ids.items()}
    texts |= {"entry_point": entry_point, "referrer": referrer}
    limits = {field.name: field.max_length for field in Visitor._meta.fields}
    stored = {name: _storable(text[: limits[name]]) for name, text in texts.items()}
    if lost := _lost_click_id(ids["click_id"], texts["click_id"]):
        stored |= {"click_id": "", "lost_click_id": lost}
    return stored


def stated_entry_point(request: HttpRequest, raw: bytes) -> str:
    """
    Return the URL of a landing page that the host's code states, as it is stored.

    The uid is removed and personal data is redacted. Without a valid scheme and host, only the path
    and query are kept. The result is empty for a URL of more than 32 KB and for a partner page.
    """
    url, _, _ = _decoded(raw).partition("#")
    if not url or len(raw) > _MAX_LINK:
        return ""
    url = links.stripped(url)
    site = match[0].strip() if (match := _SITE.match(url)) else ""
    path, _, query = url[match.end() if match else 0 :].partition("?")
    path = _escaped_path(path)
    page = LandingPage.of(request, path)
    return "" if page.is_partner_page else _page_url(site, path, page, query.encode())


def _escaped_path(path: str) -> str:
    # A browser has escaped its URLs already, so "%" is safe.
    path = quote(path, safe="!$&'()*+,-./:;=@_~%", errors="replace")
    return f"/{path.removeprefix('/')}"


def _page_url(site: str, path: str, page: LandingPage, query: bytes) -> str:
    """Return the URL of a landing page; only path and query if ``site`` is not valid."""
    location = _location(redacted_path(path, page), redacted_query(query))
    path = quote(location, safe="!#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", encoding="latin-1")
    scheme, _, authority = site.lower().partition("://")
    host = authority.rpartition("@")[2]
    return f"{scheme}://{host}{path}" if scheme in _SCHEMES and _is_host(host) else path


def _host_of(request: HttpRequest) -> str:
    """Return the host of a request; empty if code has made the request without one."""
    try:
        return request.get_host()
    except KeyError:
        return ""


def _location(path: str, query: bytes) -> str:
    path = escape_leading_slashes(path)
    if not query:
        return path
    query = _CONTROLS.sub(lambda match: b"%%%02X" % match[0][0], query)
    return f"{path}?{query.decode('latin-1')}"


def refusal(partner: Partner | None) -> Reason | None:
    """Return why a click of a partner cannot be registered; ``None`` if it can."""
    if partner is None:
        return Reason.UNKNOWN_PARTNER
    return None if partner.active else Reason.PARTNER_INACTIVE


def refuse(
    request: HttpRequest | None,
    partner: Partner | None,
    reason: Reason,
    *,
    uid: bytes | None = None,
    test_nonce: str | None = None,
    rival: Visitor | None = None,
) -> None:
    """
    Log a filtered click, send ``click_filtered``, and count it in ``FilteredClicks``.

    The signal is sent and the click is counted after the commit, so that a transaction of the host
    does not keep the counter's row locked. A click on a test link is not counted: staff see its
    reason, and the ``rival``, the open referral in its way. ``uid`` is that of the link, if known.
    """
    given = uid or (b"" if partner is None else partner.uid.encode())
    logs.tell(
        "click on a link of %s%s not counted: %s%s. %s",
        f"unknown id “{readable_uid(given)}”" if partner is None else partner.name_and_uid,
        on_host(request),
        reason.label,
        f" (by {_user_agent(request)!r})" if reason in (Reason.BOT, Reason.AGENT) else "",
        reason.cure,
        partner=partner.pk if partner else None,
        reason=reason.value,
    )
    if test_nonce is not None:
        if partner is not None:
            record_test(request, partner, test_nonce, reason, rival)
        return

    def committed() -> None:
        click_filtered.send_robust(Partner, partner=partner, reason=reason, request=request)
        FilteredClicks.objects.add(partner, reason)
        RecentFilteredClick.objects.add(partner, reason, readable_uid(given), _browser(request))

    transaction.on_commit(committed, using=db.write_alias(), robust=True)


def record_test(
    request: HttpRequest | None,
    partner: Partner,
    nonce: str,
    reason: Reason | None,
    visitor: Visitor | None,
) -> None:
    """Record, after the commit, that a test link was followed; ``reason`` if it did not count."""
    code, browser = "" if reason is None else reason.value, _browser(request)
    transaction.on_commit(
        lambda: FollowedTestLink.objects.add(partner, nonce, code, browser, visitor),
        using=db.write_alias(),
        robust=True,
    )


def readable_uid(raw: bytes) -> str:
    """
    Return the uid of a link as it is kept for staff.

    It is shortened and can be printed on one line; e-mail addresses are replaced.
    """
    text = logs.one_line(redacted_text(raw[:_MAX_UID].decode(errors="replace")))
    if not db.can_store(text):
        text = text.encode("ascii", "backslashreplace").decode()
    return text[: RecentFilteredClick._meta.get_field("uid").max_length]


def _user_agent(request: HttpRequest | None) -> str:
    return "" if request is None else request.headers.get("User-Agent", "")


def on_host(request: HttpRequest | None) -> str:
    """Return the host for a log message, since a browser has a separate session for each host."""
    host = "" if request is None else request.META.get("HTTP_HOST", "")
    return host and f" on {host}"


def _browser(request: HttpRequest | None) -> str:
    agent = _user_agent(request)
    return next((name for part, name in _BROWSERS.items() if part in agent), "")


def _read(query: bytes) -> FollowedLink | None:
    return query_strings.read(query, settings.query_string_keys, _id_keys().values())


def _id_keys() -> dict[str, str]:
    """Return the parameters with the partner's own ids, by field of ``Visitor``."""
    return dict(zip(CLICK_FIELDS, [settings.click_id_key, *settings.sub_id_keys], strict=False))


def referring_page(raw: bytes) -> str:
    """
    Return the URL of the referring page, without user, query and fragment; empty if not valid.

    E-mail addresses in the path are redacted. A URL of more than 32 KB is not stored.
    """
    try:
        parts = urlsplit(_decoded(raw) if len(raw) <= _MAX_LINK else "")
    except ValueError:  # Brackets without an address.
        return ""
    if parts.scheme not in _SCHEMES or not parts.netloc:
        return ""
    host = parts.netloc.rpartition("@")[2]
    if not _is_host(host):
        return ""
    return f"{parts.scheme}://{host}{redacted_path(parts.path)}"


def _is_host(netloc: str) -> bool:
    """Tell whether a host, with or without a port, is valid: ALLOWED_HOSTS may accept any."""
    try:
        parts = urlsplit(f"//{netloc}")
        host, port = parts.hostname or "", parts.port
        labels = host.removesuffix(".").split(".")
        # As in browsers, a name that ends with a number is an IPv4 address.
        if netloc.startswith("[") or labels[-1].isdecimal():
            ip_address(host.removesuffix("."))
    except ValueError:
        return False
    is_name = len(host) < 256 and all(map(_LABEL.fullmatch, labels))
    return port != 0 and (is_name or netloc.startswith("["))


def _decoded(raw: bytes) -> str:
    """Decode bytes; return an empty text if they are not UTF-8 or cannot be stored."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return ""
    return "" if db.UNSTORABLE.search(text) else text


def _storable(text: str) -> str:
    return text if db.can_store(text) else ""


def _lost_click_id(raw: bytes, text: str) -> str:
    """Return why a click id is not stored, as a code of ``LOST_CLICK_IDS``; or an empty text."""
    if raw and not text:
        return "not_text"
    if len(text) > MAX_CLICK_ID:
        return "too_long"
    return "" if db.can_store(text) else "charset"
