"""
Register visitors, and find the visitor of a request.

The session and the optional cookie contain only the visitor's id and fingerprint. The row decides
whether the visitor can be credited.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING, TypeVar, cast

from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.core.exceptions import SuspiciousOperation
from django.db import IntegrityError, transaction
from django.db.models import BooleanField, ExpressionWrapper, Q
from django.utils import timezone

from affiliations import db, logs
from affiliations.conf import settings
from affiliations.exceptions import Reason
from affiliations.models import Partner, Visitor
from affiliations.models.accounts import known_user
from affiliations.models.visitor import CLICK_FIELDS, VisitorQuerySet
from affiliations.signals import visitor_registered
from affiliations.tracking import binding, clicks, cookies, sessions
from affiliations.tracking.staff import is_on_staff_page
from affiliations.tracking.state import RequestState

if TYPE_CHECKING:
    from django.contrib.auth.models import User
    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

logger = logging.getLogger("affiliations")

T = TypeVar("T")

#: The places where a browser remembers a visitor. The session comes first.
_STORES = (sessions, cookies)
#: How many of a buyer's latest visitors are searched for the referral of a code.
_LATEST = 50


def register(
    request: HttpRequest | None,
    partner: Partner,
    *,
    user: User | None = None,
    referred_on: datetime | None = None,
    test_nonce: str | None = None,
    is_internal: bool = False,
    **facts: str,
) -> Visitor | None:
    """
    Register a visitor of ``partner``, and let the browser remember the visitor.

    ``facts`` are fields of ``Visitor``: ``entry_point``, ``click_id``, ``sub1`` and so on. A click
    on the same link within the dedupe window returns the current visitor, and so does a test link
    that does not count. Without a session and a cookie the row is written, but later requests
    cannot find it. ``request`` is ``None`` if the host's code refers a customer of another browser;
    ``user`` may then identify the customer.
    """
    if test_nonce is not None:
        referred_on = referred_on or timezone.now()
        return _register_test(request, partner, user, test_nonce, referred_on, facts)
    if referred_on is not None:
        # Two requests may register a deferred click at once. Its time identifies it.
        same_click = _visitors().filter(partner=partner, is_test=False, referred_on=referred_on)
        if (visitor := same_click.filter(**facts).first()) is not None:
            _remember(request, visitor)
            return visitor
    referred_on = referred_on or timezone.now()
    current = _current(request)
    if current is None and user is not None:
        # For example, an app on a phone keeps neither session nor cookie.
        current = visitor_of_user(user)
    # A real click takes the place of a test.
    competitor = None if current is None or current.is_test else current
    if (
        competitor is not None
        # A click from elsewhere is no duplicate of one from the site itself: it replaces that one.
        and (is_internal or not competitor.is_internal)
        and _is_duplicate(competitor, partner, referred_on, facts)
    ):
        clicks.refuse(request, partner, Reason.DUPLICATE_CLICK)
        _set_user(competitor, user)
        return competitor
    # A click from the site itself replaces no other click, and any other click replaces it.
    competitor_stays = competitor is not None and (
        is_internal or (settings.first_click_wins and not competitor.gives_way)
    )
    visitor = Visitor.objects.create(
        partner=partner,
        user=user or request_user(request),
        referred_on=referred_on,
        is_internal=is_internal,
        previous=None if competitor_stays else current,
        **facts,
    )
    if not competitor_stays:
        _remember(request, visitor)
    _announce(request, visitor)
    return visitor


def current_visitor(request: HttpRequest) -> Visitor | None:
    """
    Return the visitor of this request, if the visitor can still be credited.

    The first call in a request costs one query, or none if the browser remembers no visitor.
    ``request.affiliate_visitor`` is the same visitor, looked up when it is first used.

    Args:
        request: Django's request, or one that a framework has wrapped around it.

    Returns:
        The visitor, or ``None`` if there is none or if the visitor cannot be credited any more.
    """
    request = binding.unwrapped(request)
    state = RequestState.ask(request)
    if state.is_visitor_unknown:
        state.visitor = _first_open(remembered_visitors(request))
    return cast("Visitor | None", state.visitor)


async def acurrent_visitor(request: HttpRequest) -> Visitor | None:
    """
    Return what ``current_visitor()`` returns, from an async view.

    It uses a thread only if there is a visitor to look up.
    """
    request = binding.unwrapped(request)
    if not RequestState.of(request).is_visitor_unknown or remembers_no_visitor(request):
        return current_visitor(request)
    return await sync_to_async(current_visitor)(request)


def find(visitor_id: int | None) -> Visitor | None:
    return None if visitor_id is None else _visitors().filter(pk=visitor_id).first()


def remembered_visitors(request: HttpRequest) -> list[Visitor]:
    """Return the visitors of the session and the cookie; forget those whose row does not exist."""
    RequestState.ask_if_cacheable(request)
    held = {store: store.remembered(request) for store in _STORES}
    # Not "in": SQLite fails for a number that is too large for a key.
    wanted = Q(*{("pk", row[0]) for row in held.values() if row is not None}, _connector=Q.OR)
    rows = _visitors().filter(wanted) if wanted else ()
    found = {(visitor.pk, visitor.fingerprint): visitor for visitor in rows}
    for store, row in held.items():
        if row not in found:
            store.forget(request)
    return [found[row] for row in dict.fromkeys(held.values()) if row in found]


def remembered_visitor(request: HttpRequest) -> Visitor | None:
    """Return the open visitor that the browser remembers; if none is open, the first."""
    found = remembered_visitors(request)
    return _first_open(found) or next(iter(found), None)


def visitor_of_user(user: User) -> Visitor | None:
    """
    Return the open visitor of a user, from any browser, that the attribution model credits.

    A click from the site itself, or a visitor by code, is credited only if there is no other click.
    A test is credited only if there is no real visitor.
    """
    of_user = _visitors().open(timezone.now()).filter(user=user)
    gives_way = Q(is_internal=True) | Q(source=Visitor.Source.CODE)
    # The same as Visitor.gives_way: an annotation cannot have the name of a property.
    ranked = of_user.annotate(is_behind=ExpressionWrapper(gives_way, BooleanField()))
    in_order = ranked.order_by("-is_test", "-is_behind", "referred_on", "pk")
    latest = in_order.last()
    if latest is None or latest.is_test or not settings.first_click_wins:
        return latest
    return in_order.filter(is_test=False, is_behind=latest.gives_way).first()


def credited_visitor(request: HttpRequest | None, buyer: User | None) -> Visitor | None:
    """
    Return the open visitor of a browser or of a buyer that the attribution model credits.

    If none is open, return one that the browser remembers.
    """
    visitor = None if request is None else remembered_visitor(request)
    of_buyer = None if buyer is None else visitor_of_user(buyer)
    if of_buyer is None or visitor is None or not visitor.is_open:
        return of_buyer or visitor
    # As in visitor_of_user().
    earlier, later = sorted(
        (visitor, of_buyer),
        key=lambda row: (not row.is_test, not row.gives_way, row.referred_on, row.pk),
    )
    is_same_kind = (earlier.is_test, earlier.gives_way) == (False, later.gives_way)
    return earlier if settings.first_click_wins and is_same_kind else later


def referral_by_code(
    partner: Partner,
    known: Iterable[Visitor],
    buyer: User | None,
    *,
    previous: Visitor | None,
    now: datetime,
) -> Visitor:
    """
    Return the referral to credit for an order with a partner's code.

    It is a referral of the partner inside the attribution window, open or closed: one of ``known``
    or one of the buyer's. Otherwise it is a new, unsaved one, which no browser remembers. If two
    orders of one buyer get a new one at once, only one of the two can be saved.

    Args:
        partner: The partner.
        known: The stated visitor, or those of the buyer's browser. A test comes before all others.
        buyer: The buyer; ``None`` for a guest's order.
        previous: The open referral of another partner, which a new referral replaces.
        now: The time of the order.
    """
    of_buyer: list[Visitor] = []
    if buyer is not None:
        rows = _visitors().filter(partner=partner, user=buyer, is_test=False)
        of_buyer += rows.order_by("-pk")[:_LATEST]
    latest = of_buyer[0].pk if of_buyer else 0
    if settings.first_click_wins:
        of_buyer.reverse()
    found = [row for row in known if row.partner_id == partner.pk] + of_buyer
    found = [row for row in found if row.is_in_window(now)]
    if found:
        return min(found, key=lambda row: (not row.is_test, row.closed_on is not None))
    # The latest visitor is part of the key, since the buyer may come again after the window.
    key = None if buyer is None else f"{partner.pk} {buyer.pk} {latest}"
    return Visitor(
        partner=partner,
        user=buyer,
        referred_on=now,
        source=Visitor.Source.CODE,
        code_key=key and sha256(key.encode()).hexdigest()[:32],
        previous=previous,
    )


def real_referral(request: HttpRequest | None, user: User | None = None) -> Visitor | None:
    """Return an open referral of the browser or its user, but no test."""
    remembered = () if request is None else remembered_visitors(request)
    found = [visitor for visitor in remembered if visitor.is_open]
    user = (user or request_user(request)) if settings.attribute_by_user else None
    if user is not None and (of_user := visitor_of_user(user)) is not None:
        found.append(of_user)
    return next((visitor for visitor in found if not visitor.is_test), None)


def remembers(request: HttpRequest, visitor: Visitor) -> bool:
    """Return whether the browser remembers this visitor, open or not; may read the session."""
    row = visitor.pk, visitor.fingerprint
    return any(store.remembered(request) == row for store in _STORES)


def remembers_no_visitor(request: HttpRequest) -> bool:
    """Tell, without reading the session, whether the browser certainly remembers no visitor."""
    RequestState.ask_if_cacheable(request)
    return sessions.is_absent(request) and cookies.is_absent(request)


def request_user(request: HttpRequest | None) -> User | None:
    """Return the user who is logged in, if a row can refer to that user."""
    return known_user(getattr(request, "user", None))


def link_user(
    sender: object, user: object, request: HttpRequest | None = None, **kwargs: object
) -> None:
    """Set the visitor's user at login, unless it has one. A failure does not fail the login."""
    request = binding.real_request(request)
    if request is None or remembers_no_visitor(request) or not isinstance(user, get_user_model()):
        return
    run_isolated(
        lambda: _set_user(current_visitor(request), user),
        "A visitor who has logged in could not be linked to the user.",
    )


def link_new_user(
    sender: object, instance: User, created: bool, raw: bool = False, **kwargs: object
) -> None:
    """
    Set the visitor's user at a sign-up, since the login may happen in another browser.

    A user whom staff or another logged-in user creates is not the visitor. If one request creates
    several users, the first one is the visitor's.
    """
    request = binding.current_request()
    if not created or raw or request is None or remembers_no_visitor(request):
        return

    def link() -> None:
        if request_user(request) is None and not is_on_staff_page(request):
            _set_user(current_visitor(request), instance)

    run_isolated(link, "A visitor who has signed up could not be linked to the user.")


def _set_user(visitor: Visitor | None, user: User | None) -> None:
    """Set a visitor's user, unless it has one."""
    if visitor is None or visitor.user_id is not None or user is None:
        return
    if Visitor.objects.filter(pk=visitor.pk, user=None).update(user=user):
        visitor.user = user


def look_up_again(request: HttpRequest) -> None:
    """Let ``current_visitor()`` read the visitor again, which a conversion may have closed."""
    if (state := RequestState.existing(request)) is not None:
        state.visitor = ...


def leave(request: HttpRequest, response: HttpResponseBase) -> None:
    """
    Bring session and cookie in line with the committed rows, before the response is sent.

    A visitor whose registration was rolled back is forgotten. A closed one is not, since it is open
    again after a rejection.
    """
    state = RequestState.of(request)
    state.restore_rolled_back()
    cookies.write(state, response)
    state.leave(request, response)


def forget(request: HttpRequest) -> None:
    for store in _STORES:
        store.forget(request)
    state = RequestState.of(request)
    state.visitor = None
    # A registration that is rolled back must not restore an earlier visitor.
    state.rollbacks.clear()


def run_isolated(work: Callable[[], T], failure: str) -> T | None:
    """
    Call ``work``; if it fails, roll it back, log ``failure`` with the exception, return ``None``.

    An exception that has ended the host's own transaction, as a deadlock does on MariaDB, is raised
    again: the host's changes are lost too.
    """
    connection = transaction.get_connection(db.write_alias())
    was_usable = not connection.needs_rollback
    try:
        with db.savepoint():
            return work()
    except SuspiciousOperation:
        raise  # A wrong Host header: Django answers 400.
    except Exception:
        if was_usable and connection.needs_rollback:
            raise
        logger.exception(failure)
    return None


def _register_test(
    request: HttpRequest | None,
    partner: Partner,
    user: User | None,
    nonce: str,
    referred_on: datetime,
    facts: dict[str, str],
) -> Visitor | None:
    """
    Register the visitor of a test link. The nonce of the link allows only one.

    A test never replaces a real click. Otherwise a published test link would take the sales of
    other partners.
    """
    if (rival := real_referral(request, user)) is not None:
        clicks.refuse(request, partner, Reason.OPEN_REFERRAL, test_nonce=nonce, rival=rival)
        return rival
    same_link = _visitors().filter(test_nonce=nonce)
    if (test := same_link.first()) is None:
        try:
            with transaction.atomic(using=db.write_alias()):
                test = Visitor.objects.create(
                    partner=partner,
                    user=user or request_user(request),
                    referred_on=referred_on,
                    is_test=True,
                    test_nonce=nonce,
                    previous=_current(request),
                    **facts,
                )
        except IntegrityError:  # Another request has just registered it.
            test = same_link.first()
        else:
            _remember(request, test)
            clicks.record_test(request, partner, nonce, None, test)
            _announce(request, test)
            return test
    # Two requests may register a deferred click at once. Its time identifies it.
    is_ours = request is not None and test is not None and remembers(request, test)
    if test and test.is_open and (is_ours or test.referred_on == referred_on):
        _remember(request, test)
        return test
    clicks.refuse(request, partner, Reason.TEST_USED, test_nonce=nonce)
    return _current(request)


def _current(request: HttpRequest | None) -> Visitor | None:
    return None if request is None else current_visitor(request)


def _announce(request: HttpRequest | None, visitor: Visitor) -> None:
    def committed() -> None:
        visitor_registered.send_robust(Visitor, visitor=visitor, request=request)
        logs.tell(
            "%s %s%s: visitor %s.%s",
            "click on a link of"
            if visitor.source == Visitor.Source.LINK
            else "your code referred a visitor to",
            visitor.partner.name_and_uid,
            clicks.on_host(request),
            visitor,
            " Test: excluded from reports." if visitor.is_test else "",
            partner=visitor.partner_id,
        )

    transaction.on_commit(committed, using=visitor._state.db, robust=True)


def _visitors() -> VisitorQuerySet:
    """
    Return all visitors with their partners, from the database for writes.

    The browser follows the redirect at once, when a replica may not have the row yet.
    """
    return Visitor.objects.using(db.write_alias()).select_related("partner")


def _first_open(visitors: Iterable[Visitor]) -> Visitor | None:
    return next((visitor for visitor in visitors if visitor.is_open), None)


def _is_duplicate(visitor: Visitor, partner: Partner, now: datetime, facts: dict[str, str]) -> bool:
    """Return whether a click is on the link of this visitor, within the dedupe window."""
    window = settings.click_dedupe_window
    return (
        window is not None
        and visitor.is_click
        and visitor.partner_id == partner.pk
        and now - visitor.referred_on < window
        and all(getattr(visitor, name) == facts.get(name, "") for name in CLICK_FIELDS)
    )


def _remember(request: HttpRequest | None, visitor: Visitor) -> None:
    if request is None:
        return
    for store in _STORES:
        store.remember(request, visitor)
    state = RequestState.of(request)
    # A deferred click may be older than the attribution window.
    state.visitor, state.is_private = visitor if visitor.is_open else None, True
