"""
Register a referral, and find the one that a request belongs to.

The session, and the cookie where there is one, hold the visitor's id and nothing else; the row is
the truth. A referral that is closed counts as absent, whatever a browser says.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, TypeVar, cast

from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.core.exceptions import SuspiciousOperation
from django.db import router, transaction
from django.db.models import Q
from django.utils import timezone

from affiliations import clicks, context, cookies, sessions
from affiliations.conf import settings
from affiliations.exceptions import Reason
from affiliations.models import Partner, Visitor
from affiliations.models.visitor import VisitorQuerySet
from affiliations.signals import visitor_registered

if TYPE_CHECKING:
    from django.contrib.auth.models import User
    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

logger = logging.getLogger("affiliations")

T = TypeVar("T")

# What this module keeps on a request, so that each question is asked once.
_CURRENT = "_affiliations_current"
_CLOSED = "_affiliations_closed"
_UNCERTAIN = "_affiliations_uncertain"

#: What remembers a visitor; the session comes first.
_PLACES = (sessions, cookies)


def register(
    request: HttpRequest,
    partner: Partner,
    *,
    referred_on: datetime | None = None,
    is_test: bool = False,
    **facts: str,
) -> Visitor:
    """
    Register a visitor of ``partner``, and let the browser remember them.

    ``facts`` are those of ``Visitor``: ``entry_point``, ``click_id``, ``sub1`` and so on. The same
    link once more, soon after, is the same visitor. Without a session and a cookie the row is
    written all the same, but later requests cannot find it.
    """
    request = context.unwrapped(request)
    if referred_on is not None:
        # A click that has waited is known by its moment. Who says "I agree" twice has come once.
        came = _referrals().filter(partner=partner, is_test=is_test, referred_on=referred_on)
        if (visitor := came.filter(**facts).first()) is not None:
            _remember(request, visitor)
            return visitor
    referred_on = referred_on or timezone.now()
    former = current(request)
    # A test is in nobody's way, and nobody is in the way of a test.
    rival = None if former is None or former.is_test or is_test else former
    if rival is not None and _is_again(rival, partner, referred_on, facts):
        clicks.refuse(request, partner, Reason.DUPLICATE_CLICK)
        return rival
    stays = rival is not None and settings.first_click_wins
    visitor = Visitor.objects.create(
        partner=partner,
        user=request_user(request),
        referred_on=referred_on,
        is_test=is_test,
        previous=None if stays else former,
        **facts,
    )
    if not stays:
        _remember(request, visitor)
    transaction.on_commit(
        lambda: visitor_registered.send_robust(Visitor, visitor=visitor, request=request),
        using=visitor._state.db,
    )
    return visitor


def current(request: HttpRequest) -> Visitor | None:
    """
    Return the open referral that this request belongs to, or ``None``.

    The database is asked once a request at most, and not at all for a browser that brings nothing.
    In an async view use ``acurrent``. ``request.affiliate_visitor`` is the same, lazily.
    """
    request = context.unwrapped(request)
    if not hasattr(request, _CURRENT):
        theirs = _of_browser(request)
        for visitor in theirs:
            if visitor.closed_on is not None:
                close_on_way_out(request, visitor)
        setattr(request, _CURRENT, _open_one(theirs))
    return cast("Visitor | None", getattr(request, _CURRENT))


async def acurrent(request: HttpRequest) -> Visitor | None:
    """Return what ``current`` does; the thread is changed only where somebody must be looked up."""
    request = context.unwrapped(request)
    if hasattr(request, _CURRENT) or remembers_nobody(request):
        return current(request)
    return await sync_to_async(current)(request)


def find(visitor_id: int | None) -> Visitor | None:
    """Read a visitor and their partner, open or not."""
    if visitor_id is None:
        return None
    return _referrals().filter(pk=visitor_id).first()


def referral(request: HttpRequest) -> Visitor | None:
    """Return the open referral that the browser remembers, or one that is not where none is."""
    theirs = _of_browser(request)
    return _open_one(theirs) or next(iter(theirs), None)


def referral_of(user: User) -> Visitor | None:
    """
    Return the open referral of a user that counts, whatever browser it came to.

    As in a browser, a test of the deal gives way to what comes after it in either model.
    """
    in_order = _referrals().open(timezone.now()).filter(user=user).order_by("referred_on", "pk")
    latest = in_order.last()
    if latest is None or latest.is_test or not settings.first_click_wins:
        return latest
    return in_order.filter(is_test=False).first()


def remembered(request: HttpRequest) -> list[int]:
    """Return the ids of the visitors whom the session, which may be read, and the cookie know."""
    ids = dict.fromkeys(place.remembered(request) for place in _PLACES)
    return [visitor_id for visitor_id in ids if visitor_id is not None]


def remembers_nobody(request: HttpRequest) -> bool:
    """Tell, without reading the session, whether it is certain that nobody is remembered."""
    return sessions.is_absent(request) and cookies.is_absent(request)


def request_user(request: HttpRequest) -> User | None:
    """Return the user who is logged in, if it is one whom a row can point to."""
    user = getattr(request, "user", None)
    # An API's token user may be logged in and no row of AUTH_USER_MODEL.
    return user if isinstance(user, get_user_model()) and user.is_authenticated else None


def link_user(
    sender: object, user: object, request: HttpRequest | None = None, **kwargs: object
) -> None:
    """Note who the visitor is when they log in, where that was not known; never fail the login."""
    request = context.real_request(request)
    if request is None or remembers_nobody(request) or not isinstance(user, get_user_model()):
        return

    def link() -> None:
        visitor = current(request)
        if visitor is None or visitor.user_id is not None:
            return
        if Visitor.objects.filter(pk=visitor.pk, user=None).update(user=user):
            visitor.user = user

    apart_from_host(link, "A visitor who has logged in could not be linked to the user.")


def close_on_way_out(request: HttpRequest, visitor: Visitor) -> None:
    """
    Let the browser forget a closed ``visitor`` when the request leaves.

    Only once the closing is committed: were it rolled back, the session, which Django saves even
    then, would have lost a referral that is still open.
    """

    def committed() -> None:
        setattr(request, _CLOSED, {visitor.pk, *getattr(request, _CLOSED, ())})
        if getattr(request, _CURRENT, None) in (visitor, None):
            setattr(request, _CURRENT, None)

    transaction.on_commit(committed, using=visitor._state.db)


def unless_committed(request: HttpRequest, undo: Callable[[], None]) -> None:
    """
    Call ``undo`` when the request leaves, if what is written now has been rolled back by then.

    Django saves the session even so, and it would remember a row that is not there: its key may be
    another visitor's next.
    """
    connection = transaction.get_connection(router.db_for_write(Visitor))
    uncertain = request.__dict__.setdefault(_UNCERTAIN, [])
    uncertain.append((connection, undo))
    transaction.on_commit(partial(uncertain.remove, (connection, undo)), using=connection.alias)


def leave(request: HttpRequest, response: HttpResponseBase) -> None:
    """
    Bring in line, on the request's way out, what the browser remembers with what is committed.

    Forget a closed referral and one that was rolled back, and write what the cookie remembers.
    """
    for connection, undo in reversed(request.__dict__.pop(_UNCERTAIN, ())):
        # The transaction around a test is open still.
        if connection.autocommit and not connection.in_atomic_block:
            undo()
    if closed := getattr(request, _CLOSED, None):
        # Each by itself: they may disagree, and then the other knows one that is still open.
        for place in _PLACES:
            if place.remembered(request) in closed:
                place.forget(request)
    cookies.leave(request, response)


def forget(request: HttpRequest) -> None:
    """Let the browser forget its referral."""
    sessions.forget(request)
    cookies.forget(request)
    setattr(request, _CURRENT, None)


def apart_from_host(work: Callable[[], T], failure: str) -> T | None:
    """
    Do ``work``, and keep what fails in it from the host's request: undone, ``failure`` is logged.

    Within a transaction there is a savepoint, since a failing read spoils one of PostgreSQL. Where
    the failure has taken the host's transaction with it, as a deadlock does on MariaDB, it is
    raised again: the host's work is gone, and it must know.
    """
    connection = transaction.get_connection(router.db_for_write(Visitor))
    was_whole = not connection.needs_rollback
    try:
        # Inside, since this may be what opens the connection.
        is_within = connection.in_atomic_block or not connection.get_autocommit()
        with transaction.atomic(using=connection.alias) if is_within else nullcontext():
            return work()
    except SuspiciousOperation:
        raise  # a host that is not ours: Django answers 400
    except Exception:
        if was_whole and connection.needs_rollback:
            raise
        logger.exception(failure)
    return None


def _referrals() -> VisitorQuerySet:
    """
    Return all visitors with their partners, from the database that is written to.

    The page that a landing leads to is asked for at once, and a replica may not have heard of it.
    """
    return Visitor.objects.using(router.db_for_write(Visitor)).select_related("partner")


def _of_browser(request: HttpRequest) -> list[Visitor]:
    """Read whom the browser remembers, the session's first."""
    if not (ids := remembered(request)):
        return []
    # Not "in": SQLite would fail at a number that is too large for any key.
    wanted = Q(*(("pk", visitor_id) for visitor_id in ids), _connector=Q.OR)
    return sorted(_referrals().filter(wanted), key=lambda visitor: ids.index(visitor.pk))


def _open_one(visitors: Iterable[Visitor]) -> Visitor | None:
    now = timezone.now()
    return next((visitor for visitor in visitors if visitor.refusal(now) is None), None)


def _is_again(former: Visitor, partner: Partner, now: datetime, facts: dict[str, str]) -> bool:
    """Tell whether the same link was followed once more, and so soon that it is the same visit."""
    window = settings.click_dedupe_window
    return (
        window is not None
        and former.partner_id == partner.pk
        and now - former.referred_on < window
        and all(getattr(former, name) == facts.get(name, "") for name in clicks.LABELS)
    )


def _remember(request: HttpRequest, visitor: Visitor) -> None:
    former_id, former_cookie = sessions.remembered(request), cookies.state(request)

    def undo() -> None:
        sessions.restore(request, former_id)
        cookies.restore(request, former_cookie)
        request.__dict__.pop(_CURRENT, None)

    unless_committed(request, undo)
    sessions.remember(request, visitor)
    cookies.remember(request, visitor)
    # Who has waited for consent may have waited for too long.
    setattr(request, _CURRENT, visitor if visitor.refusal(timezone.now()) is None else None)
