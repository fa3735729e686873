"""Referrals that the host's code states: of an app, a call centre, or the checkout of an agent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async
from django.http import HttpRequest

from affiliations.exceptions import Reason
from affiliations.models import Partner, Visitor
from affiliations.models.accounts import known_user
from affiliations.models.visitor import CLICK_FIELDS
from affiliations.tracking import binding, clicks, consent, visitors
from affiliations.tracking.clicks import Click
from affiliations.tracking.staff import is_on_staff_page
from affiliations.tracking.state import RequestState

if TYPE_CHECKING:
    from django.contrib.auth.base_user import AbstractBaseUser
    from django.contrib.auth.models import User

#: Replaces a value that is not text: bytes that are not UTF-8, as a link may have them.
_NO_TEXT = b"\xff"


def refer(
    partner_or_code: Partner | str,
    *,
    user: AbstractBaseUser | None = None,
    request: HttpRequest | None = None,
    click_id: str = "",
    sub1: str = "",
    sub2: str = "",
    sub3: str = "",
    sub4: str = "",
    sub5: str = "",
    referrer: str = "",
    entry_point: str = "",
) -> Visitor | None:
    """
    Register a visitor of a partner without a click on the partner's link.

    Use it for an app, a call centre or the checkout of an AI agent. The referral counts as a click,
    and the headers of the request do not filter it. Within the dedupe window, the same referral of
    the same browser or user returns the same visitor. Texts are stored as those of a link are: long
    ones are cut, and invalid ones are left out. They may come from a client, so none raises an
    exception, whatever its type. A failure is logged, and raised only if it has ended your own
    transaction.

    Args:
        partner_or_code: A partner, or a uid or code as in a link, also that of a test link. A blank
            one costs no query.
        user: The customer; by default the user of the request, except on a staff page.
        request: The customer's request, also one that a framework has wrapped. The browser
            remembers the visitor, as after a click, if ``AFFILIATE_CONSENT`` agrees. The request is
            ignored on a staff page, and if another user than ``user`` is logged in.
        click_id: The partner's own id of the click.
        sub1: A sub id of the partner; ``sub2`` to ``sub5`` are the others.
        sub2: See ``sub1``.
        sub3: See ``sub1``.
        sub4: See ``sub1``.
        sub5: See ``sub1``.
        referrer: The URL of the page on which the partner has recommended this site.
        entry_point: The URL or path of the first page that the customer saw.

    Returns:
        The visitor; ``None`` if the partner is unknown or inactive, or if the customer has not
        agreed to be remembered. Until the customer decides, the referral waits for consent.

    Raises:
        TypeError: If ``user`` is neither a user nor ``None``.
    """
    user = _customer(user)
    if (request := binding.real_request(request)) is not None:
        # A cache must not answer the next visitor, who may have another code.
        RequestState.ask_if_cacheable(request)
    known = partner_or_code if isinstance(partner_or_code, Partner) else None
    code = known.uid.encode() if known else _raw(partner_or_code).strip()
    if not code:
        return None
    ids = dict(zip(CLICK_FIELDS, (click_id, sub1, sub2, sub3, sub4, sub5), strict=True))

    def refer_customer() -> Visitor | None:
        of_customer = _request_of_customer(request, user)
        click = Click.stated(of_customer or HttpRequest(), code)
        partner = known or click.partner
        facts = _facts(click, ids, referrer, entry_point)
        return _register(click, partner, user, of_customer, facts)

    return visitors.run_isolated(refer_customer, "A visitor could not be referred.")


async def arefer(partner_or_code: Partner | str, **stated: Any) -> Visitor | None:
    """Do what ``refer()`` does, from an async view, with the same arguments."""
    return await sync_to_async(refer)(partner_or_code, **stated)


def _register(
    click: Click,
    partner: Partner | None,
    user: User | None,
    request: HttpRequest | None,
    facts: dict[str, Any],
) -> Visitor | None:
    """Register, defer or refuse the referral, by the customer's request if there is one."""
    refusal = click.refusal(partner)
    agrees = refusal is None and (request is None or consent.agrees(request))
    if partner is None or agrees is False:
        reason = refusal or Reason.NO_CONSENT
        clicks.refuse(request, partner, reason, uid=click.uid, test_nonce=click.test_nonce)
        return None
    if request is None:
        return visitors.register(None, partner, user=user, **facts)
    if agrees:
        user = user or visitors.request_user(request)
        return consent.arrive(request, partner, facts | {"user": user})
    consent.defer(request, partner, facts)
    return None


def _customer(user: object) -> User | None:
    if user is None or hasattr(user, "is_authenticated"):
        return known_user(user)
    raise TypeError(f"refer() needs a user, not {user!r}.")


def _request_of_customer(request: HttpRequest | None, user: User | None) -> HttpRequest | None:
    """Return the request, unless it is that of staff or of another user."""
    if request is None or is_on_staff_page(request):
        return None
    is_of_other = user is not None and visitors.request_user(request) not in (None, user)
    return None if is_of_other else request


def _facts(
    click: Click, ids: Mapping[str, object], referrer: object, entry_point: object
) -> dict[str, Any]:
    """Return the stated texts as fields of ``Visitor``, and the nonce of a test link."""
    texts = clicks.stored_texts(
        {name: _raw(value) for name, value in ids.items()},
        entry_point=clicks.stated_entry_point(click.request, _raw(entry_point)),
        referrer=clicks.referring_page(_raw(referrer)),
    )
    return {"test_nonce": click.test_nonce, "source": Visitor.Source.API.value, **texts}


def _raw(value: object) -> bytes:
    """Return a text, or whatever a client has sent instead, as the bytes that a link would have."""
    if value is None or isinstance(value, bytes):
        return value or b""
    if not isinstance(value, (str, int)):
        return _NO_TEXT
    try:
        return str(value).encode(errors="surrogatepass")
    except ValueError:  # An integer of thousands of digits.
        return _NO_TEXT
