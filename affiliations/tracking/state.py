"""The state that tracking keeps of a request until the response is sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import EllipsisType

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.cache import patch_cache_control, patch_vary_headers

from affiliations import db
from affiliations.models import Visitor
from affiliations.tracking import binding, sessions

#: The attribute of a request with its state.
STATE = "_affiliations"


@dataclass
class RequestState:
    """
    The state of one request; a request whose visitor is never looked up has none.

    ``...`` stands for "not known yet", since ``None`` means that there is no visitor.
    """

    #: The visitor of the request; ``...`` until it is looked up.
    visitor: Visitor | EllipsisType | None = ...
    #: The visitor in the cookie of the response. ``None`` deletes the cookie, ``...`` keeps it.
    cookie: Visitor | EllipsisType | None = ...
    #: Whether code has asked for the visitor, so that the response varies by cookie.
    is_asked: bool = False
    #: Whether the browser remembers another visitor from now on, so that no cache may share it.
    is_private: bool = False
    #: Whether Django's cache middleware would have stored the response.
    is_cacheable: bool = False
    #: Functions that restore session and cookie after a rollback, each with the connection of its
    #: transaction. A commit removes the function.
    rollbacks: dict[Callable[[], None], BaseDatabaseWrapper] = field(default_factory=dict)

    @classmethod
    def of(cls, request: HttpRequest) -> RequestState:
        # Each save in the request calls this, so existing() is not called here.
        state: RequestState | None = request.__dict__.get(STATE)
        if state is None:
            state = request.__dict__[STATE] = cls()
        return state

    @classmethod
    def existing(cls, request: HttpRequest) -> RequestState | None:
        return request.__dict__.get(STATE)

    @property
    def is_visitor_unknown(self) -> bool:
        """Whether the visitor must be looked up, at first or because it is not open any more."""
        if self.visitor is ...:
            return True
        return self.visitor is not None and not self.visitor.is_open

    @classmethod
    def ask(cls, request: HttpRequest) -> RequestState:
        """Return the state, and let the response vary by cookie, even if the request has none."""
        state = cls.of(request)
        state.is_asked = True
        if (response := binding.response_of(request)) is not None:
            # The caller is a middleware outside of ours.
            _vary(response)
        elif request.__dict__.get("_cache_update_cache"):
            # A cache inside of ours, such as cache_page(), gets the response before it varies, and
            # must not store it.
            state.is_cacheable, request._cache_update_cache = True, False  # type: ignore[attr-defined] # Django's
        return state

    @classmethod
    def ask_if_cacheable(cls, request: HttpRequest) -> None:
        """Do what ``ask()`` does for a GET or HEAD, so that the caller runs for each visitor."""
        if getattr(request, "method", None) in ("GET", "HEAD"):
            cls.ask(request)

    def leave(self, request: HttpRequest, response: HttpResponseBase) -> None:
        """Set the headers that tell caches who may get the response."""
        if self.is_asked:
            _vary(response)
        if self.is_private:
            # Otherwise the next browser without a cookie would become the same visitor.
            patch_cache_control(response, private=True)
        if self.is_cacheable:
            request._cache_update_cache = True  # type: ignore[attr-defined] # Django's

    def restore_on_rollback(self, request: HttpRequest) -> None:
        """
        Restore session and cookie to their present state if the transaction is rolled back.

        Django saves the session even then. Its visitor id would belong to no row, and the database
        may give the same id to the next visitor.
        """
        session, cookie = sessions.snapshot(request), self.cookie

        def restore() -> None:
            sessions.restore(request, session)
            self.cookie, self.visitor = cookie, ...

        connection = transaction.get_connection(db.write_alias())
        self.rollbacks[restore] = connection
        transaction.on_commit(partial(self.rollbacks.pop, restore, None), using=connection.alias)

    def restore_rolled_back(self) -> None:
        for restore, connection in reversed(self.rollbacks.items()):
            # In a TestCase of the host, the transaction around the test is still open.
            if connection.autocommit and not connection.in_atomic_block:
                restore()
        self.rollbacks.clear()


def _vary(response: HttpResponseBase) -> None:
    patch_vary_headers(response, ("Cookie",))
