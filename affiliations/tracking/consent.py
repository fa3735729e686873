"""
Consent: which visitors may be remembered, and the clicks of those who have not decided yet.

``AFFILIATE_CONSENT`` names a function of the host. While it returns ``None``, clicks wait in the
session, and no row is written.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast

from asgiref.sync import sync_to_async
from django.http import HttpRequest
from django.utils import timezone

from affiliations import logs
from affiliations.conf import settings
from affiliations.exceptions import Reason
from affiliations.models import Partner, Visitor
from affiliations.tracking import binding, clicks, sessions, visitors
from affiliations.tracking.clicks import Click
from affiliations.tracking.sessions import DeferredClick
from affiliations.tracking.state import RequestState

logger = logging.getLogger("affiliations")


def agrees(request: HttpRequest) -> bool | None:
    """Return whether the visitor agrees to be remembered; ``None``: not decided yet."""
    try:
        if (function := settings.consent) is None:
            return True
        answer = function(request)
        if answer is None or isinstance(answer, bool):
            return answer
        raise TypeError(f"AFFILIATE_CONSENT returned {answer!r} instead of True, False or None.")
    except Exception:
        logger.exception("AFFILIATE_CONSENT failed, so the visitor is not registered.")
        return False


def arrive(request: HttpRequest, partner: Partner, facts: dict[str, Any]) -> Visitor | None:
    """Register the deferred clicks, and then the click with these fields of ``Visitor``."""
    _register_deferred(request)
    return visitors.register(request, partner, **facts)


def defer(request: HttpRequest, partner: Partner, facts: dict[str, Any]) -> None:
    """Keep a click in the session until the visitor agrees to be remembered, or refuses."""
    logs.tell(
        "click on a link of %s%s waits: AFFILIATE_CONSENT returned None, as the visitor has not "
        "decided yet.",
        partner.name_and_uid,
        clicks.on_host(request),
        partner=partner.pk,
    )
    facts = {"referred_on": timezone.now().isoformat(), **facts}
    _drop(request, sessions.defer(request, (partner.uid, facts)))


def register_visitor(request: HttpRequest, link: str = "") -> Visitor | None:
    """
    Register a visitor who has just agreed to be remembered.

    Call it if ``AFFILIATE_CONSENT`` has prevented the registration. If the setting's function
    returned ``None``, the session holds the clicks, and each is registered with the time of the
    click. If it returned ``False``, nothing was stored, so the page must pass the ``link`` that was
    followed. A failure is logged, and raised only if it has ended your own transaction.

    Args:
        request: Django's request, or one that a framework has wrapped around it.
        link: The URL that was followed, with the partner's uid in it, such as ``location.href``.
            A link of more than 32 KB is ignored, and so is one to the partner's own page.

    Returns:
        The visitor, or ``None`` if there is no click to register.
    """
    request = binding.unwrapped(request)
    RequestState.ask_if_cacheable(request)

    def register_late() -> Visitor | None:
        visitor = _register_deferred(request)
        click = Click.in_link(request, link) if link else None
        if click is not None and not click.page.is_partner_page:
            partner = click.partner
            refusal = click.refusal(partner)
            visitor = _register(request, partner, click.uid, refusal, click.facts())
        return visitor

    return visitors.run_isolated(
        register_late, "A visitor who agrees to be remembered could not be registered."
    )


async def aregister_visitor(request: HttpRequest, link: str = "") -> Visitor | None:
    """Do what ``register_visitor()`` does, from an async view."""
    return await sync_to_async(register_visitor)(request, link)


def forget_visitor(request: HttpRequest) -> None:
    """
    Make the browser forget its visitor, and drop the clicks that wait for consent.

    The rows in the database stay, and so do their conversions. A failure is logged, and raised only
    if it has ended your own transaction.

    Args:
        request: Django's request, or one that a framework has wrapped around it.
    """
    request = binding.unwrapped(request)
    RequestState.ask_if_cacheable(request)

    def forget() -> None:
        visitors.forget(request)
        _drop(request, sessions.take_deferred(request))

    visitors.run_isolated(forget, "A visitor could not be forgotten.")


async def aforget_visitor(request: HttpRequest) -> None:
    """Do what ``forget_visitor()`` does, from an async view."""
    await sync_to_async(forget_visitor)(request)


def _register(
    request: HttpRequest,
    partner: Partner | None,
    uid: bytes,
    refusal: Reason | None,
    facts: dict[str, Any],
) -> Visitor | None:
    if refusal is not None:
        clicks.refuse(request, partner, refusal, uid=uid, test_nonce=facts["test_nonce"])
        return None
    return visitors.register(request, cast("Partner", partner), **facts)


def _register_deferred(request: HttpRequest) -> Visitor | None:
    """Register the deferred clicks, oldest first; return the visitor of the last."""
    RequestState.of(request).restore_on_rollback(request)
    visitor = None
    for partner, uid, facts in _with_partners(sessions.take_deferred(request)):
        referred_on = datetime.fromisoformat(facts["referred_on"])
        refusal = clicks.refusal(partner)
        visitor = _register(request, partner, uid, refusal, facts | {"referred_on": referred_on})
    return visitor


def _drop(request: HttpRequest, deferred: Sequence[DeferredClick]) -> None:
    for partner, uid, facts in _with_partners(deferred):
        nonce = facts["test_nonce"]
        clicks.refuse(request, partner, Reason.NO_CONSENT, uid=uid, test_nonce=nonce)


def _with_partners(
    deferred: Sequence[DeferredClick],
) -> list[tuple[Partner | None, bytes, dict[str, Any]]]:
    partners = Partner.objects.in_bulk([uid for uid, _ in deferred], field_name="uid")
    return [(partners.get(uid), uid.encode(), facts) for uid, facts in deferred]
