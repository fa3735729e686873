"""
The door: a request with a partner's link in it becomes a visitor and a redirect.

Everything else passes with the request bound for django-tls and nothing more: no query, no look
into the session.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from crawleruseragents import is_crawler
from django.core.exceptions import SuspiciousOperation
from django.http import HttpResponse, HttpResponseRedirect
from django.utils.cache import add_never_cache_headers
from django.utils.functional import LazyObject, empty

from affiliations import clicks, consent, context, visitors
from affiliations.clicks import Click
from affiliations.conf import settings
from affiliations.exceptions import Reason

if TYPE_CHECKING:
    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

    from affiliations.models import Partner

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
        response: HttpResponseBase | None = None
        with context.binding(request):
            if (click := Click.of(request)) is not None:
                response = Landing(request, click).answer()
            if response is None:
                response = cast("HttpResponseBase", self.get_response(request))
        return _on_way_out(request, response, click)

    async def __acall__(self, request: HttpRequest) -> HttpResponseBase:
        request.affiliate_visitor = LazyVisitor(request)  # type: ignore[attr-defined] # ours
        response: HttpResponseBase | None = None
        with context.binding(request):
            if (click := Click.of(request)) is not None:
                response = await sync_to_async(Landing(request, click).answer)()
            if response is None:
                response = await cast("Awaitable[HttpResponseBase]", self.get_response(request))
        return _on_way_out(request, response, click)


def _on_way_out(
    request: HttpRequest, response: HttpResponseBase, click: Click | None
) -> HttpResponseBase:
    if click is not None:
        # Whatever the answer to the link is: the next one's click must come to us as well.
        add_never_cache_headers(response)
    visitors.leave(request, response)
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

    def __init__(self, request: HttpRequest, click: Click) -> None:
        self.request = request
        self.click = click

    def answer(self) -> HttpResponse | None:
        """
        Register the visitor if they count, and redirect to the same URL without the key.

        ``None`` for who refuses to be remembered: the page is shown, and keeps the parameters.
        """
        no_visit = self._is_no_visit()
        refusal = no_visit
        try:
            refusal = self._arrive(no_visit)
        except SuspiciousOperation:
            raise  # a host that is not ours: Django answers 400, as to any other page
        except Exception:
            logger.exception("A visitor could not be registered.")
        if no_visit is Reason.PREFETCH:
            # The browser drops this and asks again when the link is really followed.
            return HttpResponse(status=503)
        if refusal is Reason.NO_CONSENT:
            return None
        response = HttpResponseRedirect("/")
        # Set by hand: the class would re-encode what the visitor brought.
        response.headers["Location"] = self.click.location()
        return response

    def _arrive(self, no_visit: Reason | None) -> Reason | None:
        """Register the visitor, or let them wait; else count and return the reason why not."""
        partner = self.click.partner()
        refusal = no_visit or clicks.refusal(partner)
        if refusal is None and (agrees := consent.agrees(self.request)) is not False:
            take = consent.wait if agrees is None else consent.arrive
            take(self.request, cast("Partner", partner), self.click)
            return None
        refusal = refusal or Reason.NO_CONSENT
        clicks.refuse(self.request, partner, refusal, is_test=self.click.is_test)
        return refusal

    def _is_no_visit(self) -> Reason | None:
        """Say what has come where it is not a person; ``None`` where it may be one."""
        headers = self.request.headers
        purpose = headers.get("Sec-Purpose") or headers.get("Purpose") or headers.get("X-Moz") or ""
        if "prefetch" in purpose or "prerender" in purpose:
            return Reason.PREFETCH
        if self.request.method == "HEAD":
            return Reason.HEAD
        if headers.get("Sec-Fetch-Dest", "document") != "document":
            return Reason.SUBRESOURCE
        # Cut: the time that the crawlers' patterns take grows with the square of the length.
        user_agent = headers.get("User-Agent", "")[:1_000]
        if settings.ignore_bots and is_crawler(user_agent):
            return Reason.BOT
        return None
