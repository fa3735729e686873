"""
The middleware: a request for a partner's link becomes a visitor and a redirect.

Any other request is only bound for django-tls: no query, and the session is not read.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Awaitable, Callable
from typing import Any, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.core.exceptions import SuspiciousOperation
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.utils.cache import add_never_cache_headers
from django.utils.functional import LazyObject, empty

from affiliations.exceptions import Reason
from affiliations.models import Partner, Visitor
from affiliations.tracking import binding, clicks, consent, visitors
from affiliations.tracking.clicks import Click
from affiliations.tracking.state import STATE, RequestState

logger = logging.getLogger("affiliations")


class AffiliateVisitorsRegistrationMiddleware:
    """
    Register visitors who follow a partner's link, and bind each request for django-tls.

    List it below the middleware of sessions and authentication. ``request.affiliate_visitor`` is
    the current visitor, looked up when it is first used.
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
        if self.is_async:
            return self.__acall__(request)
        request.affiliate_visitor = LazyVisitor(request)  # type: ignore[attr-defined] # ours
        response: Any = None
        outer = binding.bind(request)
        try:
            if (click := Click.of(request)) is not None:
                response = ClickResponse(request, click).answer()
            if response is None:
                response = self.get_response(request)
            # A path without a page may be a link whose "?" was lost.
            if click is None and response.status_code == 404:
                click = Click.in_path(request)
                response = (click and ClickResponse(request, click).answer()) or response
            return _leave(request, outer, response, click)
        except BaseException:
            binding.end(request, outer)
            raise

    async def __acall__(self, request: HttpRequest) -> HttpResponseBase:
        request.affiliate_visitor = LazyVisitor(request)  # type: ignore[attr-defined] # ours
        response: HttpResponseBase | None = None
        outer = binding.bind(request)
        try:
            if (click := Click.of(request)) is not None:
                response = await sync_to_async(ClickResponse(request, click).answer)()
            if response is None:
                response = await cast("Awaitable[HttpResponseBase]", self.get_response(request))
            if click is None and response.status_code == 404:
                click = Click.in_path(request)
                late = click and await sync_to_async(ClickResponse(request, click).answer)()
                response = late or response
            return _leave(request, outer, response, click)
        except BaseException:
            binding.end(request, outer)
            raise


def _leave(
    request: HttpRequest,
    outer: HttpRequest | None,
    response: HttpResponseBase,
    click: Click | None,
) -> HttpResponseBase:
    if click is not None:
        # Also for an error: a cache must not answer the click of the next visitor.
        add_never_cache_headers(response)
    if STATE in request.__dict__:
        visitors.leave(request, response)
    return binding.until_closed(request, outer, response)


#: Sets an attribute of a ``LazyObject`` itself, not of what it wraps. Looked up once, for speed.
_set = object.__setattr__


class LazyVisitor(LazyObject):  # type: ignore[type-arg] # generic in the stubs alone
    """
    ``request.affiliate_visitor``, looked up when it is first used.

    Each request of the site creates one. Creating a ``SimpleLazyObject`` would take as long as the
    binding.
    """

    _visitor: Any = empty

    def __init__(self, request: HttpRequest) -> None:
        _set(self, "_request", request)

    @property
    def _wrapped(self) -> Visitor | None:
        """
        Return the visitor, and let the response vary by cookie at each use.

        A middleware outside of a cache may have looked up the visitor. The cache, such as
        ``cache_page()``, must still notice that the view uses the visitor.
        """
        RequestState.ask(self._request)
        if self._visitor is empty:
            self.__dict__["_visitor"] = visitors.current_visitor(self._request)
        visitor: Visitor | None = self._visitor
        return visitor

    def __repr__(self) -> str:
        """Describe the visitor; never raise, such as in an async view or a broken transaction."""
        try:
            return "<no visitor>" if self._wrapped is None else repr(self._wrapped)
        except Exception as error:
            return f"<visitor not looked up: {type(error).__name__}>"

    def __copy__(self) -> LazyVisitor:
        return LazyVisitor(self._request)

    def __deepcopy__(self, memo: dict[int, Any]) -> LazyVisitor:
        # With the memo, the copy belongs to the copied request.
        return LazyVisitor(copy.deepcopy(self._request, memo))


class ClickResponse:
    """The response to a click on a partner's link."""

    def __init__(self, request: HttpRequest, click: Click) -> None:
        self.request = request
        self.click = click

    def answer(self) -> HttpResponse | None:
        """
        Register the visitor, and redirect to the same URL without the partner's uid.

        ``None`` if the visitor refuses to be remembered: the page is then shown with all
        parameters. Also ``None`` for a partner page, which is not a landing page.
        """
        if self.click.page.is_partner_page:
            return None
        filter_reason = self.click.filter_reason()
        refusal = filter_reason
        try:
            refusal = self._arrive(filter_reason)
        except SuspiciousOperation:
            raise  # A wrong Host header: Django answers 400, as for any other page.
        except Exception:
            logger.exception("A visitor could not be registered.")
        if filter_reason is Reason.PREFETCH:
            # The browser drops this response, and sends a new request for the real click.
            return HttpResponse(status=503)
        if refusal is Reason.NO_CONSENT:
            return None
        response = HttpResponseRedirect("/")
        # Set afterwards, since the class would encode the parameters again.
        response.headers["Location"] = self.click.location()
        return response

    def _arrive(self, filter_reason: Reason | None) -> Reason | None:
        """Register or defer the click; otherwise count it as filtered, and return the reason."""
        partner = self.click.partner
        refusal = filter_reason or self.click.refusal(partner)
        if refusal is None and (agrees := consent.agrees(self.request)) is not False:
            register = consent.defer if agrees is None else consent.arrive
            register(self.request, cast("Partner", partner), self.click.facts())
            return None
        refusal = refusal or Reason.NO_CONSENT
        uid, nonce = self.click.uid, self.click.test_nonce
        clicks.refuse(self.request, partner, refusal, uid=uid, test_nonce=nonce)
        return refusal
