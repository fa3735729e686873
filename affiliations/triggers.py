"""
The triggers: host signals on one side, ``complete_trigger`` on the other.

``AFFILIATE_TRIGGERS`` ties a name to a signal, a receiver and a sender. ``object_created`` and
``object_saved`` are receivers for the most common cases; a host's own receiver asks whatever it
wants and then calls ``complete_trigger``, which checks all the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from asgiref.sync import sync_to_async
from django.db import connections, transaction
from django.db.models import Model

from affiliations import context, conversions
from affiliations.completions import Completion
from affiliations.models import Conversion, Visitor

if TYPE_CHECKING:
    from django.contrib.auth.models import User
    from django.http import HttpRequest

_T = TypeVar("_T")


def complete_trigger(
    request: HttpRequest | None,
    name: str,
    *,
    instance: object = None,
    visitor: Visitor | None = None,
    user: User | None = None,
    reference: object = None,
    amount: object = None,
    currency: str | None = None,
) -> Conversion | None:
    """
    Credit whoever is to be credited for a trigger whose conditions are met.

    Whose referral it is: the ``visitor``, where one is stated; else the request's, unless somebody
    else is logged in there than the stated buyer, ``user``; else, where
    ``AFFILIATE_ATTRIBUTE_BY_USER`` says so, the buyer's latest. With ``instance``, what the trigger
    was completed by, the fifth item of the trigger's setting states what is not stated here. The
    partner must be active and subscribe to the trigger, and the same thing is never counted twice.

    Args:
        request: The request, ``tls.request`` (bound or not), or ``None`` outside of one.
        name: The trigger's name in ``AFFILIATE_TRIGGERS``.
        instance: The object that was created, saved or paid for.
        visitor: The referral, where the host has kept it, such as on an order.
        user: The buyer.
        reference: The host's own id of what was done; by default the label and key of ``instance``.
        amount: The money that commission is reckoned on, a ``Decimal``.
        currency: Its currency, as three letters of ISO 4217.

    Returns:
        The conversion, or ``None`` where nobody is credited or it cannot be known yet: where
        ``instance`` lives in another database, it is recorded when that commits.

    Raises:
        Nothing, but for a database error that has already ended the host's own transaction.
    """
    completion = Completion(
        context.real_request(request), name, instance, visitor, user, reference, amount, currency
    )
    if completion.concerns_nobody():
        return None
    return _with_host(completion, completion.credit)


async def acomplete_trigger(
    request: HttpRequest | None, name: str, **stated: Any
) -> Conversion | None:
    """
    Do what ``complete_trigger`` does, from an async receiver or view.

    The same arguments. The thread is changed only where there may be somebody to credit.
    """
    request = context.real_request(request)
    if Completion(request, name, **stated).concerns_nobody():
        return None
    return await sync_to_async(complete_trigger)(request, name, **stated)


def object_created(
    sender: object,
    instance: object = None,
    affiliate_trigger_name: str = "",
    created: bool = False,
    raw: bool = False,
    **kwargs: object,
) -> None:
    """Complete the trigger when ``post_save`` tells of a new object, not of one being loaded."""
    if created and not raw:
        complete_trigger(context.current_request(), affiliate_trigger_name, instance=instance)


def object_saved(
    sender: object,
    instance: object = None,
    affiliate_trigger_name: str = "",
    raw: bool = False,
    **kwargs: object,
) -> None:
    """Complete the trigger at each signal: every save, or whatever a signal of the host says."""
    if not raw:
        complete_trigger(context.current_request(), affiliate_trigger_name, instance=instance)


def approve_conversions(
    sender: object,
    instance: object = None,
    affiliate_trigger_name: str = "",
    raw: bool = False,
    **kwargs: object,
) -> None:
    """
    Approve what was counted for an object, such as an order when it is paid for.

    The trigger's fifth item says of which trigger (``of``), and by which ``reference`` it is found:
    the one that the conversion was counted with. Whose request it happens in does not matter. Only
    what is pending is approved, and of that nothing that somebody is to look at.
    """
    if not raw:
        _decide(affiliate_trigger_name, instance, Conversion.Status.APPROVED)


def reject_conversions(
    sender: object,
    instance: object = None,
    affiliate_trigger_name: str = "",
    raw: bool = False,
    **kwargs: object,
) -> None:
    """
    Reject what was counted for an object, such as an order when it is refunded.

    It is found as ``approve_conversions`` finds it. Also what is approved is rejected.
    """
    if not raw:
        _decide(affiliate_trigger_name, instance, Conversion.Status.REJECTED)


def _decide(name: str, instance: object, status: str) -> None:
    completion = Completion(context.current_request(), name, instance)
    _with_host(completion, partial(completion.decide, status))


def _with_host(completion: Completion, work: Callable[[], _T]) -> _T | None:
    """Do ``work`` in the transaction of the host's object, or after it where ours is another."""
    instance = completion.instance
    host = instance._state.db if isinstance(instance, Model) else None
    if host not in (None, conversions.database()) and connections[host].in_atomic_block:
        # Ours cannot be rolled back together with theirs, so it waits until theirs is certain.
        transaction.on_commit(partial(conversions.attempt, completion.name, work), using=host)
        return None
    return conversions.attempt(completion.name, work)
