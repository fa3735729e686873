"""
Register a referral, and find the one that a request belongs to.

The session holds the visitor's id and nothing else; the row is the truth. A referral that is
closed counts as absent, whatever a session says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.db import transaction
from django.utils import timezone

from affiliations.conf import settings
from affiliations.models import Partner, Visitor
from affiliations.signals import visitor_registered

if TYPE_CHECKING:
    from django.contrib.auth.models import User
    from django.contrib.sessions.backends.base import SessionBase
    from django.http import HttpRequest

# What this module keeps on a request, so that each question is asked once.
_CURRENT = "_affiliations_current"
_CLOSED = "_affiliations_closed"


def register(request: HttpRequest, partner: Partner, **fields: str) -> Visitor:
    """
    Register a visitor of ``partner``, and let the session remember them.

    ``fields`` are those of ``Visitor``: ``entry_point``, ``click_id``, ``sub1`` and so on. Without
    a session the row is written all the same, but later requests cannot find it.
    """
    visitor = Visitor.objects.create(partner=partner, user=request_user(request), **fields)
    if (session := _session(request)) is not None:
        session[settings.session_key] = visitor.pk
    setattr(request, _CURRENT, visitor)
    transaction.on_commit(
        lambda: visitor_registered.send_robust(Visitor, visitor=visitor, request=request),
        using=visitor._state.db,
    )
    return visitor


def current(request: HttpRequest) -> Visitor | None:
    """
    Return the open referral that this request belongs to, or ``None``.

    The database is asked once a request at most, and not at all for a browser without a session.
    In an async view use ``acurrent``. ``request.affiliate_visitor`` is the same, lazily.
    """
    if not hasattr(request, _CURRENT):
        visitor = find(remembered(request))
        if visitor is not None and visitor.closed_on is not None:
            close_on_way_out(request, visitor)
        is_open = visitor is not None and visitor.refusal(timezone.now()) is None
        setattr(request, _CURRENT, visitor if is_open else None)
    return cast("Visitor | None", getattr(request, _CURRENT))


async def acurrent(request: HttpRequest) -> Visitor | None:
    """Return what ``current`` does; the thread is changed only where somebody must be looked up."""
    if hasattr(request, _CURRENT) or remembers_nobody(request):
        return current(request)
    return await sync_to_async(current)(request)


def find(visitor_id: int | None) -> Visitor | None:
    """Read a visitor and their partner, open or not."""
    if visitor_id is None:
        return None
    return Visitor.objects.select_related("partner").filter(pk=visitor_id).first()


def latest_of(user: User) -> Visitor | None:
    """Return the latest open referral of a user, whatever browser it came to."""
    visitors = Visitor.objects.select_related("partner").open(timezone.now()).filter(user=user)
    return visitors.order_by("-referred_on", "-pk").first()


def remembered(request: HttpRequest) -> int | None:
    """Return the id of the visitor that the session remembers; may read the session."""
    session = _session(request)
    if session is None or _is_new(session):
        return None
    visitor_id = session.get(settings.session_key)
    return visitor_id if isinstance(visitor_id, int) else None


def remembers_nobody(request: HttpRequest) -> bool:
    """Tell, without reading the session, whether it is certain that nobody is remembered."""
    session = _session(request)
    if session is None or _is_new(session):
        return True
    return session.accessed and session.get(settings.session_key) is None


def request_user(request: HttpRequest) -> User | None:
    """Return the user who is logged in, if it is one whom a row can point to."""
    user = getattr(request, "user", None)
    # An API's token user may be logged in and no row of AUTH_USER_MODEL.
    return user if isinstance(user, get_user_model()) and user.is_authenticated else None


def close_on_way_out(request: HttpRequest, visitor: Visitor) -> None:
    """
    Let the session forget a closed ``visitor`` when the request leaves.

    Only once the closing is committed: were it rolled back, the session, which Django saves even
    then, would have lost a referral that is still open.
    """

    def committed() -> None:
        setattr(request, _CLOSED, visitor.pk)
        setattr(request, _CURRENT, None)

    transaction.on_commit(committed, using=visitor._state.db)


def leave(request: HttpRequest) -> None:
    """Forget, on the request's way out, the closed referral that the session remembers."""
    closed = getattr(request, _CLOSED, None)
    if closed is None or (session := _session(request)) is None:
        return
    if session.get(settings.session_key) == closed:
        del session[settings.session_key]


def _session(request: HttpRequest) -> SessionBase | None:
    """Return the session, ``None`` where the host has no session middleware."""
    return getattr(request, "session", None)


def _is_new(session: SessionBase) -> bool:
    """Tell, without reading anything, whether this is the session of a browser without one."""
    return session.session_key is None and not session.modified
