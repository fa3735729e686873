"""
The triggers: receivers of the host's signals, and ``complete_trigger``, which they call.

``AFFILIATE_TRIGGERS`` connects a name to a signal, a receiver and a sender. ``object_created`` and
``object_saved`` are receivers for the most common cases. A receiver of the host's own tests its
conditions and then calls ``complete_trigger``, which does the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async
from django.db import connections, transaction
from django.db.models import Model
from django.utils.module_loading import import_string

from affiliations import db, logs
from affiliations.events import Kind, TriggerEvent, entries, has_no_visitor, options_of, place_of
from affiliations.exceptions import Reason
from affiliations.models import Conversion, Visitor
from affiliations.options import COUNTING, DECIDING
from affiliations.tracking import binding

if TYPE_CHECKING:
    from django.contrib.auth.base_user import AbstractBaseUser
    from django.http import HttpRequest

__all__ = [
    "acomplete_trigger",
    "adjust_conversions",
    "approve_conversions",
    "complete_trigger",
    "object_created",
    "object_saved",
    "paused",
    "reject_conversions",
]

logger = logging.getLogger("affiliations")

#: The triggers that the log has already reported as without effect outside of a request.
_told_outside: set[str] = set()

_is_paused: ContextVar[bool] = ContextVar("affiliations_is_paused", default=False)


@contextmanager
def paused() -> Iterator[None]:
    """
    Let no trigger have an effect in a ``with`` block, such as during an import of old orders.

    Nothing is credited, approved, rejected or adjusted, neither now nor later. This affects only
    the current thread or task, and what it calls. It can also decorate a function, but not an
    ``async def``, whose body would run after the block.
    """
    token = _is_paused.set(True)
    try:
        yield
    finally:
        _is_paused.reset(token)


def complete_trigger(
    request: HttpRequest | None,
    name: str,
    *,
    instance: object = None,
    visitor: Visitor | None = None,
    user: AbstractBaseUser | None = None,
    reference: object = None,
    amount: object = None,
    currency: str | None = None,
    code: object = None,
) -> Conversion | None:
    """
    Credit the partner whose visitor has completed a trigger.

    The argument ``visitor`` names the visitor. Without it, the visitor of the request is credited,
    unless ``user`` is given and another user is logged in. If ``AFFILIATE_ATTRIBUTE_BY_USER`` is
    true, the attribution model chooses between that visitor and those of the buyer. A code on the
    order and a running earning period take precedence. If ``instance`` is given, the fifth item of
    the trigger's setting supplies the arguments that are left out. The partner must be active and
    subscribe to the trigger. No event is counted twice.

    Args:
        request: The request, ``tls.request`` (bound or not), or ``None`` outside of one.
        name: The trigger's name in ``AFFILIATE_TRIGGERS``.
        instance: The object that was created, saved or paid for.
        visitor: The visitor, if the host has kept it, such as on an order.
        user: The buyer.
        reference: The host's own id, such as an order number; by default the label and key of
            ``instance``.
        amount: The amount that the commission is calculated from, a ``Decimal``.
        currency: The currency of the amount, a code of ISO 4217.
        code: The coupon on the order, or a list of several. The partner of the first one that is a
            code of an active partner is credited, whoever's link was followed. Other codes are
            ignored. Case and blanks around a code do not matter.

    Returns:
        The conversion, or ``None`` if no partner is credited. Also ``None`` if ``instance`` is in
        another database with an open transaction: the conversion is recorded after its commit.

    Raises:
        DatabaseError: If the error has ended the host's own transaction. Others are logged.
    """
    request = binding.real_request(request)
    if has_no_visitor(request, options_of(name), instance, visitor, user, code):
        _tell_no_visitor(name, request)
        return None
    event = TriggerEvent(request, name, instance, visitor, user, reference, amount, currency, code)
    return _credit(event)


async def acomplete_trigger(
    request: HttpRequest | None, name: str, **arguments: Any
) -> Conversion | None:
    """
    Do what ``complete_trigger()`` does, from an async receiver or view, with the same arguments.

    It leaves the event loop only if there may be a visitor to credit.
    """
    request = binding.real_request(request)
    event = TriggerEvent(request, name, **arguments)
    stated = event.visitor, event.user, event.code
    if has_no_visitor(request, event.options, event.instance, *stated):
        _tell_no_visitor(name, request)
        return None
    return await sync_to_async(complete_trigger)(request, name, **arguments)


def object_created(
    sender: object,
    instance: object = None,
    affiliate_trigger_name: str = "",
    created: bool | None = None,
    raw: bool = False,
    **sent: object,
) -> None:
    """Complete the trigger when ``post_save`` reports a new object, except during ``loaddata``."""
    if created is None and not raw:
        logger.error(
            "Trigger “%s” credits nobody: object_created needs a signal that says whether the "
            "object was “created”, such as post_save. Write the receiver "
            '"affiliations.triggers.object_saved" in AFFILIATE_TRIGGERS.',
            affiliate_trigger_name,
        )
    elif created:
        _complete(affiliate_trigger_name, instance, raw, sender, sent)


def object_saved(
    sender: object,
    instance: object = None,
    affiliate_trigger_name: str = "",
    raw: bool = False,
    **sent: object,
) -> None:
    """Complete the trigger each time the signal is sent, such as at every save."""
    _complete(affiliate_trigger_name, instance, raw, sender, sent)


def approve_conversions(
    sender: object,
    instance: object = None,
    affiliate_trigger_name: str = "",
    raw: bool = False,
    **sent: object,
) -> None:
    """
    Approve the pending conversion of an object, such as an order that is paid.

    The trigger's fifth item names the trigger that counted the conversion (``of``) and its
    ``reference``. The signal may be sent in any request. Conversions that need review stay pending.

    If the signal sends the same kind of object as the trigger that counted, the amount is read from
    it again. A lower one adjusts the conversion first. If the payout depends on an amount that is
    missing, zero or in another currency now, the conversion stays pending, for review.
    """
    event = _event_of_signal(affiliate_trigger_name, instance, raw, sender, sent)
    if event is not None:
        _with_host(event, Kind.APPROVE)


def reject_conversions(
    sender: object,
    instance: object = None,
    affiliate_trigger_name: str = "",
    raw: bool = False,
    **sent: object,
) -> None:
    """
    Reject the conversion of an object, such as an order that is refunded.

    The conversion is found as ``approve_conversions()`` finds it. It may be pending or approved. If
    the option ``may_be_paid`` is true, ``approve_conversions()`` can still approve it later.
    """
    event = _event_of_signal(affiliate_trigger_name, instance, raw, sender, sent)
    if event is not None:
        _with_host(event, Kind.REJECT)


def adjust_conversions(
    sender: object,
    instance: object = None,
    affiliate_trigger_name: str = "",
    raw: bool = False,
    **sent: object,
) -> None:
    """
    Adjust the conversion of an object to a lower amount, such as after a partial refund.

    The conversion is found as ``approve_conversions()`` finds it; it may be pending, approved or in
    a statement. The option ``new_amount`` is the amount of the whole order now, never a difference,
    so that a signal may be sent twice; zero rejects the conversion. The payout is calculated again,
    by the rule that the conversion was credited with. An amount is never raised.
    """
    event = _event_of_signal(affiliate_trigger_name, instance, raw, sender, sent)
    if event is not None:
        _with_host(event, Kind.ADJUST)


def _complete(
    name: str, instance: object, raw: bool, sender: object, sent: Mapping[str, object]
) -> None:
    event = _event_of_signal(name, instance, raw, sender, sent, True)
    if event is not None:
        _credit(event)


def _event_of_signal(
    name: str,
    instance: object,
    raw: bool,
    sender: object,
    sent: Mapping[str, object],
    counts: bool = False,
) -> TriggerEvent | None:
    """
    Return the trigger's event, for a receiver of this module that a signal has called.

    ``None`` if the object is loaded from a fixture, or if the receiver ``counts`` and there is no
    visitor. Also ``None`` if there are options, but no object to read them from.
    """
    if raw:
        return None
    options = options_of(name)
    if options and (instance is None or "instance" in options):
        instance = _object_of_signal(name, options, instance, {**sent, "sender": sender})
        if instance is None:
            return None
    request = binding.current_request()
    if counts and has_no_visitor(request, options, instance):
        _tell_no_visitor(name, request)
        return None
    return TriggerEvent(request, name, instance)


def _tell_no_visitor(name: str, request: HttpRequest | None) -> None:
    """
    Log, for a developer, that no partner can be credited since there is no visitor.

    Outside of requests it is logged once for each trigger, since a command may save many objects.
    """
    if not logs.is_told() or _is_paused.get() or (request is None and name in _told_outside):
        return
    if request is None:
        _told_outside.add(name)
    reason = Reason.NO_VISITOR
    logs.tell(
        "“%s” had no effect: %s%s. %s",
        name,
        reason.label,
        place_of(request),
        reason.cure,
        reason=reason.value,
    )


def _object_of_signal(
    name: str, options: Mapping[str, Any], instance: object, sent: Mapping[str, object]
) -> object:
    """Return the argument that the option ``instance`` names; log an error if there is none."""
    keyword = options.get("instance", "instance")
    instance = sent.get(keyword, instance)
    if instance is None:
        others = [key for key in sent if key not in ("signal", "sender")]
        models = [key for key in sent if isinstance(sent[key], Model)]
        logger.error(
            "Trigger “%s” has no effect: its signal was sent without an object as “%s”, but with "
            "%s. Name the argument that is the object in the fifth item of AFFILIATE_TRIGGERS: "
            '{"instance": "%s", …}',
            name,
            keyword,
            ", ".join(others) or "nothing else",
            [*models, *others, "order"][0],
        )
    return instance


def _credit(event: TriggerEvent) -> Conversion | None:
    _report_unread_options(event)
    return _with_host(event, Kind.CREDIT)


def _report_unread_options(event: TriggerEvent) -> None:
    """Log the options of a trigger that have no argument, and no object to be read from."""
    unread = event.unread_options()
    if unread and any(own_receiver(entry[2]) for entry in entries(event.name)):
        logger.warning(
            "complete_trigger() was called for trigger “%s” without an instance to read its "
            "options from. Pass instance=, or state: %s.",
            event.name,
            ", ".join(unread),
        )


def own_receiver(receiver: object) -> str:
    """Return the name of a receiver of this module; empty for one of the host's own."""
    if isinstance(receiver, str):
        receiver = import_string(receiver)
    return next((name for name in COUNTING + DECIDING if globals()[name] is receiver), "")


def _with_host(event: TriggerEvent, kind: Kind) -> Conversion | None:
    """Do the work in the transaction of the host's object, or after it if in another database."""
    if _is_paused.get():
        return None
    work = partial(event.attempt, event.do_or_wait, kind)
    instance = event.instance
    alias = instance._state.db if isinstance(instance, Model) else None
    if alias not in (None, db.write_alias()) and connections[alias].in_atomic_block:
        # A rollback there would not reach our database, so wait for the commit.
        transaction.on_commit(work, using=alias)
        return None
    return work()
