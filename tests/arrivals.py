"""Who comes to a test without following a link, as ``affiliations.testing`` lets them."""

from __future__ import annotations

from typing import Any

from django.contrib.sessions.backends.base import SessionBase
from django.db import connection
from django.http import HttpRequest
from django.test import Client, RequestFactory

from affiliations.models import Visitor
from tests.factories import SubscriptionFactory, VisitorFactory


def referred(trigger: str = "Order placed", **subscription: object) -> Visitor:
    """Make a visitor whose partner subscribes to the trigger."""
    visitor = VisitorFactory()
    SubscriptionFactory(partner=visitor.partner, trigger=trigger, **subscription)
    return visitor


#: What a session holds of a visitor: the id, as in 0.12, and what binds it to the row.
KEY = "affiliate_visitor_id"
FINGERPRINT = f"{KEY}_fingerprint"


def held(visitor: Visitor) -> dict[str, object]:
    """Return what a session holds of a visitor."""
    return {KEY: visitor.pk, FINGERPRINT: visitor.fingerprint}


def remember(session: SessionBase, visitor: Visitor) -> None:
    """Let a session remember a visitor, as after a landing."""
    session.update(held(visitor))
    session.save()


def request_of(visitor: Visitor | None, user: object = None) -> HttpRequest:
    """Make a request whose session remembers the visitor, as the middlewares would leave it."""
    client = Client()
    if user is not None:
        client.force_login(user)
    session = client.session
    if visitor is not None:
        remember(session, visitor)
    request = RequestFactory().post("/order/")
    request.session = session.__class__(session.session_key)
    if user is not None:
        request.user = user
    return request


class Wrapped:
    """A request as Django REST framework hands it on: what it has not, it asks the one inside."""

    def __init__(self, request: HttpRequest) -> None:
        self._request = request

    def __getattr__(self, name: str) -> Any:
        return getattr(self._request, name)


def commit() -> None:
    """Do what waits for a commit, in a test that is one transaction and never commits."""
    while connection.run_on_commit:
        _, function, *_ = connection.run_on_commit.pop(0)
        function()
