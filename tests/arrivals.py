"""How somebody comes to a test: through a partner's link, as in a browser."""

from __future__ import annotations

from django.http import HttpRequest
from django.test import Client, RequestFactory

from affiliations.models import Partner, Visitor
from tests.factories import SubscriptionFactory, VisitorFactory


def arrive(client: Client, partner: Partner) -> Visitor:
    """Follow the partner's link; the client's session remembers the visitor from now on."""
    response = client.get(partner.link("/page/"))
    assert response.status_code == 302, response
    return Visitor.objects.latest("pk")


def referred(trigger: str = "Order placed", **subscription: object) -> Visitor:
    """Make a visitor whose partner subscribes to the trigger."""
    visitor = VisitorFactory()
    SubscriptionFactory(partner=visitor.partner, trigger=trigger, **subscription)
    return visitor


def request_of(visitor: Visitor | None, user: object = None) -> HttpRequest:
    """Make a request whose session remembers the visitor, as the middlewares would leave it."""
    client = Client()
    if user is not None:
        client.force_login(user)
    session = client.session
    if visitor is not None:
        session["affiliate_visitor_id"] = visitor.pk
        session.save()
    request = RequestFactory().post("/order/")
    request.session = session.__class__(session.session_key)
    if user is not None:
        request.user = user
    return request
