"""
The door: a request with a partner's link in it becomes a visitor and a redirect.

Everything else passes with the request bound for django-tls and nothing more: no query, no look
into the session.
"""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, urlsplit

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from crawleruseragents import is_crawler
from django.core.exceptions import SuspiciousOperation
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponse, HttpResponseRedirect
from django.utils.cache import add_never_cache_headers
from django.utils.encoding import escape_uri_path
from django.utils.functional import LazyObject, empty
from django.utils.http import escape_leading_slashes

from affiliations import context, links, visitors
from affiliations.conf import settings
from affiliations.models import Partner, Visitor

if TYPE_CHECKING:
    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

logger = logging.getLogger("affiliations")


class AffiliateVisitorsRegistrationMiddleware:
    """
    Register the visitors whom partners send, and bind each request for django-tls.

    It stands behind the session's and the authentication's middleware.
    ``request.affiliate_visitor`` is the request's open referral, looked up when first tested.
    """

    sync_capable = True
    async_capable = True

    def __init__(
        self, get_response: Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]
    ) -> None:
        self.get_response = get_response
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Answer a partner's link at once, before any view; hand everything else on."""
        if self.is_async:
            return self.__acall__(request)
        request.affiliate_visitor = LazyVisitor(request)  # type: ignore[attr-defined] # ours
        with context.binding(request):
            landing = Landing.of(request)
            response = self.get_response(request) if landing is None else landing.answer()
        visitors.leave(request)
        return response

    async def __acall__(self, request: HttpRequest) -> HttpResponseBase:
        request.affiliate_visitor = LazyVisitor(request)  # type: ignore[attr-defined] # ours
        with context.binding(request):
            if (landing := Landing.of(request)) is None:
                response = await cast("Awaitable[HttpResponseBase]", self.get_response(request))
            else:
                response = await sync_to_async(landing.answer)()
        visitors.leave(request)
        return response


class LazyVisitor(LazyObject):  # type: ignore[type-arg] # generic in the stubs alone
    """
    ``request.affiliate_visitor``: the request's open referral, looked up when first tested.

    Each request of the site makes one, so it is made without the detours of ``SimpleLazyObject``,
    which cost a page as much as the binding does.
    """

    _wrapped = empty

    def __init__(self, request: HttpRequest) -> None:
        object.__setattr__(self, "_request", request)

    def _setup(self) -> None:
        self._wrapped = visitors.current(self._request)

    def __copy__(self) -> LazyVisitor:
        return LazyVisitor(self._request)

    def __deepcopy__(self, memo: dict[int, Any]) -> LazyVisitor:
        # Within a copy of the request this is that copy.
        return LazyVisitor(copy.deepcopy(self._request, memo))


class Landing:
    """The arrival of somebody through a partner's link."""

    #: What a URL cannot hold as it is. No server lets it through, but a response header must not.
    _CONTROLS = re.compile(rb"[\x00-\x20\x7f]")

    def __init__(self, request: HttpRequest, query: bytes, left: bytes, uid: bytes) -> None:
        self.request = request
        self.query = query
        self.left = left
        self.uid = uid

    @classmethod
    def of(cls, request: HttpRequest) -> Landing | None:
        """Return the landing that a request is, ``None`` for all that is none."""
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
        left, uid = links.without_parameters(query, keys)
        return None if uid is None else cls(request, query, left, uid)

    def answer(self) -> HttpResponse:
        """Register the visitor if they count, and redirect to the same URL without the key."""
        if self._is_prefetch():
            # The browser drops this and asks again when the link is really followed.
            response: HttpResponse = HttpResponse(status=503)
        else:
            if (nobody := self._is_nobody()) is None:
                self._register()
            else:
                logger.debug("A partner's link was followed by %s, which is not counted.", nobody)
            response = HttpResponseRedirect("/")
            # Set by hand: the class would re-encode what the visitor brought.
            response.headers["Location"] = self._location()
        add_never_cache_headers(response)
        return response

    def _is_prefetch(self) -> bool:
        headers = self.request.headers
        purpose = headers.get("Sec-Purpose") or headers.get("Purpose") or headers.get("X-Moz") or ""
        return "prefetch" in purpose or "prerender" in purpose

    def _is_nobody(self) -> str | None:
        """Say what has come where it is not a person; ``None`` where it may be one."""
        headers = self.request.headers
        if self.request.method == "HEAD":
            return "a HEAD request"
        if headers.get("Sec-Fetch-Dest", "document") != "document":
            return "a part of a page, such as an image"
        # Cut: the time that the crawlers' patterns take grows with the square of the length.
        user_agent = headers.get("User-Agent", "")[:1_000]
        if settings.ignore_bots and is_crawler(user_agent):
            return "a known crawler (curl and headless browsers are taken for one)"
        return None

    def _register(self) -> None:
        try:
            if (partner := Partner.objects.by_uid(self.uid)) is not None and partner.active:
                visitors.register(self.request, partner, **self._facts())
        except SuspiciousOperation:
            raise  # a host that is not ours: Django answers 400, as to any other page
        except Exception:
            logger.exception("A visitor could not be registered.")

    def _facts(self) -> dict[str, str]:
        """Return what the visitor's row keeps of the request."""
        keys = [settings.click_id_key, *settings.sub_id_keys]
        given = links.parameters(self.query, keys)
        click_id, *sub_ids = (_text(given.get(key, b"")) for key in keys)
        longest = {field.name: field.max_length or 0 for field in Visitor._meta.fields}
        facts = {
            # A cut entry point is still the right page, a cut click id a wrong click.
            "click_id": click_id if len(click_id) <= longest["click_id"] else "",
            "entry_point": self._entry_point(),
            "referrer": self._referrer(),
        } | {f"sub{number}": value for number, value in enumerate(sub_ids, start=1)}
        return {name: value[: longest[name]] for name, value in facts.items()}

    def _location(self) -> str:
        """Return the path and query to go on to: this site's own, whatever the path begins with."""
        path, prefix = self.request.path, self.request.META.get("SCRIPT_NAME", "").rstrip("/")
        if not f"{path}/".startswith(f"{prefix}/"):
            path = prefix + path  # Under ASGI Django does not give back what the proxy took off.
        # A request line may hold a whole URL, and a server hand it on as the path.
        path = escape_leading_slashes(escape_uri_path(f"/{path.removeprefix('/')}"))
        if not self.left:
            return path
        left = self._CONTROLS.sub(lambda match: b"%%%02X" % match[0][0], self.left)
        return f"{path}?{left.decode('latin-1')}"

    def _entry_point(self) -> str:
        path = quote(self._location(), safe="!#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", encoding="latin-1")
        return f"{self.request.scheme}://{self.request.get_host()}{path}"

    def _referrer(self) -> str:
        """Return scheme, host and path of the page with the link; never its query or its user."""
        try:
            parts = urlsplit(_text(self.request.headers.get("Referer", "").encode("latin-1")))
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
