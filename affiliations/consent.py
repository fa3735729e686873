"""
Who agrees to be remembered, and what becomes of the clicks of those who have not decided yet.

``AFFILIATE_CONSENT`` names the function of the host's that is asked. While it says ``None``, clicks
wait in the session, and no row is written.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from asgiref.sync import sync_to_async
from django.utils import timezone

from affiliations import clicks, context, sessions, visitors
from affiliations.clicks import Click
from affiliations.conf import settings
from affiliations.exceptions import Reason
from affiliations.models import Partner
from affiliations.sessions import Waiting

if TYPE_CHECKING:
    from django.http import HttpRequest

    from affiliations.models import Visitor

logger = logging.getLogger("affiliations")


def agrees(request: HttpRequest) -> bool | None:
    """Ask the host whether the visitor agrees to be remembered; ``None``: not decided yet."""
    try:
        if (asked := settings.consent) is None:
            return True
        answer = asked(request)
        if answer is None or isinstance(answer, bool):
            return answer
        raise TypeError(f"AFFILIATE_CONSENT says {answer!r}, and not True, False or None.")
    except Exception:
        logger.exception("Nobody could be asked for consent, so nobody is registered.")
        return False


def arrive(request: HttpRequest, partner: Partner, click: Click) -> None:
    """Register a click, after those that have waited for consent until now."""
    _register_waiting(request)
    visitors.register(request, partner, **click.facts())


def wait(request: HttpRequest, partner: Partner, click: Click) -> None:
    """Let a click wait in the session until its visitor agrees to be remembered, or does not."""
    facts = {"referred_on": timezone.now().isoformat(), **click.facts()}
    _drop(request, sessions.wait(request, (partner.pk, facts)))


def register_visitor(request: HttpRequest, link: str = "") -> Visitor | None:
    """
    Register whom ``AFFILIATE_CONSENT`` has kept from it, now that they agree to be remembered.

    Where it said ``None``, the clicks wait in the session, and count from the time at which they
    came. Where it said ``False`` nothing was kept: ``link`` is the URL as it was followed, with the
    partner's uid in it, which the page still has. Return the visitor, ``None`` where nobody is to
    be registered. A failure is logged.
    """
    request = context.unwrapped(request)

    def register_late() -> Visitor | None:
        visitor = _register_waiting(request)
        if link and (click := Click.in_link(request, link)) is not None:
            visitor = _admit(request, click.partner(), click.facts())
        return visitor

    return visitors.apart_from_host(
        register_late, "A visitor who agrees to be remembered could not be registered."
    )


async def aregister_visitor(request: HttpRequest, link: str = "") -> Visitor | None:
    """Do what ``register_visitor`` does, from an async view."""
    return await sync_to_async(register_visitor)(request, link)


def forget_visitor(request: HttpRequest) -> None:
    """
    Let the browser forget its referral, and drop the clicks that wait for consent.

    Rows that are written stay, and so does what they have earned. A failure is logged.
    """
    request = context.unwrapped(request)

    def forget() -> None:
        visitors.forget(request)
        _drop(request, sessions.take_waiting(request))

    visitors.apart_from_host(forget, "A visitor could not be forgotten.")


async def aforget_visitor(request: HttpRequest) -> None:
    """Do what ``forget_visitor`` does, from an async view."""
    await sync_to_async(forget_visitor)(request)


def _admit(request: HttpRequest, partner: Partner | None, facts: dict[str, Any]) -> Visitor | None:
    """Register a click where there is a deal with the partner."""
    if (reason := clicks.refusal(partner)) is not None:
        clicks.refuse(request, partner, reason, is_test=facts["is_test"])
        return None
    return visitors.register(request, cast("Partner", partner), **facts)


def _register_waiting(request: HttpRequest) -> Visitor | None:
    """Register the clicks that wait for consent, oldest first; return the visitor of the last."""
    visitor = None
    waiting = sessions.take_waiting(request)
    if waiting:
        visitors.unless_committed(request, partial(sessions.put_back, request, waiting))
    for partner, facts in _with_partners(waiting):
        came = datetime.fromisoformat(facts["referred_on"])
        visitor = _admit(request, partner, facts | {"referred_on": came})
    return visitor


def _drop(request: HttpRequest, waiting: Sequence[Waiting]) -> None:
    for partner, facts in _with_partners(waiting):
        clicks.refuse(request, partner, Reason.NO_CONSENT, is_test=facts["is_test"])


def _with_partners(waiting: Sequence[Waiting]) -> list[tuple[Partner | None, dict[str, Any]]]:
    partners = Partner.objects.in_bulk([partner for partner, _ in waiting])
    return [(partners.get(partner), facts) for partner, facts in waiting]
