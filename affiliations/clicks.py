"""
A click on a partner's link: whose link it is, what stands in it, and the page that it leads to.

All of it comes from the network. What no database can hold is stored as empty, and no part of it
leads off this site.
"""

from __future__ import annotations

import logging
import re
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from django.core.handlers.asgi import ASGIRequest
from django.db import router, transaction
from django.utils.encoding import escape_uri_path
from django.utils.http import escape_leading_slashes

from affiliations import links
from affiliations.conf import settings
from affiliations.exceptions import Reason
from affiliations.models import Partner, UncountedClicks, Visitor
from affiliations.signals import click_not_counted

if TYPE_CHECKING:
    from django.http import HttpRequest

logger = logging.getLogger("affiliations")

#: The partner's own labels of a click, as the fields of a visitor.
LABELS = ("click_id", "sub1", "sub2", "sub3", "sub4", "sub5")

#: What a URL cannot hold as it is. No server lets it through, but a response header must not.
_CONTROLS = re.compile(rb"[\x00-\x20\x7f]")
#: What stands before the path of an absolute URL.
_SITE = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#]*", re.IGNORECASE)


class Click:
    """A partner's link that somebody has followed: the URL of a request, or one that it was at."""

    def __init__(
        self, request: HttpRequest, path: str, query: bytes, left: bytes, value: bytes
    ) -> None:
        self.request = request
        self.path = path
        self.query = query
        self.left = left
        self.value = value
        self.referrer = ""

    @classmethod
    def of(cls, request: HttpRequest) -> Click | None:
        """Return the click that a request is, ``None`` for all that is none."""
        # Every request of the site comes past here: first what rules nearly all of them out.
        raw = request.META.get("QUERY_STRING")
        if not raw or request.method not in ("GET", "HEAD"):
            return None
        keys = settings.query_string_keys
        is_plain = raw.isascii() and "%" not in raw and "+" not in raw
        if is_plain and not any(key in raw for key in keys):
            return None
        # WSGI shows the bytes as Latin-1, Django's ASGI handler has decoded them as UTF-8.
        query = raw.encode("utf-8" if isinstance(request, ASGIRequest) else "latin-1", "replace")
        left, value = links.without_parameters(query, keys)
        if value is None:
            return None
        path, prefix = request.path, request.META.get("SCRIPT_NAME", "").rstrip("/")
        if not f"{path}/".startswith(f"{prefix}/"):
            path = prefix + path  # Under ASGI Django does not give back what the proxy took off.
        click = cls(request, escape_uri_path(path), query, left, value)
        click.referrer = _page(request.headers.get("Referer", ""))
        return click

    @classmethod
    def in_link(cls, request: HttpRequest, link: str) -> Click | None:
        """
        Return the click that led to ``link``, ``None`` where that is no partner's link.

        Of a URL its path and query count: whatever host it names, the page is one of this site.
        """
        link = _SITE.sub("", link.partition("#")[0], count=1)
        path, _, raw = link.partition("?")
        query = raw.encode(errors="replace")
        left, value = links.without_parameters(query, settings.query_string_keys)
        if value is None:
            return None
        # Escaped already where it comes from a browser; what is left to escape is.
        path = quote(path, safe="!$&'()*+,-./:;=@_~%", errors="replace")
        return cls(request, path, query, left, value)

    @property
    def is_test(self) -> bool:
        """Whether the link is one for trying the deal."""
        return self._tested_uid is not None

    def partner(self) -> Partner | None:
        """Find the partner whose link it is; at most one query."""
        return Partner.objects.by_uid(self._tested_uid or self.value)

    def facts(self) -> dict[str, Any]:
        """Return what the visitor's row keeps of the click."""
        keys = [settings.click_id_key, *settings.sub_id_keys]
        given = links.parameters(self.query, keys)
        click_id, *sub_ids = (_text(given.get(key, b"")) for key in keys)
        longest = {field.name: field.max_length or 0 for field in Visitor._meta.fields}
        facts = {
            # A cut entry point is still the right page, a cut click id a wrong click.
            "click_id": click_id if len(click_id) <= longest["click_id"] else "",
            "entry_point": self._entry_point(),
            "referrer": self.referrer,
        } | {f"sub{number}": value for number, value in enumerate(sub_ids, start=1)}
        kept = {name: value[: longest[name]] for name, value in facts.items()}
        return {"is_test": self.is_test, **kept}

    def location(self) -> str:
        """Return the path and query to go on to: this site's own, whatever the path begins with."""
        # A request line may hold a whole URL, and a server hand it on as the path.
        path = escape_leading_slashes(f"/{self.path.removeprefix('/')}")
        if not self.left:
            return path
        left = _CONTROLS.sub(lambda match: b"%%%02X" % match[0][0], self.left)
        return f"{path}?{left.decode('latin-1')}"

    @cached_property
    def _tested_uid(self) -> bytes | None:
        return links.tested_uid(self.value)

    def _entry_point(self) -> str:
        path = quote(self.location(), safe="!#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", encoding="latin-1")
        return f"{self.request.scheme}://{self.request.get_host()}{path}"


def refusal(partner: Partner | None) -> Reason | None:
    """Say why nobody can be registered for a partner now; ``None`` where there is a deal."""
    if partner is None:
        return Reason.UNKNOWN_PARTNER
    return None if partner.active else Reason.PARTNER_INACTIVE


def refuse(
    request: HttpRequest, partner: Partner | None, reason: Reason, *, is_test: bool = False
) -> None:
    """
    Say why a click is not counted, and count it among those.

    After commit, so that no landing waits for a transaction of the host; a failure is logged. A
    test is in no number, and so not in this one.
    """
    agent = request.headers.get("User-Agent", "")
    logger.debug("A click was not counted: %s (%s, by %r).", reason.value, partner, agent)
    if is_test:
        return

    def committed() -> None:
        click_not_counted.send_robust(Partner, partner=partner, reason=reason, request=request)
        UncountedClicks.objects.add(partner, reason)

    transaction.on_commit(committed, using=router.db_for_write(UncountedClicks), robust=True)


def _page(referer: str) -> str:
    """Return scheme, host and path of the page with the link; never its query or its user."""
    try:
        parts = urlsplit(_text(referer.encode("latin-1")))
    except ValueError:  # brackets that hold no address, characters that no header has
        return ""
    if parts.scheme not in ("http", "https") or not parts.netloc:
        return ""
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def _text(raw: bytes) -> str:
    """Decode what the network brought; what no database can hold, or is no text, is empty."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return ""
    return "" if "\0" in text else text
